"""The tasks of one worker: which partitions it owns, their state in memory and on disk, and how they come back.

assigned --reload--> running --revoked--> gone
   ^                    |
   +----- stale --------+   after a failure or a new assignment all are read back from what is committed
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from headrace.chassis.bus import Bus, Committed, Consumer, Delivered, Record, TopicPartition
from headrace.chassis.clock import Clock
from headrace.chassis.errors import Fatal, Retryable
from headrace.chassis.retry import RetryPolicy
from headrace.chassis.state import Store, prefix_end
from headrace.chassis.tracing import Tracing
from headrace.chassis.view import StateView
from headrace.contracts.codec import Codec, EventSchema
from headrace.contracts.records import Progress, TileBlock
from headrace.plan.blocks import block_of, record_of
from headrace.plan.ir import FeatureSet, Plan
from headrace.plan.tiles import KEY_FORMAT, Block, BlockKey, encode_key
from headrace.plan.topics import partials_topic, state_topic
from svc_stream.background import Background, ThreadBackground
from svc_stream.base import Bases, SetBase
from svc_stream.domain.entity import Commit, EntityState
from svc_stream.domain.owned import sequence_of
from svc_stream.domain.source import SourcePosition, SourceTask
from svc_stream.domain.sweep import Sweep, SweepPlace
from svc_stream.recovery import Reader, restore_entity, restore_source
from svc_stream.settings import StreamSettings
from svc_stream.telemetry import SetMetrics, StreamMetrics

SWEEP_KEY = b"\x00sweep"  # local only, beside Progress and position: where the sweep stands
_LAST_KEY = prefix_end(bytes((KEY_FORMAT,)))


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
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    background: Callable[[str], Background] = ThreadBackground
    bases: Bases | None = None  # None: every state starts empty


@dataclass(slots=True)
class Written:
    """Bytes of one state partition's changes, kept until the transaction holds."""

    progress: Progress
    raw_progress: bytes
    puts: dict[bytes, bytes]
    deletes: list[bytes]
    local: dict[bytes, bytes] = field(default_factory=dict)  # kept on disk with them, not in the changelog
    offset: int = -1  # of the Progress in the changelog

    def landed(self, error: Exception | None, delivered: Delivered | None) -> None:
        """Delivery callback of the Progress."""
        if delivered is not None:
            self.offset = delivered.offset


class Tasks:
    """Not thread-safe: `on_assign` and `on_revoke` are called from inside the worker's own consume."""

    def __init__(
        self,
        plan: Plan,
        feature_set: FeatureSet,
        schemas: Mapping[str, EventSchema],
        around: Surroundings,
        consumer: Consumer,
        reader: Reader,
        metrics: SetMetrics,
    ) -> None:
        self._feature_set, self._schemas, self._around, self._consumer = feature_set, schemas, around, consumer
        self._reader, self._metrics = reader, metrics
        self._events = {e.topic: e for e in plan.events if e.name in feature_set.events}
        self._partials, self._state = partials_topic(plan, feature_set), state_topic(plan, feature_set)
        self.fused = feature_set.placement == "owned"  # source and entity task of a partition are one
        admin = around.bus.admin()
        self._topic_ids = {e.name: admin.topic_id(e.topic) for e in self._events.values()}
        bases = None if self.fused else around.bases  # a base's cut spans all partitions, an owner's one
        self._base = (
            None if bases is None else SetBase(plan, feature_set, bases, reader.client_id, self._topic_ids, reader.beat)
        )
        self.sources: dict[TopicPartition, SourceTask] = {}
        self.entities: dict[TopicPartition, EntityState] = {}
        self._views: dict[TopicPartition, StateView] = {}
        self._assigned: list[TopicPartition] = []
        self.stale = False  # nothing may be handled before `reload`
        self.settle: Callable[[], None] = lambda: None  # called before anything is taken away

    # -- assignment

    def on_assign(self, partitions: Sequence[TopicPartition]) -> None:
        self._assigned = sorted({*self._assigned, *partitions})
        self.stale = True

    def on_revoke(self, partitions: Sequence[TopicPartition]) -> None:
        """Nothing is open between two rounds and this runs inside consume: all that was done is committed.

        But for owned sets, where rows may wait for their commit: there nothing may go on before they have been given up.
        """
        self.settle()
        self.stale = self.stale or self.fused
        for tp in {*partitions, *(map(self.entity_of, partitions) if self.fused else ())}:
            self.sources.pop(tp, None)
            self.entities.pop(tp, None)
            view = self._views.pop(tp, None)
            if view is not None:
                view.store.close()
        gone = set(partitions)
        self._assigned = [tp for tp in self._assigned if tp not in gone]

    def entity_of(self, source: TopicPartition) -> TopicPartition:
        """The entity task of a source partition where the two are one; named as if there were partials."""
        return TopicPartition(self._partials, source.partition)

    def owned(self, records: Sequence[Record]) -> dict[TopicPartition, list[Record]]:
        """The records of partitions that are ours now, by partition; those of an older assignment are dropped."""
        found: dict[tuple[str, int], list[Record]] = {}
        for record in records:
            place = (record.topic, record.partition)
            if place in found:
                found[place].append(record)
            else:
                found[place] = [record]
        return {tp: found[tp.topic, tp.partition] for tp in self._assigned if (tp.topic, tp.partition) in found}

    # -- reading back

    def reload(self) -> None:
        """Every assigned task as it is committed. Raises Fatal if one cannot be, Retryable to be called again."""
        if self._base is None:
            committed = self._consumer.committed(self._assigned)
        else:
            self._base.choose(self._consumer, self._assigned)
            committed = self._base.committed(self._consumer, self._assigned, self._assigned)
        for tp in self._assigned:
            at = committed.get(tp)
            if tp.topic == self._partials:
                self.entities[tp] = self._load_entity(tp, at)
                position = at.offset if at else 0
            else:
                self.sources[tp] = self._load_source(tp, at)
                position = self.sources[tp].next_offset
            self._consumer.seek(tp, position)
        if self.fused:
            self._load_fused(committed)
        self.stale = False

    def _load_fused(self, committed: Mapping[TopicPartition, Committed | None]) -> None:
        """The state of each partition whose events are all here, at the commit its source offsets name."""
        for partition in sorted({tp.partition for tp in self._assigned}):
            sources = [TopicPartition(topic, partition) for topic in self._events]
            if missing := [tp.topic for tp in sources if tp not in self.sources]:
                raise Retryable(f"partition {partition} of {', '.join(missing)} is elsewhere: waiting for the group")
            places = {tp: at for tp in sources if (at := committed.get(tp)) is not None}
            sequence = max((sequence_of(at.metadata) for at in places.values()), default=0)
            entity = self.entity_of(sources[0])
            state = self._load_entity(entity, Committed(0, str(sequence)) if sequence else None)
            stands = {(self._events[tp.topic].name, partition): at.offset for tp, at in places.items()}
            if state.cut() != stands:
                raise Fatal(f"state of {self._feature_set.name}-{partition} holds {state.cut()}, committed is {stands}")
            self.entities[entity] = state

    def _load_source(self, tp: TopicPartition, at: Committed | None) -> SourceTask:
        event = self._events[tp.topic]
        if at is not None:
            position = SourcePosition.parse(at.offset, at.metadata)
            base = self._base.start_of(event.name, tp.partition) if self._base else None
            return restore_source(event, self._schemas[event.name], tp, position, self._reader, base)
        low, _ = self._consumer.watermarks(tp)
        if low > 0:
            raise Fatal(
                f"the log of {tp.topic}-{tp.partition} begins at offset {low}: its history is gone and no base is given. "
                "Compute one from the archive (`headrace backfill`) before applying the set, or restore the topic"
            )
        return SourceTask(event, tp.partition, 0, 0)

    def _load_entity(self, tp: TopicPartition, at: Committed | None) -> EntityState:
        state_tp = TopicPartition(self._state, tp.partition)
        view = self._views.get(tp)
        if view is None:
            view = self._views[tp] = StateView(state_tp, self._around.open_store(state_tp), self._decode_progress)
        if at is None and self._base is not None:
            at = self._base.import_entity(tp.partition, self._consumer)
        restore_entity(view, at, self._reader)
        self._metrics.restored(tp.partition, view.position)
        store, codec = view.store, self._around.codec

        def block(raw: bytes) -> Block:
            return block_of(codec.decode(raw, TileBlock))

        def scan(first: bytes, limit: int) -> list[tuple[bytes, bytes]]:
            return list(islice(store.scan(first, _LAST_KEY), limit))

        def load(keys: Sequence[BlockKey]) -> list[Block | None]:
            found = store.multi_get([encode_key(self._feature_set, k) for k in keys])
            return [None if raw is None else block(raw) for raw in found]

        limit = self._around.settings.cached_blocks_max
        sweep = Sweep(self._feature_set, scan, block, SweepPlace.decode(store.get(SWEEP_KEY)))
        return EntityState(self._feature_set, tp.partition, load, view.progress, self._topic_ids, limit, sweep)

    def _decode_progress(self, raw: bytes) -> Progress:
        return self._around.codec.decode(raw, Progress)

    # -- writing

    def encoded(self, changes: Commit) -> Written:
        """What a commit writes, as bytes: to the changelog now, to disk once the transaction holds."""
        encode = self._around.codec.encode
        return Written(
            changes.progress,
            encode(self._state, changes.progress),
            {encode_key(self._feature_set, k): encode(self._state, record_of(k, b)) for k, b in changes.blocks.items()},
            [encode_key(self._feature_set, k) for k in changes.deleted],
            {} if changes.sweep is None else {SWEEP_KEY: changes.sweep.encode()},
        )

    def committed(self, written: Mapping[TopicPartition, Written]) -> None:
        """The transaction holds. Raises Retryable if the disk does not take it: the changelog gives it back."""
        self.store(written)
        self.settled(written)

    def store(self, written: Mapping[TopicPartition, Written]) -> None:
        """Disk follows. From any thread, while no partition is taken away."""
        for tp, changes in written.items():
            assert changes.offset >= 0, "a commit flushes, so the Progress has landed"
            self._views[tp].write(changes.puts | changes.local, changes.deletes, changes.raw_progress, changes.offset + 1)

    def settled(self, written: Mapping[TopicPartition, Written]) -> None:
        """Disk holds it."""
        for task in self.sources.values():
            task.told_offset = task.next_offset
        for tp, changes in written.items():
            self.entities[tp].committed()
            self._metrics.progress(changes.progress, self.entities[tp].maxima())

    def close(self) -> None:
        self.on_revoke(list(self._views))
