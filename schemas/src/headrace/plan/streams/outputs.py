"""Results of a stream as its output event has them: columns in their order, of the types that the codec expects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from headrace.contracts.event_shapes import DTYPES
from headrace.plan.ir import EventType, Field, OutputField, Stream
from headrace.plan.streams.frames import KEY, TIME, key_part
from headrace.plan.streams.key_hash import Int64s


def field_dtype(field: Field) -> pl.DataType:
    """Of the field's column in a decoded batch: times and decimals are Int64, arrays lists."""
    kind = field.item or "string" if field.type == "array" else field.type
    plain = DTYPES["long" if kind in ("timestamp", "decimal") else kind]
    return pl.List(plain) if field.type == "array" else plain


def output_event(stream: Stream, events: Sequence[EventType]) -> EventType:
    """The event type that the stream writes."""
    return next(event for event in events if event.name == stream.output)


class RowOutput:
    """Results that are rows, or pairs of rows: of joins, of distinct and of streams without an operator."""

    def __init__(self, stream: Stream, events: Sequence[EventType]) -> None:
        declared = {field.name: field for field in output_event(stream, events).fields}
        self.schema = pl.Schema({field.name: field_dtype(declared[field.name]) for field in stream.fields})
        self._fields = stream.fields
        self._parts = len(stream.inputs[0].key)

    def frame(self, keys: pl.Series, times_ms: Int64s, sides: Sequence[pl.DataFrame | None]) -> pl.DataFrame:
        """One result per key and time, shape (n,), in their order; of a side that is None everything is null."""
        columns = [self._column(field, keys, times_ms, sides).rename(field.name) for field in self._fields]
        return pl.DataFrame(columns, self.schema)

    def ordered(self, parts: Sequence[tuple[pl.Series, Int64s, pl.DataFrame]]) -> pl.DataFrame:
        """Results with their keys and times, by (time, key)."""
        parts = [part for part in parts if len(part[1])]
        if not parts:
            return pl.DataFrame(schema=self.schema)
        keys = pl.concat([part[0] for part in parts])
        frame = pl.concat([part[2] for part in parts], rechunk=True)
        return frame[result_order(np.concatenate([part[1] for part in parts]), keys)]

    def _column(self, field: OutputField, keys: pl.Series, times_ms: Int64s, sides: Sequence[pl.DataFrame | None]) -> pl.Series:
        dtype = self.schema[field.name]
        if field.source == "key":
            return key_part(keys, self._parts, field.index, dtype)
        if field.source == "time":
            return pl.Series(times_ms)
        if field.source != "column":
            raise ValueError(f"{field.name}: {field.source} is of a window")
        side = sides[field.index]
        return pl.repeat(None, len(keys), dtype=dtype, eager=True) if side is None else side[field.column].cast(dtype)


def result_order(times_ms: Int64s, keys: pl.Series) -> Int64s:
    """Places of results by (time, key), those equal in both as they stand; shape (n,)."""
    order = np.argsort(times_ms, kind="stable")
    ascending = times_ms[order]
    tied = ascending[1:] == ascending[:-1]
    if not tied.any():
        return order
    run = np.concatenate(([0], np.cumsum(~tied)))
    within = np.flatnonzero(np.concatenate(([False], tied)) | np.concatenate((tied, [False])))
    some = pl.DataFrame({TIME: run[within], KEY: keys[order[within]]})
    order[within] = order[within][some.select(pl.arg_sort_by(TIME, KEY, maintain_order=True)).to_series().to_numpy()]
    return order


__all__ = ["RowOutput", "field_dtype", "output_event", "result_order"]
