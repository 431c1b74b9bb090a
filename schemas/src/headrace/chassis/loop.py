"""Consume, handle, produce, commit: at least once, one record at a time.

One round (`step`), in this order:
  1. poll: at most records_max_per_poll records, kept per partition
  2. handle each partition's records in order; what the handler returns is produced at once
       Retryable      pause the partition, back off inside a budget, keep polling; then Fatal
       Poison         raw record, origin and reason to <topic>.<group>.dlq
       PipelineFault  the partition stays paused, nothing of it is committed, the caller is told
       anything else  Fatal: nothing more is committed, the loop ends
  3. flush: all produced records are acknowledged
  4. commit the offsets of what was handled
A crash anywhere repeats what lies after the last commit: handlers are idempotent.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from headrace.chassis.assignment import AssignedConsumer
from headrace.chassis.bus import Committed, Consumer, Producer, Record, TopicPartition
from headrace.chassis.clock import Clock
from headrace.chassis.errors import Fatal, GenerationLost, PipelineFault, Poison, Retryable
from headrace.chassis.health import Heartbeat
from headrace.chassis.logs import logger
from headrace.chassis.metrics import ChassisMetrics
from headrace.chassis.records import EncodeRejected, Outgoing, dead_letter
from headrace.chassis.retry import Backoff, RetryPolicy
from headrace.chassis.tracing import Tracing, inject

FLUSH_TIMEOUT_S = 35.0  # a little more than the producer's own delivery timeout
_log = logger("headrace.loop")

Handler = Callable[[Record], Iterable[Outgoing] | None]
OnParked = Callable[[PipelineFault, Record], None]


@dataclass(frozen=True, slots=True)
class LoopOptions:
    records_max_per_poll: int = 500
    poll_timeout_s: float = 0.1  # also how soon a stop and a due retry are noticed
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    poison_max: int | None = None  # more poisoned records than this, since start, is Fatal; None: no limit


@dataclass(slots=True)
class _Work:
    """One partition's records in hand."""

    pending: deque[Record] = field(default_factory=deque)
    next_offset: int | None = None  # handled up to here, not committed yet
    first_offset: int | None = None  # first record handled since the last commit
    backoff: Backoff | None = None
    parked: bool = False


class HandleLoop:
    """Not thread-safe: one thread calls step, or run through a LoopThread."""

    def __init__(
        self,
        *,
        group: str,
        topics: Sequence[str],
        consumer: Consumer,
        producer: Producer,
        handle: Handler,
        encode_rejected: EncodeRejected,
        clock: Clock,
        metrics: ChassisMetrics,
        tracing: Tracing,
        on_parked: OnParked | None = None,
        options: LoopOptions | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """Without on_parked a PipelineFault is Fatal."""
        self.name = f"loop {group}"
        self.heartbeat = Heartbeat(self.name, clock)
        self._group = group
        self._producer = producer
        self._handle = handle
        self._encode_rejected = encode_rejected
        self._clock = clock
        self._metrics = metrics
        self._tracing = tracing
        self._on_parked = on_parked
        self._options = options or LoopOptions()
        self._rng = rng or random.Random()
        self._work: dict[TopicPartition, _Work] = {}
        self._flush_backoff: Backoff | None = None  # set while what was handled could not be made durable
        self._poisoned = 0
        self._broken = False
        self._assigned = AssignedConsumer(consumer, topics, self._revoked)

    def step(self) -> int:
        """One round; returns how many records were handled or rejected. Raises Fatal, after which nothing is committed."""
        self.heartbeat.beat()
        self._metrics.loop_progress.labels(self.name).set(self._clock.now_ms() / 1000)
        try:
            self._poll()
            done = sum(self._drain(partition, work) for partition, work in list(self._work.items()))
            self._commit()
        except Exception as error:
            self._broken = True
            if isinstance(error, Fatal):
                raise
            raise Fatal(f"{self.name}: {type(error).__name__}: {error}") from error
        return done

    def close(self) -> None:
        """Commit what is handled unless the loop broke, leave the group, give the clients back."""
        self._assigned.consumer.close()
        self._producer.close()

    def unpark(self, topic: str) -> None:
        """Take a parked topic up again from the record that failed. Call from the loop's thread."""
        for partition, work in self._work.items():
            if partition.topic == topic and work.parked:
                work.parked = False
                self._assigned.consumer.resume([partition])

    # -- the round ----------------------------------------------------------------------------------------------------

    def _poll(self) -> None:
        """A retriable error of the broker is waited out here: the client reconnects by itself."""
        if self._flush_backoff is not None and self._clock.monotonic_s() >= self._flush_backoff.due_s:
            waiting = [p for p in self._assigned.consumer.assignment() if not self._must_wait(p)]
            self._assigned.consumer.resume(waiting)
        try:
            records = self._assigned.consume(self._options.records_max_per_poll, self._options.poll_timeout_s)
        except Retryable as error:
            _log.warning("poll_failed", group=self._group, error=str(error))
            return
        for record in records:
            self._work.setdefault(TopicPartition(record.topic, record.partition), _Work()).pending.append(record)

    def _must_wait(self, partition: TopicPartition) -> bool:
        work = self._work.get(partition)
        return work is not None and (work.parked or work.backoff is not None)

    def _drain(self, partition: TopicPartition, work: _Work) -> int:
        """Handle a partition's records in order until none is left, one must wait, or the pipeline is parked."""
        done = 0
        while work.pending and not work.parked:
            if work.backoff is not None and self._clock.monotonic_s() < work.backoff.due_s:
                break
            record = work.pending[0]
            try:
                outcome = self._one(record)
            except Retryable as error:
                self._back_off(partition, work, record, error)
                break
            except PipelineFault as fault:
                self._park(partition, work, record, fault)
                break
            if work.backoff is not None:
                work.backoff = None
                self._assigned.consumer.resume([partition])
            work.pending.popleft()
            work.first_offset = record.offset if work.first_offset is None else work.first_offset
            work.next_offset = record.offset + 1
            self._metrics.records.labels(record.topic, self._group, outcome).inc()
            done += 1
        return done

    def _one(self, record: Record) -> str:
        """Handle and produce one record; its outcome as a metric label."""
        outcome = "handled"
        with self._tracing.process_span(record, self._group) as span:
            try:
                outgoing = list(self._handle(record) or ())
            except Poison as poison:
                outcome = "poisoned"
                outgoing = [self._reject(record, poison)]
            for out in outgoing:
                headers = out.headers if span is None else inject(out.headers, span)
                self._producer.produce(out.topic, out.value, out.key, out.partition, headers)
        age_s = max(0.0, (self._clock.now_ms() - record.append_time_ms) / 1000)
        self._metrics.event_age_seconds.labels(record.topic, self._group).observe(age_s)
        return outcome

    def _reject(self, record: Record, poison: Poison) -> Outgoing:
        self._poisoned += 1
        limit = self._options.poison_max
        if limit is not None and self._poisoned > limit:
            raise Fatal(f"more than {limit} records rejected, the last one for {poison}")
        origin = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
        _log.info("record_rejected", reason=poison.reason, detail=poison.detail, **origin)
        return dead_letter(record, self._group, poison, self._clock.now_ms(), self._encode_rejected)

    def _back_off(self, partition: TopicPartition, work: _Work, record: Record, error: Retryable) -> None:
        now_s = self._clock.monotonic_s()
        if work.backoff is None:
            work.backoff = Backoff(self._options.retry, now_s, self._rng)
            self._assigned.consumer.pause([partition])
        work.backoff.failed(now_s, error)
        self._metrics.records.labels(record.topic, self._group, "retried").inc()
        fields = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
        _log.warning("record_to_be_retried", attempt=work.backoff.attempts, error=str(error), **fields)

    def _park(self, partition: TopicPartition, work: _Work, record: Record, fault: PipelineFault) -> None:
        if self._on_parked is None:
            raise fault
        if work.backoff is None:
            self._assigned.consumer.pause([partition])
        work.backoff, work.parked = None, True
        self._metrics.records.labels(record.topic, self._group, "parked").inc()
        _log.error("pipeline_parked", pipeline=fault.pipeline, detail=fault.detail, topic=record.topic)
        self._on_parked(fault, record)

    # -- making it durable --------------------------------------------------------------------------------------------

    def _commit(self) -> None:
        """Flush, then commit what is handled. What could not be delivered is handled again from the first record of it."""
        offsets = {p: Committed(w.next_offset) for p, w in self._work.items() if w.next_offset is not None}
        if not offsets:
            return
        began_s = self._clock.monotonic_s()
        try:
            self._producer.flush(FLUSH_TIMEOUT_S)
            self._assigned.consumer.commit(offsets)
        except GenerationLost as error:
            _log.warning("commit_lost", group=self._group, error=str(error))
            self._work.clear()  # the partitions have moved; their new owner does this work again
            return
        except Retryable as error:
            self._handle_again(error)
            return
        self._flush_backoff = None
        for partition in offsets:
            self._work[partition].next_offset = self._work[partition].first_offset = None
        self._metrics.commit_seconds.labels(self._group).observe(self._clock.monotonic_s() - began_s)

    def _handle_again(self, error: Retryable) -> None:
        now_s = self._clock.monotonic_s()
        self._flush_backoff = self._flush_backoff or Backoff(self._options.retry, now_s, self._rng)
        self._flush_backoff.failed(now_s, error)
        _log.warning("commit_failed", group=self._group, attempt=self._flush_backoff.attempts, error=str(error))
        rewound = {p: w.first_offset for p, w in self._work.items() if w.first_offset is not None}
        for partition in rewound:
            del self._work[partition]  # one that was backing off or parked fails again when its record comes again
        self._assigned.rewind(rewound)
        self._assigned.consumer.pause(self._assigned.consumer.assignment())

    def _revoked(self, partitions: Sequence[TopicPartition]) -> None:
        """Commit what is handled while the partitions are still ours; drop the rest."""
        if not self._broken:
            try:
                self._commit()
            except Exception as error:
                _log.warning("commit_on_revoke_failed", group=self._group, error=str(error))
        for partition in partitions:
            self._work.pop(partition, None)
