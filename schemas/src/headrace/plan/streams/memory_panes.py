"""Vectors of order `at` in memory: a bucket per `at`, a dictionary from key to row beside a growing matrix.

Meant for few different times, as panes have, and many keys: a merge costs one dictionary look-up per entry, the rest is
array arithmetic.
"""

from __future__ import annotations

from itertools import islice

import numpy as np
import polars as pl

from headrace.plan.slots import Layout, merge_rows, reduce_by
from headrace.plan.streams.frames import KEY
from headrace.plan.streams.vectors import Entries, Int64s, Order, frame_of, nothing, parts_of, together

ROWS_MIN = 64
KEY_BYTES = 120  # of a short text in a dictionary, with its number


class _Bucket:
    """Entries of one `at`. Rows are numbered in the dictionary's own order."""

    def __init__(self, width: int) -> None:
        self.rows: dict[str, int] = {}
        self.slots = np.empty((ROWS_MIN, width), np.int64)
        self.dirty = np.zeros(ROWS_MIN, np.bool_)

    def merge(self, layout: Layout, keys: list[str], vectors: Int64s) -> None:
        known, rows = len(self.rows), self.rows
        at = np.array([rows.setdefault(key, len(rows)) for key in keys], np.int64)
        self._reserve()
        if _repeated(at, len(rows)):
            at, vectors = reduce_by(layout, at, vectors)
        old = at < known
        if old.all():
            self.slots[at] = merge_rows(layout, self.slots[at], vectors)
        else:
            self.slots[at[~old]] = vectors[~old]
            if known:
                self.slots[at[old]] = merge_rows(layout, self.slots[at[old]], vectors[old])
        self.dirty[at] = True

    def _reserve(self) -> None:
        size = len(self.slots)
        if len(self.rows) > size:
            more = max(len(self.rows), 2 * size) - size
            self.slots = np.concatenate((self.slots, np.empty((more, self.slots.shape[1]), np.int64)))
            self.dirty = np.concatenate((self.dirty, np.zeros(more, np.bool_)))

    def names(self, first: int = 0) -> pl.Series:
        """Keys by row number from one on."""
        return pl.Series(KEY, list(islice(self.rows, first, None)), pl.String)

    def entries(self, at: int, chosen: Int64s | None = None) -> Entries:
        held = Entries(self.names(), np.full(len(self.rows), at, np.int64), self.slots[: len(self.rows)])
        return held if chosen is None else held.take(chosen)

    def remove(self, keys: list[str]) -> None:
        """Rows behind these move up: a sweep may miss them, so all are said again with the next changes."""
        if not keys:
            return
        for key in keys:
            del self.rows[key]
        self.slots = self.slots[np.fromiter(self.rows.values(), np.int64, len(self.rows))]
        self.dirty = np.ones(len(self.rows), np.bool_)
        self.rows = {key: row for row, key in enumerate(self.rows)}


def _repeated(rows: Int64s, count: int) -> bool:
    """Whether a row number below count comes more than once."""
    places, numbers = np.empty(count, np.int64), np.arange(len(rows))
    places[rows] = numbers
    return not np.array_equal(places[rows], numbers)


class MemoryPanes:
    """Vectors of order `at`. Restored from changes; settles nothing."""

    order: Order = "at"

    def __init__(self, name: str, layout: Layout) -> None:
        self.name, self.layout = name, layout
        self.mark_ms: int | None = None
        self.closed_ms: int | None = None
        self._buckets: dict[int, _Bucket] = {}
        self._gone: dict[tuple[str, int], None] = {}
        self._said: tuple[int | None, int | None] = (None, None)

    def advance(self, mark_ms: int) -> None:
        self.mark_ms = mark_ms if self.mark_ms is None else max(self.mark_ms, mark_ms)

    def merge(self, entries: Entries) -> None:
        if not len(entries):
            return
        for at, rows in _by_time(entries.at):
            part = entries if rows is None else entries.take(rows)
            bucket = self._buckets.get(at)
            if bucket is None:
                bucket = self._buckets[at] = _Bucket(self.layout.width)
            keys = part.keys.to_list()
            bucket.merge(self.layout, keys, part.slots)
            for key in keys if self._gone else ():
                self._gone.pop((key, at), None)

    def get(self, keys: pl.Series, at: Int64s) -> Int64s:
        out = np.empty((len(at), self.layout.width), np.int64)
        for time, rows in _by_time(at):
            bucket, asked = self._buckets[time], keys if rows is None else keys.gather(rows)
            found = np.array([bucket.rows[key] for key in asked.to_list()], np.int64)
            out[slice(None) if rows is None else rows] = bucket.slots[found]
        return out

    def of_keys(self, keys: pl.Series) -> Entries:
        wanted, parts = keys.to_list(), list[Entries]()
        for at, bucket in self._buckets.items():
            rows = [bucket.rows[key] for key in wanted if key in bucket.rows]
            parts.append(bucket.entries(at, np.array(rows, np.int64)))
        return together(parts, self.layout.width)

    def scan(self, low_ms: int | None, high_ms: int) -> Entries:
        times = sorted(at for at in self._buckets if at < high_ms and (low_ms is None or at >= low_ms))
        return together([self._buckets[at].entries(at) for at in times], self.layout.width)

    def take_below(self, bound_ms: int) -> Entries:
        self.closed_ms = bound_ms if self.closed_ms is None else max(self.closed_ms, bound_ms)
        times = sorted(at for at in self._buckets if at < bound_ms)
        parts: list[Entries] = []
        for at in times:
            entries = self._buckets.pop(at).entries(at)
            parts.append(entries.take(entries.keys.arg_sort().to_numpy().astype(np.int64)))
        if self._gone:
            self._gone = {one: None for one in self._gone if one[1] >= bound_ms}
        return together(parts, self.layout.width)

    def remove(self, keys: pl.Series, at: Int64s) -> None:
        for time, rows in _by_time(at):
            names = (keys if rows is None else keys.gather(rows)).to_list()
            self._buckets[time].remove(names)
            if not self._buckets[time].rows:
                del self._buckets[time]
            self._gone.update(((name, time), None) for name in names)

    def oldest_ms(self, low_ms: int | None = None) -> int | None:
        return min((at for at in self._buckets if low_ms is None or at >= low_ms), default=None)

    # ------------------------------------------------------------ as a Table

    def changes(self) -> pl.DataFrame | None:
        parts: list[Entries] = []
        for at, bucket in self._buckets.items():
            chosen = np.flatnonzero(bucket.dirty[: len(bucket.rows)])
            if len(chosen):
                parts.append(bucket.entries(at, chosen))
                bucket.dirty[:] = False
        bounds = (self.closed_ms, self.mark_ms)
        news = None if bounds == self._said else bounds
        gone, self._gone, self._said = list(self._gone), {}, bounds
        if not parts and not gone and news is None:
            return None
        width = self.layout.width
        removed = Entries(
            pl.Series(KEY, [key for key, _ in gone], pl.String),
            np.array([at for _, at in gone], np.int64),
            np.zeros((len(gone), width), np.int64),
        )
        return frame_of(together(parts, width), removed, news)

    def restore(self, changes: pl.DataFrame) -> None:
        put, gone, bounds = parts_of(changes)
        self._forget(put)
        self._forget(gone)
        self.merge(put)
        if bounds is not None:
            self.mark_ms = bounds[1]
            if bounds[0] is not None:
                self.take_below(bounds[0])
        self._said, self._gone = (self.closed_ms, self.mark_ms), {}
        for bucket in self._buckets.values():
            bucket.dirty[:] = False

    def _forget(self, entries: Entries) -> None:
        """Remove those of these entries that are there."""
        for at, rows in _by_time(entries.at):
            bucket = self._buckets.get(at)
            if bucket is None:
                continue
            names = entries.keys if rows is None else entries.keys.gather(rows)
            bucket.remove([key for key in names.to_list() if key in bucket.rows])
            if not bucket.rows:
                del self._buckets[at]

    def settle(self) -> tuple[dict[bytes, bytes], list[bytes]]:
        return {}, []

    def sweep(self, after: bytes | None, entries_max: int) -> tuple[pl.DataFrame, bytes | None]:
        """A place is a time and a number of its rows."""
        start, row = (None, 0) if after is None else (int(after.split(b"/")[0]), int(after.split(b"/")[1]))
        for at in sorted(self._buckets):
            if start is not None and at < start:
                continue
            bucket, first = self._buckets[at], row if at == start else 0
            if first >= len(bucket.rows):
                continue
            chosen = np.arange(first, min(first + entries_max, len(bucket.rows)))
            return self._swept(bucket.entries(at, chosen), after), f"{at}/{first + len(chosen)}".encode()
        return self._swept(nothing(self.layout.width), after), None

    def _swept(self, entries: Entries, after: bytes | None) -> pl.DataFrame:
        return frame_of(entries, None, (self.closed_ms, self.mark_ms) if after is None else None)

    def entries(self) -> int:
        return sum(len(bucket.rows) for bucket in self._buckets.values())

    def bytes(self) -> int:
        return sum(bucket.slots.nbytes + KEY_BYTES * len(bucket.rows) for bucket in self._buckets.values())


def _by_time(at: Int64s) -> list[tuple[int, Int64s | None]]:
    """Row numbers of each time; None for all rows where there is one time only."""
    if not len(at):
        return []
    if at[0] == at[-1] and (at == at[0]).all():
        return [(int(at[0]), None)]
    order = np.argsort(at, kind="stable")
    ids = at[order]
    first = np.flatnonzero(np.concatenate(([True], ids[1:] != ids[:-1])))
    return list(zip(ids[first].tolist(), np.split(order, first[1:]), strict=True))
