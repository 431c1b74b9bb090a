"""The changelog of one task: segments of what each commit changed, kept short by rewriting what lives.

    segment | segment | segment | segment | segment
       ^ log start                 ^ a sweep began here: once it has rewritten every entry, all before is deleted

Segments are columns, not a record per key: a commit writes a few records however many entries it changed, and a restore
reads millions of entries a second. No entry needs a tombstone of its own, and nothing waits for compaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import orjson
import polars as pl

from headrace.chassis.bus import Delivered, TopicPartition
from headrace.chassis.state import Store
from headrace.contracts.codec import Codec
from headrace.contracts.errors import Fatal
from headrace.contracts.records import StateSegment, TableChanges
from headrace.plan.streams.operator import Table
from svc_stream.streams.columns import FORMAT, PART_BYTES_MAX, packed, parts, unpacked
from svc_stream.streams.task import OperatorTask

PROGRESS_KEY, POSITION_KEY = b"\x00progress", b"\x00position"  # local; keys of tables begin with another byte
LOG_PER_LIVE, LOG_SPARE = 4, 200_000  # entries in the log before it is rewritten: so many per living one, and so many more
SWEEP_ENTRIES_MIN = 5_000  # of a commit while a sweep goes on; at least as many as it changes, so that a sweep ends


@dataclass(slots=True)
class Written:
    """One commit of one task as bytes, until the transaction holds."""

    values: list[bytes]
    puts: dict[bytes, bytes]
    deletes: list[bytes]
    entries: int
    offsets: list[int] = field(default_factory=list)  # of the parts in the changelog

    def landed(self, error: Exception | None, delivered: Delivered | None) -> None:
        """Delivery callback of each part; those of one partition come in order."""
        if delivered is not None:
            self.offsets.append(delivered.offset)


@dataclass(slots=True)
class _Sweep:
    """A pass over all entries. began: offset of the first segment that holds some of it, once known."""

    cursors: dict[str, bytes | None]
    began: int | None = None


@dataclass(slots=True)
class Changelog:
    """Where a task's state lies: the segments at the broker, and its tables' local disk, if they have one."""

    place: TopicPartition
    task: OperatorTask
    disk: Store | None
    codec: Codec
    logged: int = 0  # entries in the log, roughly
    position: int = 0  # next offset not yet in the tables
    purge_before: int | None = None  # segments below are needed no more
    _sweep: _Sweep | None = field(default=None)

    # -- writing

    def segment(self) -> Written:
        """What the task changed since the last one; the next `committed` takes it."""
        task = self.task
        changed = {name: table.changes() for name, table in task.operator.tables.items()}
        puts, deletes = _settled(task.operator.tables)
        entries = sum(frame.height for frame in changed.values() if frame is not None)
        pieces = self._swept(max(SWEEP_ENTRIES_MIN, entries))
        pieces += [(name, frame) for name, frame in changed.items() if frame is not None]
        task.sequence += 1
        values = [self.codec.encode(self.place.topic, record) for record in self._records(pieces)]
        if self.disk is not None:
            puts[PROGRESS_KEY] = self.codec.encode(self.place.topic, self._head((), True))
        return Written(values, puts, deletes, sum(frame.height for _, frame in pieces))

    def _records(self, pieces: list[tuple[str, pl.DataFrame]]) -> Iterator[StateSegment]:
        """Parts that each fit a record; the last one says what the state contains."""
        tables: list[TableChanges] = []
        size = 0
        for name, frame in pieces:
            for piece in parts(frame):
                raw = packed(piece)
                if tables and size + len(raw) > PART_BYTES_MAX:
                    yield self._head(tuple(tables), False)
                    tables, size = [], 0
                tables.append(TableChanges(table=name, entries=piece.height, columns=raw))
                size += len(raw)
        yield self._head(tuple(tables), True)

    def _head(self, tables: tuple[TableChanges, ...], last: bool) -> StateSegment:
        task = self.task
        return StateSegment(
            format=FORMAT, stream_hash=task.stream.hash, partition=task.partition, sequence=task.sequence, last=last,
            rows_offset=task.rows_offset, watermark_ms=task.watermark_ms,
            cut=tuple(task.cut[place] for place in sorted(task.cut)) if last else (), tables=tables,
            traceparents=tuple(task.traceparents) if last else (),
        )  # fmt: skip

    def committed(self, written: Written) -> None:
        """The transaction holds: disk follows. Raises Retryable if it does not take it: the changelog gives it back."""
        assert len(written.offsets) == len(written.values), "a commit flushes, so all parts have landed"
        self.position, self.logged = written.offsets[-1] + 1, self.logged + written.entries
        self.task.traceparents.clear()
        if self._sweep is not None:
            if self._sweep.began is None:
                self._sweep.began = written.offsets[0]
            if not self._sweep.cursors:
                self.purge_before, self._sweep = self._sweep.began, None
                self.logged = self.live() + written.entries
        if self.disk is not None:
            written.puts[POSITION_KEY] = orjson.dumps([self.position, self.logged])
            self.disk.write(written.puts, written.deletes)

    def live(self) -> int:
        """Entries of all tables."""
        return sum(table.entries() for table in self.task.operator.tables.values())

    def _swept(self, entries_max: int) -> list[tuple[str, pl.DataFrame]]:
        """Some living entries again, while a sweep goes on."""
        if self._sweep is None:
            if self.logged <= LOG_PER_LIVE * self.live() + LOG_SPARE:
                return []
            self._sweep = _Sweep(dict.fromkeys(self.task.operator.tables))
        found: list[tuple[str, pl.DataFrame]] = []
        left = entries_max
        for name in list(self._sweep.cursors):
            if left <= 0:
                break
            frame, cursor = self.task.operator.tables[name].sweep(self._sweep.cursors[name], left)
            left -= max(frame.height, 1)
            if frame.height:
                found.append((name, frame))
            if cursor is None:
                del self._sweep.cursors[name]
            else:
                self._sweep.cursors[name] = cursor
        return found

    # -- reading back

    def resume(self, sequence: int, log_start: int) -> bool:
        """Stand where the local disk does, if that is what is committed or before it, and the log goes on from there.

        Returns: whether nothing has to be read. Raises: Fatal if the disk is ahead of what is committed.
        """
        saved = self._saved()
        if saved is not None and self.disk is not None:
            at, position, logged = saved
            if at.sequence > sequence and self.task.exact:
                raise Fatal(f"state {self.place} on disk stands at commit {at.sequence}, committed is {sequence}")
            if position >= log_start or at.sequence == sequence:
                self.position, self.logged = position, logged
                self.task.restore(at)
                return at.sequence == sequence and self.task.exact
            self.disk.wipe()
        self.position = log_start
        return sequence == 0 and self.task.exact

    def _saved(self) -> tuple[StateSegment, int, int] | None:
        """Progress, next offset and entries in the log, as the disk has them. Raises: Fatal if it is of another stream."""
        raw = None if self.disk is None else self.disk.get(PROGRESS_KEY)
        if raw is None or self.disk is None:
            return None
        at = self.codec.decode(raw, StateSegment)
        if at.stream_hash != self.task.stream.hash or at.partition != self.task.partition:
            raise Fatal(f"state {self.place} on disk is of stream {at.stream_hash[:8]}, partition {at.partition}")
        position, logged = orjson.loads(self.disk.get(POSITION_KEY) or b"[0,0]")
        return at, position, logged

    def follow(self, value: bytes | None, offset: int) -> StateSegment:
        """Apply one part. Raises: Fatal if it is not of this state."""
        segment = self.codec.decode(value, StateSegment)
        if segment.stream_hash != self.task.stream.hash:
            raise Fatal(f"{self.place} holds a segment of stream {segment.stream_hash[:8]} at offset {offset}")
        tables = self.task.operator.tables
        for part in segment.tables:
            tables[part.table].restore(unpacked(part.columns, segment.format))
            self.logged += part.entries
        self.position = offset + 1
        if segment.last:
            self.task.restore(segment)
        return segment

    def settle(self) -> None:
        """Let the disk have what was followed so far; a part of a segment is no Progress yet."""
        puts, deletes = _settled(self.task.operator.tables)
        if self.disk is not None:
            if self.task.sequence:
                puts[PROGRESS_KEY] = self.codec.encode(self.place.topic, self._head((), True))
                puts[POSITION_KEY] = orjson.dumps([self.position, self.logged])
            self.disk.write(puts, deletes)


def _settled(tables: Mapping[str, Table]) -> tuple[dict[bytes, bytes], list[bytes]]:
    puts: dict[bytes, bytes] = {}
    deletes: list[bytes] = []
    for table in tables.values():
        some, gone = table.settle()
        puts |= some
        deletes += gone
    return puts, deletes
