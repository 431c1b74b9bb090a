"""One feature set's worker: consume, judge, lift, merge, and commit exactly once.

    1 gather    records until the row bound or the commit interval
    2 source    decode, verdicts, lift: partial tiles of this transaction
    3 entity    partials read back from the log, merged into blocks
    4 produce   partials, rejected records, changed blocks, Progress
    5 offsets   of every task touched, with what a restart needs in the metadata
    6 commit    the transaction
    7 store     one local write per partition: disk never holds what was not committed

A failure anywhere before 6 aborts, forgets the tasks and reads them back from what is committed. After an
indefinite answer a new producer is made first: init_transactions settles what happened to the old one.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headrace.chassis.bus import Bus, Committed, Delivered, Producer, Record, TopicPartition
from headrace.chassis.clock import Clock
from headrace.chassis.errors import OutcomeUnknown, PipelineFault, Retryable
from headrace.chassis.health import Heartbeat
from headrace.chassis.logs import logger
from headrace.chassis.state import Store
from headrace.chassis.tracing import Tracing
from headrace.chassis.view import PROGRESS_KEY, StateView
from headrace.contracts import catalogue
from headrace.contracts.codec import Codec
from headrace.contracts.records import PartialTiles, Progress, RecordRejected, TileBlock
from headrace.plan.avro import event_schema
from headrace.plan.blocks import block_of, record_of
from headrace.plan.ir import FeatureSet, Plan
from headrace.plan.tiles import Block, BlockKey, encode_key
from headrace.plan.topics import partials_topic, state_topic
from svc_stream.domain.entity import Commit, EntityState
from svc_stream.domain.source import SourcePosition, SourceTask, partial_records, split
from svc_stream.handlers import GROUP, judge_batch, lift_all
from svc_stream.recovery import restore_entity, restore_source
from svc_stream.settings import StreamSettings
from svc_stream.telemetry import SetMetrics, StreamMetrics, entity_spans, source_spans

CONSUME_RECORDS = 500  # larger batches do not raise the rate, smaller ones do lower it
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a worker needs of the process it runs in."""

    bus: Bus
    codec: Codec
    settings: StreamSettings
    open_store: Callable[[TopicPartition], Store]
    tracing: Tracing
    metrics: StreamMetrics
    clock: Clock


class SetWorker:
    """Runs one feature set of one plan. `step` is called in a loop from one thread."""

    def __init__(self, plan: Plan, feature_set: FeatureSet, around: Surroundings, reports: frozenset[str]) -> None:
        """reports: events whose rejected records this worker writes out (each event has one reporter per plan)."""
        self.plan, self.feature_set, self._around, self._reports = plan, feature_set, around, reports
        self._events = {e.topic: e for e in plan.events if e.name in feature_set.events}
        self._schemas = {e.name: event_schema(plan, e) for e in self._events.values()}
        self._partials, self._state = partials_topic(plan, feature_set), state_topic(plan, feature_set)
        self.group = f"{GROUP}.{plan.pipeline}.{feature_set.name.replace('_', '-')}.{feature_set.hash[:8]}"
        self._member = f"{self.group}.{around.settings.instance}"
        self.metrics = SetMetrics(around.metrics, plan.pipeline, feature_set.name)
        self.name = f"stream {plan.pipeline} {feature_set.name} {feature_set.hash[:8]}"
        self.heartbeat = Heartbeat(self.name, around.clock)
        self.sources: dict[TopicPartition, SourceTask] = {}
        self.entities: dict[TopicPartition, EntityState] = {}
        self._stores: dict[TopicPartition, StateView] = {}
        self._assigned: list[TopicPartition] = []
        self._stale = False  # tasks must be read back before the next batch
        admin = around.bus.admin()
        self._topic_ids = {e.name: admin.topic_id(e.topic) for e in self._events.values()}
        self._producer = self._new_producer()
        self._consumer = around.bus.consumer(self.group, self._member, instance_id=self._member)
        self._consumer.subscribe([*self._events, self._partials], self._on_assign, self._on_revoke)

    # -- one round

    def step(self) -> int:
        """One round; returns how many records it handled. Raises Fatal when the set cannot go on."""
        self.heartbeat.beat()
        records = self._gather()
        if self._stale:
            self._reload()
            return 0
        if not records:
            return 0
        try:
            self._transact(records)
        except Retryable as error:
            self.metrics.aborted()
            _log.warning("transaction_aborted", group=self.group, error=str(error))
            self._recover(error)
            return 0
        return len(records)

    def _gather(self) -> list[Record]:
        records = self._consumer.consume(CONSUME_RECORDS, 0.1)
        deadline = time.monotonic() + self._around.settings.commit_interval_ms / 1000
        while records and len(records) < self._around.settings.batch_rows_max:
            left = deadline - time.monotonic()
            if left <= 0 or self._stale:
                break
            records += self._consumer.consume(CONSUME_RECORDS, min(left, 0.005))
        return [r for r in records if TopicPartition(r.topic, r.partition) in self._assigned]

    def _transact(self, records: Sequence[Record]) -> None:
        started = time.monotonic()
        by_task: dict[TopicPartition, list[Record]] = defaultdict(list)
        for record in records:
            by_task[TopicPartition(record.topic, record.partition)].append(record)
        self._producer.begin()
        offsets: dict[TopicPartition, Committed] = {}
        self._run_sources({tp: rs for tp, rs in by_task.items() if tp in self.sources}, offsets)
        commits = self._run_entities({tp: rs for tp, rs in by_task.items() if tp in self.entities}, offsets)
        self._producer.send_offsets(offsets, self._consumer)
        self._producer.commit()
        for tp, task in self.sources.items():
            if tp in offsets:
                task.told_offset = task.next_offset
        for tp, (changes, written) in commits.items():
            self._store(tp, changes, written)
        self.metrics.committed(len(records), time.monotonic() - started)

    def _run_sources(self, batches: dict[TopicPartition, list[Record]], offsets: dict[TopicPartition, Committed]) -> None:
        frames = defaultdict(list)
        sampled: list[Record] = []
        for tp, records in sorted(batches.items()):
            task = self.sources[tp]
            outcome = judge_batch(task, self._schemas[task.event.name], self._around.codec, records)
            frames[task.event.name].append(outcome.accepted)
            sampled += outcome.sampled
            self.metrics.judged(task.event.name, outcome.counts)
            if task.event.name in self._reports:
                for rejected in outcome.rejected:
                    self._reject(rejected)
            offsets[tp] = Committed(task.next_offset, task.metadata())
        if not batches:
            return
        pieces = split(self.feature_set, lift_all(self.feature_set, list(self._events.values()), frames))
        ranges = [self.sources[tp].range() for tp in sorted(batches)]
        carried = source_spans(self._around.tracing, sampled, self.group)
        for partition, record in partial_records(self.feature_set, ranges, pieces, carried).items():
            self._producer.produce(self._partials, self._around.codec.encode(self._partials, record), partition=partition)

    def _run_entities(
        self, batches: dict[TopicPartition, list[Record]], offsets: dict[TopicPartition, Committed]
    ) -> dict[TopicPartition, tuple[Commit, _Written]]:
        commits: dict[TopicPartition, tuple[Commit, _Written]] = {}
        for tp, records in sorted(batches.items()):
            state = self.entities[tp]
            for record in records:
                assert record.value is not None, "partials have a value"
                state.apply(self._around.codec.decode(record.value, PartialTiles), record.offset)
            changes = entity_spans(self._around.tracing, state.commit(), self._partials, self.group)
            commits[tp] = (changes, self._write(tp.partition, changes))
            offsets[tp] = Committed(state.partials_offset, str(changes.progress.commit_sequence))
        return commits

    # -- what a transaction writes

    def _write(self, partition: int, changes: Commit) -> _Written:
        written = _Written({}, [])
        encode, produce = self._around.codec.encode, self._producer.produce
        for key, block in changes.blocks.items():
            raw = encode_key(self.feature_set, key)
            written.puts[raw] = encode(self._state, record_of(key, block))
            produce(self._state, written.puts[raw], key=raw, partition=partition)
        for key in changes.deleted:
            raw = encode_key(self.feature_set, key)
            written.deletes.append(raw)
            produce(self._state, None, key=raw, partition=partition)
        written.progress = encode(self._state, changes.progress)
        headers = [("traceparent", t.encode()) for t in changes.progress.traceparents[:1]]
        produce(
            self._state, written.progress, key=PROGRESS_KEY, partition=partition, headers=headers, on_delivery=written.landed
        )
        return written

    def _reject(self, rejected: RecordRejected) -> None:
        late = rejected.reason == "late"
        topic = catalogue.late_topic(self.plan.pipeline) if late else catalogue.dlq_topic(rejected.topic, GROUP)
        self._producer.produce(topic, self._around.codec.encode(topic, rejected), key=rejected.key)

    def _store(self, tp: TopicPartition, changes: Commit, written: _Written) -> None:
        position = written.offset + 1
        self._stores[tp].write(written.puts, written.deletes, written.progress, position)
        self.entities[tp].committed()
        self.metrics.progress(changes.progress, self.entities[tp].maxima())

    # -- assignment and recovery

    def _on_assign(self, partitions: Sequence[TopicPartition]) -> None:
        self._assigned = sorted({*self._assigned, *partitions})
        self._stale = True

    def _on_revoke(self, partitions: Sequence[TopicPartition]) -> None:
        # Nothing is open between two rounds and the callback runs inside consume: all that was done is committed.
        for tp in partitions:
            self.sources.pop(tp, None)
            self.entities.pop(tp, None)
            view = self._stores.pop(tp, None)
            if view is not None:
                view.store.close()
        self._assigned = [tp for tp in self._assigned if tp not in set(partitions)]

    def _recover(self, error: Retryable) -> None:
        if isinstance(error, OutcomeUnknown):
            self._producer.close()
            self._producer = self._new_producer()
        else:
            self._producer.abort()
        self._stale = True

    def _reload(self) -> None:
        """Read every assigned task back from what is committed, and go on from there."""
        committed = self._consumer.committed(self._assigned)
        for tp in self._assigned:
            at = committed.get(tp)
            if tp.topic == self._partials:
                self.entities[tp] = self._load_entity(tp, at)
                position = at.offset if at else 0
            else:
                self.sources[tp] = self._load_source(tp, at)
                position = self.sources[tp].next_offset
            self._consumer.seek(tp, position)
        self._stale = False
        self.metrics.assigned(len(self.sources), len(self.entities))

    def _load_source(self, tp: TopicPartition, at: Committed | None) -> SourceTask:
        event = self._events[tp.topic]
        if at is None:
            low, _ = self._consumer.watermarks(tp)
            if low > 0:
                raise PipelineFault(
                    self.plan.pipeline,
                    f"the log of {tp.topic}-{tp.partition} begins at offset {low}: its history is gone and no base is given. "
                    "Restore the topic, or declare the events under a new topic",
                )
            return SourceTask(event, tp.partition, 0, 0)
        position = SourcePosition.parse(at.offset, at.metadata)
        return restore_source(
            event, self._schemas[event.name], tp, position, self._around.codec, self._around.bus, self._member
        )

    def _load_entity(self, tp: TopicPartition, at: Committed | None) -> EntityState:
        state_tp = TopicPartition(self._state, tp.partition)
        view = self._stores.get(tp)
        if view is None:
            view = self._stores[tp] = StateView(state_tp, self._around.open_store(state_tp), self._decode_progress)
        restore_entity(view, at, self._around.bus, self._member, self.metrics)

        def load(keys: Sequence[BlockKey]) -> list[Block | None]:
            found = view.store.multi_get([encode_key(self.feature_set, k) for k in keys])
            return [None if raw is None else block_of(self._around.codec.decode(raw, TileBlock)) for raw in found]

        limit = self._around.settings.cached_blocks_max
        return EntityState(self.feature_set, tp.partition, load, view.progress, self._topic_ids, limit)

    def _decode_progress(self, raw: bytes) -> Progress:
        return self._around.codec.decode(raw, Progress)

    def _new_producer(self) -> Producer:
        timeout_ms = self._around.settings.transaction_timeout_ms
        producer = self._around.bus.producer(self._member, transactional_id=self._member, transaction_timeout_ms=timeout_ms)
        producer.init_transactions()
        return producer

    def close(self) -> None:
        """Leave the group; nothing is open between two rounds."""
        self._consumer.close()
        self._producer.close()
        for view in self._stores.values():
            view.store.close()


class _Written:
    """Bytes of one partition's changes, kept until the transaction holds."""

    def __init__(self, puts: dict[bytes, bytes], deletes: list[bytes]) -> None:
        self.puts, self.deletes, self.progress, self.offset = puts, deletes, b"", -1

    def landed(self, error: Exception | None, delivered: Delivered | None) -> None:
        if delivered is not None:
            self.offset = delivered.offset
