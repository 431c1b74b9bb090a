"""What a windowed stream accumulates: its layout, and the rows of an event with each measure's value and condition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import polars as pl

from headrace.contracts.errors import Fatal
from headrace.plan import expressions
from headrace.plan.ir import EventType, FeatureSet, Measure, Stream, Window
from headrace.plan.items import ITEM_STRIDE, array_of, exploded
from headrace.plan.slots import Layout, layout_of, row_vectors
from headrace.plan.streams.frames import DOUBTFUL, ITEM, KEY, OFFSET, PARTITION, TIME, input_event, key_text
from headrace.plan.tiles import hashed, hashes_of, measure_columns

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Column = tuple[Bools, tuple[Int64s, Bools] | None]

ROWS, FIRST = "rows in it", "first time"  # measures of a count window beside its own: how many rows, their least event time


@dataclass(frozen=True, slots=True)
class Shape:
    """A windowed stream, looked at once."""

    stream: Stream
    event: EventType
    window: Window
    pseudo: FeatureSet  # what layouts and columns are made from
    layout: Layout


@lru_cache(maxsize=256)
def shape_of(stream: Stream, event: EventType) -> Shape:
    """Raises: Fatal if the stream has no window, or a measure is over items that the input's rows are not."""
    if stream.window is None:
        raise Fatal(f"stream {stream.name} has no window")
    fields, each = {f.name: f for f in event.fields}, stream.inputs[0].each
    for measure in stream.measures:
        if array_of(measure, fields) not in (None, each):
            raise Fatal(f"measure {measure.id} of stream {stream.name} is over items; its input's rows are not")
    measures = stream.measures
    if stream.window.kind == "count":
        measures += (
            Measure(ROWS, event.name, None, None, ("rows",)),
            Measure(FIRST, event.name, None, None, ("nonnull", "min")),
        )
    pseudo = FeatureSet(stream.name, (), (event.name,), measures, (), 0, 0)
    return Shape(stream, event, stream.window, pseudo, layout_of(pseudo, event.name))


def window_shape(stream: Stream, events: Sequence[EventType]) -> Shape:
    return shape_of(stream, input_event(stream, 0, events))


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of an input that have a key, N of them; `columns` by measure id as slots.row_vectors takes them."""

    keys: pl.Series
    times: Int64s
    partitions: Int64s
    offsets: Int64s
    items: Int64s
    doubtful: Bools | None
    columns: dict[str, Column]

    def of(self, chosen: Bools) -> Rows:
        """These rows only; none of them is doubtful any more."""
        columns = {i: (w[chosen], None if v is None else (v[0][chosen], v[1][chosen])) for i, (w, v) in self.columns.items()}
        times, partitions, offsets, items = (c[chosen] for c in (self.times, self.partitions, self.offsets, self.items))
        return Rows(self.keys.filter(pl.Series(chosen)), times, partitions, offsets, items, None, columns)

    def vectors(self, shape: Shape) -> Int64s:
        """One vector per row, (N, W)."""
        offsets = self.offsets * ITEM_STRIDE + self.items if shape.stream.inputs[0].each else self.offsets
        included, values = zip(*self.columns.values(), strict=True) if self.columns else ((), ())
        return row_vectors(shape.layout, self.times, self.partitions, offsets, included, values)


def rows_of(shape: Shape, frame: pl.DataFrame) -> Rows:
    """Filter, one row per item, key, and what each measure sees.

    Args:
        frame: the event's fields, TIME, PARTITION, OFFSET and perhaps DOUBTFUL.
    """
    frame = _filtered(shape, frame)
    origin = [pl.col(name).cast(pl.Int64) for name in (TIME, PARTITION, OFFSET, ITEM)]
    doubt = [DOUBTFUL] if DOUBTFUL in frame.columns else []
    columns = [key_text(shape.stream.inputs[0].key), *origin, *doubt]
    for measure, value, where in measure_columns(shape.pseudo, shape.event):
        if where is not None:
            columns.append(where.fill_null(False).alias(f"__where_{measure.id}"))
        if value is not None:
            columns.append(value.alias(f"__value_{measure.id}"))
    chosen = frame.lazy().select(columns)
    if shape.stream.inputs[0].key:
        chosen = chosen.filter(pl.col(KEY).is_not_null())
    rows = chosen.collect().rechunk()
    times, partitions, offsets, items = (rows[name].to_numpy() for name in (TIME, PARTITION, OFFSET, ITEM))
    doubtful = rows[DOUBTFUL].to_numpy() if doubt and rows[DOUBTFUL].any() else None
    columns_of = {m.id: _column(rows, m) for m in shape.pseudo.measures}
    return Rows(rows[KEY], times, partitions, offsets, items, doubtful, columns_of)


def _filtered(shape: Shape, frame: pl.DataFrame) -> pl.DataFrame:
    """Rows that the input lets through; ITEM numbers the items of a record."""
    given, fields = shape.stream.inputs[0], {f.name: f for f in shape.event.fields}
    where = None if given.where is None else expressions.parse(given.where, fields, allow_float=True)
    if where is not None and not where.arrays:
        frame = frame.filter(where.to_polars())
    if given.each is None:
        return frame.with_columns(pl.lit(0, pl.Int64).alias(ITEM))
    place = pl.col(OFFSET)
    frame = exploded(frame, given.each).with_columns((place // ITEM_STRIDE).alias(OFFSET), (place % ITEM_STRIDE).alias(ITEM))
    return frame.filter(where.to_polars()) if where is not None and where.arrays else frame


def _column(rows: pl.DataFrame, measure: Measure) -> Column:
    where = rows[f"__where_{measure.id}"].to_numpy() if measure.where is not None else np.ones(len(rows), np.bool_)
    if measure.value is None:
        return where, None
    column = rows[f"__value_{measure.id}"]
    if hashed(measure):
        column = hashes_of(column)
    if not column.null_count():
        return where, (column.to_numpy(), np.ones(len(rows), np.bool_))
    return where, (column.fill_null(0).to_numpy(), column.is_not_null().to_numpy())
