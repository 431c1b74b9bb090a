"""One feature set's worker: consume, judge, lift, merge, and commit exactly once.

    1 gather    records until the row bound or the next tick of the commit clock
    2 source    decode, verdicts, lift: partial tiles of this transaction
    3 entity    partials read back from the log, merged into blocks
    4 produce   partials, rejected records, changed blocks, Progress
    5 offsets   of every task touched, with what a restart needs in the metadata
    6 commit    the transaction
    7 store     one local write per partition: disk never holds what was not committed

A failure anywhere before 6 aborts, forgets the tasks and reads them back from what is committed; so does one in 7.
After an indefinite answer a new producer is made first: init_transactions settles what happened to the old one.
What breaks in 2 and 3 is this pipeline's fault and parks it; the bus raises Retryable or Fatal of its own.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from headrace.chassis.bus import Committed, Producer, Record, TopicPartition
from headrace.chassis.errors import Fatal, Fenced, OutcomeUnknown, PipelineFault, Retryable
from headrace.chassis.health import Heartbeat
from headrace.chassis.logs import logger
from headrace.chassis.retry import Backoff
from headrace.chassis.view import PROGRESS_KEY
from headrace.contracts import catalogue
from headrace.contracts.records import PartialTiles, RecordRejected
from headrace.plan.avro import event_schema
from headrace.plan.ir import FeatureSet, Plan
from headrace.plan.topics import partials_topic, state_topic
from svc_stream.domain.entity import Commit
from svc_stream.domain.source import JudgedRows
from svc_stream.handlers import GROUP, fitting, judge_batch, partials_of
from svc_stream.recovery import Reader
from svc_stream.tasks import Surroundings, Tasks, Written
from svc_stream.telemetry import SetMetrics, entity_spans, source_spans

CONSUME_RECORDS = 500  # larger batches do not raise the rate, smaller ones do lower it
FILL_WAIT_S = 0.005  # within a round: how long one call waits for more
VALUE_BYTES_MAX = 900_000  # clients and brokers take a megabyte by default
LETTER_BYTES_MAX = 1_500_000  # topics of dead letters and late records take two: room for any record of the default size
_log = logger(__name__)


class SetWorker:
    """Runs one feature set of one plan. `step` is called in a loop from one thread."""

    def __init__(self, plan: Plan, feature_set: FeatureSet, around: Surroundings, reports: frozenset[str]) -> None:
        """reports: events whose rejected records this worker writes out (each event has one reporter per plan)."""
        self.plan, self.feature_set, self._around, self.reports = plan, feature_set, around, reports
        self._events = {e.name: e for e in plan.events if e.name in feature_set.events}
        self._schemas = {e.name: event_schema(plan, e) for e in self._events.values()}
        self._partials, self._state = partials_topic(plan, feature_set), state_topic(plan, feature_set)
        self.group = f"{GROUP}.{plan.pipeline}.{feature_set.name.replace('_', '-')}.{feature_set.hash[:8]}"
        self._member = f"{self.group}.{around.settings.instance}"
        self.metrics = SetMetrics(around.metrics, plan.pipeline, feature_set.name)
        self.name = f"stream {plan.pipeline} {feature_set.name} {feature_set.hash[:8]}"
        self.heartbeat = Heartbeat(self.name, around.clock)
        self.rows_max = around.settings.batch_rows_max
        self.interval_s = around.settings.commit_interval_ms / 1000
        self.tick_s = around.clock.monotonic_s()  # the next tick of the commit clock
        self._backoff: Backoff | None = None
        self._open = False  # a transaction
        self._lost = False  # a new producer must settle the last transaction
        self._producer = self._new_producer()
        try:
            self._consumer = around.bus.consumer(self.group, self._member, instance_id=self._member)
            reader = Reader(around.bus, around.codec, self._member, around.clock, self.heartbeat.beat)
            self.tasks = Tasks(plan, feature_set, self._schemas, around, self._consumer, reader, self.metrics)
            topics = [*(e.topic for e in self._events.values()), self._partials]
            self._consumer.subscribe(topics, self.tasks.on_assign, self.tasks.on_revoke)
        except BaseException:
            self._producer.close()
            raise

    # -- one round

    def step(self) -> int:
        """One round; returns how many records it committed.

        Raises: PipelineFault when this set cannot go on, another Fatal when the process cannot.
        """
        self.heartbeat.beat()
        try:
            return self._round()
        except Retryable as error:
            self._recover(error)
            return 0

    def _round(self) -> int:
        records = self._gather()  # also while backing off: the group must hear from us
        if self._backoff is not None and self._around.clock.monotonic_s() < self._backoff.due_s:
            return 0
        if self._lost:
            self._replace_producer()
        if self.tasks.stale:
            with self._computing():
                self.tasks.reload()
            self.metrics.assigned(len(self.tasks.sources), len(self.tasks.entities))
            return 0
        batches = self.tasks.owned(records)
        if not batches:
            return 0
        done = self._transact(batches)
        self._backoff = None
        return done

    def _gather(self) -> list[Record]:
        clock, settings = self._around.clock, self._around.settings
        records = self._consumer.consume(min(CONSUME_RECORDS, self.rows_max), settings.idle_wait_ms / 1000)
        while records and len(records) < self.rows_max and not self.tasks.stale:
            left = self.tick_s - clock.monotonic_s()
            if left <= 0:
                break
            records += self._consumer.consume(min(CONSUME_RECORDS, self.rows_max - len(records)), min(left, FILL_WAIT_S))
        # At a fixed rate: a timer restarted after the work would make each interval longer by the work. Never further
        # ahead than one interval: rounds that end before their tick (nothing came, the row bound) must not save up a wait.
        now_s = clock.monotonic_s()
        self.tick_s = min(max(self.tick_s + self.interval_s, now_s), now_s + self.interval_s)
        return records

    def _transact(self, batches: Mapping[TopicPartition, list[Record]]) -> int:
        started, records = time.perf_counter(), sum(map(len, batches.values()))
        sources = {tp: batch for tp, batch in batches.items() if tp.topic != self._partials}
        entities = {tp: batch for tp, batch in batches.items() if tp.topic == self._partials}
        self._producer.begin()
        self._open = True
        offsets = self._run_sources(sources) if sources else {}
        written = self._run_entities(entities, offsets)
        self._producer.send_offsets(offsets, self._consumer)
        self._producer.commit()
        self._open = False
        self.tasks.committed(written)
        self.metrics.committed(records, time.perf_counter() - started)
        return records

    def _run_sources(self, batches: Mapping[TopicPartition, list[Record]]) -> dict[TopicPartition, Committed]:
        offsets: dict[TopicPartition, Committed] = {}
        rows: list[JudgedRows] = []
        sampled: list[Record] = []
        rejected: list[RecordRejected] = []
        for tp, records in sorted(batches.items()):
            task = self.tasks.sources[tp]
            with self._computing():
                outcome = judge_batch(task, self._schemas[task.event.name], self._around.codec, records)
            rows.append(outcome.rows)
            sampled += outcome.sampled
            if task.event.name in self.reports:
                rejected += outcome.rejected
            self.metrics.judged(task.event.name, outcome.counts)
            offsets[tp] = Committed(task.next_offset, task.metadata())
        carried = source_spans(self._around.tracing, sampled, self.group)
        with self._computing():
            values = partials_of(self.feature_set, self._events, rows, carried, self._encode_partial, VALUE_BYTES_MAX)
        for partition, value in values:
            self._producer.produce(self._partials, value, partition=partition)
        for record in rejected:
            self._reject(fitting(record, LETTER_BYTES_MAX))
        return offsets

    def _run_entities(
        self, batches: Mapping[TopicPartition, list[Record]], offsets: dict[TopicPartition, Committed]
    ) -> dict[TopicPartition, Written]:
        """Adds the offsets of the partials it read."""
        written: dict[TopicPartition, Written] = {}
        for tp, records in sorted(batches.items()):
            state = self.tasks.entities[tp]
            with self._computing():
                for record in records:
                    state.apply(self._around.codec.decode(record.value, PartialTiles), record.offset)
                changes = entity_spans(self._around.tracing, state.commit(), self._partials, self.group)
                written[tp] = self.tasks.encoded(changes)
            self._produce_state(tp.partition, changes, written[tp])
            offsets[tp] = Committed(state.partials_offset, str(changes.progress.commit_sequence))
        return written

    def _produce_state(self, partition: int, changes: Commit, written: Written) -> None:
        produce = self._producer.produce
        for key, value in written.puts.items():
            produce(self._state, value, key=key, partition=partition)
        for key in written.deletes:
            produce(self._state, None, key=key, partition=partition)
        headers = [("traceparent", t.encode()) for t in changes.progress.traceparents[:1]]
        produce(self._state, written.raw_progress, PROGRESS_KEY, partition, headers, written.landed)

    def _encode_partial(self, partial: PartialTiles) -> bytes:
        return self._around.codec.encode(self._partials, partial)

    def _reject(self, rejected: RecordRejected) -> None:
        late = rejected.reason == "late"
        topic = catalogue.late_topic(self.plan.pipeline) if late else catalogue.dlq_topic(rejected.topic, GROUP)
        self._producer.produce(topic, self._around.codec.encode(topic, rejected), key=rejected.key)

    # -- when something fails

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Whatever breaks inside, but the world and a lost place, is this pipeline's: it parks and the others go on."""
        try:
            yield
        except (Retryable, PipelineFault, Fenced):
            raise
        except Exception as error:
            kind = "" if isinstance(error, Fatal) else f"{type(error).__name__}: "
            raise PipelineFault(self.plan.pipeline, f"{self.feature_set.name}: {kind}{error}") from error

    def _recover(self, error: Retryable) -> None:
        """Abort, wait, read back: nothing that was not committed may stay in memory."""
        self.metrics.aborted()
        self.tasks.stale = True
        now_s = self._around.clock.monotonic_s()
        self._backoff = self._backoff or Backoff(self._around.retry, now_s, random.Random())
        self._backoff.failed(now_s, error)
        _log.warning("round_failed", group=self.group, attempt=self._backoff.attempts, error=str(error))
        unsettled, self._open = self._open, False
        if isinstance(error, OutcomeUnknown):
            self._lost = True
        elif unsettled:
            try:
                self._producer.abort()
            except Retryable as again:
                self._lost = True
                _log.warning("abort_unanswered", group=self.group, error=str(again))

    def _replace_producer(self) -> None:
        self._producer.close()
        self._producer = self._new_producer()
        self._lost = False

    def _new_producer(self) -> Producer:
        timeout_ms = self._around.settings.transaction_timeout_ms
        producer = self._around.bus.producer(self._member, transactional_id=self._member, transaction_timeout_ms=timeout_ms)
        producer.init_transactions()
        return producer

    def close(self) -> None:
        """Leave the group; a transaction under way is aborted."""
        with ExitStack() as ends:  # each of them, whatever another one raises
            ends.callback(self.tasks.close)
            ends.callback(self._consumer.close)
            ends.callback(self._producer.close)
