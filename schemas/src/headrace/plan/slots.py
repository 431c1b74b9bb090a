"""Accumulators: vectors of int64, their layout and their merge.

For a feature set and one of its events a vector is: slot 0 the newest event time of the tile, then each measure's
slots in order (`ir.slot_width`). Kinds merge by + (rows, nonnull, sum, the buckets of a histogram, and the two 32-bit
limbs of the squares, added without carry), by min or max, or by order key (`last`, `first`: event time, topic number,
partition, offset; the topic number is its index in the set's events plus 1, so that 0 says there is no value); sets of
hashes and recent values as sketches.py says. Sum, min and max over nothing hold 0 and are ignored: `nonnull` of the
same measure says whether they mean anything.

Shapes: N rows or tiles, W slots, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from headrace.contracts.errors import Fatal
from headrace.plan.ir import SLOT_WIDTH, FeatureSet, Measure, SlotKind, slot_width
from headrace.plan.sketches import greatest_distinct, newest_values, register_ranks

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

NEWEST = 0  # slot of the newest event time
LIMB_BITS = 32
_LIMB_MASK = np.uint64((1 << LIMB_BITS) - 1)
_MIN, _MAX = np.iinfo(np.int64).min, np.iinfo(np.int64).max
_ADDED = frozenset({"rows", "nonnull", "sum", "square_lo", "square_hi", "histogram"})
_UNGUARDED = frozenset({"rows", "nonnull", "last", "first", "recent", "distinct", "registers", "histogram"})
_KEYED = frozenset({"last", "first", "recent"})
_BOUNDED = frozenset({"last", "recent"})
_KEY_WIDTH = SLOT_WIDTH["last"] - 1
_EXPANDED_MAX = 1 << 20  # bounds the memory of one step of a reduction that looks at each entry


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each measure's slots lie in the vectors of one event of one set.

    `added` are slot numbers merged by +; `minima` and `maxima` pair a slot with the `nonnull` slot that guards it;
    `lasts` and `firsts` are first slots; `recents`, `distincts` and `registers` pair a first slot with a size; `of` gives
    the first slot by measure id and kind; `edges`, `sizes` and `widths` are by measure id; `bounded` marks the slots kept
    in the tile of hop 0, where sums would grow without end.
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
    firsts: tuple[int, ...] = ()
    recents: tuple[tuple[int, int], ...] = ()
    distincts: tuple[tuple[int, int], ...] = ()
    registers: tuple[tuple[int, int], ...] = ()
    edges: dict[str, Int64s] = field(default_factory=dict[str, Int64s])
    sizes: dict[str, int] = field(default_factory=dict[str, int])
    widths: dict[str, int] = field(default_factory=dict[str, int])


@lru_cache(maxsize=256)
def layout_of(feature_set: FeatureSet, event: str) -> Layout:
    """The layout for one event of a set. Raises Fatal when a measure holds values without counting them."""
    measures = [m for m in feature_set.measures if m.event == event]
    added: list[int] = []
    spans: dict[SlotKind, list[tuple[int, int]]] = {}  # first slot and nonnull slot, or size
    of: dict[str, dict[SlotKind, int]] = {}
    width = 1
    for measure in measures:
        places: dict[SlotKind, int] = {}
        for kind in measure.slots:
            places[kind] = width
            width += slot_width(measure, kind)
        of[measure.id] = places
        for kind, slot in places.items():
            if kind not in _UNGUARDED and "nonnull" not in places:
                raise Fatal(f"measure {measure.id} of {feature_set.name} has slot {kind} but no nonnull slot")
            if kind in _ADDED:
                added += range(slot, slot + slot_width(measure, kind))
            spans.setdefault(kind, []).append((slot, places["nonnull"] if kind in ("min", "max") else measure.size))
    return Layout(
        event=event,
        topic_index=feature_set.events.index(event),
        width=width,
        added=np.array(added, np.int64),
        minima=tuple(spans.get("min", ())),
        maxima=tuple(spans.get("max", ())),
        lasts=tuple(slot for slot, _ in spans.get("last", ())),
        of=of,
        bounded=_bounded(measures, of, width),
        firsts=tuple(slot for slot, _ in spans.get("first", ())),
        recents=tuple(spans.get("recent", ())),
        distincts=tuple(spans.get("distinct", ())),
        registers=tuple(spans.get("registers", ())),
        edges={m.id: np.array(m.edges, np.int64) for m in measures if "histogram" in m.slots},
        sizes={m.id: m.size for m in measures},
        widths={m.id: sum(slot_width(m, kind) for kind in m.slots) for m in measures},
    )


def _bounded(measures: Sequence[Measure], of: dict[str, dict[SlotKind, int]], width: int) -> Bools:
    bounded = np.zeros(width, np.bool_)
    bounded[NEWEST] = True
    for measure in measures:
        for kind, slot in of[measure.id].items():
            if kind in _BOUNDED:
                bounded[slot : slot + slot_width(measure, kind)] = True
    return bounded


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
    for (identity, places), taken, value in zip(layout.of.items(), included, values, strict=True):
        if "rows" in places:
            rows[:, places["rows"]] = taken
        held = taken if value is None else taken & value[1]
        if "nonnull" in places:
            rows[:, places["nonnull"]] = held
        if value is None and _KEYED.isdisjoint(places):
            continue
        number = np.zeros(len(rows), np.int64) if value is None else np.where(held, value[0], 0)
        for kind in ("sum", "min", "max"):
            if kind in places:
                rows[:, places[kind]] = number
        if "square_lo" in places or "square_hi" in places:
            rows[:, places["square_lo"]], rows[:, places["square_hi"]] = square_limbs(number)
        for kind in ("last", "first", "recent"):
            if kind in places:
                at = places[kind]
                key = np.stack((times_ms, np.full_like(times_ms, layout.topic_index + 1), partitions, offsets, number), axis=1)
                rows[:, at : at + SLOT_WIDTH["last"]] = np.where(held[:, None], key, 0)
        if "distinct" in places:
            rows[:, places["distinct"]] = number
        if "registers" in places or "histogram" in places:
            _place(layout, identity, places, rows, held, number)
    return rows


def _place(layout: Layout, identity: str, places: dict[SlotKind, int], rows: Int64s, held: Bools, number: Int64s) -> None:
    """Kinds of which one record fills one slot among many."""
    at = np.flatnonzero(held)
    if "registers" in places:
        register, rank = register_ranks(number[at], layout.sizes[identity])
        rows[at, places["registers"] + register] = rank
    if "histogram" in places:
        rows[at, places["histogram"] + np.searchsorted(layout.edges[identity], number[at], "right")] = 1


def scatter_wide(layout: Layout, identity: str, group: Int64s, held: Bools, values: Int64s, out: Int64s) -> None:
    """Add records to their groups' vectors (G, W) without a vector of their own: hashes, registers, histogram of a measure.

    Args:
        group: per record its row of `out`, shape (N,).
    """
    places, at = layout.of[identity], np.flatnonzero(held)
    number, owner = values[at], group[at]
    if "distinct" in places:
        slot, size = places["distinct"], layout.sizes[identity]
        out[:, slot : slot + size] = greatest_distinct(number[:, None], owner, len(out), size)
    if "registers" in places:
        register, rank = register_ranks(number, layout.sizes[identity])
        np.maximum.at(out, (owner, places["registers"] + register), rank)
    if "histogram" in places:
        np.add.at(out, (owner, places["histogram"] + np.searchsorted(layout.edges[identity], number, "right")), 1)


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
    for slot in layout.firsts:
        takes_b = _holds_last(b, slot) & (~_holds_last(a, slot) | _later(b, a, slot))
        whole = slice(slot, slot + SLOT_WIDTH["first"])
        out[:, whole] = np.where(takes_b[:, None], b[:, whole], a[:, whole])
    for slot, size in layout.registers:
        out[:, slot : slot + size] = np.maximum(a[:, slot : slot + size], b[:, slot : slot + size])
    if layout.recents or layout.distincts:
        _reduce_entries(layout, np.concatenate((a, b)), np.tile(np.arange(len(a)), 2), out)
    return out


def _reduce_entries(layout: Layout, rows: Int64s, group: Int64s, out: Int64s) -> None:
    """Kinds that keep some entries of all: rows (N, W) with their group (N,), in any order, into out (G, W)."""
    for slot, size in layout.distincts:
        whole = slice(slot, slot + size)
        out[:, whole] = greatest_distinct(rows[:, whole], group, len(out), size)
    for slot, size in layout.recents:
        whole = slice(slot, slot + size * SLOT_WIDTH["recent"])
        out[:, whole] = newest_values(rows[:, whole], group, len(out))


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
    if layout.lasts or layout.firsts or layout.recents or layout.distincts or layout.registers:
        group = np.repeat(np.arange(len(first)), np.diff(first, append=len(rows)))
        for slot in layout.lasts:
            _reduce_last(rows, out, first, group, slot, np.maximum, _MIN)
        for slot in layout.firsts:
            _reduce_last(rows, out, first, group, slot, np.minimum, _MAX)
        for slot, size in layout.registers:
            row, column = np.nonzero(rows[:, slot : slot + size])  # few are set: a third of the time of reduceat
            np.maximum.at(out, (group[row], slot + column), rows[row, slot + column])
        _reduce_entries(layout, rows, group, out)
    return ids[first], out


def _reduce_last(rows: Int64s, out: Int64s, first: Int64s, group: Int64s, slot: int, pick: np.ufunc, neutral: int) -> None:
    """Narrow the candidates of each group to the greatest (or least) order key, one key field at a time; linear, no sort."""
    candidate = _holds_last(rows, slot)
    for column in range(slot, slot + _KEY_WIDTH):
        best = pick.reduceat(np.where(candidate, rows[:, column], neutral), first)
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
    for slot in layout.firsts:
        held = np.minimum.accumulate(np.where(_holds_last(rows, slot), np.arange(len(rows)), len(rows))[::-1])[::-1]
        at = held[np.minimum(start, len(rows) - 1)]
        whole = slice(slot, slot + SLOT_WIDTH["first"])
        out[:, whole] = np.where((some & (at < end))[:, None], rows[np.minimum(at, len(rows) - 1), whole], 0)
    for slot, size in layout.registers:
        out[:, slot : slot + size] = pick.columns(np.maximum, rows[:, slot : slot + size])
    if layout.recents or layout.distincts:
        _reduce_range_entries(layout, rows, start, end, out)
    return out


def _reduce_range_entries(layout: Layout, rows: Int64s, start: Int64s, end: Int64s, out: Int64s) -> None:
    """Every pair of range and row, so many ranges at a time that the pairs stay bounded (one range is never split)."""
    size = np.maximum(end - start, 0)
    pairs, a = np.concatenate(([0], np.cumsum(size))), 0
    limit = max(1, _EXPANDED_MAX // layout.width)
    while a < len(start):
        b = max(a + 1, int(np.searchsorted(pairs, pairs[a] + limit, "right")) - 1)
        group = np.repeat(np.arange(b - a), size[a:b])
        row = np.arange(len(group)) - np.repeat(pairs[a:b] - pairs[a], size[a:b]) + np.repeat(start[a:b], size[a:b])
        _reduce_entries(layout, rows[row], group, out[a:b])
        a = b


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

    def columns(self, best: np.ufunc, columns: Int64s) -> Int64s:
        """Several columns at once, shape (Q, K); 0 is neutral."""
        padded = np.concatenate((columns, np.zeros((1, columns.shape[1]), np.int64)))
        found = np.empty((len(self._order), columns.shape[1]), np.int64)
        found[self._order] = best.reduceat(padded, self._edges, axis=0)[::2]
        return np.where(self._some[:, None], found, 0)
