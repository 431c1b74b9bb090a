"""The interval join: pairs of rows of one key with right.time in [left.time - before, left.time + after].

Both sides are kept and each is probed by the other, so it does not matter which row comes first. At a watermark w no row
below w is still to come, hence (l, r times of rows of the left and right table):

    l <  w - after             no partner of l is to come: unmatched is decided; a left row is needed no more for pairs
    r <  w - before            likewise of the right
    t <  w - before - after    nor to decide whether a row of the other side is unmatched

Whether a row is unmatched is asked of the other table when it is decided, so no mark of it is ever stored. What was
decided is known from the tables' floors: they are functions of the watermark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from headrace.plan.ir import EventType, Stream
from headrace.plan.streams.blocks import Block, block_of
from headrace.plan.streams.frames import KEY, TIME
from headrace.plan.streams.key_hash import Int64s
from headrace.plan.streams.operator import Batch, Outcome, Table
from headrace.plan.streams.outputs import RowOutput
from headrace.plan.streams.prepare_rows import build_prepare
from headrace.plan.streams.rows import BEFORE_ALL, Rows, Tables
from headrace.plan.streams.taking import advanced, judged, refused_frame

Part = tuple[pl.Series, Int64s, pl.DataFrame]


@dataclass(frozen=True, slots=True)
class _Side:
    """One side's table and its spans, ms.

    back, ahead: partners lie in [time - back, time + ahead]. kept: a row stays until the watermark exceeds time + kept.
    reports: whether its unmatched rows are results.
    """

    index: int
    rows: Rows
    back: int
    ahead: int
    kept: int
    reports: bool


class IntervalJoin:
    """See the module. An `Operator`."""

    def __init__(self, stream: Stream, events: Sequence[EventType], tables: Tables) -> None:
        join = stream.join
        assert join is not None and join.kind == "interval"
        before, after = join.before_ms, join.after_ms
        left, right = (tables.rows(name, build_prepare(stream, i, events).carried) for i, name in enumerate(("left", "right")))
        self.tables: Mapping[str, Table] = {"left": left, "right": right}
        self._output = RowOutput(stream, events)
        whole = before + after
        self._sides = (
            _Side(0, left, before, after, max(after, whole) if join.how == "outer" else after, join.how != "inner"),
            _Side(1, right, after, before, before if join.how == "inner" else max(before, whole), join.how == "outer"),
        )

    def take(self, batches: Sequence[Batch], watermark_ms: int | None) -> Outcome:
        known = self._watermark_ms()
        parts: list[Part] = []
        refused: list[pl.DataFrame] = []
        fresh: list[Block | None] = []
        for side in self._sides:
            rows, late = judged(batches, side.index, known)
            refused += late
            fresh.append(None if rows is None else block_of(rows))
        for side, block in zip(self._sides, fresh, strict=True):
            if block is not None:
                parts.append(self._pairs(side, block))
                side.rows.add(block)
        below = advanced(known, watermark_ms)
        if below != BEFORE_ALL:
            for side, block in zip(self._sides, fresh, strict=True):
                parts += self._unmatched(side, block, known, below)
            for side in self._sides:
                side.rows.drop_below(below - side.kept)
        return Outcome(self._output.ordered(parts), refused_frame(refused))

    def due_ms(self) -> int | None:
        known = self._watermark_ms()
        found: list[int] = []
        for side in self._sides:
            for kept in {side.kept, side.ahead} if side.reports else {side.kept}:
                oldest = side.rows.oldest(BEFORE_ALL if known == BEFORE_ALL else known - kept)
                found += [] if oldest is None else [oldest + kept + 1]
        return min(found, default=None)

    def _watermark_ms(self) -> int:
        """Of the last take; the tables remember it."""
        side = self._sides[0]
        return side.rows.floor_ms if side.rows.floor_ms == BEFORE_ALL else side.rows.floor_ms + side.kept

    def _pairs(self, side: _Side, block: Block) -> Part:
        """New rows of a side with all that the other side holds."""
        times = block.times
        number, others = self._sides[1 - side.index].rows.probe(block, times - side.back, times + side.ahead)
        mine = block.frame[number]
        later = np.maximum(mine[TIME].to_numpy(), others[TIME].to_numpy())
        pair = (mine, others) if side.index == 0 else (others, mine)
        return mine[KEY], later, self._output.frame(mine[KEY], later, pair)

    def _unmatched(self, side: _Side, fresh: Block | None, known: int, watermark_ms: int) -> list[Part]:
        """Rows for which no partner can come any more, and none has."""
        if not side.reports:
            return []
        decided = BEFORE_ALL if known == BEFORE_ALL else known - side.ahead
        due = [side.rows.between(decided, watermark_ms - side.ahead)] if watermark_ms > known else []
        if fresh is not None and side.ahead < 0:  # partners lie before the row: it may be decided as it comes
            due.append(fresh.frame.filter(pl.col(TIME) < decided))
        rows = pl.concat(due) if due else None
        if rows is None or not len(rows):
            return []
        block = block_of(rows)
        times = block.times
        alone = np.ones(len(block), np.bool_)
        alone[self._sides[1 - side.index].rows.matched(block, times - side.back, times + side.ahead)] = False
        rows = block.frame.filter(pl.Series(alone))
        sides = (rows, None) if side.index == 0 else (None, rows)
        times = rows[TIME].to_numpy()
        return [(rows[KEY], times, self._output.frame(rows[KEY], times, sides))]
