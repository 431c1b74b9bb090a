"""Tumbling and hopping windows: panes merged as rows come, windows merged from panes when the watermark passes their end.

    rows --prepare--> panes (key, start) --merge--> table --watermark >= end--> windows

A tumbling window is one pane. Panes go when the last window that holds them has closed. Results are made from the table
alone, so that nothing is said of a window but what its rows are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from headrace.plan.ir import EventType, Stream
from headrace.plan.slots import NEWEST, Layout, reduce_by
from headrace.plan.streams.frames import KEY
from headrace.plan.streams.operator import Batch, Outcome
from headrace.plan.streams.vectors import AT, Entries, Int64s, Tables
from headrace.plan.streams.window_base import WindowOperator
from headrace.plan.streams.window_lowering import Windows
from headrace.plan.streams.window_prepare import encoded, pane_ms


class PaneWindows(WindowOperator):
    """Tumbling and hopping windows of one task."""

    def __init__(self, stream: Stream, events: Sequence[EventType], tables: Tables) -> None:
        super().__init__(stream, events)
        window = self.shape.window
        self._size = window.size_ms
        self._hop = window.hop_ms if window.kind == "hopping" else window.size_ms
        self._spread = Spread(self._size, self._hop, pane_ms(window))
        self._panes = tables.vectors("panes", self.shape.layout, "at")
        self.tables = {"panes": self._panes}

    def take(self, batches: Sequence[Batch], watermark_ms: int | None) -> Outcome:
        panes = self._panes
        entries, refused = self.let_in(batches, panes.mark_ms)
        self.all_in_time(entries, entries.at, panes.closed_ms)
        panes.merge(entries)
        parts = [self._updated(entries)] if self.updates and len(entries) else []
        if watermark_ms is not None:
            panes.advance(watermark_ms)
            parts += self._close(self._first_open(watermark_ms))
        return self.outcome(parts, refused)

    def due_ms(self) -> int | None:
        oldest = self._panes.oldest_ms()
        if oldest is None:
            return None
        start = self._spread.first_start(oldest)
        return max(start, start if self._panes.closed_ms is None else self._panes.closed_ms) + self._size

    def _first_open(self, watermark_ms: int) -> int:
        """The least start of a window that ends above the watermark."""
        return ((watermark_ms - self._size) // self._hop + 1) * self._hop

    def _close(self, first_open: int) -> list[Windows]:
        panes, closed = self._panes, self._panes.closed_ms
        if closed is not None and first_open <= closed:
            return []
        if self._spread.single:
            done = panes.take_below(first_open)
            return [Windows.closed(done.keys, done.at, done.at + self._size, done.slots)] if self.closes and len(done) else []
        found: list[Windows] = []
        if self.closes:
            held = panes.scan(None, first_open - self._hop + self._size)
            if len(held):
                keys, start, slots = self._spread.merged(self.shape.layout, held, closed, first_open)
                found.append(Windows.closed(keys, start, start + self._size, slots))
        panes.take_below(first_open)
        return found

    def _updated(self, entries: Entries) -> Windows:
        """Windows that these entries have changed, as they are now."""
        panes, closed = self._panes, self._panes.closed_ms
        if self._spread.single:
            once = pl.DataFrame({KEY: entries.keys, AT: entries.at}).unique()
            keys, start = once[KEY], once[AT].to_numpy()
            slots = panes.get(keys, start)
        else:
            low, high = int(entries.at.min()) - self._size, int(entries.at.max()) + self._size
            held = panes.scan(low, high)
            held = held.take(held.keys.is_in(entries.keys.unique().implode()).to_numpy())
            keys, start, slots = self._spread.merged(self.shape.layout, held, closed, None, entries)
        open_ = np.zeros(len(start), np.bool_)
        return Windows(keys, start, start + self._size, slots[:, NEWEST], open_, slots)


class Spread:
    """Which windows a pane is in: starts are multiples of hop, windows and panes whole multiples of the pane."""

    def __init__(self, size_ms: int, hop_ms: int, pane_ms: int) -> None:
        self.size, self.hop, self.pane = size_ms, hop_ms, pane_ms
        self.single = size_ms == hop_ms == pane_ms  # a window is its pane

    def first_start(self, pane: int) -> int:
        """The least start of a window that holds the pane."""
        return -((self.size - self.pane - pane) // self.hop) * self.hop

    def starts(self, panes: Int64s, low: int | None, high: int | None) -> tuple[Int64s, Int64s]:
        """Every pair of a pane and a window with low <= start < high (None: no bound): row of the pane, start, both (P,)."""
        first = -((self.size - self.pane - panes) // self.hop) * self.hop
        last = panes // self.hop * self.hop
        if low is not None:
            first = np.maximum(first, low)
        if high is not None:
            last = np.minimum(last, high - self.hop)
        count = np.maximum((last - first) // self.hop + 1, 0)
        row = np.repeat(np.arange(len(panes)), count)
        step = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        return row, first[row] + step * self.hop

    def merged(
        self, layout: Layout, held: Entries, low: int | None, high: int | None, changed: Entries | None = None
    ) -> tuple[pl.Series, Int64s, Int64s]:
        """Windows with low <= start < high (multiples of hop) over the panes held; of those only that hold a changed one.

        Returns: key, start, slots of each.
        """
        row, start = self.starts(held.at, low, high)
        codes, names = encoded(held.keys)
        times, rank = np.unique(start, return_inverse=True)
        window = codes[row] * len(times) + rank
        if changed is not None:
            of, begin = self.starts(changed.at, low, high)
            code = (
                names.to_frame().with_row_index("n").join(changed.keys.to_frame(), on=KEY, how="right", maintain_order="right")
            )
            wanted = code["n"].cast(pl.Int64).to_numpy()[of] * len(times) + np.searchsorted(times, begin)
            kept = np.isin(window, wanted)
            row, window = row[kept], window[kept]
        groups, slots = reduce_by(layout, window, held.slots[row])
        return names.gather(groups // len(times)), times[groups % len(times)], slots
