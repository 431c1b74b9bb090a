"""Reading the topics' tails back into the ledger: what was produced but not recorded when the process died.

Done before anything is written to a topic, and again after a delivery whose outcome is unknown. A repeated batch is then
judged against everything the topics hold, so a kill between produce and record cannot write an event twice.
"""

from __future__ import annotations

from collections.abc import Mapping

from headrace.chassis.bus import Bus, Consumer, Record, TopicPartition
from headrace.chassis.clock import Clock
from headrace.contracts.codec import Codec
from headrace.contracts.errors import Poison, Retryable
from headrace.contracts.records import RecordRejected
from headrace.plan.ir import EventType
from svc_ingest.adapters.ledger import Ledger, event_prefix, letter_prefix

READ_RECORDS_MAX = 1000
QUIET_S = 0.5


def read_back(
    bus: Bus, ledger: Ledger, codec: Codec, topics: Mapping[str, EventType | None], clock: Clock, timeout_s: float
) -> int:
    """Teach the ledger every event and dead letter beyond its offsets; returns how many there were.

    Args:
        topics: event topics with their type, dead-letter topics with None. All exist.
    Raises: Retryable if the ends are not reached in timeout_s; the ledger then keeps what earlier rounds committed.
    """
    consumer = bus.consumer(None, "svc-ingest.readback")
    try:
        return _read(consumer, _ends(bus, ledger, consumer, topics), ledger, codec, topics, clock, timeout_s)
    finally:
        consumer.close()


def _ends(
    bus: Bus, ledger: Ledger, consumer: Consumer, topics: Mapping[str, EventType | None]
) -> dict[TopicPartition, tuple[int, int]]:
    """(from, end) of each partition that holds something to read."""
    admin = bus.admin()
    spans: dict[TopicPartition, tuple[int, int]] = {}
    partitions = [TopicPartition(topic, number) for topic in topics for number in range(admin.partitions(topic) or 0)]
    for partition, recorded in zip(partitions, ledger.offsets(partitions), strict=True):
        start, end = consumer.watermarks(partition)
        if max(start, recorded) < end:
            spans[partition] = (max(start, recorded), end)
    return spans


def _read(
    consumer: Consumer,
    spans: dict[TopicPartition, tuple[int, int]],
    ledger: Ledger,
    codec: Codec,
    topics: Mapping[str, EventType | None],
    clock: Clock,
    timeout_s: float,
) -> int:
    learnt = 0
    open_until = {partition: end for partition, (_, end) in spans.items()}
    consumer.assign({partition: start for partition, (start, _) in spans.items()})
    deadline_s = clock.monotonic_s() + timeout_s
    while open_until:
        if clock.monotonic_s() > deadline_s:
            raise Retryable(f"topics not read back in {timeout_s:g} s: {len(open_until)} partitions are open; is the broker slow?")
        records = consumer.consume(READ_RECORDS_MAX, QUIET_S)
        learnt += sum(_learn(record, ledger, codec, topics[record.topic], clock.now_ms()) for record in records)
        reached = {TopicPartition(record.topic, record.partition): record.offset + 1 for record in records}
        for partition, end in list(open_until.items()):
            position = max(reached.get(partition, 0), consumer.position(partition) or 0)  # steps over transaction markers
            if position >= end:
                reached[partition] = position
                del open_until[partition]
        ledger.commit(reached, clock.now_ms())
    return learnt


def _learn(record: Record, ledger: Ledger, codec: Codec, event: EventType | None, now_ms: int) -> bool:
    """Note one record of ours; what others wrote (no event-id, or not readable) is none of our business."""
    if record.value is None:
        return False
    try:
        if event is None:
            letter = codec.decode(record.value, RecordRejected)
            return ledger.reject(letter_prefix(record.topic) + letter.origin_id.encode(), now_ms)
        name = dict(record.headers).get("event-id")
        if name is None:
            return False
        key = event_prefix(record.topic) + name
        event_time_ms = codec.decode_event(event, record.value)[event.time]
    except Poison:
        return False
    ledger.look_up([key])
    return ledger.accept(key, record.topic, event_time_ms, now_ms)
