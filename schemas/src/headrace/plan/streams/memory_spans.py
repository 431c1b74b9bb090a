"""Vectors of order `key` in memory: one growing matrix, rows found by the number of their key.

Meant for entries whose names are many, as sessions and single times are. A look-up is a few passes of array arithmetic over
all entries, not a dictionary of them; only distinct keys cost Python.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from headrace.plan.slots import NEWEST, Layout, merge_rows, reduce_by
from headrace.plan.streams.frames import KEY
from headrace.plan.streams.vectors import Bools, Entries, Int64s, Order, frame_of, parts_of, together

ROWS_MIN = 256
KEY_BYTES = 150  # of a short text in a dictionary and a list, with its number


class MemorySpans:
    """Vectors of order `key`. Restored from changes; settles nothing."""

    order: Order = "key"

    def __init__(self, name: str, layout: Layout) -> None:
        self.name, self.layout = name, layout
        self.mark_ms: int | None = None
        self.closed_ms: int | None = None
        self._codes: dict[str, int] = {}
        self._names: list[str] = []  # by code; "" where it is free
        self._free: list[int] = []  # codes of keys that are gone
        self._count = 0  # rows below are in use, dead ones included
        self._at = np.empty(ROWS_MIN, np.int64)
        self._code = np.empty(ROWS_MIN, np.int64)
        self._slots = np.empty((ROWS_MIN, layout.width), np.int64)
        self._alive = np.zeros(ROWS_MIN, np.bool_)
        self._dirty = np.zeros(ROWS_MIN, np.bool_)
        self._gone: dict[tuple[str, int], None] = {}
        self._said: tuple[int | None, int | None] = (None, None)

    def advance(self, mark_ms: int) -> None:
        self.mark_ms = mark_ms if self.mark_ms is None else max(self.mark_ms, mark_ms)

    def merge(self, entries: Entries) -> None:
        if not len(entries):
            return
        keys = entries.keys.to_list()
        codes, at, vectors = self._numbered(keys), entries.at, entries.slots
        order = np.lexsort((at, codes))
        codes, at, vectors = codes[order], at[order], vectors[order]
        first = np.concatenate(([True], (codes[1:] != codes[:-1]) | (at[1:] != at[:-1])))
        if not first.all():
            _, vectors = reduce_by(self.layout, np.cumsum(first), vectors)
            codes, at = codes[first], at[first]
        rows = self._find(codes, at)
        old = rows >= 0
        if old.any():
            mine = rows[old]
            self._slots[mine] = merge_rows(self.layout, self._slots[mine], vectors[old])
            self._dirty[mine] = True
        if not old.all():
            self._append(codes[~old], at[~old], vectors[~old])
        if self._gone:
            for one in zip(keys, entries.at.tolist(), strict=True):
                self._gone.pop(one, None)

    def get(self, keys: pl.Series, at: Int64s) -> Int64s:
        return self._slots[self._named(keys, at)]

    def of_keys(self, keys: pl.Series) -> Entries:
        found = [code for key in keys.to_list() if (code := self._codes.get(key)) is not None]
        return self._entries(self._rows_of(np.array(found, np.int64)))

    def scan(self, low_ms: int | None, high_ms: int) -> Entries:
        times = self._slots[: self._count, NEWEST]
        chosen = self._alive[: self._count] & (times < high_ms)
        return self._entries(np.flatnonzero(chosen if low_ms is None else chosen & (times >= low_ms)))

    def take_below(self, bound_ms: int) -> Entries:
        self.closed_ms = bound_ms if self.closed_ms is None else max(self.closed_ms, bound_ms)
        rows = np.flatnonzero(self._alive[: self._count] & (self._slots[: self._count, NEWEST] < bound_ms))
        if not len(rows):
            return self._entries(rows)
        taken = self._entries(rows).ordered()
        self._drop(rows)
        return taken

    def remove(self, keys: pl.Series, at: Int64s) -> None:
        if not len(at):
            return
        self._drop(self._named(keys, at))
        self._gone.update((one, None) for one in zip(keys.to_list(), at.tolist(), strict=True))

    def oldest_ms(self, low_ms: int | None = None) -> int | None:
        times = self._slots[: self._count, NEWEST][self._alive[: self._count]]
        if low_ms is not None:
            times = times[times >= low_ms]
        return int(times.min()) if len(times) else None

    # ------------------------------------------------------------ as a Table

    def changes(self) -> pl.DataFrame | None:
        rows = np.flatnonzero(self._dirty[: self._count] & self._alive[: self._count])
        self._dirty[: self._count] = False
        bounds = (self.closed_ms, self.mark_ms)
        news = None if bounds == self._said else bounds
        gone, self._gone, self._said = list(self._gone), {}, bounds
        if not len(rows) and not gone and news is None:
            return None
        removed = Entries(
            pl.Series(KEY, [key for key, _ in gone], pl.String),
            np.array([at for _, at in gone], np.int64),
            np.zeros((len(gone), self.layout.width), np.int64),
        )
        return frame_of(self._entries(rows), removed, news)

    def restore(self, changes: pl.DataFrame) -> None:
        put, gone, bounds = parts_of(changes)
        stale = together([put, gone], self.layout.width)
        codes = np.array([self._codes.get(key, -1) for key in stale.keys.to_list()], np.int64)
        rows = self._find(codes[codes >= 0], stale.at[codes >= 0])
        self._drop(rows[rows >= 0])
        self.merge(put)
        if bounds is not None:
            self.mark_ms = bounds[1]
            if bounds[0] is not None:
                self.take_below(bounds[0])
        self._said, self._gone = (self.closed_ms, self.mark_ms), {}
        self._dirty[:] = False

    def settle(self) -> tuple[dict[bytes, bytes], list[bytes]]:
        return {}, []

    def sweep(self, after: bytes | None, entries_max: int) -> tuple[pl.DataFrame, bytes | None]:
        """By code: all entries of a key together, of at least one key. A place is a code; a key keeps its own while it has
        entries."""
        low = 0 if after is None else int(after)
        code = self._code[: self._count]
        waiting = np.flatnonzero(self._alive[: self._count] & (code >= low))
        upto = np.cumsum(np.bincount(code[waiting] - low, minlength=1))
        first = int(np.searchsorted(upto, 1))
        edge = max(first + 1, int(np.searchsorted(upto, entries_max, "right")))  # codes [low, low + edge)
        place = None if edge >= len(upto) else str(low + edge).encode()
        bounds = (self.closed_ms, self.mark_ms) if after is None else None
        return frame_of(self._entries(waiting[code[waiting] < low + edge]), None, bounds), place

    def entries(self) -> int:
        return int(self._alive[: self._count].sum())

    def bytes(self) -> int:
        return self._slots.nbytes + self._at.nbytes + self._code.nbytes + KEY_BYTES * len(self._codes)

    # ------------------------------------------------------------ rows

    def _numbered(self, keys: list[str]) -> Int64s:
        """Codes of the keys, new ones included."""
        codes, names, free = self._codes, self._names, self._free
        out = np.array([codes.get(key, -1) for key in keys], np.int64)
        for i in np.flatnonzero(out < 0).tolist():
            key = keys[i]
            if key not in codes:
                if free:
                    codes[key] = free.pop()
                    names[codes[key]] = key
                else:
                    codes[key] = len(names)
                    names.append(key)
            out[i] = codes[key]
        return out

    def _rows_of(self, codes: Int64s) -> Int64s:
        """Rows alive of any of these codes."""
        wanted = np.zeros(len(self._names), np.bool_)
        wanted[codes] = True
        return np.flatnonzero(wanted[self._code[: self._count]] & self._alive[: self._count])

    def _find(self, codes: Int64s, at: Int64s) -> Int64s:
        """Row of each (code, at), -1 where there is none."""
        rows = self._rows_of(codes)
        out = np.full(len(codes), -1, np.int64)
        if not len(rows):
            return out
        held = self._at[rows]
        both = np.concatenate((self._code[rows], codes)), np.concatenate((held, at))
        order = np.lexsort((np.arange(len(both[0])), both[1], both[0]))  # a row stands before those that ask for it
        code, time = both[0][order], both[1][order]
        is_row = order < len(rows)
        before = np.maximum.accumulate(np.where(is_row, np.arange(len(order)), 0))
        same = (code[before] == code) & (time[before] == time) & is_row[before] & ~is_row
        out[order[same] - len(rows)] = rows[order[before[same]]]
        return out

    def _named(self, keys: pl.Series, at: Int64s) -> Int64s:
        rows = self._find(np.array([self._codes[key] for key in keys.to_list()], np.int64), at)
        if (rows < 0).any():
            raise KeyError("no such entry")
        return rows

    def _append(self, codes: Int64s, at: Int64s, vectors: Int64s) -> None:
        first, count = self._count, self._count + len(codes)
        if count > len(self._at):
            size = max(count, 2 * len(self._at))
            for name in ("_at", "_code", "_slots", "_alive", "_dirty"):
                old = getattr(self, name)
                new = np.zeros((size, *old.shape[1:]), old.dtype)
                new[:first] = old[:first]
                setattr(self, name, new)
        rows = slice(first, count)
        self._at[rows], self._code[rows], self._slots[rows] = at, codes, vectors
        self._alive[rows] = self._dirty[rows] = True
        self._count = count

    def _drop(self, rows: Int64s) -> None:
        """Rows die; keys without any other go; when most rows are dead the others move up."""
        self._alive[rows] = self._dirty[rows] = False
        codes = np.unique(self._code[rows])
        left: Bools = np.zeros(len(self._names), np.bool_)
        left[self._code[self._rows_of(codes)]] = True
        for code in codes[~left[codes]].tolist():
            del self._codes[self._names[code]]
            self._names[code] = ""
            self._free.append(code)
        alive = self._alive[: self._count]
        kept = np.flatnonzero(alive)
        if self._count > ROWS_MIN and 2 * len(kept) < self._count:
            for name in ("_at", "_code", "_slots", "_dirty"):
                column = getattr(self, name)
                column[: len(kept)] = column[kept]
            self._count = len(kept)
            self._alive[:] = False
            self._alive[: len(kept)] = True

    def _entries(self, rows: Int64s) -> Entries:
        codes, names = self._code[rows], self._names
        keys = pl.Series(KEY, [names[code] for code in codes.tolist()], pl.String)
        return Entries(keys, self._at[rows], self._slots[rows])
