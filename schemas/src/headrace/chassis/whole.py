"""A topic read from its beginning to its end as of now, without a group: what was said before, counted or found again."""

from __future__ import annotations

from collections.abc import Iterator

from headrace.chassis.bus import Bus, Consumer, Record, TopicPartition
from headrace.chassis.errors import Retryable

READ_RECORDS_MAX = 2_000  # in one batch: bounds memory, whatever the topic holds
POLL_S = 0.05  # also what a log that ends in a transaction marker costs: no record comes, only the end
QUIET_ROUNDS_MAX = 600  # half a minute: a broker that sends nothing for so long is not going to


def read_whole(bus: Bus, topic: str, client_id: str, *, newest_max: int | None = None) -> Iterator[list[Record]]:
    """Batches of every committed record of a topic as of the first step, by partition, then by offset.

    Nothing if the topic does not exist. The consumer lives until the iterator ends or is closed.

    Args:
        newest_max: begin no further back than so many offsets, shared by the partitions.
    Raises: Retryable if the broker falls silent before the end.
    """
    partitions = bus.admin().partitions(topic) or 0
    consumer = bus.consumer(None, client_id)
    try:
        places = [TopicPartition(topic, number) for number in range(partitions)]
        bounds = {place: consumer.watermarks(place) for place in places}  # all first: one moment, near enough
        for place, (low, high) in bounds.items():
            start = low if newest_max is None else max(low, high - newest_max // partitions)
            yield from read_between(consumer, place, start, high)
    finally:
        consumer.close()


def read_between(consumer: Consumer, place: TopicPartition, start: int, end: int) -> Iterator[list[Record]]:
    """Batches of the committed records of one partition in [start, end), end being an end the broker has told.

    Assigns the partition to the consumer, and leaves it assigned.
    Raises: Retryable if the broker falls silent before the end.
    """
    if start >= end:
        return
    consumer.assign({place: start})
    position, quiet = start, 0
    while position < end:
        records = consumer.consume(READ_RECORDS_MAX, POLL_S)
        reached = max(position, consumer.position(place) or 0, *(r.offset + 1 for r in records))  # position steps over markers
        quiet = 0 if reached > position else quiet + 1
        if quiet > QUIET_ROUNDS_MAX:
            raise Retryable(f"{place.topic}/{place.partition} was read to {position} of {end}, then the broker was silent")
        position = reached
        wanted = [r for r in records if r.offset < end]
        if wanted:
            yield wanted
