"""Rows of a table that are in memory: a write-back cache over the store, bounded by who holds it.

A row is an identity (key, at) that has been looked at: alive or known to be gone. It is clean when the store says the same.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from headrace.plan.slots import NEWEST
from headrace.plan.streams.frames import KEY
from headrace.plan.streams.vectors import NEVER, Entries, Int64s

Bools = npt.NDArray[np.bool_]

ROWS_MIN = 256
ROW_BYTES = 320  # beside its vector: a short text, two dictionaries' shares, the other columns
_COLUMNS = ("at", "slots", "alive", "stored", "stored_newest", "unsaved", "unlogged", "used")


class CachedRows:
    """Columns by row number; `of` finds the number."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.count = 0
        self.of: dict[str, dict[int, int]] = {}  # key -> at -> row
        self.whole: set[str] = set()  # keys of which every entry is here
        self.keys: list[str] = []
        self.at = np.zeros(ROWS_MIN, np.int64)
        self.slots = np.zeros((ROWS_MIN, width), np.int64)
        self.alive: Bools = np.zeros(ROWS_MIN, np.bool_)
        self.stored: Bools = np.zeros(ROWS_MIN, np.bool_)  # the store has, or may have, a pair for it
        self.stored_newest = np.zeros(ROWS_MIN, np.int64)  # as the store knows it; NEVER: not known
        self.unsaved: Bools = np.zeros(ROWS_MIN, np.bool_)
        self.unlogged: Bools = np.zeros(ROWS_MIN, np.bool_)
        self.used = np.zeros(ROWS_MIN, np.int64)  # when last looked at
        self.clock = 0

    def bytes(self) -> int:
        return self.count * (ROW_BYTES + 8 * self.width)

    def find(self, keys: list[str], at: list[int]) -> Int64s:
        """Row numbers, -1 where unknown."""
        none: dict[int, int] = {}
        return np.array([self.of.get(key, none).get(time, -1) for key, time in zip(keys, at, strict=True)], np.int64)

    def touch(self, rows: Int64s) -> None:
        self.clock += 1
        self.used[rows] = self.clock

    def add(self, keys: list[str], at: list[int], vectors: Int64s | None) -> Int64s:
        """Rows for identities that are not known yet: as stored, or (None) not there."""
        first, count = self.count, self.count + len(keys)
        self._reserve(count)
        for row, (key, time) in enumerate(zip(keys, at, strict=True), first):
            self.of.setdefault(key, {})[time] = row
        self.keys += keys
        rows = np.arange(first, count)
        self.at[rows] = at
        self.alive[rows] = self.stored[rows] = vectors is not None
        self.unsaved[rows] = self.unlogged[rows] = False
        self.slots[rows] = 0 if vectors is None else vectors
        self.stored_newest[rows] = NEVER if vectors is None else vectors[:, NEWEST]
        self.count = count
        self.touch(rows)
        return rows

    def _reserve(self, count: int) -> None:
        size = len(self.at)
        if count <= size:
            return
        for name in _COLUMNS:
            old = getattr(self, name)
            new = np.zeros((max(count, 2 * size), *old.shape[1:]), old.dtype)
            new[: self.count] = old[: self.count]
            setattr(self, name, new)

    def keep(self, kept: Bools) -> None:
        """Forget the other rows, (count,)."""
        for row in np.flatnonzero(~kept).tolist():
            key = self.keys[row]
            self.whole.discard(key)
        rows = np.flatnonzero(kept)
        for name in _COLUMNS:
            column = getattr(self, name)
            column[: len(rows)] = column[rows]
        self.keys = [self.keys[row] for row in rows.tolist()]
        self.count, self.of = len(rows), {}
        for row, (key, time) in enumerate(zip(self.keys, self.at[: len(rows)].tolist(), strict=True)):
            self.of.setdefault(key, {})[time] = row
        self.whole &= self.of.keys()

    def entries(self, rows: Int64s) -> Entries:
        keys = pl.Series(KEY, [self.keys[row] for row in rows.tolist()], pl.String)
        return Entries(keys, self.at[rows], self.slots[rows])
