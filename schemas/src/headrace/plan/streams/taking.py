"""What every operator over rows does with what it is given."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from headrace.plan.streams.frames import ITEM, OFFSET, PARTITION, TIME
from headrace.plan.streams.operator import Batch
from headrace.plan.streams.rows import BEFORE_ALL

REFUSED = pl.Schema({name: pl.Int64() for name in ("input", PARTITION, OFFSET, ITEM, TIME)})


def judged(batches: Sequence[Batch], index: int, watermark_ms: int) -> tuple[pl.DataFrame | None, list[pl.DataFrame]]:
    """Rows of one input that are not below a watermark (BEFORE_ALL: none is), None without any; and those that are."""
    frames = [batch.rows for batch in batches if batch.input == index and len(batch.rows)]
    if not frames:
        return None, []
    rows = frames[0] if len(frames) == 1 else pl.concat(frames, rechunk=True)
    lowest = rows[TIME].min()
    if watermark_ms == BEFORE_ALL or (isinstance(lowest, int) and lowest >= watermark_ms):
        return rows, []
    late = rows.filter(pl.col(TIME) < watermark_ms)
    rows = rows.filter(pl.col(TIME) >= watermark_ms)
    return (rows if len(rows) else None), [late.select(pl.lit(index, pl.Int64).alias("input"), *list(REFUSED)[1:])]


def refused_frame(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """`Outcome.refused`."""
    return pl.concat(parts) if parts else pl.DataFrame(schema=REFUSED)


def advanced(known_ms: int, watermark_ms: int | None) -> int:
    """Where event time is now: a watermark never goes back. BEFORE_ALL as long as there is none."""
    return known_ms if watermark_ms is None else max(known_ms, watermark_ms)


def parted(rows: pl.DataFrame | None, below_ms: int) -> tuple[list[pl.DataFrame], pl.DataFrame | None]:
    """Rows below a time, and the others: they are stored only if they have to wait."""
    if rows is None:
        return [], None
    under = rows[TIME] < below_ms
    if not under.any():
        return [], rows
    return [rows.filter(under)], None if under.all() else rows.filter(~under)
