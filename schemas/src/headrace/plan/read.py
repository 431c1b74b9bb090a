"""Read: the feature vector of entities at request times, from blocks, the maxima under their cut, and the base floor.

A window covers the tiles that start in [floor(t - W, hop), t]; hop 0 reads the newest values not older than W. Sums
come from prefix sums, min and max from reduceat, all over exact integers; `lower` makes the floats.

Shapes: N requests, T terms, F features, W slots.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from headrace.contracts.errors import Fatal
from headrace.plan.ir import FeatureSet, Measure, SlotKind, Term, slot_width
from headrace.plan.lower import (
    COUNTS,
    ORDERED,
    RECENT,
    SQUARED,
    FeatureRows,
    Status,
    TermColumns,
    TermIntegers,
    cells_slot,
    count_slot,
    lower,
    lower_one,
    terms_of,
    value_slot,
)
from headrace.plan.sketches import KEY_PARTS
from headrace.plan.slots import NEWEST, Layout, layout_of, ranges, reduce_ranges
from headrace.plan.tiles import Block, BlockKey, block_index, floor_ms, tile_start

__all__ = ["FeatureRows", "Status", "read_features", "read_keys"]

Int64s = npt.NDArray[np.int64]
Int8s = npt.NDArray[np.int8]
Bools = npt.NDArray[np.bool_]
Blocks = Callable[[Sequence[BlockKey]], Sequence[Block | None]]

_LAST_VALUE = 4  # place of the value in the slots of `last`; the event time stands first


@dataclass(frozen=True, slots=True)
class TermSlots:
    """Where a term finds its integers in the vectors of its event; -1: not needed.

    `last` is the event time of the newest value, `cells` the first of `width` slots that are needed as a whole.
    """

    term: Term
    count: int
    total: int
    square_lo: int
    square_hi: int
    last: int
    cells: int = -1
    width: int = 0
    cells_kind: SlotKind | None = None

    def columns(self, vectors: Int64s, status: Int8s, times: Int64s, low: Int64s) -> TermColumns:
        """The integers of merged vectors (N, W) for requests at `times` whose windows begin at `low`."""
        zero = np.zeros(len(vectors), np.int64)
        kind = self.term.kind
        if kind in RECENT:
            return self._recent(vectors, status, low)
        pick = [vectors[:, i] if i >= 0 else zero for i in (self.count, self.total, self.square_lo, self.square_hi)]
        if kind == "since":
            pick[1] = times - vectors[:, self.last]
        cells = vectors[:, self.cells : self.cells + self.width] if self.cells >= 0 else None
        if cells is not None:
            pick[0] = cells.sum(axis=1) if self.cells_kind == "histogram" else zero
        return TermColumns(pick[0], pick[1], pick[2], pick[3], status, cells)

    def _recent(self, vectors: Int64s, status: Int8s, low: Int64s) -> TermColumns:
        """Of the newest values those not older than the window: one of them, or their number and sum."""
        entries = vectors[:, self.cells : self.cells + self.width].reshape(len(vectors), -1, KEY_PARTS)
        held = (entries[:, :, 1] > 0) & (entries[:, :, 0] >= low[:, None])
        values = np.where(held, entries[:, :, _LAST_VALUE], 0)
        if self.term.kind == "recent":
            held, values = held[:, self.term.argument, None], values[:, self.term.argument, None]
        zero = np.zeros(len(vectors), np.int64)
        return TermColumns(held.sum(axis=1), values.sum(axis=1), zero, zero, status)


def _term_slots(term: Term, measure: Measure, places: Mapping[SlotKind, int]) -> TermSlots:
    kind, whole = value_slot(term), cells_slot(measure, term)
    if term.kind == "bucket":
        return TermSlots(term, places["histogram"] + term.argument, -1, -1, -1, -1)
    if whole is not None:
        return TermSlots(term, -1, -1, -1, -1, -1, places[whole], slot_width(measure, whole), whole)
    if kind in ("last", "first", "recent"):
        # The topic number of a value is 0 where there is none, so it tells presence as a count does.
        at = places[kind]
        wide = (at, slot_width(measure, kind)) if kind == "recent" else (-1, 0)
        return TermSlots(term, at + 1, at + _LAST_VALUE, -1, -1, at, *wide)
    squares = (places["square_lo"], places["square_hi"]) if term.kind in SQUARED else (-1, -1)
    return TermSlots(term, places[count_slot(measure)], places[kind] if kind else -1, *squares, -1)


@dataclass(frozen=True, slots=True)
class Level:
    """The tiles of one event at one hop: the windows read from them, each with its terms' numbers (axis T)."""

    event: str
    hop_ms: int
    layout: Layout
    widest_ms: int
    windows: tuple[tuple[int, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class ReadPlan:
    levels: tuple[Level, ...]
    terms: tuple[TermSlots, ...]


@lru_cache(maxsize=64)
def read_plan(feature_set: FeatureSet) -> ReadPlan:
    """Compile a set once: which levels, which windows, which slots."""
    measures = {m.id: m for m in feature_set.measures}
    terms: list[TermSlots] = []
    windows: dict[tuple[str, int], dict[int, list[int]]] = {}
    for number, term in enumerate(terms_of(feature_set)):
        measure = measures[term.measure]
        if term.hop_ms == 0 and term.kind not in ORDERED:
            raise Fatal(f"{feature_set.name}: {term.kind} needs a hop, hop 0 keeps only last values")
        terms.append(_term_slots(term, measure, layout_of(feature_set, measure.event).of[measure.id]))
        windows.setdefault((measure.event, term.hop_ms), {}).setdefault(term.window_ms, []).append(number)
    levels = tuple(
        Level(event, hop, layout_of(feature_set, event), max(of), tuple((w, tuple(n)) for w, n in of.items()))
        for (event, hop), of in windows.items()
    )
    return ReadPlan(levels, tuple(terms))


def window_start(times_ms: Int64s, window_ms: int, hop_ms: int) -> Int64s:
    """First instant a window covers: the hop that holds t - W; exactly t - W for last values."""
    low = times_ms - window_ms
    return tile_start(low, hop_ms) if hop_ms else low


def read_keys(feature_set: FeatureSet, entities: Sequence[str], times_ms: Sequence[int] | Int64s) -> list[BlockKey]:
    """The blocks `read_features` will ask for, in its order."""
    times = np.asarray(times_ms, np.int64)
    return [key for level in read_plan(feature_set).levels for key in _level_keys(level, entities, times)[0]]


def read_features(
    feature_set: FeatureSet,
    entities: Sequence[str],
    times_ms: Sequence[int] | Int64s,
    blocks: Blocks,
    maxima: Mapping[str, int | None],
    base_floor_ms: int | None,
) -> FeatureRows:
    """Features of N requests (entity, t) under one cut.

    Args:
        times_ms: request times, event time.
        blocks: multi-get; None for a block that does not exist. Called once.
        maxima: per event the largest M over its partitions under the cut; absent or None: no record yet.
    """
    plan, times = read_plan(feature_set), np.asarray(times_ms, np.int64)
    asked = [_level_keys(level, entities, times) for level in plan.levels]
    found = blocks([key for keys, _ in asked for key in keys])
    if len(entities) == 1:
        return _read_one(feature_set, plan, times, [len(keys) for keys, _ in asked], found, maxima, base_floor_ms)
    terms: list[TermColumns | None] = [None] * len(plan.terms)
    at = 0
    for level, (keys, owners) in zip(plan.levels, asked, strict=True):
        tiles = _gather(level, found[at : at + len(keys)], owners)
        at += len(keys)
        floor = floor_ms(feature_set, level.event, maxima, base_floor_ms)
        staleness = _staleness(times, maxima.get(level.event), feature_set.stale_after_ms)
        for window_ms, numbers in level.windows:
            low = window_start(times, window_ms, level.hop_ms)
            vectors, present = _window(level, tiles, times, low)
            base = staleness if floor is None else np.where(low < floor, np.int8(Status.EXPIRED), staleness)
            for number in numbers:
                terms[number] = _term(plan.terms[number], level.hop_ms, vectors, present, times, low, base)
    return lower(feature_set, [t for t in terms if t is not None])


def _level_keys(level: Level, entities: Sequence[str], times: Int64s) -> tuple[list[BlockKey], Int64s]:
    """Block keys of each request in turn, and the request each belongs to."""
    hop, event = level.hop_ms, level.event
    first = block_index(window_start(times, level.widest_ms, hop), hop)
    last = block_index(times, hop)
    keys = [
        BlockKey(entity, event, hop, index)
        for entity, low, high in zip(entities, first.tolist(), last.tolist(), strict=True)
        for index in range(low, high + 1)
    ]
    return keys, np.repeat(np.arange(len(times)), last - first + 1)


def _gather(level: Level, found: Sequence[Block | None], owners: Int64s) -> tuple[Int64s, Int64s, Int64s]:
    """Tiles of a level as (owner, start, vector) columns sorted by owner and start."""
    held = [(i, block) for i, block in enumerate(found) if block is not None]
    if not held:
        empty = np.empty(0, np.int64)
        return empty, empty, np.empty((0, level.layout.width), np.int64)
    if len(held) == 1:
        block = held[0][1]
        return np.full(len(block.starts_ms), owners[held[0][0]]), block.starts_ms, block.slots
    sizes = [len(block.starts_ms) for _, block in held]
    owner = np.repeat(owners[[i for i, _ in held]], sizes)
    return owner, np.concatenate([b.starts_ms for _, b in held]), np.concatenate([b.slots for _, b in held])


def _window(level: Level, tiles: tuple[Int64s, Int64s, Int64s], times: Int64s, low: Int64s) -> tuple[Int64s, Bools]:
    """Merged vectors of one window, shape (N, W), and which windows hold any tile; zeros where they do not."""
    owner, starts, slots = tiles
    if level.hop_ms:
        begin, end = ranges(owner, starts, np.arange(len(times)), low, times)
    else:
        zero = np.zeros(len(times), np.int64)
        begin, end = ranges(owner, starts, np.arange(len(times)), zero, zero)
    return reduce_ranges(level.layout, slots, begin, end), end > begin


def _staleness(times: Int64s, maximum_ms: int | None, stale_after_ms: int) -> Int8s:
    """Stale where t is too far past the newest event of the topic, or the topic has none."""
    if maximum_ms is None:
        return np.full(len(times), Status.STALE, np.int8)
    return (times - maximum_ms > stale_after_ms).astype(np.int8)


def _term(
    where: TermSlots, hop_ms: int, vectors: Int64s, present: Bools, times: Int64s, low: Int64s, base: Int8s
) -> TermColumns:
    """Status and integers of one term; `base` knows expired and stale, this adds ahead and missing."""
    newest = vectors[:, NEWEST]
    if not hop_ms:
        newest = vectors[:, where.last]
        vectors = np.where((newest < low)[:, None], 0, vectors)  # older than its maximum age: as if it were not there
        present = vectors[:, where.count] > 0
    columns = where.columns(vectors, base, times, low)
    status = np.where(present & (newest > times), np.maximum(base, np.int8(Status.AHEAD)), base)
    if where.term.kind not in COUNTS:
        status = np.where(columns.count == 0, np.maximum(status, np.int8(Status.MISSING)), status)
    return replace(columns, status=status.astype(np.int8))


# ---------------------------------------------------------------- one request: the same law without arrays of length one


def _read_one(
    feature_set: FeatureSet, plan: ReadPlan, times: Int64s, sizes: Sequence[int], found: Sequence[Block | None],
    maxima: Mapping[str, int | None], base_floor_ms: int | None,
) -> FeatureRows:  # fmt: skip
    terms: list[TermIntegers | None] = [None] * len(plan.terms)
    t, at = int(times[0]), 0
    for level, size in zip(plan.levels, sizes, strict=True):
        held = [block for block in found[at : at + size] if block is not None]
        at += size
        starts = [start for block in held for start in block.starts_ms.tolist()]
        slots = held[0].slots if len(held) == 1 else np.concatenate([b.slots for b in held]) if held else None
        floor, top = floor_ms(feature_set, level.event, maxima, base_floor_ms), maxima.get(level.event)
        fresh = Status.STALE if top is None or t - top > feature_set.stale_after_ms else Status.FRESH
        for window_ms, numbers in level.windows:
            low = int(window_start(times, window_ms, level.hop_ms)[0])
            begin, end = (bisect_left(starts, low), bisect_right(starts, t)) if level.hop_ms else (0, len(starts))
            rows = None if slots is None or begin >= end else slots[begin:end]
            base = Status.EXPIRED if floor is not None and low < floor else fresh
            for number, term in zip(
                numbers, _terms_one(level, [plan.terms[i] for i in numbers], rows, t, low, base), strict=True
            ):
                terms[number] = term
    values, statuses = lower_one(feature_set, [x for x in terms if x is not None])
    return FeatureRows(np.array([values], np.float64), np.array([statuses], np.int8))


def _terms_one(
    level: Level, terms: Sequence[TermSlots], rows: Int64s | None, t: int, low: int, base: Status
) -> Iterator[TermIntegers]:
    """The terms of one window over its tiles, which stand in the order of their start."""
    if rows is None:
        nothing = max(base, Status.MISSING)
        for x in terms:
            cells = [0] * x.width if x.cells_kind else None
            yield TermIntegers(base if x.term.kind in COUNTS else nothing, 0, 0, 0, 0, cells)
        return
    sums, newest = rows.sum(axis=0).tolist(), int(rows[:, NEWEST].max())
    for x in terms:
        kind, newest_here, cells = x.term.kind, newest, None
        count, total = (sums[x.count] if x.count >= 0 else 0), sums[x.total]
        if kind in ORDERED or kind == "first":
            count, total, newest_here = _ordered_one(x, rows, t, low, level.hop_ms, newest)
        elif x.cells_kind:
            cells = _cells_one(x, rows, sums)
            count = sum(cells)
        elif kind in ("min", "max") and count:
            column = rows[rows[:, x.count] > 0, x.total]
            total = int(column.min() if kind == "min" else column.max())
        status = base
        if newest_here > t and (level.hop_ms or count or kind in RECENT):
            status = max(status, Status.AHEAD)
        if not count and kind not in COUNTS:
            status = max(status, Status.MISSING)
        lo, hi = (sums[x.square_lo], sums[x.square_hi]) if x.square_lo >= 0 else (0, 0)
        yield TermIntegers(status, count, total, lo, hi, cells)


def _ordered_one(x: TermSlots, rows: Int64s, t: int, low: int, hop_ms: int, newest: int) -> tuple[int, int, int]:
    """Count, total and newest event of a term whose values stand by order key, over tiles in the order of their start."""
    if x.term.kind in RECENT:
        entries = [entry for entry in rows[:, x.cells : x.cells + x.width].reshape(-1, KEY_PARTS).tolist() if entry[1]]
        entries.sort(reverse=True)
        newest = entries[0][0] if entries and not hop_ms else newest
        kept = [entry[_LAST_VALUE] for entry in entries[: x.width // KEY_PARTS] if entry[0] >= low]
        if x.term.kind == "recent":
            kept = kept[x.term.argument : x.term.argument + 1]
        if not hop_ms and (not entries or newest < low):
            return 0, 0, low  # nothing young enough, so nothing ahead
        return len(kept), sum(kept), newest
    order = range(len(rows)) if x.term.kind == "first" else range(len(rows) - 1, -1, -1)
    at = next((i for i in order if rows[i, x.count]), None)
    if at is None:
        return 0, 0, newest
    time = int(rows[at, x.last])
    if not hop_ms:
        newest = time
        if time < low:
            return 0, 0, newest
    return 1, t - time if x.term.kind == "since" else int(rows[at, x.total]), newest


def _cells_one(x: TermSlots, rows: Int64s, sums: list[int]) -> list[int]:
    whole = slice(x.cells, x.cells + x.width)
    if x.cells_kind == "histogram":
        return sums[whole]
    if x.cells_kind == "registers":
        return rows[:, whole].max(axis=0).tolist()
    hashes = sorted({h for row in rows[:, whole].tolist() for h in row if h}, reverse=True)[: x.width]
    return hashes + [0] * (x.width - len(hashes))
