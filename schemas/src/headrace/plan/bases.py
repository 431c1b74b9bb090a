"""The base of a feature set: state computed from the archive up to a cut, which a new set may start from.

base (JSON, keys sorted, no floats), named by its SHA-256
  sources     per source partition: cut, M under it, raises of M a restore may need, ids that can still make a duplicate
  partitions  per state partition: files of blocks

Files, format 1, Parquet, rows in a fixed order, so that equal contents have equal digests:

    blocks   entity, event, hop_ms, index, starts_ms (list), slots (list): TileBlock by columns
    ids      id (of the field's type), maximum_ms: M after the id's latest occurrence; ids ascending

A base holds no tile below the floor of its cut, and `floor_ms` where the archive lacked the beginning of a log: what is
older was never seen. Topic ids say which topics the offsets belong to.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from headrace.contracts.errors import Fatal
from headrace.plan.tiles import Block, BlockKey
from headrace.plan.verdicts import Raise, SourceState

FORMAT = 1
ROW_GROUP = 16_384  # fixed: it is part of the bytes, and so of the digest
BLOCKS = pa.schema(
    [
        ("entity", pa.string()), ("event", pa.string()), ("hop_ms", pa.int64()), ("index", pa.int64()),
        ("starts_ms", pa.list_(pa.int64())), ("slots", pa.list_(pa.int64())),
    ]
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class BaseFile:
    """A body in the object store. rows: blocks or ids it holds."""

    reference: str
    digest: str
    rows: int


@dataclass(frozen=True, slots=True)
class SourceBase:
    """Verdict state of one source partition at the cut. ids: None where there are none."""

    event: str
    topic_id: str
    partition: int
    next_offset: int
    maximum_ms: int | None
    raises: tuple[Raise, ...]
    ids: BaseFile | None

    def state(self, ids: dict[Any, int]) -> SourceState:
        """A fold as it stood at the cut; a new one each time, it will be mutated."""
        return SourceState(self.maximum_ms, dict(ids), deque(self.raises), len(ids))


@dataclass(frozen=True, slots=True)
class PartitionBase:
    """Blocks of one state partition."""

    partition: int
    files: tuple[BaseFile, ...]


@dataclass(frozen=True, slots=True)
class Base:
    """What a state starts from. sources by (event, partition), partitions ascending."""

    pipeline: str
    set: str
    set_hash: str
    semantics_version: int
    floor_ms: int | None
    sources: tuple[SourceBase, ...]
    partitions: tuple[PartitionBase, ...]

    @property
    def blocks(self) -> int:
        return sum(file.rows for partition in self.partitions for file in partition.files)

    def source(self, event: str, partition: int) -> SourceBase:
        """Raises: Fatal if the base does not know this source partition."""
        for source in self.sources:
            if (source.event, source.partition) == (event, partition):
                return source
        raise Fatal(f"the base of {self.set} lacks {event}-{partition}: the topic has more partitions than it had then")


def to_json(base: Base) -> bytes:
    """Canonical: equal bases have equal bytes."""
    return orjson.dumps(
        {
            "format": FORMAT, "pipeline": base.pipeline, "set": base.set, "set_hash": base.set_hash,
            "semantics_version": base.semantics_version, "floor_ms": base.floor_ms,
            "sources": [
                {
                    "event": s.event, "topic_id": s.topic_id, "partition": s.partition, "next_offset": s.next_offset,
                    "maximum_ms": s.maximum_ms, "raises": [list(r) for r in s.raises], "ids": _file(s.ids),
                }
                for s in base.sources
            ],
            "partitions": [{"partition": p.partition, "files": [_file(f) for f in p.files]} for p in base.partitions],
        },
        option=orjson.OPT_SORT_KEYS,
    )  # fmt: skip


def _file(file: BaseFile | None) -> dict[str, Any] | None:
    return None if file is None else {"reference": file.reference, "digest": file.digest, "rows": file.rows}


def from_json(data: bytes) -> Base:
    """Raises: Fatal for another format, or if it is no base."""
    try:
        page = orjson.loads(data)
        if page["format"] != FORMAT:
            raise Fatal(f"a base of format {page['format']}, this version reads format {FORMAT}: compute it again")
        sources = tuple(
            SourceBase(
                s["event"], s["topic_id"], s["partition"], s["next_offset"], s["maximum_ms"],
                tuple(Raise(*r) for r in s["raises"]), None if s["ids"] is None else BaseFile(**s["ids"]),
            )
            for s in page["sources"]
        )  # fmt: skip
        partitions = tuple(PartitionBase(p["partition"], tuple(BaseFile(**f) for f in p["files"])) for p in page["partitions"])
        return Base(
            page["pipeline"], page["set"], page["set_hash"], page["semantics_version"], page["floor_ms"], sources, partitions
        )
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise Fatal(f"not a base: {type(error).__name__}: {error}") from error


def blocks_file(blocks: Sequence[tuple[BlockKey, Block]]) -> bytes:
    """A file of blocks, in the order given (ascending keys)."""
    columns = [
        pa.array([k.entity for k, _ in blocks], pa.string()),
        pa.array([k.event for k, _ in blocks], pa.string()),
        pa.array([k.hop_ms for k, _ in blocks], pa.int64()),
        pa.array([k.index for k, _ in blocks], pa.int64()),
        _lists([b.starts_ms for _, b in blocks]),
        _lists([b.slots.ravel() for _, b in blocks]),
    ]
    return _parquet(pa.table(columns, schema=BLOCKS))


def _lists(rows: Sequence[np.ndarray]) -> pa.Array:
    edges = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    flat = np.concatenate(rows) if rows else np.empty(0, np.int64)
    return pa.ListArray.from_arrays(pa.array(edges), pa.array(flat, pa.int64()))


def read_blocks(data: bytes) -> Iterator[tuple[BlockKey, Block]]:
    """The blocks of a file, in its order."""
    for group in _read(data, BLOCKS.names):
        columns = {name: group.column(name).to_pylist() for name in ("entity", "event", "hop_ms", "index")}
        starts, slots = (group.column(name).to_pylist() for name in ("starts_ms", "slots"))
        for i, key in enumerate(map(BlockKey, *columns.values())):
            held = np.array(starts[i], np.int64)
            yield key, Block(held, np.array(slots[i], np.int64).reshape(len(held), -1))


def ids_file(ids: dict[Any, int]) -> bytes:
    """A file of ids, ascending; all of one type."""
    names = sorted(ids)
    return _parquet(pa.table({"id": pa.array(names), "maximum_ms": pa.array([ids[n] for n in names], pa.int64())}))


def read_ids(data: bytes) -> dict[Any, int]:
    """Id -> M after its latest occurrence."""
    found: dict[Any, int] = {}
    for group in _read(data, ["id", "maximum_ms"]):
        found.update(zip(group.column("id").to_pylist(), group.column("maximum_ms").to_pylist(), strict=True))
    return found


def _parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, row_group_size=ROW_GROUP, compression="zstd", compression_level=3)
    return out.getvalue()


def _read(data: bytes, names: Sequence[str]) -> Iterator[pa.Table]:
    file = pq.ParquetFile(io.BytesIO(data))
    if file.schema_arrow.names != list(names):
        raise Fatal(f"a file of a base has columns {file.schema_arrow.names}, expected {list(names)}")
    for group in range(file.num_row_groups):
        yield file.read_row_group(group)
