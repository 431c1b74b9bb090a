"""The one place that writes: judged batches to the event topics and dead-letter topics, each thing once.

One round, `write`, takes the batches that wait and
1. judges and encodes every row of each (handlers.py); nothing is written yet, so a fault here costs one batch only;
2. looks their names up in the ledger, drops what is there already and counts it;
3. produces the rest, idempotent and acks=all, and flushes: now all of it is durable;
4. records names and offsets in one atomic write;
5. hands out the receipts.

Killed before 3 is done, nobody has heard an answer and the sender repeats the batch. Killed between 3 and 4, the topics
hold more than the ledger says: `settle` reads their tails back before anything else is written. The same is done after a
delivery whose outcome is unknown. A round is one thread's work and rounds do not overlap, so the recorded offset of a
partition never passes an event whose name is not recorded.

Transactions would give the same at the price of markers in every event topic and of readers that wait for a dead
process's open transaction; see the README for the measurement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from headrace.chassis.bus import Bus, Delivered, Header, Producer, TopicPartition
from headrace.chassis.clock import Clock, SystemClock
from headrace.chassis.tracing import TRACEPARENT, Tracing
from headrace.contracts.codec import Codec
from headrace.contracts.errors import Retryable
from svc_ingest.adapters.ledger import Ledger, event_prefix, letter_prefix
from svc_ingest.adapters.readback import Readback
from svc_ingest.handlers import Judged, Outgoing, judge
from svc_ingest.ports import Batch, Receipt, Route, Store
from svc_ingest.spans import RoundSpans
from svc_ingest.telemetry import Telemetry

CLIENT_ID = "svc-ingest"
POLL_EVERY = 500  # produced records between two looks at delivery reports, so their queue stays short


@dataclass(frozen=True, slots=True)
class WriterBounds:
    flush_timeout_s: float = 15.0
    readback_timeout_s: float = 30.0  # what was read by then is kept, so the next try goes on from there


@dataclass(frozen=True, slots=True)
class WriterSetup:
    telemetry: Telemetry
    tracing: Tracing
    clock: Clock = field(default_factory=SystemClock)
    hold_ms: int = 86_400_000  # how long a sender may take to repeat a batch
    bounds: WriterBounds = WriterBounds()


class Writer:
    """Owned by one thread."""

    def __init__(self, bus: Bus, codec: Codec, store: Store, setup: WriterSetup) -> None:
        self._bus = bus
        self._codec = codec
        self._ledger = Ledger(store, setup.hold_ms)
        self._clock = setup.clock
        self._telemetry = setup.telemetry
        self._spans = RoundSpans(setup.tracing)
        self._bounds = setup.bounds
        self._readback = Readback(bus, codec, self._ledger, setup.clock)
        self._topics: dict[str, Route | None] = {}
        self._producer: Producer | None = None
        self._unsettled: set[str] = set()

    def open(self, route: Route) -> None:
        """Make a route's topics, which exist, writable: their tails are known. Raises Retryable."""
        event, letters = route.event.topic, route.dead_letters
        self._unsettled |= {topic for topic in (event, letters) if topic not in self._topics}
        self._topics |= {event: route, letters: None}
        self._ledger.watch(event, route.event.dedup_horizon_ms)
        self.settle()

    def settle(self) -> None:
        """Read back what may be written but not recorded. Raises Retryable; then nothing is written until it succeeds."""
        if not self._unsettled:
            return
        self._ledger.forget()
        topics = {topic: self._topics[topic] for topic in sorted(self._unsettled)}
        learnt = self._readback.read(topics, self._bounds.readback_timeout_s)
        self._telemetry.read_back(len(topics), learnt)
        self._unsettled.clear()

    def write(self, batches: Sequence[Batch]) -> list[Receipt | Exception]:
        """One round. Per batch its receipt, or the fault that kept that batch from being judged.

        Raises: Retryable if the broker did not acknowledge everything: nothing of the round may be answered then. All
        batches can be sent again.
        """
        self.settle()
        now_ms = self._clock.now_ms()
        judged = [self._judge(batch, now_ms) for batch in batches]
        whole = [one for one in judged if isinstance(one, Judged)]
        offsets: dict[TopicPartition, int] = {}
        try:
            self._produce(whole, offsets, now_ms)
            self._ledger.commit(offsets, now_ms)
        except BaseException as failure:
            self._spans.end(failure)
            self._distrust(whole)
            raise
        self._spans.end()
        return [one.receipt if isinstance(one, Judged) else one for one in judged]

    def close(self) -> None:
        if self._producer is not None:
            self._producer.close()

    def _judge(self, batch: Batch, now_ms: int) -> Judged | Exception:
        try:
            return judge(batch, now_ms)
        except Exception as fault:  # a bug met one batch: the others go on, its sender is told
            self._telemetry.batch_failed(batch.route, fault)
            return fault

    def _produce(self, judged: Sequence[Judged], offsets: dict[TopicPartition, int], now_ms: int) -> None:
        if self._producer is None:
            self._producer = self._bus.producer(CLIENT_ID)
        self._look_up(judged)
        for one in judged:
            self._produce_events(self._producer, one, offsets, now_ms)
            self._produce_letters(self._producer, one, offsets, now_ms)
        self._producer.flush(self._bounds.flush_timeout_s)

    def _look_up(self, judged: Sequence[Judged]) -> None:
        keys: list[bytes] = []
        for one in judged:
            event, letter = event_prefix(one.batch.route.event.topic), letter_prefix(one.batch.route.dead_letters)
            keys += [event + outgoing.identity for outgoing in one.events]
            keys += [letter + rejected.origin_id.encode() for rejected in one.letters]
        self._ledger.look_up(keys)

    def _produce_events(self, producer: Producer, judged: Judged, offsets: dict[TopicPartition, int], now_ms: int) -> None:
        route, receipt = judged.batch.route, judged.receipt
        topic = route.event.topic
        prefix, accept = event_prefix(topic), self._ledger.accept
        delivered = _note(offsets, receipt.offsets)
        accepted = 0
        for outgoing in judged.events:
            if not accept(prefix + outgoing.identity, topic, outgoing.event_time_ms, now_ms):
                continue
            producer.produce(topic, outgoing.value, outgoing.key, headers=self._headers(route, outgoing), on_delivery=delivered)
            accepted += 1
            if not accepted % POLL_EVERY:
                producer.poll()
        receipt.accepted = accepted
        receipt.duplicates = len(judged.events) - accepted

    def _headers(self, route: Route, outgoing: Outgoing) -> list[Header]:
        headers: list[Header] = [("event-id", outgoing.identity)]
        if outgoing.traceparent is not None:
            sent = self._spans.header(outgoing.traceparent, route)
            if sent is not None:
                headers.append((TRACEPARENT, sent))
        return headers

    def _produce_letters(self, producer: Producer, judged: Judged, offsets: dict[TopicPartition, int], now_ms: int) -> None:
        topic = judged.batch.route.dead_letters
        prefix, delivered = letter_prefix(topic), _note(offsets, {})
        for letter in judged.letters:
            if self._ledger.reject(prefix + letter.origin_id.encode(), now_ms):
                producer.produce(topic, self._codec.encode(topic, letter), on_delivery=delivered)

    def _distrust(self, judged: Sequence[Judged]) -> None:
        """Some of the round may be in the topics: a new producer, and a look at their tails before the next round."""
        self._ledger.forget()
        for one in judged:
            self._unsettled |= {one.batch.route.event.topic, one.batch.route.dead_letters}
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                producer.close()
            except Retryable as fault:
                self._telemetry.producer_not_closed(fault)


def _note(offsets: dict[TopicPartition, int], own: dict[int, int]) -> Callable[[Exception | None, Delivered | None], None]:
    """A delivery callback that keeps the next offset per partition; `flush` raises for what was not delivered."""

    def delivered(error: Exception | None, place: Delivered | None) -> None:
        if error is None and place is not None:
            after = place.offset + 1
            partition = TopicPartition(place.topic, place.partition)
            if after > offsets.get(partition, 0):
                offsets[partition] = after
                own[place.partition] = after

    return delivered
