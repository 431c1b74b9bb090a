"""Sends segments: plain, in transactions, in transactions that are aborted, and behind transactions still open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from headrace.contracts.codec import Codec
from headrace.contracts.partition import partition_for
from headrace.plan.avro import event_schema
from parity.worlds import How, Segment, Sent, World, encoded

WAIT_S = 60.0
QUEUED_MAX = 20_000
OnDelivery = Callable[[KafkaError | None, Message], None]


class Sending:
    """Two producers, one of them transactional. The client itself, not our adapter: ours sends no timestamps."""

    def __init__(self, world: World, bootstrap: str, codec: Codec) -> None:
        self._world, self._codec = world, codec
        self._events = {e.name: e for e in world.plan.events}
        self._schemas = {e.name: event_schema(world.plan, e) for e in world.plan.events}
        for schema in self._schemas.values():
            codec.register_event(schema)
        base: dict[str, Any] = {"bootstrap.servers": bootstrap, "linger.ms": 2, "enable.idempotence": True}
        self._plain = Producer(base)
        self._within = Producer(base | {"transactional.id": f"{world.plan.pipeline}.source", "transaction.timeout.ms": 60_000})
        self._within.init_transactions(WAIT_S)
        self._open = False
        self._queued = 0
        self.sent: Counter[str] = Counter()  # records by how
        self.decodable: Counter[str] = Counter()  # by event, of those that readers see
        self.ends: dict[tuple[str, int], int] = {}  # (event, partition): behind the last record that readers see
        self._names = {e.topic: e.name for e in world.plan.events}

    def send(self, step: Sequence[Segment]) -> None:
        """All of a step, acknowledged. Raises RuntimeError if something was not delivered."""
        for segment in step:
            self._segment(segment)
        if self._open:
            self._abort()
        _flush(self._plain)

    def _segment(self, segment: Segment) -> None:
        self.sent[segment.how.value] += len(segment.records)
        if segment.how in (How.PLAIN, How.COMMITTED):
            self.decodable.update(r.event for r in segment.records if r.fields is not None)
        if segment.how is How.PLAIN:
            self._produce(self._plain, segment)
            if self._open:
                _flush(self._plain)
                self._abort()
            return
        if self._open:
            self._abort()
        _flush(self._plain)  # in the order of the segments, or what comes after would make late what was before
        self._within.begin_transaction()
        self._produce(self._within, segment)
        _flush(self._within)
        if segment.how is How.COMMITTED:
            self._within.commit_transaction(WAIT_S)
        elif segment.how is How.ABORTED:
            self._within.abort_transaction(WAIT_S)
        else:
            self._open = True

    def _abort(self) -> None:
        self._within.abort_transaction(WAIT_S)
        self._open = False

    def _produce(self, producer: Producer, segment: Segment) -> None:
        told = self._seen if segment.how in (How.PLAIN, How.COMMITTED) else _failed
        for record in segment.records:
            event = self._events[record.event]
            value = encoded(self._codec, self._schemas, event, record)
            p = partition_for(record.key, event.partitions) if record.partition is None else record.partition
            self._one(producer, event.topic, record, value, p, told)

    def _one(self, producer: Producer, topic: str, record: Sent, value: bytes | None, partition: int, told: OnDelivery) -> None:
        stamp: dict[str, Any] = {} if record.append_ms is None else {"timestamp": record.append_ms}
        producer.produce(topic, value, record.key.encode(), partition, told, **stamp)
        self._queued += 1
        if self._queued % QUEUED_MAX == 0:
            _flush(producer)

    def _seen(self, error: KafkaError | None, message: Message) -> None:
        _failed(error, message)
        offset, where = message.offset(), (self._names[str(message.topic())], int(message.partition() or 0))
        assert offset is not None
        self.ends[where] = max(offset + 1, self.ends.get(where, 0))


def _flush(producer: Producer) -> None:
    if left := producer.flush(WAIT_S):
        raise RuntimeError(f"{left} records not acknowledged in {WAIT_S:g} s")


def _failed(error: KafkaError | None, _message: Message) -> None:
    if error is not None and error.code() != KafkaError._PURGE_QUEUE:  # purged: of a transaction being aborted
        raise RuntimeError(f"not delivered: {error}")
