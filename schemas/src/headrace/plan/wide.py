"""Reading sets of many features: `read_features` once per entity and tile range, then all features lowered at once.

What a window holds (`Held`) depends on the entity's blocks and on which tiles t falls into, not on t itself: it may be kept
until a block of the entity changes. From there values and statuses of N requests are a few operations on (N, T) arrays.

Features of counts, sums, means, extremes and their ratios go this way; the others, and integers too large for one exact
division of floats, go through `read_features` and `lower`, which stay the law: both ways agree bit for bit.

Shapes: N requests, J windows (of an event at a hop), X kept integers, T terms, F features.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from headrace.plan.ir import Feature, FeatureSet, Term
from headrace.plan.lower import FeatureRows, Status, TermColumns, lower
from headrace.plan.read import Blocks, Level, TermSlots, read_features, read_plan
from headrace.plan.slots import NEWEST
from headrace.plan.tiles import BLOCK_TILES, Block, BlockKey, floor_ms

Int64s = npt.NDArray[np.int64]
Int8s = npt.NDArray[np.int8]
Floats = npt.NDArray[np.float64]

FEATURES_MIN = 16  # fewer are read as quickly by `read_features`
REQUESTS_MAX = 4  # more share the cost of its arrays
_EXACT = 1 << 53  # integers up to here are float64 values, and one division of two of them is correctly rounded
_WIDE = frozenset({"count", "sum", "mean", "min", "max"})
_MAX, _MIN = np.iinfo(np.int64).max, np.iinfo(np.int64).min


class Held(NamedTuple):
    """What the windows of one entity hold: merged integers (X,), newest event time by window (J,), _MIN where empty."""

    numbers: Int64s
    newest: Int64s


class Marks(NamedTuple):
    """Which tiles a time falls into: first instant of each window, and per level first and last block and last tile."""

    lows: tuple[int, ...]
    ends: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class WideLevel:
    """One event at one hop. columns picked from the merged vectors; extremes are pairs of their slots and guards."""

    level: Level
    windows: tuple[int, ...]
    added: Int64s
    minima: Int64s
    minima_guards: Int64s
    maxima: Int64s
    maxima_guards: Int64s


@dataclass(frozen=True, slots=True)
class WidePlan:
    """A set compiled. wide: positions of the features read here; rest: the set of the others, or None."""

    feature_set: FeatureSet
    wide: Int64s
    rest: FeatureSet | None
    rest_at: Int64s
    levels: tuple[WideLevel, ...]
    windows: tuple[tuple[str, int], ...]  # event, window ms
    window_of: Int64s  # (T,) which window a term reads
    count_at: Int64s  # (T,) places in Held.numbers
    total_at: Int64s
    counts: npt.NDArray[np.bool_]  # (T,) the term is a count
    means: npt.NDArray[np.bool_]
    unit: Int64s  # (T,) 10 ** scale
    first: Int64s  # (F,) first term of a feature
    second: Int64s  # (R,) second terms, of the ratios only
    ratios: Int64s  # (R,) features that are ratios
    impute: Floats | None  # (F,) NaN where nothing is imputed


@lru_cache(maxsize=64)
def wide_plan(feature_set: FeatureSet) -> WidePlan:
    """Compile a set once."""
    fits = [_fits(f) for f in feature_set.features]
    wide = tuple(f for f, ok in zip(feature_set.features, fits, strict=True) if ok)
    others = tuple(f for f, ok in zip(feature_set.features, fits, strict=True) if not ok)
    mine = replace(feature_set, features=wide)
    terms = read_plan(mine).terms if wide else ()
    levels: list[WideLevel] = []
    windows: list[tuple[str, int]] = []
    window_of, count_at, total_at = (np.zeros(len(terms), np.int64) for _ in range(3))
    width = 0
    for level in read_plan(mine).levels if wide else ():
        used = {i for _, numbers in level.windows for i in numbers}
        one = _wide_level(level, used, terms, len(windows))
        places = {slot: at for at, slot in enumerate([*one.added, *one.minima, *one.maxima])}
        for window_ms, numbers in level.windows:
            for i in numbers:
                window_of[i] = len(windows)
                count_at[i] = width + places[terms[i].count]
                total_at[i] = width + places[terms[i].total] if terms[i].total >= 0 else count_at[i]
            windows.append((level.event, window_ms))
            width += len(places)
        levels.append(one)
    scales = {m.id: m.scale for m in feature_set.measures}
    starts = np.cumsum([0, *(len(f.terms) for f in wide)])[:-1].astype(np.int64)
    ratios = np.array([i for i, f in enumerate(wide) if f.lowering == "ratio"], np.int64)
    kinds = [t.term.kind for t in terms]
    return WidePlan(
        feature_set, np.flatnonzero(fits), replace(feature_set, features=others) if others else None,
        np.flatnonzero(~np.array(fits, np.bool_)), tuple(levels), tuple(windows), window_of, count_at, total_at,
        np.array([k == "count" for k in kinds], np.bool_), np.array([k == "mean" for k in kinds], np.bool_),
        np.array([10 ** scales[t.term.measure] for t in terms], np.int64), starts, starts[ratios] + 1, ratios, _impute(wide),
    )  # fmt: skip


def _fits(feature: Feature) -> bool:
    """Whether this file knows all that the feature says: nothing beyond these fields, and only these kinds."""
    f = feature
    plain = f == Feature(f.name, f.terms, f.lowering, f.impute) and f.lowering in ("value", "ratio")
    return plain and all(
        t.kind in _WIDE and t.hop_ms > 0 and t == Term(t.measure, t.kind, t.window_ms, t.hop_ms) for t in f.terms
    )


def _wide_level(level: Level, used: set[int], terms: Sequence[TermSlots], first: int) -> WideLevel:
    guards = dict((*level.layout.minima, *level.layout.maxima))
    mine = [terms[i] for i in sorted(used)]
    added = {t.count for t in mine} | {t.total for t in mine if t.term.kind in ("sum", "mean")}
    minima = sorted({t.total for t in mine if t.term.kind == "min"})
    maxima = sorted({t.total for t in mine if t.term.kind == "max"})
    arrays = [
        np.array(x, np.int64) for x in (sorted(added), minima, [guards[s] for s in minima], maxima, [guards[s] for s in maxima])
    ]
    return WideLevel(level, tuple(range(first, first + len(level.windows))), *arrays)


def _impute(features: Sequence[Feature]) -> Floats | None:
    if not any(f.impute is not None for f in features):
        return None
    return np.array([np.nan if f.impute is None else float(f.impute) for f in features], np.float64)


def marks_of(plan: WidePlan, t_ms: int) -> Marks:
    """Two times with the same marks read the same tiles."""
    lows: list[int] = []
    ends: list[tuple[int, int, int]] = []
    for one in plan.levels:
        hop = one.level.hop_ms
        lows += [(t_ms - window) // hop * hop for window, _ in one.level.windows]
        tile, span = t_ms // hop * hop, hop * BLOCK_TILES
        ends.append(((t_ms - one.level.widest_ms) // hop * hop // span, tile // span, tile))
    return Marks(tuple(lows), tuple(ends))


def keys_of(plan: WidePlan, entity: str, marks: Marks) -> list[list[BlockKey]]:
    """Per level the blocks a time with these marks reads, in order."""
    return [
        [BlockKey(entity, one.level.event, one.level.hop_ms, i) for i in range(first, last + 1)]
        for one, (first, last, _) in zip(plan.levels, marks.ends, strict=True)
    ]


def held_of(plan: WidePlan, marks: Marks, blocks: Sequence[Sequence[Block | None]]) -> Held:
    """Merge the tiles of one entity. blocks: as `keys_of` names them."""
    numbers: list[Int64s] = []
    newest = np.full(len(plan.windows), _MIN, np.int64)
    for one, found, (_, _, tile) in zip(plan.levels, blocks, marks.ends, strict=True):
        held = [block for block in found if block is not None]
        starts = [start for block in held for start in block.starts_ms.tolist()]
        slots = held[0].slots if len(held) == 1 else np.concatenate([b.slots for b in held]) if held else None
        end = bisect_right(starts, tile)
        for j in one.windows:
            begin = bisect_left(starts, marks.lows[j])
            if slots is None or begin >= end:
                numbers.append(np.zeros(len(one.added) + len(one.minima) + len(one.maxima), np.int64))
                continue
            rows = slots[begin:end]
            newest[j] = rows[:, NEWEST].max()
            numbers.append(rows[:, one.added].sum(axis=0))
            if len(one.minima):
                numbers.append(_extreme(np.minimum, rows, one.minima, one.minima_guards, _MAX))
            if len(one.maxima):
                numbers.append(_extreme(np.maximum, rows, one.maxima, one.maxima_guards, _MIN))
    return Held(np.concatenate(numbers) if numbers else np.empty(0, np.int64), newest)


def _extreme(best: np.ufunc, rows: Int64s, slots: Int64s, guards: Int64s, neutral: int) -> Int64s:
    counted = rows[:, guards] > 0
    found = best.reduce(np.where(counted, rows[:, slots], neutral), axis=0)
    return np.where(counted.any(axis=0), found, 0)


def lower_held(
    plan: WidePlan, held: Sequence[Held], marks: Sequence[Marks], times_ms: Sequence[int], maxima: Mapping[str, int | None],
    base_floor_ms: int | None,
) -> FeatureRows:  # fmt: skip
    """Values and statuses of N requests in the order of `plan.wide`."""
    times = np.asarray(times_ms, np.int64)
    numbers = np.stack([h.numbers for h in held]) if len(held) > 1 else held[0].numbers[None]
    newest = np.stack([h.newest for h in held]) if len(held) > 1 else held[0].newest[None]
    lows = np.array([m.lows for m in marks], np.int64)
    base = np.where(newest > times[:, None], np.int8(Status.AHEAD), _base(plan, times, lows, maxima, base_floor_ms))
    base = np.where(lows < _floors(plan, maxima, base_floor_ms), np.int8(Status.EXPIRED), base)
    status = base[:, plan.window_of]
    count, total = numbers[:, plan.count_at], numbers[:, plan.total_at]
    nothing = (count == 0) & ~plan.counts
    status = np.where(nothing, np.maximum(status, np.int8(Status.MISSING)), status).astype(np.int8)
    return _lowered(plan, count, total, nothing, status)


def _base(plan: WidePlan, times: Int64s, lows: Int64s, maxima: Mapping[str, int | None], base_floor_ms: int | None) -> Int8s:
    """Stale or fresh by window, shape (N, J)."""
    tops = np.array([_MIN if (top := maxima.get(event)) is None else top for event, _ in plan.windows], np.int64)
    # A topic without a record is stale; the subtraction would overflow there.
    far = times[:, None] - np.where(tops == _MIN, 0, tops) > plan.feature_set.stale_after_ms
    return (far | (tops == _MIN)).astype(np.int8)


def _floors(plan: WidePlan, maxima: Mapping[str, int | None], base_floor_ms: int | None) -> Int64s:
    floors = {event: floor_ms(plan.feature_set, event, maxima, base_floor_ms) for event, _ in plan.windows}
    return np.array([_MIN if (floor := floors[event]) is None else floor for event, _ in plan.windows], np.int64)


def _lowered(plan: WidePlan, count: Int64s, total: Int64s, nothing: npt.NDArray[np.bool_], status: Int8s) -> FeatureRows:
    numerator = np.where(plan.counts, count, total)
    if _large(numerator) > _EXACT or _large(count) * int(plan.unit.max()) > _EXACT:
        return _exactly(plan, count, total, status)
    denominator = np.where(plan.counts, 1, np.where(plan.means, np.where(nothing, 1, count) * plan.unit, plan.unit))
    first = plan.first
    top, bottom, given = numerator[:, first], denominator[:, first], ~nothing[:, first]
    worst = status[:, first]
    if len(plan.ratios):
        at, second = plan.ratios, plan.second
        a, b, c, d = top[:, at], bottom[:, at], numerator[:, second], denominator[:, second]
        if _large(a) * _large(d) > _EXACT or _large(b) * _large(c) > _EXACT:
            return _exactly(plan, count, total, status)
        both = given[:, at] & ~nothing[:, second] & (c != 0)
        sign = np.where(c < 0, -1, 1)
        top[:, at], bottom[:, at], given[:, at] = a * d * sign, np.where(both, b * c * sign, 1), both
        worst[:, at] = np.maximum(worst[:, at], status[:, second])
    worst = np.where(given, worst, np.maximum(worst, np.int8(Status.MISSING)))
    instead = np.nan if plan.impute is None else plan.impute
    values = np.where(given, top / bottom, instead)
    return FeatureRows(np.where(worst == Status.EXPIRED, np.nan, values), worst)


def _exactly(plan: WidePlan, count: Int64s, total: Int64s, status: Int8s) -> FeatureRows:
    """By the law's own step, in Python integers where it must."""
    zero = np.zeros(len(count), np.int64)
    mine = replace(plan.feature_set, features=tuple(plan.feature_set.features[i] for i in plan.wide.tolist()))
    return lower(mine, [TermColumns(count[:, i], total[:, i], zero, zero, status[:, i]) for i in range(count.shape[1])])


def _large(values: Int64s) -> int:
    """Largest magnitude, as a Python int."""
    return max(int(values.max()), -int(values.min())) if values.size else 0


# ---------------------------------------------------------------- a read without anything kept


def read_quick(
    feature_set: FeatureSet, entities: Sequence[str], times_ms: Sequence[int], blocks: Blocks,
    maxima: Mapping[str, int | None], base_floor_ms: int | None,
) -> FeatureRows:  # fmt: skip
    """`read_features`, the quicker way for few requests of many features. `blocks` is called once or twice."""
    plan = wide_plan(feature_set)
    if len(plan.wide) < FEATURES_MIN or len(entities) > REQUESTS_MAX:
        return read_features(feature_set, entities, times_ms, blocks, maxima, base_floor_ms)
    marks = [marks_of(plan, t) for t in times_ms]
    asked = [keys_of(plan, entity, mark) for entity, mark in zip(entities, marks, strict=True)]
    found = iter(blocks([key for levels in asked for keys in levels for key in keys]))
    held = [
        held_of(plan, mark, [[next(found) for _ in keys] for keys in levels]) for mark, levels in zip(marks, asked, strict=True)
    ]
    wide = lower_held(plan, held, marks, times_ms, maxima, base_floor_ms)
    if plan.rest is None:
        return wide
    rest = read_features(plan.rest, entities, times_ms, blocks, maxima, base_floor_ms)
    shape = len(entities), len(feature_set.features)
    values, statuses = np.empty(shape, np.float64), np.empty(shape, np.int8)
    values[:, plan.wide], statuses[:, plan.wide] = wide.values, wide.statuses
    values[:, plan.rest_at], statuses[:, plan.rest_at] = rest.values, rest.statuses
    return FeatureRows(values, statuses)
