"""One feature set's worker: consume, judge, lift, merge, and commit exactly once.

    1 gather    records until the row bound or the next tick of the commit clock
    2 entity    partials of other workers, or of older transactions, read from the log and merged into blocks
    3 source    decode, verdicts, lift: partial tiles of this transaction; merged at once where this worker holds the
                destination and its cut ends where they begin, else written to the log
    4 produce   partials, rejected records, changed blocks, Progress
    5 offsets   of every task touched, with what a restart needs in the metadata
    6 commit    the transaction
    7 store     one local write per partition: disk never holds what was not committed

A failure anywhere before 6 aborts, forgets the tasks and reads them back from what is committed; so does one in 7.
After an indefinite answer a new producer is made first: init_transactions settles what happened to the old one.
What breaks in 2 and 3 is this pipeline's fault and parks it; the bus raises Retryable or Fatal of its own.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack

from headrace.chassis.bus import Committed, Record, TopicPartition
from headrace.chassis.errors import Retryable
from headrace.chassis.health import Heartbeat
from headrace.chassis.logs import logger
from headrace.chassis.view import PROGRESS_KEY
from headrace.contracts.records import AdvanceCause, PartialTiles, RecordRejected, SourceRange, TimeAdvanced
from headrace.plan.avro import event_schema
from headrace.plan.ir import EventType, FeatureSet, Plan
from headrace.plan.rows import Lifter, lifter_of, narrow
from headrace.plan.topics import partials_topic, state_topic, time_advances_topic, worker_group
from svc_stream.domain.entity import Commit
from svc_stream.domain.quiet import Quiet, Standing
from svc_stream.domain.source import JudgedRows, SourceTask, partial_records
from svc_stream.handlers import (
    LETTER_BYTES_MAX,
    Pronounced,
    fitting,
    judge_batch,
    judge_rows,
    letter_topic,
    lifted,
    partials_of,
)
from svc_stream.parking import computing
from svc_stream.recovery import Reader
from svc_stream.tasks import Surroundings, Tasks, Written
from svc_stream.telemetry import SetMetrics, entity_spans, source_spans
from svc_stream.transactions import Transactions

CONSUME_RECORDS = 500  # larger batches do not raise the rate, smaller ones do lower it
FILL_WAIT_S = 0.005  # within a round: how long one call waits for more
LOOKS_PER_QUIET = 4  # so much of the time that makes a partition quiet may pass before it is noticed
BEHIND_ROUND_S = 0.25  # far below the timeout of a transaction
VALUE_BYTES_MAX = 900_000  # clients and brokers take a megabyte by default
ROWS_PATH_MAX = 96  # records of an event; with 130 to 190 of them a frame is as quick, with 20 it takes four times as long
_log = logger(__name__)


class SetWorker:
    """Runs one feature set of one plan. `step` is called in a loop from one thread."""

    def __init__(self, plan: Plan, feature_set: FeatureSet, around: Surroundings, reports: frozenset[str]) -> None:
        """reports: events whose rejected records this worker writes out (each event has one reporter per plan)."""
        self.plan, self.feature_set, self._around, self.reports = plan, feature_set, around, reports
        self._events = {e.name: e for e in plan.events if e.name in feature_set.events}
        self._schemas = {e.name: event_schema(plan, e) for e in self._events.values()}
        self._lifters: dict[str, Lifter | None] = {}
        self._partials, self._state = partials_topic(plan, feature_set), state_topic(plan, feature_set)
        self.group = worker_group(plan, feature_set)
        self._member = f"{self.group}.{around.settings.instance}"
        self.metrics = SetMetrics(around.metrics, plan.pipeline, feature_set.name)
        self.name = f"stream {plan.pipeline} {feature_set.name} {feature_set.hash[:8]}"
        self.title = feature_set.name
        self.heartbeat = Heartbeat(self.name, around.clock)
        self.rows_max, self.rows_path_max = around.settings.batch_rows_max, ROWS_PATH_MAX
        self.interval_s = around.settings.commit_interval_ms / 1000
        self.tick_s = around.clock.monotonic_s()  # the next tick of the commit clock
        self._quiet = Quiet(around.settings.idle_partition_ms / 1000)
        self._look_s = 0.0  # when quiet partitions are looked for again
        self.behind_rows_max = CONSUME_RECORDS  # of a round that begins behind it: what took about BEHIND_ROUND_S last time
        self._transactions = Transactions(
            around.bus, self._member, around.settings.transaction_timeout_ms, around.clock, around.retry
        )
        try:
            self._consumer = around.bus.consumer(self.group, self._member, instance_id=self._member)
            reader = Reader(around.bus, around.codec, self._member, around.clock, self.heartbeat.beat)
            self.tasks = Tasks(plan, feature_set, self._schemas, around, self._consumer, reader, self.metrics)
            self._consumer.subscribe(self.topics(), self.tasks.on_assign, self.tasks.on_revoke)
        except BaseException:
            self._transactions.close()
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
        if self._transactions.waiting() or not self._ready():
            return 0
        done = self._handle(self.tasks.owned(records))
        self._let_time_pass()
        if done:
            self._transactions.well()
        return done

    def _ready(self) -> bool:
        """Whether the tasks may go on; else they have been read back, and what was consumed comes again."""
        self._transactions.settle()
        if not self.tasks.stale:
            return True
        with self._computing():
            self.tasks.reload()
        self.metrics.assigned(len(self.tasks.sources), len(self.tasks.entities))
        return False

    def _gather(self) -> list[Record]:
        clock, settings = self._around.clock, self._around.settings
        records = self._consumer.consume(min(CONSUME_RECORDS, self.rows_max), settings.idle_wait_ms / 1000)
        while records and len(records) < self.rows_max and not self.tasks.stale:
            left, most = max(self.tick_s - clock.monotonic_s(), 0.0), min(CONSUME_RECORDS, self.rows_max - len(records))
            # Behind the clock what waits here already is taken nevertheless: the longer rounds take, the more a transaction
            # holds and the fewer blocks an event costs. Else work would queue up behind rounds of one call each.
            if not left and len(records) >= self.behind_rows_max:
                break
            more = self._consumer.consume(most, min(left, FILL_WAIT_S))
            records += more
            if not left and len(more) < most:
                break
        # At a fixed rate: a timer restarted after the work would make each interval longer by the work. Never further
        # ahead than one interval: rounds that end before their tick (nothing came, the row bound) must not save up a wait.
        now_s = clock.monotonic_s()
        self.tick_s = min(max(self.tick_s + self.interval_s, now_s), now_s + self.interval_s)
        return records

    def topics(self) -> list[str]:
        """What the group reads."""
        return [*(e.topic for e in self._events.values()), self._partials]

    def _handle(self, batches: Mapping[TopicPartition, list[Record]]) -> int:
        """One transaction, if anything came."""
        if not batches:
            return 0
        started, records = time.perf_counter(), sum(map(len, batches.values()))
        self._transactions.begin()
        sources = {tp: batch for tp, batch in batches.items() if tp.topic != self._partials}
        entities = {tp: batch for tp, batch in batches.items() if tp.topic == self._partials}
        self._merge(entities)
        offsets, taken = self._run_sources(sources) if sources else ({}, set[TopicPartition]())
        self._finish(offsets, self._write_entities(taken | entities.keys(), offsets))
        took_s = time.perf_counter() - started
        self.behind_rows_max = max(CONSUME_RECORDS, int(records / took_s * BEHIND_ROUND_S))
        self.metrics.committed(records, took_s)
        return records

    def _let_time_pass(self) -> None:
        """Partitions that have been quiet for long go on with the slowest that is not; see domain/quiet.py."""
        now_s = self._around.clock.monotonic_s()
        if self.tasks.fused or now_s < self._look_s:
            return
        self._look_s = now_s + self._quiet.after_s / LOOKS_PER_QUIET
        standings = {p: Standing(*at) for state in self.tasks.entities.values() for p, at in state.watermarks().items()}
        sources = {(task.event.name, task.partition): (tp, task) for tp, task in self.tasks.sources.items()}
        standings |= {p: Standing(task.next_offset, task.watermark_ms()) for p, (_, task) in sources.items()}
        found = [(a, *sources[a.place]) for a in self._quiet.advances(standings, frozenset(sources), now_s)]
        found = [(advance, tp, task) for advance, tp, task in found if self._at_end(tp, task)]
        if not found:
            return
        self._transactions.begin()
        offsets: dict[TopicPartition, Committed] = {}
        topic = time_advances_topic(self.plan.pipeline)
        for advance, tp, task in found:
            task.advanced_ms = advance.watermark_ms
            offsets[tp] = Committed(task.next_offset, task.metadata())
            told = TimeAdvanced(
                set=self.feature_set.name, set_hash=self.feature_set.hash, event=task.event.name, topic=tp.topic,
                partition=tp.partition, next_offset=task.next_offset, watermark_ms=advance.watermark_ms,
                cause=AdvanceCause.IDLE, quiet_ms=int(advance.quiet_s * 1000),
            )  # fmt: skip
            key = f"{self.feature_set.name}/{task.event.name}/{tp.partition}".encode()
            self._transactions.produce(topic, self._around.codec.encode(topic, told), key=key)
        self._finish(offsets, self._write_entities(self._tell([task.standstill() for _, _, task in found]), offsets))

    def _at_end(self, tp: TopicPartition, task: SourceTask) -> bool:
        """Whether nothing lies there unread: a broker that is away makes no partition quiet. Raises: Retryable."""
        return max(self._consumer.position(tp) or 0, task.next_offset) >= self._consumer.watermarks(tp)[1]

    def _tell(self, ranges: Sequence[SourceRange]) -> set[TopicPartition]:
        """Ranges without records to every destination; returns the entity tasks that took them at once."""
        here = {tp for tp, state in self.tasks.entities.items() if state.continues(ranges)}
        elsewhere = set(range(self.feature_set.partitions)) - {tp.partition for tp in here}
        with self._computing():
            for tp in here:
                self.tasks.entities[tp].take(ranges, (), ())
            records = partial_records(self.feature_set, ranges, {}, (), sorted(elsewhere))
            values = {partition: self._encode_partial(record) for partition, record in records.items()}
        for partition, value in values.items():
            self._transactions.produce(self._partials, value, partition=partition)
        return here

    def _finish(self, offsets: Mapping[TopicPartition, Committed], written: Mapping[TopicPartition, Written]) -> None:
        """Commit the open transaction; then disk follows."""
        self._transactions.commit(offsets, self._consumer)
        self.tasks.committed(written)

    def _merge(self, batches: Mapping[TopicPartition, list[Record]]) -> None:
        """Partials from the log into the states."""
        for tp, records in sorted(batches.items()):
            with self._computing():
                for record in records:
                    self.tasks.entities[tp].apply(self._around.codec.decode(record.value, PartialTiles), record.offset)

    def _run_sources(
        self, batches: Mapping[TopicPartition, list[Record]]
    ) -> tuple[dict[TopicPartition, Committed], set[TopicPartition]]:
        """Returns: the offsets to commit, and the entity tasks whose state took the tiles at once."""
        offsets: dict[TopicPartition, Committed] = {}
        rows: list[JudgedRows] = []
        sampled: list[Record] = []
        rejected: list[RecordRejected] = []
        few = self._few(batches)
        for tp, records in sorted(batches.items()):
            task = self.tasks.sources[tp]
            outcome, judged = self._judge(task, records, tp.topic in few)
            rows.append(judged)
            sampled += outcome.sampled
            if task.event.name in self.reports:
                rejected += outcome.rejected
            offsets[tp] = Committed(task.next_offset, task.metadata())
        carried = source_spans(self._around.tracing, sampled, self.group)
        merged = self._hand_on(rows, carried)
        for record in rejected:
            self._reject(fitting(record, LETTER_BYTES_MAX))
        return offsets, merged

    def _few(self, batches: Mapping[TopicPartition, list[Record]]) -> set[str]:
        """Topics of which so little came that all of it is taken row by row."""
        counts = Counter[str]()
        for tp, records in batches.items():
            counts[tp.topic] += len(records)
        return {topic for topic, count in counts.items() if count <= self.rows_path_max}

    def _lifter(self, event: EventType) -> Lifter | None:
        """None where a list per record would cost more than a frame."""
        if event.name not in self._lifters:
            kept = narrow(self.feature_set, event.name)
            self._lifters[event.name] = lifter_of(self.feature_set, event) if kept else None
        return self._lifters[event.name]

    def _judge(self, task: SourceTask, records: list[Record], few: bool) -> tuple[Pronounced, JudgedRows]:
        schema, codec = self._schemas[task.event.name], self._around.codec
        with self._computing():
            lifter = self._lifter(task.event) if few else None
            if lifter is None:
                outcome = judge_batch(task, schema, codec, records)
                rows = outcome.rows(task)
            else:
                outcome = judge_rows(task, schema, codec, records)
                rows = outcome.rows(task, lifter)
        self.metrics.judged(task.event.name, outcome.counts)
        return outcome, rows

    def _hand_on(self, rows: Sequence[JudgedRows], carried: Sequence[str]) -> set[TopicPartition]:
        """Tiles to where their entities live: taken where that is here and up to date, else by the log.

        A range that went by the log is found there before any later one is taken: until then the cut ends below it.
        """
        ranges = [r.range() for r in rows]
        here = {tp for tp, state in self.tasks.entities.items() if state.continues(ranges)}
        elsewhere = sorted(set(range(self.feature_set.partitions)) - {tp.partition for tp in here})
        with self._computing():
            pieces = lifted(self.feature_set, self._events, rows)
            for tp in here:
                self.tasks.entities[tp].take(ranges, pieces.get(tp.partition, ()), carried)
            encode = self._encode_partial
            values = partials_of(self.feature_set, self._events, rows, pieces, carried, elsewhere, encode, VALUE_BYTES_MAX)
        for partition, value in values:
            self._transactions.produce(self._partials, value, partition=partition)
        return here

    def _write_entities(
        self, touched: Iterable[TopicPartition], offsets: dict[TopicPartition, Committed]
    ) -> dict[TopicPartition, Written]:
        """Changed blocks and Progress of the states touched; adds the offsets of the partials they hold."""
        written: dict[TopicPartition, Written] = {}
        for tp in sorted(touched):
            state = self.tasks.entities[tp]
            with self._computing():
                changes = entity_spans(self._around.tracing, state.commit(), self._partials, self.group)
                written[tp] = self.tasks.encoded(changes)
            self._produce_state(tp.partition, changes, written[tp])
            offsets[tp] = Committed(state.partials_offset, str(changes.progress.commit_sequence))
        return written

    def _produce_state(self, partition: int, changes: Commit, written: Written) -> None:
        produce = self._transactions.produce
        for key, value in written.puts.items():
            produce(self._state, value, key=key, partition=partition)
        for key in written.deletes:
            produce(self._state, None, key=key, partition=partition)
        headers = [("traceparent", t.encode()) for t in changes.progress.traceparents[:1]]
        produce(self._state, written.raw_progress, PROGRESS_KEY, partition, headers, written.landed)

    def _encode_partial(self, partial: PartialTiles) -> bytes:
        return self._around.codec.encode(self._partials, partial)

    def _reject(self, rejected: RecordRejected) -> None:
        topic = letter_topic(self.plan.pipeline, rejected)
        self._transactions.produce(topic, self._around.codec.encode(topic, rejected), key=rejected.key)

    # -- when something fails

    def _computing(self) -> AbstractContextManager[None]:
        return computing(self.plan.pipeline, self.feature_set.name)

    def _recover(self, error: Retryable) -> None:
        """Abort, wait, read back: nothing that was not committed may stay in memory."""
        self.metrics.aborted()
        self.tasks.stale = True
        self._transactions.failed(error, self.group)

    def close(self) -> None:
        """Leave the group; a transaction under way is aborted."""
        with ExitStack() as ends:  # each of them, whatever another one raises
            ends.callback(self.tasks.close)
            ends.callback(self._consumer.close)
            ends.callback(self._transactions.close)
