"""Session windows: rows of a key at most a gap apart, whatever the order in which they come.

    open sessions of the keys ---+
    sessions of the batch -------+--by (key, first)--> chains: first <= last so far + gap --> one session each

A session is an entry named by its first time; its newest time, in the vector, says when it closes. One that begins earlier
than was thought, or is bridged to another, gets another name.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from headrace.plan.ir import EventType, Stream
from headrace.plan.slots import NEWEST
from headrace.plan.streams.operator import Batch, Outcome
from headrace.plan.streams.vectors import Entries, Int64s, Tables, together
from headrace.plan.streams.window_base import WindowOperator
from headrace.plan.streams.window_lowering import Windows
from headrace.plan.streams.window_prepare import chains, encoded

Bools = npt.NDArray[np.bool_]


class SessionWindows(WindowOperator):
    """Those of one task."""

    def __init__(self, stream: Stream, events: Sequence[EventType], tables: Tables) -> None:
        super().__init__(stream, events)
        self._gap = self.shape.window.gap_ms
        self._sessions = tables.vectors("sessions", self.shape.layout, "key")
        self.tables = {"sessions": self._sessions}

    def take(self, batches: Sequence[Batch], watermark_ms: int | None) -> Outcome:
        table = self._sessions
        entries, refused = self.let_in(batches, table.mark_ms)
        self.all_in_time(entries, entries.at, table.mark_ms)
        parts: list[Windows] = []
        if len(entries):
            changed = self._merge(entries)
            if self.updates:
                parts.append(self._updated(*changed))
        if watermark_ms is not None:
            table.advance(watermark_ms)
            done = table.take_below(watermark_ms - self._gap)
            if self.closes and len(done):
                parts.append(Windows.closed(done.keys, done.at, done.slots[:, NEWEST] + 1, done.slots))
        return self.outcome(parts, refused)

    def due_ms(self) -> int | None:
        oldest = self._sessions.oldest_ms()
        return None if oldest is None else oldest + self._gap + 1

    def _merge(self, entries: Entries) -> tuple[pl.Series, Int64s]:
        """Sessions that these are now part of: (key, start)."""
        held = self._sessions.of_keys(entries.keys.unique())
        every = together([held, entries], self.shape.layout.width)
        codes, names = encoded(every.keys)
        first, last = every.at, every.slots[:, NEWEST]
        order = np.lexsort((first, codes))
        heads = chains(codes[order], first[order], last[order], self._gap)
        group = np.cumsum(heads) - 1
        start = first[order][heads]  # of each group
        is_new = order >= len(held)
        changed = np.zeros(len(start), np.bool_)
        changed[group[is_new]] = True
        stays = ~is_new & (first[order] == start[group])  # in its place already
        moves = order[~is_new & ~stays]
        self._sessions.remove(every.keys.gather(moves), first[moves])
        joins = order[~stays]
        into = start[group[~stays]]
        self._sessions.merge(Entries(every.keys.gather(joins), into, every.slots[joins]))
        return names.gather(codes[order][heads][changed]), start[changed]

    def _updated(self, keys: pl.Series, start: Int64s) -> Windows:
        slots = self._sessions.get(keys, start)
        newest = slots[:, NEWEST]
        return Windows(keys, start, newest + 1, newest, np.zeros(len(start), np.bool_), slots)
