"""`Rows` as a few sorted runs: each addition is a run, runs of like size are merged, what is gone goes when its run is merged.

A row is so merged about log2(rows of the table / rows of an addition) times.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl

from headrace.plan.streams.blocks import Block, Bools, block_of, merged
from headrace.plan.streams.frames import GONE, KEY, ORIGIN, PARTITION, TIME
from headrace.plan.streams.key_hash import Int64s
from headrace.plan.streams.rows import (
    BEFORE_ALL,
    DELETED,
    FLOOR,
    IDENTITY_TYPES,
    SUPERSEDED,
    bounds_frame,
    changes_schema,
)

_LIKE = 2  # a run is merged with the one before if that is at most so many times as long


class MemoryRows:
    """`Rows` in memory; the changelog is all that outlives it."""

    def __init__(self, name: str, carried: pl.Schema) -> None:
        self.name, self.carried = name, carried
        self._schema = pl.Schema({**IDENTITY_TYPES, **carried})
        self._runs: list[Block] = []
        self._fresh: list[Block] = []  # put since the last `changes`
        self._floor = self._told_floor = BEFORE_ALL
        self._superseded = self._told_superseded = BEFORE_ALL
        self._restored: list[pl.DataFrame] = []

    @property
    def floor_ms(self) -> int:
        return self._floor

    # ---------------------------------------------------------------- what operators ask

    def add(self, rows: Block) -> None:
        if not len(rows):
            return
        self._settled_runs().append(rows)
        self._fresh.append(rows)
        while len(self._runs) > 1 and len(self._runs[-2]) <= _LIKE * len(self._runs[-1]):
            self._merge(2)

    def probe(self, asked: Block, low_ms: Int64s, high_ms: Int64s) -> tuple[Int64s, pl.DataFrame]:
        numbers: list[Int64s] = []
        found: list[pl.DataFrame] = []
        for run, start, end in self._ranges(asked, low_ms, high_ms):
            number, row = expanded(start, end)
            if len(row):
                numbers.append(number)
                found.append(run.frame[row])
        if not found:
            return np.empty(0, np.int64), pl.DataFrame(schema=self._schema)
        number = np.concatenate(numbers)
        return _of_one_key(asked, number, pl.concat(found))

    def matched(self, asked: Block, low_ms: Int64s, high_ms: Int64s) -> Int64s:
        some = np.zeros(len(asked), np.bool_)
        for run, start, end in self._ranges(asked, low_ms, high_ms):
            some |= self._truly(asked, run, start, end)
        return np.flatnonzero(some)

    def newest(self, asked: Block, at_ms: Int64s) -> tuple[Int64s, pl.DataFrame]:
        low = np.full(len(asked), BEFORE_ALL)
        numbers: list[Int64s] = []
        found: list[pl.DataFrame] = []
        for run, start, end in self._ranges(asked, low, at_ms):
            number = np.flatnonzero(end > start)
            numbers.append(number)
            found.append(run.frame[end[number] - 1])
        if not found:
            return np.empty(0, np.int64), pl.DataFrame(schema=self._schema)
        number, rows = np.concatenate(numbers), pl.concat(found)
        true = rows[KEY] == asked.frame[KEY][number]
        if not true.all():  # another key of the same hash hides the newest: look at all entries of these
            return _last_of_each(*self.probe(asked, low, at_ms))
        return (number, rows) if len(found) == 1 else _last_of_each(number, rows)

    def between(self, from_ms: int, below_ms: int) -> pl.DataFrame:
        low = max(from_ms, self._floor)
        within = (pl.col(TIME) >= low) & (pl.col(TIME) < below_ms)
        found = [run.frame.filter(within) for run in self._settled_runs() if run.last_ms >= low and run.first_ms < below_ms]
        return pl.concat(found) if found else pl.DataFrame(schema=self._schema)

    def oldest(self, from_ms: int) -> int | None:
        low = max(from_ms, self._floor)
        found: list[int] = []
        for run in self._settled_runs():
            if run.first_ms >= low:
                found.append(run.first_ms)
            elif run.last_ms >= low:
                times = run.times
                found.append(int(times[times >= low].min()))
        return min(found, default=None)

    def drop_below(self, below_ms: int) -> None:
        if below_ms <= self._floor:
            return
        self._floor = below_ms
        kept: list[Block] = []
        for run in self._settled_runs():
            if run.last_ms < below_ms:
                continue
            if run.first_ms < below_ms:
                alive = run.times >= below_ms
                run = run.where(alive) if 2 * np.count_nonzero(alive) < len(run) else run
            kept.append(run)
        self._runs = kept

    def drop_superseded(self, below_ms: int) -> None:
        self._superseded = max(self._superseded, below_ms)

    # ---------------------------------------------------------------- what the engine asks

    def changes(self) -> pl.DataFrame | None:
        fresh = self._alive(merged(self._fresh), whole=False) if self._fresh else None
        self._fresh = []
        bounds = bounds_frame(
            self._floor if self._floor > self._told_floor else BEFORE_ALL,
            self._superseded if self._superseded > self._told_superseded else BEFORE_ALL,
            self.carried,
        )
        self._told_floor, self._told_superseded = self._floor, self._superseded
        parts = [*([_put(fresh.frame, self.carried)] if fresh else []), *([bounds] if len(bounds) else [])]
        return pl.concat(parts) if parts else None

    def restore(self, changes: pl.DataFrame) -> None:
        bounds = changes.filter(pl.col(KEY).is_null())
        for kind, bound in bounds.select(PARTITION, TIME).iter_rows():
            if kind == FLOOR:
                self._floor = self._told_floor = max(self._floor, bound)
            elif kind == SUPERSEDED:
                self._superseded = self._told_superseded = max(self._superseded, bound)
        rows = changes.filter(pl.col(KEY).is_not_null()).select(list(self._schema))
        if len(rows):
            self._restored.append(rows)

    def settle(self) -> tuple[dict[bytes, bytes], list[bytes]]:
        return {}, []

    def sweep(self, after: bytes | None, entries_max: int) -> tuple[pl.DataFrame, bytes | None]:
        """In the order of keys' hashes, a key never in two pages; with the bounds. A place is a hash, 8 bytes BE, signed."""
        self._settled_runs()
        self._merge(len(self._runs))
        bounds = bounds_frame(self._floor, self._superseded, self.carried)
        if not self._runs:
            return bounds, None
        run = self._runs[0]
        start = 0 if after is None else int(np.searchsorted(run.heads, int.from_bytes(after, "big", signed=True), "right"))
        last = int(np.searchsorted(run.starts, run.starts[start] + entries_max, "right")) - 1
        last = min(max(last, start + 1), len(run.heads))
        page = pl.concat([_put(run.frame[int(run.starts[start]) : int(run.starts[last])], self.carried), bounds])
        if last == len(run.heads):
            return page, None
        return page, int(run.heads[last - 1]).to_bytes(8, "big", signed=True)

    def entries(self) -> int:
        return sum(map(len, self._settled_runs()))

    def bytes(self) -> int:
        waiting = sum(int(rows.estimated_size()) for rows in self._restored)
        return waiting + sum(block.size() for block in (*self._runs, *self._fresh))

    # ---------------------------------------------------------------- inside

    def _settled_runs(self) -> list[Block]:
        """The runs, those restored merged into one: among them an identity may come again."""
        if self._restored:
            blocks = [block_of(rows.unique(list(IDENTITY_TYPES), keep="last")) for rows in self._restored]
            self._restored = []
            self._runs = [*self._runs, *blocks]
            self._merge(len(self._runs))
        return self._runs

    def _merge(self, last: int) -> None:
        """Make one of the last runs, and let what is gone go."""
        if not last:
            return
        parts, whole = self._runs[-last:], last == len(self._runs)
        alive = self._alive(merged(parts), whole=whole)
        self._runs = [*self._runs[:-last], *([alive] if alive else [])]

    def _alive(self, block: Block, *, whole: bool) -> Block | None:
        """What the bounds leave of some entries. whole: there are no others, so that deletions hide nothing any more."""
        times = block.times
        kept = times >= self._floor
        if self._superseded > block.first_ms:
            newest = newest_below(block, times < self._superseded)
            if whole and DELETED in self.carried:
                newest &= ~block.frame[DELETED].to_numpy()
            kept &= (times >= self._superseded) | newest
        if kept.all():
            return block
        return block.where(kept) if kept.any() else None

    def _ranges(self, asked: Block, low_ms: Int64s, high_ms: Int64s) -> Iterator[tuple[Block, Int64s, Int64s]]:
        if not len(asked):
            return
        low_ms = np.maximum(low_ms, self._floor)
        hashes, lowest, highest = asked.hashes, low_ms.min(), high_ms.max()
        for run in self._settled_runs():
            if run.first_ms <= highest and run.last_ms >= lowest:
                yield run, *run.bounds(hashes, low_ms, high_ms)

    def _truly(self, asked: Block, run: Block, start: Int64s, end: Int64s) -> Bools:
        """Which asked rows have an entry of their own key in the range, shape (n,) bool."""
        some = end > start
        number = np.flatnonzero(some)
        other = number[(run.frame[KEY][start[number]] != asked.frame[KEY][number]).to_numpy()]
        for i in other.tolist():
            texts = run.frame[KEY][int(start[i]) : int(end[i])]
            some[i] = (texts == asked.frame[KEY][i]).any()
        return some


def newest_below(block: Block, below: Bools) -> Bools:
    """Which rows are the last of their key among those below a time, shape (n,)."""
    texts = block.frame[KEY]
    ends = np.zeros(len(block), np.bool_)
    ends[block.starts[1:] - 1] = True
    other = (texts[1:] != texts[:-1]).to_numpy()
    if np.array_equal(other, ends[:-1]):
        ends[:-1] |= ~below[1:]
        return below & ends
    rows = block.frame.select(KEY).with_row_index("row").filter(pl.Series(below))  # keys that share a hash lie mixed
    newest = np.zeros(len(block), np.bool_)
    newest[rows.group_by(KEY).agg(pl.col("row").last())["row"].to_numpy()] = True
    return newest


def expanded(start: Int64s, end: Int64s) -> tuple[Int64s, Int64s]:
    """Each range [from, to) written out: (number of the range, row), shapes (k,)."""
    counts = np.maximum(end - start, 0)
    number = np.repeat(np.arange(len(counts)), counts)
    ends = np.cumsum(counts)
    return number, np.arange(len(number)) + np.repeat(start - (ends - counts), counts)


def _of_one_key(asked: Block, number: Int64s, rows: pl.DataFrame) -> tuple[Int64s, pl.DataFrame]:
    """Without pairs whose keys only share a hash."""
    true = rows[KEY] == asked.frame[KEY][number]
    if true.all():
        return number, rows
    return number[true.to_numpy()], rows.filter(true)


def _last_of_each(number: Int64s, rows: pl.DataFrame) -> tuple[Int64s, pl.DataFrame]:
    """Of the rows found for each number the last by (time, origin)."""
    order = np.lexsort((*(rows[name].to_numpy() for name in reversed((TIME, *ORIGIN))), number))
    ascending = number[order]
    last = order[np.concatenate((ascending[1:] != ascending[:-1], [True]))] if len(order) else order
    return number[last], rows[last]


def _put(rows: pl.DataFrame, carried: pl.Schema) -> pl.DataFrame:
    return rows.with_columns(pl.lit(False).alias(GONE)).select(list(changes_schema(carried)))


class MemoryTables:
    """`Tables` in memory."""

    def __init__(self) -> None:
        self.tables: dict[str, MemoryRows] = {}

    def rows(self, name: str, carried: pl.Schema) -> MemoryRows:
        return self.tables.setdefault(name, MemoryRows(name, carried))
