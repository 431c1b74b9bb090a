"""Getting operator tasks back to exactly what is committed: several at once, through one consumer of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from headrace.chassis.bus import Consumer, TopicPartition
from headrace.chassis.errors import Fatal, Retryable
from svc_stream.recovery import READ_RECORDS, Reader
from svc_stream.streams.changelog import Changelog

Told = Callable[[TopicPartition, int, int], None]
"""A task stands at an offset of an end: what a progress bar shows."""
SETTLE_RECORDS = 50  # segments between two writes to disk


def restore(wanted: Mapping[TopicPartition, tuple[Changelog, int]], reader: Reader, told: Told) -> None:
    """Follow the segments of each task until it stands at its commit.

    Args:
        wanted: by partition of the changelog the task's, and the sequence of its commit (0: none was ever).
    Raises: Fatal if a state stands above what is committed, or never reaches it; Retryable if the log does not answer.
    """
    consumer = reader.bus.consumer(None, f"{reader.client_id}.restore")
    try:
        ends = {place: consumer.watermarks(place) for place in wanted}
        open_: dict[TopicPartition, tuple[Changelog, int]] = {}
        for place, (changelog, sequence) in wanted.items():
            if changelog.resume(sequence, ends[place][0]):
                if sequence == 0 and ends[place][1] > ends[place][0]:
                    open_[place] = (changelog, sequence)  # an aborted beginning is fine, a committed segment is not
                continue
            open_[place] = (changelog, sequence)
        consumer.assign({place: changelog.position for place, (changelog, _) in open_.items()})
        _follow(open_, ends, consumer, reader, told)
    finally:
        consumer.close()


def _follow(
    open_: dict[TopicPartition, tuple[Changelog, int]],
    ends: Mapping[TopicPartition, tuple[int, int]],
    consumer: Consumer,
    reader: Reader,
    told: Told,
) -> None:
    stalled_s = reader.clock.monotonic_s() + reader.timeout_s
    records = 0
    while open_:
        reader.beat()
        batches = consumer.consume_batches(READ_RECORDS, reader.wait_s)
        for batch in batches:
            if batch.place not in open_:
                continue
            changelog, sequence = open_[batch.place]
            for value, offset in zip(batch.values, batch.offsets, strict=True):
                segment = changelog.follow(value, offset)
                if segment.sequence > sequence and changelog.task.exact:
                    raise Fatal(f"state {batch.place} goes on to commit {segment.sequence}, committed is {sequence}")
                records += 1
                if records % SETTLE_RECORDS == 0:
                    changelog.settle()
                reader.beat()
            told(batch.place, changelog.position, ends[batch.place][1])
        for place, (changelog, sequence) in list(open_.items()):
            at_end = (consumer.position(place) or 0) >= ends[place][1]
            stands = changelog.task.sequence == sequence and (at_end or sequence)
            if stands if changelog.task.exact else at_end:
                changelog.settle()
                del open_[place]
            elif at_end and not batches and reader.clock.monotonic_s() >= stalled_s:
                raise Fatal(f"state {place} ends at commit {changelog.task.sequence}, committed is {sequence}: records lost")
        if batches:
            stalled_s = reader.clock.monotonic_s() + reader.timeout_s
        elif open_ and reader.clock.monotonic_s() >= stalled_s:
            raise Retryable(f"states {sorted(open_)} do not answer")
