"""Distinct: of the rows of a key in their order, those whose predecessor is more than a horizon older, or that have none.

Rows wait until the watermark has passed them, then their order is known. "seen" keeps the last row below the watermark of
each key, as long as the horizon reaches back to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from headrace.plan.ir import EventType, Stream
from headrace.plan.streams.blocks import Block, block_of
from headrace.plan.streams.frames import KEY, TIME
from headrace.plan.streams.key_hash import Int64s
from headrace.plan.streams.operator import Batch, Outcome, Table
from headrace.plan.streams.outputs import RowOutput
from headrace.plan.streams.prepare_rows import build_prepare
from headrace.plan.streams.rows import BEFORE_ALL, IDENTITY_TYPES, Tables
from headrace.plan.streams.sorted_rows import newest_below
from headrace.plan.streams.taking import advanced, judged, parted, refused_frame


class DistinctRows:
    """See the module. An `Operator`; its tables are "waiting" and "seen"."""

    def __init__(self, stream: Stream, events: Sequence[EventType], tables: Tables) -> None:
        assert stream.distinct is not None
        self._horizon_ms = stream.distinct.horizon_ms
        self._waiting = tables.rows("waiting", build_prepare(stream, 0, events).carried)
        self._seen = tables.rows("seen", pl.Schema())
        self.tables: Mapping[str, Table] = {"waiting": self._waiting, "seen": self._seen}
        self._output = RowOutput(stream, events)

    def take(self, batches: Sequence[Batch], watermark_ms: int | None) -> Outcome:
        known = self._waiting.floor_ms
        rows, late = judged(batches, 0, known)
        below = advanced(known, watermark_ms)
        due, waiting = parted(rows, below)
        if waiting is not None:
            self._waiting.add(block_of(waiting))
        if below == BEFORE_ALL:
            return Outcome(self._output.ordered([]), refused_frame(late))
        ready = pl.concat([*due, self._waiting.between(BEFORE_ALL, below)])
        results = self._passed(block_of(ready)) if len(ready) else self._output.ordered([])
        self._waiting.drop_below(below)
        self._seen.drop_superseded(below)
        self._seen.drop_below(below - self._horizon_ms)
        return Outcome(results, refused_frame(late))

    def due_ms(self) -> int | None:
        waiting, seen = self._waiting.oldest(BEFORE_ALL), self._seen.oldest(BEFORE_ALL)
        found = [*([] if waiting is None else [waiting + 1]), *([] if seen is None else [seen + self._horizon_ms + 1])]
        return min(found, default=None)

    def _passed(self, block: Block) -> pl.DataFrame:
        """Those of some rows that pass; none lies between them and what was seen."""
        times, before = block.times, previous_times(block)
        first = before == BEFORE_ALL
        opening = block.where(first)
        number, seen = self._seen.newest(opening, opening.times)
        before[np.flatnonzero(first)[number]] = seen[TIME].to_numpy()
        # none stands for one that is too old: BEFORE_ALL itself would wrap
        passed = times - np.maximum(before, block.first_ms - self._horizon_ms - 1) > self._horizon_ms
        rows = block.frame.filter(pl.Series(passed))
        last = newest_below(block, np.ones(len(block), np.bool_))
        self._seen.add(block_of(block.frame.filter(pl.Series(last)).select(list(IDENTITY_TYPES))))
        keys, at = rows[KEY], rows[TIME].to_numpy()
        return self._output.ordered([(keys, at, self._output.frame(keys, at, (rows,)))])


def previous_times(block: Block) -> Int64s:
    """Time of the row before of the same key, BEFORE_ALL where there is none; shape (n,)."""
    if block.mixed:
        return block.frame.select(pl.col(TIME).shift(1).over(KEY).fill_null(BEFORE_ALL)).to_series().to_numpy(writable=True)
    before = np.concatenate(([BEFORE_ALL], block.times[:-1]))
    before[block.starts[:-1]] = BEFORE_ALL
    return before
