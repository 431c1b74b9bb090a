"""Reading the topics' tails back into the ledger: what was produced but not recorded when the process died.

Done before anything is written to a topic, and again after a delivery whose outcome is unknown. A repeated batch is then
judged against everything the topics hold, so a kill between produce and record cannot write an event twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headrace.chassis.bus import Bus, Consumer, Record, TopicPartition
from headrace.chassis.clock import Clock
from headrace.contracts.codec import Codec
from headrace.contracts.errors import Poison, Retryable
from headrace.contracts.records import RecordRejected
from svc_ingest.adapters.ledger import Ledger, event_prefix, letter_prefix
from svc_ingest.ports import Route

READ_RECORDS_MAX = 5000
QUIET_S = 0.5
CLIENT_ID = "svc-ingest.readback"


class Readback:
    """Used by the writer's thread only."""

    def __init__(self, bus: Bus, codec: Codec, ledger: Ledger, clock: Clock) -> None:
        self._bus = bus
        self._codec = codec
        self._ledger = ledger
        self._clock = clock

    def read(self, topics: Mapping[str, Route | None], timeout_s: float) -> int:
        """Teach the ledger every event and dead letter beyond its offsets; returns how many there were.

        Args:
            topics: event topics with a route to them, dead-letter topics with None. All exist.
        Raises: Retryable if the ends are not reached in timeout_s; the ledger then keeps what was read so far.
        """
        deadline_s = self._clock.monotonic_s() + timeout_s
        consumer = self._bus.consumer(None, CLIENT_ID)
        learnt = 0
        try:
            ends = self._begin(consumer, topics)
            while ends:
                if self._clock.monotonic_s() > deadline_s:
                    raise Retryable(f"{len(ends)} partitions were not read back in {timeout_s:g} s; is the broker slow?")
                learnt += self._step(consumer, topics, ends)
        finally:
            consumer.close()
        return learnt

    def _begin(self, consumer: Consumer, topics: Mapping[str, Route | None]) -> dict[TopicPartition, int]:
        """Stand at the recorded offsets; returns the end of each partition that holds more."""
        admin = self._bus.admin()
        partitions = [TopicPartition(topic, number) for topic in topics for number in range(admin.partitions(topic) or 0)]
        starts: dict[TopicPartition, int] = {}
        ends: dict[TopicPartition, int] = {}
        for partition, recorded in zip(partitions, self._ledger.offsets(partitions), strict=True):
            start, end = consumer.watermarks(partition)
            if max(start, recorded) < end:
                starts[partition], ends[partition] = max(start, recorded), end
        consumer.assign(starts)
        return ends

    def _step(self, consumer: Consumer, topics: Mapping[str, Route | None], ends: dict[TopicPartition, int]) -> int:
        records = consumer.consume(READ_RECORDS_MAX, QUIET_S)
        learnt = self._learn(records, topics)
        reached = {TopicPartition(record.topic, record.partition): record.offset + 1 for record in records}
        for partition, end in list(ends.items()):
            position = max(reached.get(partition, 0), consumer.position(partition) or 0)  # steps over transaction markers
            if position >= end:
                reached[partition] = position
                del ends[partition]
        self._ledger.commit(reached, self._clock.now_ms())
        return learnt

    def _learn(self, records: Sequence[Record], topics: Mapping[str, Route | None]) -> int:
        """Note what is ours; what others wrote (no event-id, or not readable) is none of our business."""
        now_ms, ledger = self._clock.now_ms(), self._ledger
        found = [(record.topic, named) for record in records if (named := self._name(record, topics[record.topic])) is not None]
        ledger.look_up(key for _, (key, _) in found)
        return sum(
            ledger.reject(key, now_ms) if event_time_ms is None else ledger.accept(key, topic, event_time_ms, now_ms)
            for topic, (key, event_time_ms) in found
        )

    def _name(self, record: Record, route: Route | None) -> tuple[bytes, int | None] | None:
        """Ledger key and, for an event, its time."""
        if record.value is None:
            return None
        try:
            if route is None:
                letter = self._codec.decode(record.value, RecordRejected)
                return letter_prefix(record.topic) + letter.origin_id.encode(), None
            name = dict(record.headers).get("event-id")
            if name is None:
                return None
            event_time_ms = self._codec.decode_event(route.schema, record.value)[route.event.time]
            return event_prefix(record.topic) + name, event_time_ms
        except Poison:
            return None
