"""Sliding windows: one per distinct event time t of a key, over (t - size, t].

Rows of a key at one time are one entry. A window closes once the watermark is above t; an entry goes once no window to come
reaches back to it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from headrace.plan.ir import EventType, Stream
from headrace.plan.slots import ranges, reduce_ranges
from headrace.plan.streams.operator import Batch, Outcome
from headrace.plan.streams.vectors import Entries, Int64s, Tables
from headrace.plan.streams.window_base import WindowOperator
from headrace.plan.streams.window_lowering import Windows
from headrace.plan.streams.window_prepare import encoded


class SlidingWindows(WindowOperator):
    """Those of one task."""

    def __init__(self, stream: Stream, events: Sequence[EventType], tables: Tables) -> None:
        super().__init__(stream, events)
        self._size = self.shape.window.size_ms
        self._rows = tables.vectors("rows", self.shape.layout, "key")
        self.tables = {"rows": self._rows}

    def take(self, batches: Sequence[Batch], watermark_ms: int | None) -> Outcome:
        table, mark = self._rows, self._rows.mark_ms
        entries, refused = self.let_in(batches, mark)
        self.all_in_time(entries, entries.at, mark)
        table.merge(entries)
        parts = [self._updated(entries)] if self.updates and len(entries) else []
        if watermark_ms is not None and (mark is None or watermark_ms > mark):
            if self.closes:
                parts += self._closed(table.scan(mark, watermark_ms))
            table.advance(watermark_ms)
            table.take_below(watermark_ms - self._size + 1)
        return self.outcome(parts, refused)

    def due_ms(self) -> int | None:
        open_, oldest = self._rows.oldest_ms(self._rows.mark_ms), self._rows.oldest_ms()
        due = [
            t for t in (None if open_ is None else open_ + 1, None if oldest is None else oldest + self._size) if t is not None
        ]
        return min(due, default=None)

    def _closed(self, done: Entries) -> list[Windows]:
        if not len(done):
            return []
        held = self._rows.of_keys(done.keys.unique())
        codes, names = encoded(pl.concat([held.keys, done.keys], rechunk=True))
        slots = self._over(held, codes[: len(held)], codes[len(held) :], done.at)
        return [Windows.closed(names.gather(codes[len(held) :]), done.at - self._size + 1, done.at + 1, slots)]

    def _updated(self, entries: Entries) -> Windows:
        """Windows of which one of these entries is a part, as they are now."""
        held = self._rows.of_keys(entries.keys.unique())
        codes, names = encoded(pl.concat([held.keys, entries.keys], rechunk=True))
        mine, changed = codes[: len(held)], codes[len(held) :]
        order = np.lexsort((entries.at, changed))
        start, end = ranges(changed[order], entries.at[order], mine, held.at - self._size + 1, held.at)
        found = np.flatnonzero(end > start)
        code, time = mine[found], held.at[found]
        slots = self._over(held, mine, code, time)
        open_ = np.zeros(len(found), np.bool_)
        return Windows(names.gather(code), time - self._size + 1, time + 1, time, open_, slots)

    def _over(self, held: Entries, codes: Int64s, asked: Int64s, time: Int64s) -> Int64s:
        """Vectors of the windows that end at these times, (Q, W)."""
        order = np.lexsort((held.at, codes))
        start, end = ranges(codes[order], held.at[order], asked, time - self._size + 1, time)
        return reduce_ranges(self.shape.layout, held.slots[order], start, end)
