"""The tasks of one stream's worker: which partitions it owns, and how they come back.

assigned --reload--> running --revoked--> gone
   ^                    |
   +----- stale --------+   after a failure or a new assignment all are read back from what is committed

Where the events are keyed as the stream is, and their topics have its partitions (`fused`), the source partitions with a
task's number are its only sources; else rows go by the log of rekeyed rows. A stream without state has no operator tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from headrace.chassis.bus import Committed, Consumer, RecordBatch, TopicPartition
from headrace.chassis.errors import Fatal
from headrace.chassis.logs import logger
from headrace.chassis.state import Store
from headrace.contracts.codec import EventSchema
from headrace.plan.ir import EventType, Plan, Stream
from headrace.plan.stream_costs import keyed_already, stateless
from headrace.plan.streams.build import operator_of
from headrace.plan.topics import rows_topic, segments_topic
from svc_stream.domain.owned import sequence_of
from svc_stream.domain.source import SourcePosition, SourceTask
from svc_stream.recovery import Reader, restore_source
from svc_stream.streams.changelog import Changelog, Written
from svc_stream.streams.restore import restore
from svc_stream.streams.tables import TaskTables
from svc_stream.streams.task import OperatorTask
from svc_stream.tasks import Surroundings

_log = logger(__name__)


@dataclass(slots=True)
class Assigned:
    """Not thread-safe: `on_assign` and `on_revoke` are called from inside the worker's own consume."""

    plan: Plan
    stream: Stream
    schemas: Mapping[str, EventSchema]
    around: Surroundings
    consumer: Consumer
    reader: Reader
    told: Callable[[TopicPartition, int, int], None]
    exact: bool = True  # exactly once: a state stands where its offsets do
    events: dict[str, EventType] = field(init=False)  # by topic
    rows: str = field(init=False)
    segments: str = field(init=False)
    fused: bool = field(init=False)
    stateless: bool = field(init=False)
    sources: dict[TopicPartition, SourceTask] = field(default_factory=dict)
    operators: dict[int, Changelog] = field(default_factory=dict)
    again: dict[TopicPartition, int] = field(default_factory=dict)  # at least once: records below may be in the states already
    stale: bool = False  # nothing may be handled before `reload`
    _held: list[TopicPartition] = field(default_factory=list)
    _disks: dict[int, Store] = field(default_factory=dict)
    _topic_ids: dict[str, str] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        read = {part.event for part in self.stream.inputs}
        self.events = {e.topic: e for e in self.plan.events if e.name in read}
        self.rows, self.segments = rows_topic(self.plan, self.stream), segments_topic(self.plan, self.stream)
        self.stateless, self.fused = stateless(self.stream), keyed_already(self.plan, self.stream)
        admin = self.around.bus.admin()
        self._topic_ids = {e.name: admin.topic_id(e.topic) for e in self.events.values()}
        self._counts = {e.name: admin.partitions(e.topic) or e.partitions for e in self.events.values()}
        for name, count in self._counts.items():
            if self.fused and count != self.stream.partitions:
                raise Fatal(
                    f"{name} has {count} partitions, the state of {self.stream.name} is for {self.stream.partitions}: a key "
                    "may lie elsewhere now; declare the stream with that many partitions, which makes it a new stream"
                )

    def topics(self) -> list[str]:
        """What the group reads."""
        return [*self.events, *([] if self.fused or self.stateless else [self.rows])]

    # -- assignment

    def on_assign(self, partitions: Sequence[TopicPartition]) -> None:
        self._held = sorted({*self._held, *partitions})
        self.stale = True

    def on_revoke(self, partitions: Sequence[TopicPartition]) -> None:
        """Nothing is open between two rounds and this runs inside consume: all that was done is committed."""
        for tp in partitions:
            self.sources.pop(tp, None)
            if self.fused or tp.topic == self.rows:
                self._drop(tp.partition)
        gone = set(partitions)
        self._held = [tp for tp in self._held if tp not in gone]

    def _drop(self, partition: int) -> None:
        self.operators.pop(partition, None)
        disk = self._disks.pop(partition, None)
        if disk is not None:
            disk.close()

    def owned(self, batches: Sequence[RecordBatch]) -> dict[TopicPartition, RecordBatch]:
        """Batches of partitions that are ours now, joined; those of an older assignment are dropped."""
        found: dict[TopicPartition, list[RecordBatch]] = {}
        for batch in batches:
            found.setdefault(batch.place, []).append(batch)
        return {tp: RecordBatch.joined(found[tp]) for tp in self._held if tp in found}

    def place(self, partition: int) -> TopicPartition:
        """Changelog of a task."""
        return TopicPartition(self.segments, partition)

    # -- reading back

    def reload(self) -> None:
        """Every assigned task as it is committed. Raises Fatal if one cannot be, Retryable to be called again."""
        committed = self.consumer.committed(self._held)
        for tp in self._held:
            if tp.topic != self.rows:
                self.sources[tp] = self._source(tp, committed.get(tp))
        wanted: dict[TopicPartition, tuple[Changelog, int]] = {}
        for partition, sequence in self._sequences(committed).items():
            changelog = self.operators[partition] = self._operator(partition)
            wanted[changelog.place] = (changelog, sequence)
        if wanted:
            restore(wanted, self.reader, self.told)
        for tp in self._held:
            at = committed.get(tp)
            self.consumer.seek(tp, self.sources[tp].next_offset if tp in self.sources else at.offset if at else 0)
        self._check(committed)
        self.again = {} if self.exact else {tp: self.consumer.watermarks(tp)[1] for tp in self.sources}
        self.stale = False

    def _source(self, tp: TopicPartition, at: Committed | None) -> SourceTask:
        event = self.events[tp.topic]
        if at is not None:
            position = SourcePosition.parse(at.offset, at.metadata)
            return restore_source(event, self.schemas[event.name], tp, position, self.reader)
        low, _ = self.consumer.watermarks(tp)
        if low > 0:
            _log.warning("stream_begins_late", stream=self.stream.name, topic=tp.topic, partition=tp.partition, offset=low)
        return SourceTask(event, tp.partition, low, low)

    def _sequences(self, committed: Mapping[TopicPartition, Committed | None]) -> dict[int, int]:
        """By operator task the commit it must stand at."""
        if self.stateless:
            return {}
        found: dict[int, int] = {}
        for tp in self._held:
            at = committed.get(tp)
            if self.fused:
                found[tp.partition] = max(found.get(tp.partition, 0), sequence_of(at.metadata) if at else 0)
            elif tp.topic == self.rows:
                found[tp.partition] = int(at.metadata or 0) if at else 0
        return found

    def _operator(self, partition: int) -> Changelog:
        if self.stream.store == "rocksdb":
            disk = self._disks.get(partition)
            if disk is None:
                disk = self._disks[partition] = self.around.open_store(self.place(partition))
        else:
            disk = None
        tables = TaskTables(disk, self.around.settings.stream_cache_bytes)
        operator = operator_of(self.stream, self.plan.events, tables)
        sources = frozenset(
            (e.name, p) for e in self.events.values() for p in ([partition] if self.fused else range(self._counts[e.name]))
        )
        task = OperatorTask(self.stream, partition, operator, self._topic_ids, sources, self.exact)
        return Changelog(self.place(partition), task, disk, self.around.codec)

    def _check(self, committed: Mapping[TopicPartition, Committed | None]) -> None:
        """What the states contain is what is committed of their sources."""
        for tp, source in self.sources.items():
            holders = [self.operators[tp.partition]] if self.exact and self.fused and tp.partition in self.operators else []
            for changelog in holders:
                stands = changelog.task.next_offset((source.event.name, tp.partition))
                if committed.get(tp) is not None and stands != source.next_offset:
                    raise Fatal(f"state {changelog.place} holds {tp.topic} up to {stands}, committed is {source.next_offset}")

    # -- after a commit

    def committed(self, written: Mapping[int, Written]) -> None:
        """The transaction holds."""
        for source in self.sources.values():
            source.told_offset = source.next_offset
        for partition, changes in written.items():
            self.operators[partition].committed(changes)

    def close(self) -> None:
        for partition in list(self._disks):
            self._drop(partition)
