"""One record at a time: `lift` and `apply` of tiles.py without frames, and without arrays of length one.

    fields --Lifter--> vector of the record alone --add_row----> its tile in the block of every level
                             '--tiles_of--> partial tiles of a few records --add_tiles--> the same

For batches of a few records: of placement `owned`, where a request waits for what came before it, and of any set while
little comes. Equal to `tiles.lift` and `tiles.apply` bit for bit, for every kind of slot; both wrap where declared ranges
would not forbid it.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from headrace.plan import expressions
from headrace.plan.ir import SLOT_WIDTH, EventType, FeatureSet, Measure, SlotKind
from headrace.plan.items import ITEM_STRIDE, array_of, item_column
from headrace.plan.sketches import KEY_PARTS, hash_of, register_ranks
from headrace.plan.slots import LIMB_BITS, NEWEST, Layout, layout_of, merge_rows
from headrace.plan.tiles import BLOCK_TILES, Block, BlockKey, PartialColumns, entity_of, finest_hop, hashed, levels

Int64s = npt.NDArray[np.int64]
Evaluate = Callable[[Mapping[str, Any]], Any]

_WORD, _HALF = 1 << 64, 1 << 63
_KEY_WIDTH = SLOT_WIDTH["last"] - 1
_NARROW = 128  # slots: longer vectors are merged as arrays


class Row(NamedTuple):
    """What one record alone would put into a tile. vector: shape (W,) of the event's layout, as ints."""

    entity: str
    event: str
    time_ms: int
    vector: list[int]


@dataclass(frozen=True, slots=True)
class _Compiled:
    measure: Measure
    places: dict[SlotKind, int]
    value: Evaluate | None
    where: Evaluate | None
    hashes: bool
    array: str | None  # whose items it is over


class Lifter:
    """The records of one event of a set, compiled once."""

    def __init__(self, feature_set: FeatureSet, event: EventType) -> None:
        self._set, self._event = feature_set, event
        self._kept = event.name in feature_set.events and bool(levels(feature_set, event.name))
        fields = {f.name: f for f in event.fields}
        self._layout = layout_of(feature_set, event.name)
        self._measures = [
            _Compiled(
                m, self._layout.of[m.id], _compiled(m.value, fields), _compiled(m.where, fields), hashed(m), array_of(m, fields)
            )
            for m in feature_set.measures
            if m.event == event.name
        ]

    def entity(self, fields: Mapping[str, Any]) -> str | None:
        """As tiles are keyed; None if the record has none."""
        return entity_of(self._set, fields)

    def row(self, fields: Mapping[str, Any], partition: int, offset: int, time_ms: int) -> Row | None:
        """An accepted record lifted; None if it has no entity, or the set keeps nothing of its event."""
        entity = self.entity(fields)
        if entity is None or not self._kept:
            return None
        vector = [0] * self._layout.width
        vector[NEWEST] = time_ms
        for one in self._measures:
            if one.array is None:
                self._fill(one, fields, (time_ms, self._layout.topic_index + 1, partition, offset), vector)
                continue
            for index, item in enumerate(fields[one.array] or ()):
                alone = [0] * self._layout.width
                alone[NEWEST] = time_ms
                key = (time_ms, self._layout.topic_index + 1, partition, offset * ITEM_STRIDE + index)
                self._fill(one, {**fields, item_column(one.array): item}, key, alone)
                vector = _both(self._layout, vector, alone)
        return Row(entity, self._event.name, time_ms, vector)

    def _fill(self, one: _Compiled, fields: Mapping[str, Any], key: tuple[int, int, int, int], vector: list[int]) -> None:
        if one.where is not None and one.where(fields) is not True:
            return
        places = one.places
        if "rows" in places:
            vector[places["rows"]] = 1
        number = 0
        if one.value is not None:
            found = one.value(fields)
            if found is None:
                return
            number = hash_of(found if isinstance(found, str) else str(int(found))) if one.hashes else int(found)
        if "nonnull" in places:
            vector[places["nonnull"]] = 1
        for kind in ("sum", "min", "max", "distinct"):
            if kind in places and one.value is not None:
                vector[places[kind]] = number
        if "square_lo" in places:
            square = number * number
            vector[places["square_lo"]], vector[places["square_hi"]] = square & ((1 << LIMB_BITS) - 1), square >> LIMB_BITS
        for kind in ("last", "first", "recent"):
            if kind in places:
                vector[places[kind] : places[kind] + KEY_PARTS] = (*key, number)
        if "registers" in places:
            register, rank = register_ranks(np.array([number], np.int64), one.measure.size)
            vector[places["registers"] + int(register[0])] = int(rank[0])
        if "histogram" in places:
            vector[places["histogram"] + bisect_right(one.measure.edges, number)] = 1


@lru_cache(maxsize=256)
def lifter_of(feature_set: FeatureSet, event: EventType) -> Lifter:
    """Compile a set's event once."""
    return Lifter(feature_set, event)


def _compiled(text: str | None, fields: Mapping[str, Any]) -> Evaluate | None:
    return None if text is None else expressions.parse(text, fields).compile()


def narrow(feature_set: FeatureSet, event: str) -> bool:
    """Whether vectors are short enough for a list of their own per record; else tiles.py is quicker from the first on."""
    return layout_of(feature_set, event).width <= _NARROW


def tiles_of(feature_set: FeatureSet, event: str, rows: Iterable[Row]) -> list[PartialColumns]:
    """What `tiles.lift` makes of the records these rows of one event are of: the same tiles in the same order."""
    layout, hop = layout_of(feature_set, event), finest_hop(feature_set, event)
    found: dict[str, dict[int, list[int]]] = {}  # entities in order of first appearance, their vectors by start
    for row in rows:
        start = row.time_ms // hop * hop if hop else 0
        tiles = found.setdefault(row.entity, {})
        tiles[start] = _both(layout, tiles[start], row.vector) if start in tiles else row.vector
    if not found:
        return []
    tiles = [(entity, start, of[start]) for entity, of in found.items() for start in sorted(of)]
    slots = _matrix([vector if hop else _bounded(layout, vector) for _, _, vector in tiles])
    return [PartialColumns(event, hop, [t[0] for t in tiles], np.array([t[1] for t in tiles], np.int64), slots)]


def add_tiles(feature_set: FeatureSet, partial: PartialColumns, blocks: MutableMapping[BlockKey, Block]) -> set[BlockKey]:
    """`tiles.apply`, tile by tile: quicker for a few."""
    dirty = set[BlockKey]()
    for entity, start, vector in zip(partial.entities, partial.starts_ms.tolist(), partial.slots.tolist(), strict=True):
        dirty |= add_row(feature_set, Row(entity, partial.event, start, vector), blocks)
    return dirty


def keys_of(feature_set: FeatureSet, row: Row) -> set[BlockKey]:
    """The blocks `add_row` will touch: what to load first."""
    return {_place(row, hop)[1] for hop in levels(feature_set, row.event)}


def _place(row: Row, hop_ms: int) -> tuple[int, BlockKey]:
    """Start of the row's tile at a level, and its block."""
    start = row.time_ms // hop_ms * hop_ms if hop_ms else 0
    return start, BlockKey(row.entity, row.event, hop_ms, start // (hop_ms * BLOCK_TILES) if hop_ms else 0)


def add_row(feature_set: FeatureSet, row: Row, blocks: MutableMapping[BlockKey, Block]) -> set[BlockKey]:
    """Merge a row into the blocks of every level of its event; returns the keys of the replaced blocks.

    `blocks` must hold every existing block of `keys_of`; an absent one counts as empty.
    """
    layout, dirty = layout_of(feature_set, row.event), set[BlockKey]()
    for hop in levels(feature_set, row.event):
        start, key = _place(row, hop)
        vector = row.vector if hop else _bounded(layout, row.vector)
        blocks[key] = _with(layout, blocks.get(key), start, vector)
        dirty.add(key)
    return dirty


def _with(layout: Layout, block: Block | None, start: int, vector: list[int]) -> Block:
    """The block with the vector in the tile of that start."""
    if block is None:
        return Block(np.array([start], np.int64), _array(vector)[None])
    starts = block.starts_ms.tolist()
    at = bisect_left(starts, start)
    if at < len(starts) and starts[at] == start:
        slots = block.slots.copy()
        slots[at] = _merged(layout, block.slots[at], vector)
        return Block(block.starts_ms, slots)
    added = _array(vector)[None]
    slots = np.concatenate((block.slots[:at], added, block.slots[at:]))
    return Block(np.array([*starts[:at], start, *starts[at:]], np.int64), slots)


def _bounded(layout: Layout, vector: list[int]) -> list[int]:
    """What of a vector the endless tile keeps."""
    return [number if kept else 0 for number, kept in zip(vector, layout.bounded.tolist(), strict=True)]


def _merged(layout: Layout, held: Int64s, vector: list[int]) -> Int64s:
    """`slots.merge_rows` of two vectors."""
    if layout.width > _NARROW:
        return merge_rows(layout, held[None], _array(vector)[None])[0]
    return _array(_both(layout, held.tolist(), vector))


def _both(layout: Layout, a: list[int], b: list[int]) -> list[int]:
    """The same of two lists; sums are not wrapped yet."""
    if layout.width > _NARROW:
        return merge_rows(layout, _array(a)[None], _array(b)[None])[0].tolist()
    out = [x + y for x, y in zip(a, b, strict=True)]
    out[NEWEST] = max(a[NEWEST], b[NEWEST])
    for pairs, pick in ((layout.minima, min), (layout.maxima, max)):
        for slot, nonnull in pairs:
            out[slot] = a[slot] if not b[nonnull] else b[slot] if not a[nonnull] else pick(a[slot], b[slot])
    for slots, later in ((layout.lasts, True), (layout.firsts, False)):
        for slot in slots:
            takes_b = b[slot + 1] > 0 and (
                not a[slot + 1] > 0
                or (b[slot : slot + _KEY_WIDTH] > a[slot : slot + _KEY_WIDTH] if later
                    else b[slot : slot + _KEY_WIDTH] < a[slot : slot + _KEY_WIDTH])
            )  # fmt: skip
            whole = slice(slot, slot + SLOT_WIDTH["last"])
            out[whole] = b[whole] if takes_b else a[whole]
    for slot, size in layout.registers:
        whole = slice(slot, slot + size)
        out[whole] = [max(pair) for pair in zip(a[whole], b[whole], strict=True)]
    for slot, size in layout.distincts:
        whole = slice(slot, slot + size)
        hashes = sorted({h for h in (*a[whole], *b[whole]) if h}, reverse=True)[:size]
        out[whole] = hashes + [0] * (size - len(hashes))
    for slot, size in layout.recents:
        whole = slice(slot, slot + size * KEY_PARTS)
        out[whole] = _newest(a[whole], b[whole], size)
    return out


def _newest(a: list[int], b: list[int], size: int) -> list[int]:
    """The newest entries of two, by order key, newest first."""
    entries = [tuple(one[i : i + KEY_PARTS]) for one in (a, b) for i in range(0, len(one), KEY_PARTS) if one[i + 1]]
    entries.sort(key=lambda entry: entry[:_KEY_WIDTH], reverse=True)
    flat = [part for entry in entries[:size] for part in entry]
    return flat + [0] * (size * KEY_PARTS - len(flat))


def _matrix(vectors: Sequence[list[int]]) -> Int64s:
    """Shape (n, W), wrapping as `_array`."""
    with contextlib.suppress(OverflowError):
        return np.array(vectors, np.int64)
    return np.stack([_array(vector) for vector in vectors])


def _array(values: list[int]) -> Int64s:
    """int64, wrapping as array arithmetic does."""
    with contextlib.suppress(OverflowError):
        return np.array(values, np.int64)
    return np.array([(v + _HALF) % _WORD - _HALF for v in values], np.int64)
