"""One stream's worker: consume, judge, prepare, operate, and commit exactly once.

    1 gather    records until the row bound or the next tick of the commit clock
    2 rows      of other workers, or of older transactions, from the log of rekeyed rows into their tasks
    3 source    decode, verdicts, prepare; taken at once where this worker holds the key and stands where they begin, else
                written to the log
    4 operate   each task touched: rows in, event time on, results out
    5 produce   results, refused and rejected records, rekeyed rows, a segment per task touched
    6 offsets   of every source and log touched, with what a restart needs in the metadata
    7 commit    the transaction
    8 store     one local write per task: disk never holds what was not committed

A failure anywhere before 7 aborts, forgets the tasks and reads them back from what is committed; so does one in 8.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack

import polars as pl

from headrace.chassis.bus import Committed, Record, RecordBatch, TopicPartition
from headrace.chassis.errors import HeadraceError, Retryable
from headrace.chassis.health import Heartbeat
from headrace.chassis.logs import logger
from headrace.contracts.records import RecordRejected, RekeyedRows
from headrace.plan.avro import event_schema
from headrace.plan.ir import Plan, Stream
from headrace.plan.stream_costs import stateless
from headrace.plan.streams.operator import Batch, Outcome
from headrace.plan.streams.prepare_rows import RowResults
from headrace.plan.topics import time_advances_topic, worker_group
from svc_stream.domain.owned import metadata_with
from svc_stream.domain.source import JudgedRows, SourceTask
from svc_stream.handlers import LETTER_BYTES_MAX, fitting, judge_columns, letter_topic
from svc_stream.parking import computing
from svc_stream.recovery import Reader
from svc_stream.streams.advances import Advances
from svc_stream.streams.asking import Questions
from svc_stream.streams.assigned import Assigned
from svc_stream.streams.changelog import Written
from svc_stream.streams.letters import refused_letters
from svc_stream.streams.results import ResultWriter
from svc_stream.streams.sources import Prepared, Preparing, by_partition, doubting, rekeyed, routed
from svc_stream.streams.telemetry import WorkerMetrics
from svc_stream.tasks import Surroundings
from svc_stream.telemetry import source_spans
from svc_stream.transactions import Transactions

CONSUME_RECORDS = 500  # larger batches do not raise the rate, smaller ones do lower it
FILL_WAIT_S = 0.005  # within a round: how long one call waits for more
PURGE_EVERY_S = 10.0  # how often beginnings of logs that nobody needs are deleted
_log = logger(__name__)


class StreamWorker:
    """Runs one stream of one plan. `step` is called in a loop from one thread."""

    def __init__(self, plan: Plan, stream: Stream, around: Surroundings, reports: frozenset[str]) -> None:
        """reports: events whose rejected records this worker writes out (each event has one reporter per plan)."""
        self.plan, self.stream, self._around, self.reports = plan, stream, around, reports
        settings = around.settings
        self.group = worker_group(plan, stream)
        self._member = f"{self.group}.{settings.instance}"
        self.name = f"stream {plan.pipeline} {stream.name} {stream.hash[:8]}"
        self.title = stream.name
        self.heartbeat = Heartbeat(self.name, around.clock)
        self.metrics = WorkerMetrics(around.metrics.streams, plan.pipeline, stream)
        self.rows_max = settings.stream_batch_rows_max
        self.interval_s = settings.stream_commit_interval_ms / 1000
        self.tick_s = around.clock.monotonic_s()  # the next tick of the commit clock
        self.questions = Questions()
        self._purge_s = self.tick_s
        events = {e.name: e for e in plan.events}
        read = {part.event for part in stream.inputs}
        self._schemas = {name: event_schema(plan, events[name]) for name in read}
        self._deletions = {part.event for part in stream.inputs if part.table}
        self._output = events[stream.output]
        self._writer = ResultWriter(self._output, event_schema(plan, self._output), around.codec)
        self._preparing = Preparing(plan, stream)
        self._mapped = RowResults(stream, plan.events) if stateless(stream) else _nothing
        self._transactions = Transactions(
            around.bus, self._member, settings.transaction_timeout_ms, around.clock, around.retry,
            exactly_once=settings.stream_guarantee == "exactly_once",
        )  # fmt: skip
        try:
            self._consumer = around.bus.consumer(self.group, self._member, instance_id=self._member)
            reader = Reader(around.bus, around.codec, self._member, around.clock, self.heartbeat.beat)
            exact = self._transactions.exactly_once
            self.tasks = Assigned(plan, stream, self._schemas, around, self._consumer, reader, self.metrics.restored, exact)
            self._advances = Advances(stream, settings.idle_partition_ms / 1000, self.tasks.fused)
            self._consumer.subscribe(self.tasks.topics(), self.tasks.on_assign, self.tasks.on_revoke)
        except BaseException:
            self._transactions.close()
            raise

    # -- one round

    def step(self) -> int:
        """One round; returns how many records it committed.

        Raises: PipelineFault when this stream cannot go on, another Fatal when the process cannot.
        """
        self.heartbeat.beat()
        try:
            return self._round()
        except Retryable as error:
            self.metrics.aborted()
            self.tasks.stale = True
            self._transactions.failed(error, self.group)
            return 0

    def _round(self) -> int:
        batches = self._gather()  # also while backing off: the group must hear from us
        if self._transactions.waiting() or not self._ready():
            return 0
        done = self._handle(self.tasks.owned(batches))
        self._let_time_pass()
        self._purge()
        self.questions.answer(self.tasks)
        return done

    def _ready(self) -> bool:
        """Whether the tasks may go on; else they have been read back, and what was consumed comes again."""
        self._transactions.settle()
        if not self.tasks.stale:
            return True
        with self._computing():
            self.tasks.reload()
        self.metrics.assigned(len(self.tasks.sources), len(self.tasks.operators))
        return False

    def _gather(self) -> list[RecordBatch]:
        clock, settings = self._around.clock, self._around.settings
        found = self._consumer.consume_batches(min(CONSUME_RECORDS, self.rows_max), settings.idle_wait_ms / 1000)
        count = sum(len(b.offsets) for b in found)
        while found and count < self.rows_max and not self.tasks.stale:
            left, most = self.tick_s - clock.monotonic_s(), min(CONSUME_RECORDS, self.rows_max - count)
            if left <= 0:
                break
            more = self._consumer.consume_batches(most, min(left, FILL_WAIT_S))
            found += more
            count += sum(len(b.offsets) for b in more)
        # At a fixed rate: a timer restarted after the work would make each interval longer by the work. Never further
        # ahead than one interval: rounds that end before their tick (nothing came, the row bound) must not save up a wait.
        now_s = clock.monotonic_s()
        self.tick_s = min(max(self.tick_s + self.interval_s, now_s), now_s + self.interval_s)
        return found

    def _handle(self, batches: Mapping[TopicPartition, RecordBatch]) -> int:
        """One transaction, if anything came."""
        if not batches:
            return 0
        started, records = time.perf_counter(), sum(len(b.offsets) for b in batches.values())
        self._transactions.begin()
        rows = {tp: batch for tp, batch in batches.items() if tp.topic == self.tasks.rows}
        sources = {tp: batch for tp, batch in batches.items() if tp.topic != self.tasks.rows}
        touched = self._take_rows(rows)
        judged, carried = self._judge(sources)
        touched |= self._hand_on(judged, carried)
        written = self._operate(sorted(touched))
        self._transactions.commit(self._offsets(sources, touched), self._consumer)
        self._transactions.well()
        self.tasks.committed(written)
        self.metrics.committed(records, time.perf_counter() - started, self._around.clock.monotonic_s())
        self.metrics.stands(self.tasks.operators)
        return records

    def _take_rows(self, batches: Mapping[TopicPartition, RecordBatch]) -> set[int]:
        """Rekeyed rows from the log into their tasks."""
        for tp, batch in sorted(batches.items()):
            with self._computing():
                for value, offset in zip(batch.values, batch.offsets, strict=True):
                    record = self._around.codec.decode(value, RekeyedRows)
                    self.tasks.operators[tp.partition].task.apply(record, offset)
        return {tp.partition for tp in batches}

    def _judge(self, batches: Mapping[TopicPartition, RecordBatch]) -> tuple[list[JudgedRows], list[str]]:
        found: list[JudgedRows] = []
        sampled: list[Record] = []
        for tp, batch in sorted(batches.items()):
            task = self.tasks.sources[tp]
            name = task.event.name
            with self._computing():
                deletions = name in self._deletions
                outcome = judge_columns(task, self._schemas[name], self._around.codec, batch, deletions=deletions)
                found.append(doubting(outcome.rows(task), self.tasks.again.get(tp, 0)))
            self.metrics.judged(name, outcome.counts)
            sampled += outcome.sampled
            if name in self.reports:
                for letter in outcome.rejected:
                    self._reject(letter)
        return found, source_spans(self._around.tracing, sampled, self.group) if sampled else []

    def _hand_on(self, judged: Sequence[JudgedRows], carried: Sequence[str]) -> set[int]:
        """Rows to where their keys live; returns the tasks here that took some, or heard that there are none."""
        if not judged:
            return set()
        if self.tasks.stateless:
            with self._computing():
                for batch in self._preparing.of(judged).batches:
                    self._emit(self._mapped(batch.rows))
            return set()
        if self.tasks.fused:
            with self._computing():
                for partition, part in by_partition(judged).items():
                    prepared = self._preparing.of(part)
                    self.tasks.operators[partition].task.take(prepared.ranges, prepared.batches, carried)
            return {j.partition for j in judged}
        with self._computing():
            return self._route(self._preparing.of(judged), carried)

    def _route(self, prepared: Prepared, carried: Sequence[str]) -> set[int]:
        """Taken where the key lives here and its task stands where the ranges begin, else by the log.

        A range that went by the log is found there before any later one is taken: until then the cut ends below it.
        """
        homes = routed(prepared.batches, self.stream.partitions)
        here = {p for p, changelog in self.tasks.operators.items() if changelog.task.continues(prepared.ranges)}
        for partition in range(self.stream.partitions):
            rows: list[Batch] = homes.get(partition, [])
            if partition in here:
                self.tasks.operators[partition].task.take(prepared.ranges, rows, carried)
                continue
            for record in rekeyed(self.stream.hash, prepared.ranges, rows, carried):
                value = self._around.codec.encode(self.tasks.rows, record)
                self._transactions.produce(self.tasks.rows, value, partition=partition)
        return here

    def _operate(self, partitions: Sequence[int]) -> dict[int, Written]:
        """Results and segments of the tasks touched."""
        written: dict[int, Written] = {}
        for partition in partitions:
            changelog = self.tasks.operators[partition]
            with self._computing():
                outcome = changelog.task.step()
                written[partition] = changelog.segment()
            self._emit_outcome(partition, outcome)
            for value in written[partition].values:
                self._transactions.produce(changelog.place.topic, value, None, partition, (), written[partition].landed)
        return written

    def _emit_outcome(self, partition: int, outcome: Outcome) -> None:
        self._emit(outcome.results, partition)
        if outcome.refused.height:
            self.metrics.refused(outcome.refused.height)
            for letter in refused_letters(self.stream, self.plan.events, outcome.refused):
                self._reject(letter)

    def _emit(self, results: pl.DataFrame, partition: int | None = None) -> None:
        """An operator's results stay in its partition: whoever reads them finds one writer there, in event-time order."""
        if not results.height:
            return
        with self._computing():
            records = list(self._writer.records(results))
        produce, topic = self._transactions.produce, self._output.topic
        for key, value in records:
            produce(topic, value, key, partition)
        self.metrics.emitted(len(records))

    def _let_time_pass(self) -> None:
        """Sources that have been quiet for long go on without a record; see advances.py."""
        now_s = self._around.clock.monotonic_s()
        if self.tasks.stateless or not self._advances.due(now_s):
            return
        held = self.tasks
        found = [t for t in self._advances.found(held.sources, held.operators, now_s) if self._at_end(t.place, t.source)]
        if not found:
            return
        self._transactions.begin()
        topic = time_advances_topic(self.plan.pipeline)
        for told in found:
            told.source.advanced_ms = told.advance.watermark_ms
            key = f"{self.stream.name}/{told.source.event.name}/{told.place.partition}".encode()
            self._transactions.produce(topic, self._around.codec.encode(topic, told.record(self.stream)), key)
        with self._computing():
            if held.fused:
                for told in found:
                    held.operators[told.place.partition].task.take([told.source.standstill()], (), ())
                touched = {told.place.partition for told in found}
            else:
                touched = self._route(Prepared([told.source.standstill() for told in found], []), ())
        written = self._operate(sorted(touched))
        self._transactions.commit(self._offsets({told.place for told in found}, touched), self._consumer)
        self._transactions.well()
        held.committed(written)
        self.metrics.stands(held.operators)

    def _at_end(self, tp: TopicPartition, source: SourceTask) -> bool:
        """Whether nothing lies there unread: a broker that is away makes no source quiet. Raises: Retryable."""
        return max(self._consumer.position(tp) or 0, source.next_offset) >= self._consumer.watermarks(tp)[1]

    def _offsets(self, sources: Collection[TopicPartition], touched: set[int]) -> dict[TopicPartition, Committed]:
        """Of everything this transaction touched, with what a restart needs."""
        offsets: dict[TopicPartition, Committed] = {}
        held = self.tasks
        for tp, source in held.sources.items():
            if held.fused and tp.partition in touched:
                sequence = held.operators[tp.partition].task.sequence
                offsets[tp] = Committed(source.next_offset, metadata_with(source, sequence))
            elif tp in sources:
                offsets[tp] = Committed(source.next_offset, source.metadata())
        if not held.fused:
            for partition in touched:
                task = held.operators[partition].task
                offsets[TopicPartition(held.rows, partition)] = Committed(task.rows_offset, str(task.sequence))
        return offsets

    def _reject(self, rejected: RecordRejected) -> None:
        letter = fitting(rejected, LETTER_BYTES_MAX)
        topic = letter_topic(self.plan.pipeline, letter)
        self._transactions.produce(topic, self._around.codec.encode(topic, letter), key=letter.key)

    def _purge(self) -> None:
        """Beginnings of the logs that nobody needs any more. What fails here is tried again later."""
        now_s = self._around.clock.monotonic_s()
        if now_s < self._purge_s:
            return
        self._purge_s = now_s + PURGE_EVERY_S
        before: dict[TopicPartition, int] = {}
        for partition, changelog in self.tasks.operators.items():
            if changelog.purge_before is not None:
                before[changelog.place] = changelog.purge_before
                changelog.purge_before = None
            if not self.tasks.fused and changelog.task.rows_offset:
                before[TopicPartition(self.tasks.rows, partition)] = changelog.task.rows_offset
        if before:
            self._delete_records(before)

    def _delete_records(self, before: Mapping[TopicPartition, int]) -> None:
        """A broker that refuses costs space, not correctness."""
        try:
            self._around.bus.admin().delete_records(before)
        except HeadraceError as error:
            _log.warning("logs_not_purged", stream=self.stream.name, error=str(error))

    # -- when something fails

    def _computing(self) -> AbstractContextManager[None]:
        return computing(self.plan.pipeline, self.stream.name)

    def close(self) -> None:
        """Leave the group; a transaction under way is aborted."""
        with ExitStack() as ends:  # each of them, whatever another one raises
            ends.callback(self.tasks.close)
            ends.callback(self._consumer.close)
            ends.callback(self._transactions.close)


def _nothing(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of a stream with state give no results by themselves."""
    return rows.clear()
