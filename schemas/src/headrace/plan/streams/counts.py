"""Count windows: every n rows of a key, in the order of (event time, partition, offset, item).

Rows wait until the watermark has passed them, as another might still come between; then they are counted off. What is left of
a key, fewer than n rows, is one vector that the next rows are added to.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from headrace.plan.ir import EventType, Stream
from headrace.plan.slots import NEWEST, reduce_by
from headrace.plan.streams.frames import ITEM, KEY, OFFSET, PARTITION
from headrace.plan.streams.operator import Batch, Outcome
from headrace.plan.streams.vectors import Entries, Int64s, Tables, together
from headrace.plan.streams.window_base import WindowOperator
from headrace.plan.streams.window_lowering import Windows
from headrace.plan.streams.window_prepare import encoded
from headrace.plan.streams.window_shape import FIRST, ROWS

Bools = npt.NDArray[np.bool_]

_DIGITS = {PARTITION: 10, OFFSET: 19, ITEM: 5}  # of int32, int64, and more items than an array may have
_ORIGIN = sum(_DIGITS.values())


class CountWindows(WindowOperator):
    """Those of one task."""

    def __init__(self, stream: Stream, events: Sequence[EventType], tables: Tables) -> None:
        super().__init__(stream, events)
        layout = self.shape.layout
        self._count, self._first = layout.of[ROWS]["rows"], layout.of[FIRST]["min"]
        self._waiting = tables.vectors("waiting", layout, "key")  # key and origin as one text, time
        self._rests = tables.vectors("rests", layout, "key")  # key, 0
        self.tables = {"waiting": self._waiting, "rests": self._rests}

    def take(self, batches: Sequence[Batch], watermark_ms: int | None) -> Outcome:
        table = self._waiting
        named = [Batch(batch.input, batch.rows.with_columns(_name())) for batch in batches]
        entries, refused = self.let_in(named, table.mark_ms)
        self.all_in_time(entries, entries.at, table.mark_ms)
        table.merge(entries)
        parts: list[Windows] = []
        if watermark_ms is not None:
            table.advance(watermark_ms)
            ready = table.take_below(watermark_ms)
            if len(ready):
                parts = self._counted(ready)
        return self.outcome(parts, refused)

    def due_ms(self) -> int | None:
        oldest = self._waiting.oldest_ms()
        return None if oldest is None else oldest + 1

    def _counted(self, ready: Entries) -> list[Windows]:
        """Rows in order, counted off after the rest of their key."""
        keys = ready.keys.str.head(-_ORIGIN)
        rests = self._rests.of_keys(keys.unique())
        self._rests.remove(rests.keys, rests.at)
        every = together([rests, Entries(keys, ready.at, ready.slots)], self.shape.layout.width)
        codes, names = encoded(every.keys)
        order = np.argsort(codes, kind="stable")
        codes, slots = codes[order], every.slots[order]
        before = _before(codes, slots[:, self._count])
        number = before // self.shape.window.rows
        begins = np.concatenate(([True], (codes[1:] != codes[:-1]) | (number[1:] != number[:-1])))
        _, merged = reduce_by(self.shape.layout, np.cumsum(begins), slots)
        found = names.gather(codes[begins])
        full = merged[:, self._count] == self.shape.window.rows
        left = np.flatnonzero(~full)
        self._rests.merge(Entries(found.gather(left), np.zeros(len(left), np.int64), merged[left]))
        return self._results(found, merged, full)

    def _results(self, keys: pl.Series, merged: Int64s, full: Bools) -> list[Windows]:
        start, newest = merged[:, self._first], merged[:, NEWEST]
        parts: list[Windows] = []
        if self.updates:
            parts.append(Windows(keys, start, newest + 1, newest, np.zeros(len(start), np.bool_), merged))
        if self.closes:
            at = np.flatnonzero(full)
            parts.append(Windows.closed(keys.gather(at), start[at], newest[at] + 1, merged[at]))
        return parts


def _before(codes: Int64s, counts: Int64s) -> Int64s:
    """How many rows of the same key stand before each entry; codes ascend."""
    total = np.cumsum(counts) - counts
    first = np.flatnonzero(np.concatenate(([True], codes[1:] != codes[:-1])))
    return total - np.repeat(total[first], np.diff(first, append=len(codes)))


def _name() -> pl.Expr:
    """A row's own text: its key, then its origin in digits of one length, so that a key's texts stand in their order."""
    digits = [pl.col(name).cast(pl.String).str.zfill(size) for name, size in _DIGITS.items()]
    return pl.concat_str([pl.col(KEY), *digits]).alias(KEY)
