"""`prepare` of windows: accepted rows lifted to partial vectors, so that hot keys collapse where the rows were judged.

What is merged: tumbling and hopping, rows of a key in one pane; sliding, rows of a key at one time; session, rows of a key
that are one session by themselves; count, nothing. Rows that are `doubtful` stay alone and keep their origin, as only the
operator can say whether it still takes them.

The frame has KEY, AT (pane start, time, session start), SLOTS; and TIME, PARTITION, OFFSET, ITEM if a row is doubtful, null in
the others (of count windows in all rows).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from headrace.plan.ir import EventType, SlotKind, Stream, Window, WindowKind
from headrace.plan.slots import NEWEST, reduce_by
from headrace.plan.streams.frames import ITEM, KEY, OFFSET, PARTITION, TIME, Prepare
from headrace.plan.streams.vectors import AT, SLOTS
from headrace.plan.streams.window_shape import FIRST, Rows, Shape, rows_of, window_shape

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

SIMPLE = frozenset({"rows", "nonnull", "sum", "min", "max"})  # accumulated without a vector per row
DENSE = 4  # so many times as many groups as rows may be counted without looking which there are
_MIN, _MAX = np.iinfo(np.int64).min, np.iinfo(np.int64).max


def build_prepare(stream: Stream, index: int, events: Sequence[EventType]) -> Prepare:
    """Raises: Fatal if the stream has no window. A window has one input, of index 0."""
    shape = window_shape(stream, events)
    lift = _LIFTS[shape.window.kind]

    def prepare(frame: pl.DataFrame) -> pl.DataFrame:
        rows = rows_of(shape, frame)
        if rows.doubtful is None:
            return lift(shape, rows)
        return pl.concat([lift(shape, rows.of(~rows.doubtful)), _alone(shape, rows.of(rows.doubtful))], how="diagonal")

    return prepare


def pane_ms(window: Window) -> int:
    """Both edges of every window are edges of panes."""
    return math.gcd(window.size_ms, window.hop_ms) if window.kind == "hopping" else window.size_ms


def place_of(window: Window, times: Int64s) -> Int64s:
    """AT of rows by themselves."""
    if window.kind in ("tumbling", "hopping"):
        return times // pane_ms(window) * pane_ms(window)
    return times


def _panes(shape: Shape, rows: Rows) -> pl.DataFrame:
    rows = _inside(shape.window, rows)
    return _grouped(shape, rows, place_of(shape.window, rows.times))


def _inside(window: Window, rows: Rows) -> Rows:
    """Without rows that fall between windows, which a hop longer than the size leaves."""
    if window.kind != "hopping" or window.hop_ms <= window.size_ms:
        return rows
    return rows.of(rows.times % window.hop_ms < window.size_ms)


def _times(shape: Shape, rows: Rows) -> pl.DataFrame:
    return _grouped(shape, rows, rows.times)


def _grouped(shape: Shape, rows: Rows, at: Int64s) -> pl.DataFrame:
    """One vector per (key, at)."""
    if not len(at):
        return _frame(rows.keys, at, np.empty((0, shape.layout.width), np.int64))
    codes, names = encoded(rows.keys)
    groups = _Groups(codes, at)
    slots = _merged(shape, rows, groups.dense, len(groups.present))
    return _frame(names.gather(groups.codes(groups.present)), groups.times(groups.present), slots)


def _merged(shape: Shape, rows: Rows, group: Int64s, count: int) -> Int64s:
    """The vector of each group, every one of which has rows, (G, W)."""
    if all(SIMPLE.issuperset(m.slots) for m in shape.stream.measures):
        return _simple(shape, rows, group, count)
    return reduce_by(shape.layout, group, rows.vectors(shape))[1]


def _sessions(shape: Shape, rows: Rows) -> pl.DataFrame:
    """One vector per chain of a key's rows of which none is more than a gap after the one before."""
    if not len(rows.times):
        return _each(shape, rows)
    codes, names = encoded(rows.keys)
    order = _by_key_and_time(codes, rows.times)
    codes, times = codes[order], rows.times[order]
    heads = chains(codes, times, times, shape.window.gap_ms)
    group = np.empty(len(order), np.int64)
    group[order] = np.cumsum(heads) - 1
    return _frame(names.gather(codes[heads]), times[heads], _merged(shape, rows, group, int(heads.sum())))


def _by_key_and_time(codes: Int64s, times: Int64s) -> Int64s:
    """Row numbers by (code, time). One sort of one number where both fit into it."""
    low, high = int(times.min()), int(times.max())
    span, keys = high - low + 1, int(codes.max()) + 1
    if span * keys < 1 << 62:
        return np.argsort(codes * span + (times - low))
    return np.lexsort((times, codes))


def chains(codes: Int64s, first: Int64s, last: Int64s, gap_ms: int) -> Bools:
    """Which of the spans [first, last] begin a chain: they have another code, or are more than a gap after all before.

    Args:
        codes, first: ascending by both, shape (N,), N > 0.
    """
    levels, rank = np.unique(last, return_inverse=True)
    until = levels[np.maximum.accumulate(codes * len(levels) + rank) % len(levels)]  # the last time of the code so far
    return np.concatenate(([True], (codes[1:] != codes[:-1]) | (first[1:] - until[:-1] > gap_ms)))


def _rows(shape: Shape, rows: Rows) -> pl.DataFrame:
    """One vector per row, with its origin; also how many rows it is, and its time."""
    vectors = rows.vectors(shape)
    vectors[:, shape.layout.of[FIRST]["min"]] = rows.times
    return _frame(rows.keys, rows.times, vectors).with_columns(_origins(rows))


def encoded(keys: pl.Series) -> tuple[Int64s, pl.Series]:
    """Each row's key as a number, and the keys by number."""
    encoded = keys.rechunk().to_arrow().dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), pl.Series(KEY, encoded.dictionary, pl.String)


class _Groups:
    """Numbers of the pairs (code, at) of rows: code * times + rank of the time, ascending."""

    def __init__(self, codes: Int64s, at: Int64s) -> None:
        low, high = int(at.min()), int(at.max())
        if low == high:
            self._times, rank = np.array([low]), np.int64(0)
        else:
            self._times = np.unique(at)
            rank = np.searchsorted(self._times, at)
        self.of_row = codes * len(self._times) + rank
        count = (int(codes.max()) + 1) * len(self._times)
        if count <= DENSE * len(codes):
            self.present = np.flatnonzero(np.bincount(self.of_row, minlength=count))
            place = np.empty(count, np.int64)
            place[self.present] = np.arange(len(self.present))
            self.dense = place[self.of_row]
        else:
            self.present, self.dense = np.unique(self.of_row, return_inverse=True)

    def codes(self, groups: Int64s) -> Int64s:
        return groups // len(self._times)

    def times(self, groups: Int64s) -> Int64s:
        return self._times[groups % len(self._times)]


def _simple(shape: Shape, rows: Rows, of: Int64s, count: int) -> Int64s:
    """What `reduce_by` makes of the rows' vectors, where counts, sums and extremes are all they hold."""
    out = np.zeros((count, shape.layout.width), np.int64)
    out[:, NEWEST] = _most(np.maximum, rows.times, of, count, _MIN)
    every: Int64s | None = None
    for identity, places in shape.layout.of.items():
        included, value = rows.columns[identity]
        if "rows" in places:
            if included.all():
                every = np.bincount(of, minlength=count) if every is None else every
                out[:, places["rows"]] = every
            else:
                out[:, places["rows"]] = np.bincount(of[included], minlength=count)
        held = included if value is None else included & value[1]
        if "nonnull" in places:
            out[:, places["nonnull"]] = np.bincount(of[held], minlength=count)
        if value is not None:
            whole = bool(held.all())
            number, group = (value[0], of) if whole else (value[0][held], of[held])
            _values(out, places, number, group)
    return out


def _values(out: Int64s, places: dict[SlotKind, int], number: Int64s, group: Int64s) -> None:
    if "sum" in places:
        total = np.zeros(len(out), np.int64)
        np.add.at(total, group, number)
        out[:, places["sum"]] = total
    for kind, pick, neutral in (("min", np.minimum, _MAX), ("max", np.maximum, _MIN)):
        if kind in places:
            found = _most(pick, number, group, len(out), neutral)
            out[:, places[kind]] = np.where(out[:, places["nonnull"]] > 0, found, 0)


def _most(pick: np.ufunc, number: Int64s, group: Int64s, count: int, neutral: int) -> Int64s:
    found = np.full(count, neutral, np.int64)
    pick.at(found, group, number)
    return found


def _alone(shape: Shape, rows: Rows) -> pl.DataFrame:
    """Doubtful rows, with their origin."""
    if shape.window.kind == "count":
        return _rows(shape, rows)
    rows = _inside(shape.window, rows)
    return _each(shape, rows).with_columns(_origins(rows))


def _origins(rows: Rows) -> list[pl.Series]:
    origin = {TIME: rows.times, PARTITION: rows.partitions, OFFSET: rows.offsets, ITEM: rows.items}
    return [pl.Series(name, column) for name, column in origin.items()]


def _each(shape: Shape, rows: Rows) -> pl.DataFrame:
    return _frame(rows.keys, place_of(shape.window, rows.times), rows.vectors(shape))


def _frame(keys: pl.Series, at: Int64s, slots: Int64s) -> pl.DataFrame:
    return pl.DataFrame([keys.alias(KEY), pl.Series(AT, at), pl.Series(SLOTS, slots)])


_LIFTS: dict[WindowKind, Callable[[Shape, Rows], pl.DataFrame]] = {
    "tumbling": _panes,
    "hopping": _panes,
    "sliding": _times,
    "session": _sessions,
    "count": _rows,
}
