"""Consume, handle a batch, produce, commit in one Kafka transaction: exactly once, from topic to topic.

One round (`step`), in this order:
  1. poll: at most records_max records, all of one assignment
  2. begin; handle the batch; produce what it returns; send the offsets; commit
       Retryable, aborted      abort, seek back, back off inside a budget while polling; then Fatal
       Poison                  abort, the same records again one by one; the poisonous one to the dead-letter topic
       outcome unknown         new producer (its init ends the old transaction), then the committed offsets tell what happened
       anything else           Fatal: the transaction is aborted, the loop ends
  3. after the commit: on_committed, where local state follows
Nothing is kept between rounds, so a rebalance inside poll never meets an open transaction.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from headrace.chassis.assignment import AssignedConsumer
from headrace.chassis.bus import Committed, Consumer, Producer, Record, TopicPartition
from headrace.chassis.clock import Clock
from headrace.chassis.errors import Fatal, HeadraceError, OutcomeUnknown, Poison, Retryable
from headrace.chassis.health import Heartbeat
from headrace.chassis.logs import logger
from headrace.chassis.metrics import ChassisMetrics
from headrace.chassis.records import EncodeRejected, Outgoing, dead_letter
from headrace.chassis.retry import Backoff, RetryPolicy

_log = logger("headrace.transactional")


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What a batch gives: records to produce, and what to keep with the offset of a partition."""

    outgoing: Sequence[Outgoing] = ()
    metadata: Mapping[TopicPartition, str] = field(default_factory=dict)


BatchHandler = Callable[[Sequence[Record]], BatchResult]
OnCommitted = Callable[[Mapping[TopicPartition, Committed]], None]


class TransactionalLoop:
    """Not thread-safe: one thread calls step, or run through a LoopThread."""

    def __init__(
        self,
        *,
        group: str,
        topics: Sequence[str],
        consumer: Consumer,
        make_producer: Callable[[], Producer],
        handle: BatchHandler,
        encode_rejected: EncodeRejected,
        clock: Clock,
        metrics: ChassisMetrics,
        on_committed: OnCommitted | None = None,
        records_max: int = 10_000,
        poll_timeout_s: float = 0.1,
        retry: RetryPolicy | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """make_producer gives a new producer with the same transactional id each time (group + static instance)."""
        self.name = f"loop {group}"
        self.heartbeat = Heartbeat(self.name, clock)
        self._group = group
        self._make_producer = make_producer
        self._handle = handle
        self._encode_rejected = encode_rejected
        self._clock = clock
        self._metrics = metrics
        self._on_committed = on_committed
        self._records_max = records_max
        self._poll_timeout_s = poll_timeout_s
        self._retry = retry or RetryPolicy()
        self._rng = rng or random.Random()
        self._backoff: Backoff | None = None
        self._paused: set[TopicPartition] = set()  # by us, while backing off; one that moved away stays in until it comes back
        self._in_transaction = False
        self._producer = make_producer()
        self._producer.init_transactions()  # before any offset is read: it ends what a dead incarnation left open
        self._assigned = AssignedConsumer(consumer, topics)

    def step(self) -> int:
        """One round; returns how many records were committed. Raises Fatal, after which nothing is committed."""
        self.heartbeat.beat()
        self._metrics.loop_progress.labels(self.name).set(self._clock.now_ms() / 1000)
        try:
            return self._round()
        except Exception as error:
            if self._in_transaction:
                self._abort_quietly()
            if isinstance(error, Fatal):
                raise
            raise Fatal(f"{self.name}: {type(error).__name__}: {error}") from error

    def close(self) -> None:
        self._assigned.consumer.close()
        self._producer.close()

    def _round(self) -> int:
        if self._paused and (self._backoff is None or self._clock.monotonic_s() >= self._backoff.due_s):
            self._resume()
        try:
            records = self._assigned.consume(self._records_max, self._poll_timeout_s)
        except Retryable as error:
            _log.warning("poll_failed", group=self._group, error=str(error))
            return 0
        if not records:
            return 0
        try:
            return self._transact(records, "handled")
        except Poison:
            return self._one_by_one(records)

    def _one_by_one(self, records: Sequence[Record]) -> int:
        """Find the poisonous records of a batch; each record is a transaction of its own."""
        done = 0
        for i, record in enumerate(records):
            try:
                committed = self._transact([record], "handled", records[i:])
            except Poison as poison:
                letter = dead_letter(record, self._group, poison, self._clock.now_ms(), self._encode_rejected)
                _log.info("record_rejected", reason=poison.reason, topic=record.topic, offset=record.offset)
                committed = self._transact([record], "poisoned", records[i:], BatchResult([letter]))
            if not committed:
                break
            done += committed
        return done

    def _transact(
        self, records: Sequence[Record], outcome: str, redo: Sequence[Record] | None = None, result: BatchResult | None = None
    ) -> int:
        """One transaction. Returns how many records it committed: all or 0, then redo (default: records) comes again.

        Raises: Poison after the abort; Fatal.
        """
        began_s = self._clock.monotonic_s()
        offsets: dict[TopicPartition, Committed] = {}
        try:
            self._producer.begin()
            self._in_transaction = True
            result = result or self._handle(records)
            for out in result.outgoing:
                self._producer.produce(out.topic, out.value, out.key, out.partition, out.headers)
            offsets = _offsets(records, result.metadata)
            self._producer.send_offsets(offsets, self._assigned.consumer)
            self._producer.commit()
            self._in_transaction = False
        except Poison:
            self._abort()
            raise
        except OutcomeUnknown as error:
            _log.warning("transaction_outcome_unknown", group=self._group, error=str(error))
            if not self._settle(offsets):
                self._again(redo or records, error)
                return 0
        except Retryable as error:
            self._abort()
            self._again(redo or records, error)
            return 0
        self._backoff = None
        self._count(records, outcome, began_s)
        if self._on_committed is not None:
            self._on_committed(offsets)
        return len(records)

    def _settle(self, offsets: Mapping[TopicPartition, Committed]) -> bool:
        """Whether the transaction committed: a new incarnation ends it one way or the other, then its offsets tell."""
        self._replace_producer()
        committed = self._assigned.consumer.committed(list(offsets))
        found = [c is not None and c.offset >= offsets[p].offset for p, c in committed.items()]
        if any(found) != all(found):
            raise Fatal(f"offsets of one transaction of {self._group} differ in their fate: {committed}")
        return all(found)

    def _again(self, records: Sequence[Record], error: Exception) -> None:
        """Back to the first of these records, later: all partitions wait, the loop keeps polling."""
        now_s = self._clock.monotonic_s()
        self._backoff = self._backoff or Backoff(self._retry, now_s, self._rng)
        self._backoff.failed(now_s, error)
        _log.warning("batch_to_be_retried", group=self._group, attempt=self._backoff.attempts, error=str(error))
        first: dict[TopicPartition, int] = {}
        for record in records:
            first.setdefault(TopicPartition(record.topic, record.partition), record.offset)
            self._metrics.records.labels(record.topic, self._group, "retried").inc()
        self._assigned.rewind(first)
        mine = self._assigned.consumer.assignment()
        self._assigned.consumer.pause(mine)
        self._paused.update(mine)

    def _resume(self) -> None:
        """Only what was paused: to the client a resume is a break in the stream, and what it has fetched ahead is void."""
        mine = sorted(self._paused & set(self._assigned.consumer.assignment()))
        if mine:
            self._assigned.consumer.resume(mine)
        self._paused.difference_update(mine)

    def _abort(self) -> None:
        """Leave the transaction; where the broker does not answer, a new incarnation does it."""
        if not self._in_transaction:
            return
        self._in_transaction = False
        try:
            self._producer.abort()
        except Retryable as error:
            _log.warning("abort_unanswered", group=self._group, error=str(error))
            self._replace_producer()

    def _abort_quietly(self) -> None:
        self._in_transaction = False
        try:
            self._producer.abort()
        except HeadraceError as error:
            _log.warning("abort_failed", group=self._group, error=str(error))

    def _replace_producer(self) -> None:
        self._in_transaction = False
        self._producer.close()
        self._producer = self._make_producer()
        self._producer.init_transactions()

    def _count(self, records: Sequence[Record], outcome: str, began_s: float) -> None:
        self._metrics.commit_seconds.labels(self._group).observe(self._clock.monotonic_s() - began_s)
        now_ms = self._clock.now_ms()
        for record in records:
            self._metrics.records.labels(record.topic, self._group, outcome).inc()
            age_s = max(0.0, (now_ms - record.append_time_ms) / 1000)
            self._metrics.event_age_seconds.labels(record.topic, self._group).observe(age_s)


def _offsets(records: Sequence[Record], metadata: Mapping[TopicPartition, str]) -> dict[TopicPartition, Committed]:
    """Next offset per partition of a batch that is in order per partition."""
    last = {TopicPartition(r.topic, r.partition): r.offset for r in records}
    return {p: Committed(offset + 1, metadata.get(p, "")) for p, offset in last.items()}
