"""`Rows` over sorted runs: probes of a whole batch are a few binary searches in each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl

from headrace.plan.streams.blocks import Block, Bools, block_of, merged
from headrace.plan.streams.frames import GONE, KEY, ORIGIN, PARTITION, TIME
from headrace.plan.streams.key_hash import Int64s
from headrace.plan.streams.pages import HASH_MAX, HASH_MIN, MemoryPages, Pages, Run, rows_of
from headrace.plan.streams.rows import (
    BEFORE_ALL,
    DELETED,
    FLOOR,
    IDENTITY_TYPES,
    SUPERSEDED,
    bounds_frame,
    changes_schema,
)
from headrace.plan.streams.runs import Runs

_PLACE_BYTES = 8


class SortedRows:
    """`Rows` wherever their pages lie. `settle` is left to those whose pages outlive the process."""

    def __init__(self, name: str, carried: pl.Schema, pages: Pages) -> None:
        self.name, self.carried = name, carried
        self._schema = pl.Schema({**IDENTITY_TYPES, **carried})
        self._pages = pages
        self._runs = Runs(pages, self._alive)
        self._fresh: list[Block] = []  # put since the last `changes`
        self._floor = self._told_floor = BEFORE_ALL
        self._superseded = self._told_superseded = BEFORE_ALL

    @property
    def floor_ms(self) -> int:
        return self._floor

    # ---------------------------------------------------------------- what operators ask

    def add(self, rows: Block) -> None:
        assert rows.frame.columns == list(self._schema), f"{rows.frame.columns} put in {self.name}"
        self._fresh.append(rows)
        self._runs.add(rows)

    def probe(self, asked: Block, low_ms: Int64s, high_ms: Int64s) -> tuple[Int64s, pl.DataFrame]:
        numbers: list[Int64s] = []
        found: list[pl.DataFrame] = []
        for numbered, run, start, end in self._ranges(asked, low_ms, high_ms):
            number, row = expanded(start, end)
            if len(row):
                numbers.append(numbered[number])
                found.append(run.frame[row])
        if not found:
            return np.empty(0, np.int64), pl.DataFrame(schema=self._schema)
        number = np.concatenate(numbers)
        return _of_one_key(asked, number, pl.concat(found))

    def matched(self, asked: Block, low_ms: Int64s, high_ms: Int64s) -> Int64s:
        some = np.zeros(len(asked), np.bool_)
        for numbered, run, start, end in self._ranges(asked, low_ms, high_ms):
            some[numbered] |= self._truly(asked.frame[KEY][numbered], run, start, end)
        return np.flatnonzero(some)

    def newest(self, asked: Block, at_ms: Int64s) -> tuple[Int64s, pl.DataFrame]:
        low = np.full(len(asked), BEFORE_ALL)
        numbers: list[Int64s] = []
        found: list[pl.DataFrame] = []
        for numbered, run, start, end in self._ranges(asked, low, at_ms):
            number = np.flatnonzero(end > start)
            numbers.append(numbered[number])
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
        found = [block.frame.filter(within) for block in self._blocks(low, below_ms - 1)]
        return pl.concat(found) if found else pl.DataFrame(schema=self._schema)

    def oldest(self, from_ms: int) -> int | None:
        low = max(from_ms, self._floor)
        found: list[int] = []
        for run in self._runs.all():
            for page in run:
                if page.first_ms >= low:
                    found.append(page.first_ms)
                elif page.last_ms >= low and (block := self._runs.read(page)) is not None:
                    times = block.times
                    found += [int(times[times >= low].min())] if (times >= low).any() else []
        return min(found, default=None)

    def drop_below(self, below_ms: int) -> None:
        if below_ms > self._floor:
            self._floor = below_ms
            self._runs.drop_below(below_ms)

    def drop_superseded(self, below_ms: int) -> None:
        self._superseded = max(self._superseded, below_ms)

    # ---------------------------------------------------------------- what the engine asks

    def changes(self) -> pl.DataFrame | None:
        fresh = self._alive(merged(self._fresh), False) if self._fresh else None
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
        for kind, bound in changes.filter(pl.col(KEY).is_null()).select(PARTITION, TIME).iter_rows():
            if kind == FLOOR and bound > self._floor:
                self._floor = self._told_floor = bound
                self._runs.drop_below(bound)
            elif kind == SUPERSEDED:
                self._superseded = self._told_superseded = max(self._superseded, bound)
        rows = changes.filter(pl.col(KEY).is_not_null() & (pl.col(TIME) >= self._floor)).select(list(self._schema))
        if len(rows):
            fresh = self._unknown(block_of(rows))
            if fresh is not None:
                self._runs.add(fresh)

    def settle(self) -> tuple[dict[bytes, bytes], list[bytes]]:
        raise NotImplementedError

    def sweep(self, after: bytes | None, entries_max: int) -> tuple[pl.DataFrame, bytes | None]:
        """In the order of keys' hashes, a key never in two pages; with the bounds. A place is a hash, 8 bytes BE, signed."""
        bounds = bounds_frame(self._floor, self._superseded, self.carried)
        low = HASH_MIN if after is None else int.from_bytes(after, "big", signed=True) + 1
        parts = [self._swept(run, low, entries_max) for run in self._runs.all()]
        high = min((limit for _, limit in parts), default=HASH_MAX)
        blocks = [part for blocks, _ in parts for block in blocks if (part := block.within(low, high)) is not None]
        if not blocks:
            return bounds, None
        block = merged(blocks)
        last = max(int(np.searchsorted(block.starts, entries_max, "right")) - 1, 1)
        end = high if last >= len(block.heads) else int(block.heads[last - 1])
        alive = self._alive(block.rows(0, int(block.starts[min(last, len(block.heads))])), True)
        page = pl.concat([*([_put(alive.frame, self.carried)] if alive else []), bounds])
        return page, None if end == HASH_MAX else end.to_bytes(_PLACE_BYTES, "big", signed=True)

    def entries(self) -> int:
        """Those that are gone but not yet forgotten included."""
        return sum(map(rows_of, self._runs.all()))

    def bytes(self) -> int:
        return self._pages.bytes() + sum(block.size() for block in self._fresh)

    # ---------------------------------------------------------------- inside

    def _opened(self, floor_ms: int, superseded_ms: int, runs: Sequence[Run], next_number: int) -> None:
        """Be as `_state` once said."""
        self._floor = self._told_floor = floor_ms
        self._superseded = self._told_superseded = superseded_ms
        self._runs = Runs(self._pages, self._alive, runs, next_number)

    def _state(self) -> tuple[int, int, list[Run], int]:
        """Everything but the pages: floor, superseded, runs, next page number."""
        return self._floor, self._superseded, self._runs.all(), self._runs.next_number

    def _swept(self, run: Run, low: int, rows: int) -> tuple[list[Block], int]:
        """The first rows of a run from a hash on, at least so many, and the hash up to which these are all."""
        blocks: list[Block] = []
        pages = [page for page in run if page.last_hash >= low]
        for place, page in enumerate(pages):
            if rows <= 0 and page.first_hash > pages[place - 1].last_hash:
                return blocks, pages[place - 1].last_hash
            block = self._runs.read(page)
            part = None if block is None else block.within(low, HASH_MAX)
            if part is not None:
                blocks.append(part)
                rows -= len(part)
        return blocks, HASH_MAX

    def _unknown(self, block: Block) -> Block | None:
        """What is not there yet: a sweep tells again what changes have told."""
        block = merged([block], unique=True)
        number, rows = self.probe(block, block.times, block.times)
        same = np.ones(len(number), np.bool_)
        for name in ORIGIN:
            same &= rows[name].to_numpy() == block.frame[name].to_numpy()[number]
        fresh = np.ones(len(block), np.bool_)
        fresh[number[same]] = False
        if fresh.all():
            return block
        return block.where(fresh) if fresh.any() else None

    def _alive(self, block: Block, whole: bool) -> Block | None:
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

    def _blocks(self, low_ms: int, high_ms: int) -> Iterator[Block]:
        """Those with rows of these times."""
        for run in self._runs.all():
            for page in run:
                if page.first_ms <= high_ms and page.last_ms >= low_ms and (block := self._runs.read(page)) is not None:
                    yield block

    def _ranges(self, asked: Block, low_ms: Int64s, high_ms: Int64s) -> Iterator[tuple[Int64s, Block, Int64s, Int64s]]:
        """Of each page that may answer: numbers of the asked rows in question, ascending, its rows, the ranges of these."""
        low_ms = np.maximum(low_ms, self._floor)
        hashes, lowest, highest = asked.hashes, int(low_ms.min()), int(high_ms.max())
        for run in self._runs.all():
            for page in run:
                if page.first_ms > highest or page.last_ms < lowest:
                    continue
                first = int(np.searchsorted(hashes, page.first_hash, "left"))
                last = int(np.searchsorted(hashes, page.last_hash, "right"))
                if first == last or (block := self._runs.read(page)) is None:
                    continue
                some = slice(first, last)
                yield np.arange(first, last), block, *block.bounds(hashes[some], low_ms[some], high_ms[some])

    def _truly(self, keys: pl.Series, run: Block, start: Int64s, end: Int64s) -> Bools:
        """Which asked rows have an entry of their own key in the range, shape (n,) bool."""
        some = end > start
        number = np.flatnonzero(some)
        other = number[(run.frame[KEY][start[number]] != keys[number]).to_numpy()]
        for i in other.tolist():
            texts = run.frame[KEY][int(start[i]) : int(end[i])]
            some[i] = (texts == keys[i]).any()
        return some


def newest_below(block: Block, below: Bools) -> Bools:
    """Which rows are the last of their key among those below a time, shape (n,)."""
    if not block.mixed:
        ends = np.zeros(len(block), np.bool_)
        ends[block.starts[1:] - 1] = True
        ends[:-1] |= ~below[1:]
        return below & ends
    rows = block.frame.select(KEY).with_row_index("row").filter(pl.Series(below))
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


class MemoryRows(SortedRows):
    """All in memory; the changelog is all that outlives it."""

    def __init__(self, name: str, carried: pl.Schema) -> None:
        super().__init__(name, carried, MemoryPages())

    def settle(self) -> tuple[dict[bytes, bytes], list[bytes]]:
        return {}, []
