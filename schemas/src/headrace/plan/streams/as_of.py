"""As-of and table joins: each left row with the newest right row of its key that is not after it.

A left row waits until the watermark has passed it: only then every right row that may be its partner is there. Of the
right side the newest version of each key below the watermark is kept, and all that are not below it; a deletion is a
version that says there is none. With a bound on age older versions go too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from headrace.plan.ir import EventType, Stream
from headrace.plan.streams.blocks import block_of
from headrace.plan.streams.frames import GONE, KEY, TIME
from headrace.plan.streams.operator import Batch, Outcome, Table
from headrace.plan.streams.outputs import RowOutput
from headrace.plan.streams.prepare_rows import build_prepare
from headrace.plan.streams.rows import BEFORE_ALL, DELETED, Tables
from headrace.plan.streams.taking import advanced, judged, parted, refused_frame


class NewestJoin:
    """See the module. An `Operator`; its tables are "left", rows that wait, and "right", versions."""

    def __init__(self, stream: Stream, events: Sequence[EventType], tables: Tables) -> None:
        assert stream.join is not None
        self._inner, self._max_age_ms = stream.join.how == "inner", stream.join.max_age_ms
        self._deletes = stream.inputs[1].table
        left, right = (build_prepare(stream, i, events).carried for i in range(2))
        self._left = tables.rows("left", left)
        self._right = tables.rows("right", pl.Schema({**right, **({DELETED: pl.Boolean()} if self._deletes else {})}))
        self.tables: Mapping[str, Table] = {"left": self._left, "right": self._right}
        self._output = RowOutput(stream, events)

    def take(self, batches: Sequence[Batch], watermark_ms: int | None) -> Outcome:
        known = self._left.floor_ms
        rows, late = judged(batches, 0, known)
        versions, late_versions = judged(batches, 1, known)
        refused = refused_frame([*late, *late_versions])
        if versions is not None:
            self._right.add(block_of(versions.rename({GONE: DELETED}) if self._deletes else versions))
        below = advanced(known, watermark_ms)
        due, waiting = parted(rows, below)
        if waiting is not None:
            self._left.add(block_of(waiting))
        if below == BEFORE_ALL:
            return Outcome(self._output.ordered([]), refused)
        due += [self._left.between(BEFORE_ALL, below)]
        results = self._joined(pl.concat(due))
        self._left.drop_below(below)
        self._right.drop_superseded(below)
        if self._max_age_ms is not None:
            self._right.drop_below(below - self._max_age_ms)
        return Outcome(results, refused)

    def due_ms(self) -> int | None:
        """Of rows that wait and of versions too old; others go with those that come after them."""
        waiting = self._left.oldest(BEFORE_ALL)
        found = [] if waiting is None else [waiting + 1]
        if self._max_age_ms is not None and (version := self._right.oldest(BEFORE_ALL)) is not None:
            found.append(version + self._max_age_ms + 1)
        return min(found, default=None)

    def _joined(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Results of left rows that all have their partners."""
        if not len(rows):
            return self._output.ordered([])
        block = block_of(rows)
        number, versions = self._right.newest(block, block.times)
        held = np.ones(len(number), np.bool_)
        if self._deletes:
            held &= ~versions[DELETED].to_numpy()
        if self._max_age_ms is not None:
            held &= versions[TIME].to_numpy() >= block.times[number] - self._max_age_ms
        if not held.all():
            number, versions = number[held], versions.filter(pl.Series(held))
        alone = np.ones(len(block), np.bool_)
        alone[number] = False
        parts: list[tuple[pl.DataFrame, pl.DataFrame | None]] = [(block.frame[number], versions)]
        if not self._inner and alone.any():
            parts.append((block.frame.filter(pl.Series(alone)), None))
        return self._output.ordered(
            [(mine[KEY], mine[TIME].to_numpy(), self._output.frame(mine[KEY], mine[TIME].to_numpy(), (mine, other)))
             for mine, other in parts]
        )  # fmt: skip
