"""What the operators of all windows share: which rows are let in, which results are wanted, how they leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from headrace.contracts.errors import Fatal
from headrace.plan.ir import EventType, Stream
from headrace.plan.streams.frames import ITEM, OFFSET, PARTITION, TIME
from headrace.plan.streams.operator import Batch, Outcome, Table
from headrace.plan.streams.vectors import Entries, Int64s, entries_of, together
from headrace.plan.streams.window_lowering import Windows, lowered
from headrace.plan.streams.window_shape import Shape, window_shape

REFUSED = {"input": pl.Int64, PARTITION: pl.Int64, OFFSET: pl.Int64, ITEM: pl.Int64, TIME: pl.Int64}


class WindowOperator:
    """What all windows share: which rows are let in, which results are wanted. The first table keeps the watermark."""

    tables: Mapping[str, Table]

    def __init__(self, stream: Stream, events: Sequence[EventType]) -> None:
        self.shape: Shape = window_shape(stream, events)
        self.output = next(event for event in events if event.name == stream.output)
        self.closes = self.shape.window.emit in ("close", "both")
        self.updates = self.shape.window.emit in ("update", "both")

    def outcome(self, parts: Sequence[Windows], refused: pl.DataFrame) -> Outcome:
        return Outcome(lowered(self.shape, self.output, parts), refused)

    def let_in(self, batches: Sequence[Batch], mark_ms: int | None) -> tuple[Entries, pl.DataFrame]:
        """Entries of the batches, and the rows among them that come too late."""
        taken, refused = list[Entries](), [pl.DataFrame(schema=REFUSED)]
        for batch in batches:
            rows = batch.rows
            if TIME in rows.columns and mark_ms is not None:
                late = (pl.col(TIME) < mark_ms).fill_null(False)
                refused.append(
                    rows.filter(late).select(pl.lit(batch.input, pl.Int64).alias("input"), PARTITION, OFFSET, ITEM, TIME)
                )
                rows = rows.filter(~late)
            if len(rows):
                taken.append(entries_of(rows))
        return together(taken, self.shape.layout.width), pl.concat(refused)

    def all_in_time(self, entries: Entries, oldest: Int64s, bound_ms: int | None) -> None:
        """Raises: Fatal for rows that were not told to be doubtful and come below what has closed."""
        if bound_ms is not None and len(entries) and int(oldest.min()) < bound_ms:
            raise Fatal(f"stream {self.shape.stream.name}: rows at {int(oldest.min())} come after {bound_ms} has closed")
