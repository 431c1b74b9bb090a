"""The state of a new feature set, computed from the archive up to a cut: what a stream worker would have after reading it.

    1 gather   each event's archived rows, sorted by partition and offset, in a database of this job
    2 fold     per source partition, piece by piece: verdicts, lift; tiles to a file, the verdict state beside it
    3 merge    per state partition and span of hashes: tiles to blocks, what is below the floor left out

Every step leaves a file that says it is done, written whole or not at all: a job that died goes on where it was, and ends
in the same bytes, because pieces begin at offsets that do not depend on who computes them. Verdicts, lift and merge are
the shared ones, so any new kind of aggregate is backfilled as it is streamed.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import orjson
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from headrace.chassis.objects import ObjectStore
from headrace.contracts.partition import murmur2_many
from headrace.plan.bases import Base, BaseFile, PartitionBase, SourceBase, blocks_file, ids_file, read_ids, to_json
from headrace.plan.ir import EventType, FeatureSet, Plan
from headrace.plan.offline import quoted
from headrace.plan.slots import layout_of
from headrace.plan.tiles import Block, BlockKey, PartialColumns, apply, expire, finest_hop, floor_ms, levels, lift
from headrace.plan.verdicts import Raise, SourceState, judge, prune_ids
from svc_features.adapters.lake import LakeReader
from svc_features.domain.columns import frame_types
from svc_features.files import write_whole
from svc_features.warehouse import load_raw

FOLD_ROWS = 200_000  # records of one piece: bounds memory, and what is done again after a death
MERGE_RECORDS = 100_000  # source records whose blocks are held at once, about
SPILL_GROUP = 8_192  # rows of tiles read or passed over together
HASHES = 1 << 31

Tell = Callable[[str, int, int], None]  # phase, done, total


@dataclass(frozen=True, slots=True)
class SourcePin:
    """Where the cut lies in one source partition. whole: the log has not lost its beginning yet, so neither has the archive."""

    event: str
    partition: int
    topic_id: str
    next_offset: int
    whole: bool


@dataclass(slots=True)
class Folded:
    """One source partition so far. first_append_ms: of its first archived record, null where that is the log's first."""

    next_offset: int = 0
    records: int = 0
    first_append_ms: int | None = None
    done: bool = False
    maximum_ms: int | None = None
    raises: list[list[int | None]] | None = None
    ids: str | None = None  # a file of this folder


class Backfill:
    """One job in one folder, which may hold what an earlier life of it has done."""

    def __init__(
        self, plan: Plan, feature_set: FeatureSet, pins: Sequence[SourcePin], *, reader: LakeReader, objects: ObjectStore,
        connection: duckdb.DuckDBPyConnection, folder: Path, tell: Tell = lambda _phase, _done, _total: None,
        fold_rows: int = FOLD_ROWS, merge_records: int = MERGE_RECORDS,
    ) -> None:  # fmt: skip
        """connection: a database file of this job. `fold_rows` and `merge_records` must be those of the earlier life."""
        self._plan, self._set = plan, feature_set
        self._events = {e.name: e for e in plan.events if e.name in feature_set.events}
        self._pins = sorted(pins, key=lambda p: (p.event, p.partition))
        self._reader, self._objects, self._db = reader, objects, connection
        self._folder, self._tell = folder, tell
        self._fold_rows, self._merge_records = fold_rows, merge_records

    def run(self) -> tuple[Base, BaseFile, int]:
        """The base, where it lies, and how many source records it holds.

        Raises: Fatal if the lake lacks a topic or holds a record twice.
        """
        self._gather()
        folded = {(p.event, p.partition): self._fold(p) for p in self._pins}
        base = self._merge(folded)
        stored = self._objects.put(to_json(base), ".json")
        records = sum(f.records for f in folded.values())
        return base, BaseFile(stored.reference, stored.digest, base.blocks), records

    # -- 1 gather

    def _gather(self) -> None:
        for number, event in enumerate(self._events.values()):
            self._tell("gather", number, len(self._events))
            done = self._folder / f"gathered-{event.name}"
            if done.exists():
                continue
            cut = {p.partition: p.next_offset for p in self._pins if p.event == event.name}
            load_raw(self._db, self._reader, event, cut, order="part, off")
            self._db.execute("checkpoint")
            write_whole(done, b"")
        self._total = sum(self._number(f"select count(*) from {quoted('raw_' + e)}") or 0 for e in self._events)

    def _number(self, sql: str, values: Sequence[int] = ()) -> int | None:
        rows = self._db.execute(sql, list(values)).fetchall()
        return rows[0][0] if rows else None

    # -- 2 fold

    def _fold(self, pin: SourcePin) -> Folded:
        event, at = self._events[pin.event], self._read_folded(pin)
        if at.done:
            return at
        state = self._state(at)
        raw = quoted("raw_" + event.name)
        if not at.records:
            first = f"select case when off > 0 then append_ms end from {raw} where part = ? order by off limit 1"
            at.first_append_ms = self._number(first, [pin.partition])
        while True:
            self._tell("fold", self._rows_done(), self._total)
            rows = self._rows(event, pin.partition, at.next_offset)
            if not len(rows):
                break
            pieces = self._judged(event, state, rows)
            if pieces:
                write_whole(
                    self._folder / f"tiles-{event.name}-{pin.partition}-{at.next_offset:020d}.parquet", self._spill(pieces[0])
                )
            at.next_offset, at.records = int(rows["off"][-1]) + 1, at.records + len(rows)
            self._write_folded(pin, at, state)
        prune_ids(state, event.dedup_horizon_ms)
        at.done = True
        self._write_folded(pin, at, state)
        return at

    def _rows(self, event: EventType, partition: int, start: int) -> pl.DataFrame:
        found = self._db.sql(
            f"select * from {quoted('raw_' + event.name)} where part = {int(partition)} and off >= {int(start)} "
            f"order by off limit {self._fold_rows}"
        ).to_arrow_table()
        return pl.DataFrame(pl.from_arrow(found)).cast(frame_types(event))  # type: ignore[arg-type]

    def _judged(self, event: EventType, state: SourceState, rows: pl.DataFrame) -> list[PartialColumns]:
        """Verdicts and lift, as the source task of a stream worker does them."""
        times = rows[event.time].fill_null(0)
        offsets = rows["off"].to_numpy()
        ids = rows[event.dedup_id].to_list() if event.dedup_id else None
        decodable = rows["decodable"].to_numpy()
        judged = judge(state, event, offsets, times.to_numpy(), rows["append_ms"].to_numpy(), ids, decodable)
        frame = rows.select(
            *(f.name for f in event.fields),
            pl.col("part").cast(pl.Int64).alias("__partition"),
            pl.col("off").alias("__offset"),
            times.alias("__time"),
        )
        return lift(self._set, event, frame.filter(pl.Series(judged.accepted)))

    def _spill(self, piece: PartialColumns) -> bytes:
        """A file of tiles by state partition and hash, so that a merge reads its share only."""
        hashes = (murmur2_many([e.encode() for e in piece.entities]) & np.uint32(HASHES - 1)).astype(np.int64)
        homes = hashes % self._set.partitions  # as Kafka's partitioner and `partition_for` do
        order = np.lexsort((hashes, homes))
        slots = piece.slots[order]
        edges = np.arange(len(order) + 1, dtype=np.int64) * slots.shape[1]
        table = pa.table(
            {
                "home": pa.array(homes[order]), "hash": pa.array(hashes[order]),
                "entity": pa.array([piece.entities[i] for i in order.tolist()], pa.string()),
                "start": pa.array(piece.starts_ms[order]),
                "slots": pa.LargeListArray.from_arrays(pa.array(edges), pa.array(slots.ravel())),
            }
        )  # fmt: skip
        out = io.BytesIO()
        pq.write_table(table, out, row_group_size=SPILL_GROUP)
        return out.getvalue()

    def _state(self, at: Folded) -> SourceState:
        ids = {} if at.ids is None else read_ids((self._folder / at.ids).read_bytes())
        return SourceState(at.maximum_ms, ids, deque(_raises(at)), len(ids))

    def _rows_done(self) -> int:
        return sum(self._read_folded(pin).records for pin in self._pins)

    def _read_folded(self, pin: SourcePin) -> Folded:
        path = self._folder / f"folded-{pin.event}-{pin.partition}.json"
        return Folded(**orjson.loads(path.read_bytes())) if path.exists() else Folded()

    def _write_folded(self, pin: SourcePin, at: Folded, state: SourceState) -> None:
        """The ids first, under a name of their own: the state names the ids it belongs to."""
        before = at.ids
        at.maximum_ms, at.raises = state.maximum_ms, [list(r) for r in state.raises]
        at.ids = None
        if state.ids:
            at.ids = f"ids-{pin.event}-{pin.partition}-{at.next_offset:020d}{'-done' * at.done}.parquet"
            write_whole(self._folder / at.ids, ids_file(state.ids))
        write_whole(self._folder / f"folded-{pin.event}-{pin.partition}.json", orjson.dumps(asdict(at)))
        if before is not None and before != at.ids:
            (self._folder / before).unlink(missing_ok=True)

    # -- 3 merge

    def _merge(self, folded: Mapping[tuple[str, int], Folded]) -> Base:
        floors = [self._lost_before(pin, folded[pin.event, pin.partition]) for pin in self._pins if not pin.whole]
        base_floor = max((f for f in floors if f is not None), default=None)
        maxima: dict[str, int | None] = dict.fromkeys(self._events)
        for (event, _), at in folded.items():
            maxima[event] = max((m for m in (maxima[event], at.maximum_ms) if m is not None), default=None)
        floor = {event: floor_ms(self._set, event, maxima, base_floor) for event in self._events}
        records = sum(at.records for at in folded.values())
        spans = max(1, -(-records // (self._set.partitions * self._merge_records)))
        edges = [HASHES * i // spans for i in range(spans + 1)]
        spilled = {event: sorted(self._folder.glob(f"tiles-{event}-*.parquet")) for event in self._events}
        partitions = []
        for home in range(self._set.partitions):
            files = []
            for span in range(spans):
                self._tell("merge", home * spans + span, self._set.partitions * spans)
                files.append(self._merged(home, span, (edges[span], edges[span + 1]), spilled, floor))
            partitions.append(PartitionBase(home, tuple(f for f in files if f.rows)))
        self._tell("merge", self._set.partitions * spans, self._set.partitions * spans)
        sources = tuple(self._source(pin, folded[pin.event, pin.partition]) for pin in self._pins)
        return Base(
            self._plan.pipeline, self._set.name, self._set.hash, self._plan.semantics_version, base_floor, sources,
            tuple(partitions),
        )  # fmt: skip

    def _lost_before(self, pin: SourcePin, at: Folded) -> int | None:
        """What a log that lost its beginning says nothing about: older than its first record could be."""
        if at.first_append_ms is None:
            return None
        return at.first_append_ms + self._events[pin.event].poison_bound_ms

    def _merged(
        self, home: int, span: int, hashes: tuple[int, int], spilled: Mapping[str, Sequence[Path]],
        floor: Mapping[str, int | None],
    ) -> BaseFile:  # fmt: skip
        done = self._folder / f"merged-{home}-{span}.json"
        if done.exists():
            return BaseFile(**orjson.loads(done.read_bytes()))
        blocks: dict[BlockKey, Block] = {}
        for event, files in spilled.items():
            if files:
                apply(self._set, self._tiles(event, files, home, hashes, floor[event]), blocks)
        kept = [(key, expire(blocks[key], floor[key.event], endless=not key.hop_ms)) for key in sorted(blocks)]
        kept = [(key, block) for key, block in kept if len(block.starts_ms)]
        stored = self._objects.put(blocks_file(kept), ".parquet") if kept else None
        found = BaseFile("", "", 0) if stored is None else BaseFile(stored.reference, stored.digest, len(kept))
        write_whole(done, orjson.dumps(asdict(found)))
        return found

    def _tiles(
        self, event: str, files: Sequence[Path], home: int, hashes: tuple[int, int], floor: int | None
    ) -> PartialColumns:
        """Tiles of all pieces; the same tile may come from several of them."""
        hop = finest_hop(self._set, event)
        low, high = hashes
        wanted = (ds.field("home") == home) & (ds.field("hash") >= low) & (ds.field("hash") < high)
        if floor is not None and 0 not in levels(self._set, event):
            wanted &= ds.field("start") > floor - hop
        found = ds.dataset([str(f) for f in files], format="parquet").to_table(filter=wanted)
        width = layout_of(self._set, event).width
        slots = np.array(pa.concat_arrays([c.flatten() for c in found["slots"].chunks]) if len(found) else [], np.int64)
        starts = found["start"].to_numpy().astype(np.int64)
        return PartialColumns(event, hop, found["entity"].to_pylist(), starts, slots.reshape(-1, width))

    def _source(self, pin: SourcePin, at: Folded) -> SourceBase:
        ids = None
        if at.ids is not None:
            data = (self._folder / at.ids).read_bytes()
            stored = self._objects.put(data, ".parquet")
            ids = BaseFile(stored.reference, stored.digest, len(read_ids(data)))
        return SourceBase(pin.event, pin.topic_id, pin.partition, pin.next_offset, at.maximum_ms, tuple(_raises(at)), ids)


def _raises(at: Folded) -> Iterator[Raise]:
    for offset, before_ms, after_ms in at.raises or ():
        assert offset is not None and after_ms is not None, "only M before may be missing"
        yield Raise(offset, before_ms, after_ms)


def cut_of(pins: Sequence[SourcePin]) -> dict[str, Any]:
    """For people: event -> partition -> next offset."""
    found: dict[str, Any] = {}
    for pin in pins:
        found.setdefault(pin.event, {})[str(pin.partition)] = pin.next_offset
    return found
