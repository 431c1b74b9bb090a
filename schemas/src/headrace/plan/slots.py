"""Accumulators: vectors of int64, their layout and their merge.

For a feature set and one of its events a vector is: slot 0 the newest event time of the tile, then each measure's
slots in order (`ir.SLOT_WIDTH`). Kinds merge by + (rows, nonnull, sum, and the two 32-bit limbs of the squares,
added without carry), by min or max, or by order key (`last`: event time, topic number, partition, offset; the topic
number is its index in the set's events plus 1, so that 0 says there is no value). Sum, min and max over nothing hold
0 and are ignored: `nonnull` of the same measure says whether they mean anything.

Shapes: N rows or tiles, W slots, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from headrace.contracts.errors import Fatal
from headrace.plan.ir import SLOT_WIDTH, FeatureSet, SlotKind

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

NEWEST = 0  # slot of the newest event time
LIMB_BITS = 32
_LIMB_MASK = np.uint64((1 << LIMB_BITS) - 1)
_MIN, _MAX = np.iinfo(np.int64).min, np.iinfo(np.int64).max
_ADDED = frozenset({"rows", "nonnull", "sum", "square_lo", "square_hi"})
_KEY_WIDTH = SLOT_WIDTH["last"] - 1


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each measure's slots lie in the vectors of one event of one set.

    `added` are slot numbers merged by +; `minima` and `maxima` pair a slot with the `nonnull` slot that guards it;
    `lasts` are first slots; `of` gives the first slot by measure id and kind; `bounded` marks the slots kept in the
    tile of hop 0, where sums would grow without end.
    """

    event: str
    topic_index: int
    width: int
    added: Int64s
    minima: tuple[tuple[int, int], ...]
    maxima: tuple[tuple[int, int], ...]
    lasts: tuple[int, ...]
    of: dict[str, dict[SlotKind, int]]
    bounded: Bools


@lru_cache(maxsize=256)
def layout_of(feature_set: FeatureSet, event: str) -> Layout:
    """The layout for one event of a set. Raises Fatal when a measure holds values without counting them."""
    added: list[int] = []
    guarded: dict[SlotKind, list[tuple[int, int]]] = {"min": [], "max": []}
    lasts: list[int] = []
    of: dict[str, dict[SlotKind, int]] = {}
    width = 1
    for measure in feature_set.measures:
        if measure.event != event:
            continue
        places: dict[SlotKind, int] = {}
        for kind in measure.slots:
            places[kind] = width
            width += SLOT_WIDTH[kind]
        of[measure.id] = places
        added += [slot for kind, slot in places.items() if kind in _ADDED]
        for kind, slot in places.items():
            if kind == "last":
                lasts.append(slot)
                continue
            if kind not in {"rows", "nonnull"} and "nonnull" not in places:
                raise Fatal(f"measure {measure.id} of {feature_set.name} has slot {kind} but no nonnull slot")
            if kind in guarded:
                guarded[kind].append((slot, places["nonnull"]))
    bounded = np.zeros(width, np.bool_)
    bounded[NEWEST] = True
    for slot in lasts:
        bounded[slot : slot + SLOT_WIDTH["last"]] = True
    return Layout(
        event=event,
        topic_index=feature_set.events.index(event),
        width=width,
        added=np.array(added, np.int64),
        minima=tuple(guarded["min"]),
        maxima=tuple(guarded["max"]),
        lasts=tuple(lasts),
        of=of,
        bounded=bounded,
    )


def square_limbs(values: Int64s) -> tuple[Int64s, Int64s]:
    """Low 32 bits and the rest of each exact square. Needs |value| < 2**47, which declared ranges prove."""
    a = np.abs(values).astype(np.uint64)
    high, low = a >> np.uint64(LIMB_BITS), a & _LIMB_MASK
    square = low * low
    rest = (square >> np.uint64(LIMB_BITS)) + np.uint64(2) * high * low + ((high * high) << np.uint64(LIMB_BITS))
    return (square & _LIMB_MASK).astype(np.int64), rest.astype(np.int64)


def row_vectors(
    layout: Layout,
    times_ms: Int64s,
    partitions: Int64s,
    offsets: Int64s,
    included: Sequence[Bools],
    values: Sequence[tuple[Int64s, Bools] | None],
) -> Int64s:
    """One vector per record, shape (N, W): what a tile of that record alone holds.

    Args:
        included: per measure of the layout, in order, whether its `where` holds.
        values: per measure its values and where they are not null; None for a measure that counts rows.
    """
    rows = np.zeros((len(times_ms), layout.width), np.int64)
    rows[:, NEWEST] = times_ms
    for places, taken, value in zip(layout.of.values(), included, values, strict=True):
        if "rows" in places:
            rows[:, places["rows"]] = taken
        if value is None:
            if "nonnull" in places:
                rows[:, places["nonnull"]] = taken
            continue
        held = taken & value[1]
        number = np.where(held, value[0], 0)
        if "nonnull" in places:
            rows[:, places["nonnull"]] = held
        for kind in ("sum", "min", "max"):
            if kind in places:
                rows[:, places[kind]] = number
        if "square_lo" in places or "square_hi" in places:
            rows[:, places["square_lo"]], rows[:, places["square_hi"]] = square_limbs(number)
        if "last" in places:
            at = places["last"]
            key = np.stack((times_ms, np.full_like(times_ms, layout.topic_index + 1), partitions, offsets, number), axis=1)
            rows[:, at : at + SLOT_WIDTH["last"]] = np.where(held[:, None], key, 0)
    return rows


def merge_rows(layout: Layout, a: Int64s, b: Int64s) -> Int64s:
    """Merge two matrices of vectors row by row, shape (N, W). Commutative and associative."""
    out = a + b
    out[:, NEWEST] = np.maximum(a[:, NEWEST], b[:, NEWEST])
    for pairs, pick in ((layout.minima, np.minimum), (layout.maxima, np.maximum)):
        for slot, nonnull in pairs:
            only_a, only_b = b[:, nonnull] == 0, a[:, nonnull] == 0
            out[:, slot] = np.where(only_a, a[:, slot], np.where(only_b, b[:, slot], pick(a[:, slot], b[:, slot])))
    for slot in layout.lasts:
        takes_b = _holds_last(b, slot) & (~_holds_last(a, slot) | _later(a, b, slot))
        whole = slice(slot, slot + SLOT_WIDTH["last"])
        out[:, whole] = np.where(takes_b[:, None], b[:, whole], a[:, whole])
    return out


def _holds_last(rows: Int64s, slot: int) -> Bools:
    return rows[:, slot + 1] > 0


def _later(a: Int64s, b: Int64s, slot: int) -> Bools:
    """Whether b's order key is the greater one, compared field by field."""
    greater, equal = np.zeros(len(a), np.bool_), np.ones(len(a), np.bool_)
    for column in range(slot, slot + _KEY_WIDTH):
        greater |= equal & (b[:, column] > a[:, column])
        equal &= b[:, column] == a[:, column]
    return greater


def reduce_by(layout: Layout, group_ids: Int64s, rows: Int64s) -> tuple[Int64s, Int64s]:
    """Merge the rows of each group, in whatever order they come.

    Returns: the distinct group ids ascending, shape (G,), and their vectors, shape (G, W).
    """
    if not len(rows):
        return np.empty(0, np.int64), np.empty((0, layout.width), np.int64)
    order = np.argsort(group_ids, kind="stable")
    ids, rows = group_ids[order], rows[order]
    first = np.flatnonzero(np.concatenate(([True], ids[1:] != ids[:-1])))
    if len(first) == len(rows):
        return ids, rows
    out = np.zeros((len(first), layout.width), np.int64)
    out[:, layout.added] = np.add.reduceat(rows[:, layout.added], first, axis=0)
    out[:, NEWEST] = np.maximum.reduceat(rows[:, NEWEST], first)
    for pairs, pick, neutral in ((layout.minima, np.minimum, _MAX), (layout.maxima, np.maximum, _MIN)):
        for slot, nonnull in pairs:
            found = pick.reduceat(np.where(rows[:, nonnull] > 0, rows[:, slot], neutral), first)
            out[:, slot] = np.where(out[:, nonnull] > 0, found, 0)
    if layout.lasts:
        group = np.repeat(np.arange(len(first)), np.diff(first, append=len(rows)))
        for slot in layout.lasts:
            _reduce_last(rows, out, first, group, slot)
    return ids[first], out


def _reduce_last(rows: Int64s, out: Int64s, first: Int64s, group: Int64s, slot: int) -> None:
    """Narrow the candidates of each group to the greatest order key, one key field at a time; linear, no sort."""
    candidate = _holds_last(rows, slot)
    for column in range(slot, slot + _KEY_WIDTH):
        best = np.maximum.reduceat(np.where(candidate, rows[:, column], _MIN), first)
        candidate &= rows[:, column] == best[group]
    at = np.flatnonzero(candidate)
    whole = slice(slot, slot + SLOT_WIDTH["last"])
    out[group[at], whole] = rows[at, whole]


def ranges(owner: Int64s, position: Int64s, asked: Int64s, low: Int64s, high: Int64s) -> tuple[Int64s, Int64s]:
    """Row ranges [from, to) of each question's owner with low <= position <= high.

    Args:
        owner, position: shape (N,), sorted by (owner, position).
        asked, low, high: shape (Q,), the owner each question is about and its closed interval.
    """
    if not len(owner):
        return np.zeros(len(asked), np.int64), np.zeros(len(asked), np.int64)
    if owner[0] == owner[-1] and len(asked) == 1 and asked[0] == owner[0]:
        return np.searchsorted(position, low), np.maximum(
            np.searchsorted(position, high, "right"), np.searchsorted(position, low)
        )
    ascending = np.sort(position)  # not np.unique: its hash table takes ten times as long
    distinct = ascending[np.concatenate(([True], ascending[1:] != ascending[:-1]))]
    stride = len(distinct) + 1  # ranks instead of times: owner * stride + rank cannot overflow
    rows = owner * stride + np.searchsorted(distinct, position)
    start = np.searchsorted(rows, asked * stride + np.searchsorted(distinct, low))
    end = np.searchsorted(rows, asked * stride + np.searchsorted(distinct, high, "right"))
    return start, np.maximum(start, end)


def reduce_ranges(layout: Layout, rows: Int64s, start: Int64s, end: Int64s) -> Int64s:
    """Merge the rows of each range [start, end), shape (Q, W); an empty range gives zeros (newest included).

    Rows must be ordered so that `last` keys do not fall inside a range: tiles by start, records by order key.
    Sums go by prefix sums (exact, also when the prefix wraps), min and max by reduceat.
    """
    out = np.zeros((len(start), layout.width), np.int64)
    some = end > start
    if not some.any():
        return out
    prefix = np.zeros((len(rows) + 1, len(layout.added)), np.int64)
    np.cumsum(rows[:, layout.added], axis=0, out=prefix[1:])
    out[:, layout.added] = prefix[end] - prefix[start]
    pick = _Extremes(start, end, some)
    out[:, NEWEST] = pick(np.maximum, rows[:, NEWEST], _MIN)
    for pairs, best, neutral in ((layout.minima, np.minimum, _MAX), (layout.maxima, np.maximum, _MIN)):
        for slot, nonnull in pairs:
            found = pick(best, np.where(rows[:, nonnull] > 0, rows[:, slot], neutral), neutral)
            out[:, slot] = np.where(out[:, nonnull] > 0, found, 0)
    for slot in layout.lasts:
        held = np.maximum.accumulate(np.where(_holds_last(rows, slot), np.arange(len(rows)), -1))
        at = held[np.maximum(end, 1) - 1]
        whole = slice(slot, slot + SLOT_WIDTH["last"])
        out[:, whole] = np.where((some & (at >= start))[:, None], rows[at, whole], 0)
    return out


class _Extremes:
    """reduceat over ranges. Sorted by start first, else the gaps between unsorted ranges cost more than the ranges."""

    def __init__(self, start: Int64s, end: Int64s, some: Bools) -> None:
        self._order = np.argsort(start, kind="stable")
        self._edges = np.stack((start[self._order], end[self._order]), axis=1).ravel()
        self._some = some

    def __call__(self, best: np.ufunc, column: Int64s, neutral: int) -> Int64s:
        padded = np.append(column, neutral)  # an edge may be len(column)
        found = np.empty(len(self._order), np.int64)
        found[self._order] = best.reduceat(padded, self._edges)[::2]
        return np.where(self._some, found, 0)
