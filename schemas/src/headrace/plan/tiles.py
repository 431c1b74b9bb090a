"""Tiles and blocks: exact partial aggregates of one entity over one hop, sixteen neighbours to a block.

A batch is lifted to tiles at the finest hop of the set (hot keys collapse there), shipped, rolled up to the coarser
hops and merged into blocks. Hop 0 is one endless tile per entity that holds only the newest values. Blocks are values:
`apply` replaces them, so a reader may keep the one it holds.

State key, format 1 (bytes, order-preserving within an entity):

    0x01 | entity length, 4 bytes BE | entity UTF-8 | event index, 1 byte | hop ms, 8 bytes BE | block index + 2**63, 8 bytes BE
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from headrace.contracts.errors import Fatal
from headrace.plan import expressions
from headrace.plan.ir import EventType, FeatureSet, Measure
from headrace.plan.items import array_of, exploded
from headrace.plan.sketches import hash_of
from headrace.plan.slots import NEWEST, Layout, layout_of, reduce_by, row_vectors, scatter_wide

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

BLOCK_TILES = 16
WIDE = frozenset({"distinct", "registers", "histogram"})
CELLS_MAX = 1 << 23  # int64 of one step of `lift`: 64 MiB, so 64k records of 128 slots
KEY_FORMAT = 1
_FORMAT = bytes((KEY_FORMAT,))
ENTITY_SEPARATOR = "\x1f"
_TAIL = struct.Struct(">BQQ")
_SIGN = 1 << 63


class BlockKey(NamedTuple):
    """Names a block: the tiles of `entity` and `event` with start // (hop_ms * 16) == index; index 0 at hop 0."""

    entity: str
    event: str
    hop_ms: int
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]  # hides tuple.index, which nobody asks of a key


@dataclass(frozen=True, slots=True)
class Block:
    """Up to 16 tiles: `starts_ms` (k,) ascending, `slots` (k, W). Never mutated."""

    starts_ms: Int64s
    slots: Int64s


@dataclass(frozen=True, slots=True)
class PartialColumns:
    """Tiles of one event at one hop: entities (n,), starts_ms (n,), slots (n, W); each (entity, start) once."""

    event: str
    hop_ms: int
    entities: list[str]
    starts_ms: Int64s
    slots: Int64s


def tile_start(times_ms: Int64s, hop_ms: int) -> Int64s:
    """Start of the tile that holds each time; floors, also below zero. Hop 0: the one tile starting at 0."""
    return times_ms // hop_ms * hop_ms if hop_ms else np.zeros_like(times_ms)


def block_index(starts_ms: Int64s, hop_ms: int) -> Int64s:
    return starts_ms // (hop_ms * BLOCK_TILES) if hop_ms else np.zeros_like(starts_ms)


def entity_of(feature_set: FeatureSet, fields: Mapping[str, object]) -> str | None:
    """The set's entity in an event or a request, as `lift` writes it; None if a part of it is null."""
    parts = [fields.get(name) for name in feature_set.entity]
    if any(p is None for p in parts):
        return None
    return ENTITY_SEPARATOR.join(str(p).lower() if isinstance(p, bool) else str(p) for p in parts)


@lru_cache(maxsize=256)
def levels(feature_set: FeatureSet, event: str) -> tuple[int, ...]:
    """The hops at which tiles of this event are kept, ascending (0 first): those its terms read."""
    of = {m.id: m.event for m in feature_set.measures}
    return tuple(sorted({t.hop_ms for f in feature_set.features for t in f.terms if of[t.measure] == event}))


def finest_hop(feature_set: FeatureSet, event: str) -> int:
    """The hop tiles are lifted at: divides every hop kept; 0 when only last values are."""
    return math.gcd(*levels(feature_set, event))


@lru_cache(maxsize=256)
def measure_columns(feature_set: FeatureSet, event: EventType) -> tuple[tuple[Measure, pl.Expr | None, pl.Expr | None], ...]:
    fields = {f.name: f for f in event.fields}
    return tuple(
        (
            m,
            None if m.value is None else _value(m, expressions.parse(m.value, fields)),
            None if m.where is None else expressions.parse(m.where, fields).to_polars(),
        )
        for m in feature_set.measures
        if m.event == event.name
    )


def _value(measure: Measure, value: expressions.Expression) -> pl.Expr:
    """The value as int64; as text where the measure keeps hashes."""
    column = value.to_polars()
    if not hashed(measure):
        return column.cast(pl.Int64)
    return column if value.type.kind == "string" else column.cast(pl.Int64).cast(pl.String)


def hashed(measure: Measure) -> bool:
    """Whether what the measure accumulates is the hash of its value's text."""
    return "distinct" in measure.slots or "registers" in measure.slots


def hashes_of(column: pl.Series) -> pl.Series:
    """`hash_of` each text, once per distinct one; null for null."""
    texts = column.drop_nulls().unique()
    found = pl.Series([hash_of(text) for text in texts.to_list()], dtype=pl.Int64)
    return column.replace_strict(texts, found, default=None, return_dtype=pl.Int64)


def lift(feature_set: FeatureSet, event: EventType, frame: pl.DataFrame) -> list[PartialColumns]:
    """Lift accepted records to tiles at the finest hop.

    Args:
        frame: the event's fields, and `__partition`, `__offset`, `__time` (int64, event time in ms).
    Returns: one PartialColumns, or none when no record has an entity. Entities stand in order of first appearance.
    """
    if event.name not in feature_set.events or not levels(feature_set, event.name):
        return []
    rows = _rows(feature_set, event, frame, None)
    arrays = _arrays(feature_set, event)
    if arrays:
        rows = pl.concat([rows, *(_rows(feature_set, event, exploded(frame, array), array) for array in arrays)])
    if rows.is_empty():
        return []
    layout, hop = layout_of(feature_set, event.name), finest_hop(feature_set, event.name)
    step = max(1, CELLS_MAX // layout.width)
    parts = [_lifted(feature_set, event, part) for part in rows.iter_slices(step)]
    if len(parts) == 1:
        return parts
    entities = [entity for part in parts for entity in part.entities]
    slots, starts = (np.concatenate([getattr(p, name) for p in parts]) for name in ("slots", "starts_ms"))
    return [_collapse(layout, hop, entities, slots, starts)]


@lru_cache(maxsize=256)
def _arrays(feature_set: FeatureSet, event: EventType) -> tuple[str, ...]:
    """Arrays whose items some measures are over, sorted."""
    fields = {f.name: f for f in event.fields}
    found = {array_of(m, fields) for m in feature_set.measures if m.event == event.name}
    return tuple(sorted(array for array in found if array is not None))


def _rows(feature_set: FeatureSet, event: EventType, frame: pl.DataFrame, array: str | None) -> pl.DataFrame:
    """Rows that have an entity, with each measure's where and value; measures over other items than the frame's see none."""
    fields = {f.name: f for f in event.fields}
    columns = [
        pl.concat_str([pl.col(f).cast(pl.String) for f in feature_set.entity], separator=ENTITY_SEPARATOR).alias("__entity")
    ]
    columns += [pl.col(name).cast(pl.Int64) for name in ("__partition", "__offset", "__time")]
    for m, value, where in measure_columns(feature_set, event):
        mine = array_of(m, fields) == array
        seen = pl.lit(mine) if where is None or not mine else where.fill_null(False)
        columns.append(seen.alias(f"__where_{m.id}"))
        if value is not None:
            kept = value if mine else pl.lit(None, pl.String if hashed(m) else pl.Int64)
            columns.append(kept.alias(f"__value_{m.id}"))
    return frame.lazy().select(columns).filter(pl.col("__entity").is_not_null()).collect()


def _lifted(feature_set: FeatureSet, event: EventType, rows: pl.DataFrame) -> PartialColumns:
    """Tiles of some records. Wide measures are added to the tiles at once: a vector of each record would be mostly zeros."""
    layout, hop = layout_of(feature_set, event.name), finest_hop(feature_set, event.name)
    columns = _columns(feature_set, event, rows)
    time, partition, offset = (rows[name].to_numpy() for name in ("__time", "__partition", "__offset"))
    entities = rows["__entity"].to_list()
    narrow = _narrow(feature_set)
    if narrow is feature_set:
        vectors = row_vectors(layout, time, partition, offset, *zip(*columns.values(), strict=True))
        return _collapse(layout, hop, entities, vectors, time)
    inner = layout_of(narrow, event.name)
    kept = [columns[identity] for identity in inner.of]
    vectors = row_vectors(inner, time, partition, offset, [k[0] for k in kept], [k[1] for k in kept])
    thin, groups, wanted = _collapsed(inner, hop, entities, vectors, time)
    group = np.searchsorted(groups, wanted)
    out = np.zeros((len(thin.starts_ms), layout.width), np.int64)
    out[:, NEWEST] = thin.slots[:, NEWEST]
    for identity, places in layout.of.items():
        included, value = columns[identity]
        if identity not in inner.of:
            if hop and value is not None:
                scatter_wide(layout, identity, group, included & value[1], value[0], out)
            continue
        width = layout.widths[identity]
        at, source = min(places.values()), min(inner.of[identity].values())
        out[:, at : at + width] = thin.slots[:, source : source + width]
    return PartialColumns(thin.event, thin.hop_ms, thin.entities, thin.starts_ms, out)


@lru_cache(maxsize=256)
def _narrow(feature_set: FeatureSet) -> FeatureSet:
    """The set without the measures of which a record fills few slots among many."""
    kept = tuple(m for m in feature_set.measures if not WIDE & set(m.slots))
    return feature_set if len(kept) == len(feature_set.measures) else replace(feature_set, measures=kept)


def _columns(
    feature_set: FeatureSet, event: EventType, rows: pl.DataFrame
) -> dict[str, tuple[Bools, tuple[Int64s, Bools] | None]]:
    """Per measure whether its `where` holds, its values, and where they are not null."""
    found: dict[str, tuple[Bools, tuple[Int64s, Bools] | None]] = {}
    for m, value, _ in measure_columns(feature_set, event):
        column = None if value is None else rows[f"__value_{m.id}"]
        if column is not None and hashed(m):
            column = hashes_of(column)
        values = None if column is None else (column.fill_null(0).to_numpy(), column.is_not_null().to_numpy())
        found[m.id] = rows[f"__where_{m.id}"].to_numpy(), values
    return found


def _collapse(layout: Layout, hop_ms: int, entities: list[str], rows: Int64s, times_ms: Int64s) -> PartialColumns:
    """One tile per entity and start."""
    return _collapsed(layout, hop_ms, entities, rows, times_ms)[0]


def _collapsed(
    layout: Layout, hop_ms: int, entities: list[str], rows: Int64s, times_ms: Int64s
) -> tuple[PartialColumns, Int64s, Int64s]:
    """The tiles, their ascending group numbers, and the group number of each row."""
    codes, distinct = _codes(entities)
    starts, rank = np.unique(tile_start(times_ms, hop_ms), return_inverse=True)
    if not hop_ms:
        rows = np.where(layout.bounded, rows, 0)
    wanted = codes * len(starts) + rank
    groups, slots = reduce_by(layout, wanted, rows)
    tiles = PartialColumns(
        layout.event, hop_ms, [distinct[c] for c in (groups // len(starts)).tolist()], starts[groups % len(starts)], slots
    )
    return tiles, groups, wanted


def _codes(entities: list[str]) -> tuple[Int64s, list[str]]:
    """Number the entities by first appearance."""
    seen: dict[str, int] = {}
    codes = np.fromiter((seen.setdefault(e, len(seen)) for e in entities), np.int64, len(entities))
    return codes, list(seen)


def roll_up(feature_set: FeatureSet, partial: PartialColumns, hop_ms: int) -> PartialColumns:
    """The same tiles at a coarser hop (a multiple of the partial's, or 0)."""
    if hop_ms == partial.hop_ms:
        return partial
    return _collapse(layout_of(feature_set, partial.event), hop_ms, partial.entities, partial.slots, partial.starts_ms)


def blocks_touched(feature_set: FeatureSet, partial: PartialColumns) -> set[BlockKey]:
    """The blocks `apply` will touch: what to load first."""
    keys: set[BlockKey] = set()
    for hop in levels(feature_set, partial.event):
        indices = block_index(tile_start(partial.starts_ms, hop), hop).tolist()
        keys.update(BlockKey(e, partial.event, hop, i) for e, i in zip(partial.entities, indices, strict=True))
    return keys


def apply(feature_set: FeatureSet, partial: PartialColumns, blocks: MutableMapping[BlockKey, Block]) -> set[BlockKey]:
    """Merge a partial into the blocks of every level of its event; returns the keys of the replaced blocks.

    `blocks` must hold every existing block of `blocks_touched`; an absent one counts as empty.
    """
    dirty: set[BlockKey] = set()
    if not len(partial.starts_ms):
        return dirty
    for hop in levels(feature_set, partial.event):
        dirty |= _apply_level(feature_set, roll_up(feature_set, partial, hop), blocks)
    return dirty


def _apply_level(feature_set: FeatureSet, partial: PartialColumns, blocks: MutableMapping[BlockKey, Block]) -> set[BlockKey]:
    """Existing tiles of all touched blocks and the new ones go through one reduction."""
    hop = partial.hop_ms
    number: dict[BlockKey, int] = {}
    indices = block_index(partial.starts_ms, hop).tolist()
    owners = [
        number.setdefault(BlockKey(e, partial.event, hop, i), len(number))
        for e, i in zip(partial.entities, indices, strict=True)
    ]
    owner, starts, slots = [np.array(owners, np.int64)], [partial.starts_ms], [partial.slots]
    for key, i in number.items():
        block = blocks.get(key)
        if block is not None:
            owner.append(np.full(len(block.starts_ms), i, np.int64))
            starts.append(block.starts_ms)
            slots.append(block.slots)
    distinct, rank = np.unique(np.concatenate(starts), return_inverse=True)
    groups, merged = reduce_by(
        layout_of(feature_set, partial.event), np.concatenate(owner) * len(distinct) + rank, np.concatenate(slots)
    )
    tile_starts = distinct[groups % len(distinct)]
    edges = np.searchsorted(groups // len(distinct), np.arange(len(number) + 1)).tolist()
    for i, key in enumerate(number):
        # Copied: a view would keep the arrays of the whole batch alive.
        blocks[key] = Block(tile_starts[edges[i] : edges[i + 1]].copy(), merged[edges[i] : edges[i + 1]].copy())
    return set(number)


def floor_ms(feature_set: FeatureSet, event: str, maxima: Mapping[str, int | None], base_floor_ms: int | None) -> int | None:
    """Tiles of this event older than the floor may go. A function of the cut alone (through its maxima), never of a clock.

    Args:
        maxima: per event the largest M over its partitions under the cut.
        base_floor_ms: the floor the state started with, where the log's beginning was gone.
    """
    maximum = maxima.get(event)
    floors = [f for f in (base_floor_ms, None if maximum is None else maximum - feature_set.ttl_ms) if f is not None]
    return max(floors, default=None)


def expire(block: Block, floor: int | None, endless: bool = False) -> Block:
    """The block without the tiles below the floor; empty when nothing is left (write a tombstone).

    Args:
        endless: the block is the one tile of hop 0, which is as old as its newest event.
    """
    if floor is None or not len(block.starts_ms):
        return block
    oldest = block.slots[0, NEWEST] if endless else block.starts_ms[0]  # starts ascend, and the endless tile is one
    if oldest >= floor:
        return block
    keep = (block.slots[:, NEWEST] if endless else block.starts_ms) >= floor
    return Block(block.starts_ms[keep], block.slots[keep])


def encode_key(feature_set: FeatureSet, key: BlockKey) -> bytes:
    """State key, format 1 (see the module's docstring)."""
    return key_head(key.entity) + key_tail(feature_set, key)


def key_head(entity: str) -> bytes:
    """What all state keys of an entity begin with."""
    raw = entity.encode()
    return _FORMAT + len(raw).to_bytes(4, "big") + raw


def key_tail(feature_set: FeatureSet, key: BlockKey) -> bytes:
    """What follows the entity in a state key."""
    return _TAIL.pack(feature_set.events.index(key.event), key.hop_ms, key.index + _SIGN)


def decode_key(feature_set: FeatureSet, data: bytes) -> BlockKey:
    """The inverse of `encode_key`. Raises Fatal for another format or a broken key."""
    if len(data) < 5 or data[0] != KEY_FORMAT:
        raise Fatal(f"unknown state key format: {data[:1].hex() or 'empty'}, this version reads format {KEY_FORMAT}")
    size = int.from_bytes(data[1:5], "big")
    if len(data) != 5 + size + _TAIL.size:
        raise Fatal(f"broken state key: {len(data)} bytes for an entity of {size}")
    event, hop, index = _TAIL.unpack_from(data, 5 + size)
    return BlockKey(data[5 : 5 + size].decode(), feature_set.events[event], hop, index - _SIGN)
