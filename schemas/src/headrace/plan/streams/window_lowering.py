"""Windows to rows of the output event: exact accumulators to typed columns, doubles rounded once as plan/lower.py does.

A value has the type of its output field: long, int, timestamp and decimal are the integer as it was accumulated (a decimal is
scaled), boolean whether it is not 0, float and double the exact value rounded. Counts are whole; an estimated number of
distinct values is rounded to the nearest (half up), `since` to whole units below. Nothing to say is null.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from headrace.contracts.errors import Fatal
from headrace.contracts.event_shapes import DTYPES
from headrace.plan.ir import EventType, Field, Measure, OutputField, SlotKind, Term
from headrace.plan.lower import (
    COUNTS,
    RECENT,
    SQUARED,
    Rational,
    TermColumns,
    cells_slot,
    count_slot,
    divide,
    exact,
    value_slot,
)
from headrace.plan.sketches import KEY_PARTS
from headrace.plan.slots import slot_width
from headrace.plan.streams.frames import KEY, key_part
from headrace.plan.streams.window_shape import Shape

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

VALUE = KEY_PARTS - 1  # where in an entry of last, first and recent the value stands
WHOLE: dict[str, pl.DataType] = {**DTYPES, "timestamp": pl.Int64(), "decimal": pl.Int64()}


@dataclass(frozen=True, slots=True)
class Windows:
    """Results before lowering: keys (N,), [start, end) and event time (N,) ms UTC, whether final (N,), slots (N, W)."""

    keys: pl.Series
    start: Int64s
    end: Int64s
    time: Int64s
    final: Bools
    slots: Int64s

    @staticmethod
    def closed(keys: pl.Series, start: Int64s, end: Int64s, slots: Int64s) -> Windows:
        """Final ones."""
        return Windows(keys, start, end, end - 1, np.ones(len(start), np.bool_), slots)

    def take(self, rows: Int64s) -> Windows:
        keys = self.keys.gather(rows)
        return Windows(keys, self.start[rows], self.end[rows], self.time[rows], self.final[rows], self.slots[rows])


def _together(parts: Sequence[Windows], width: int) -> Windows:
    if len(parts) == 1:
        return parts[0]
    if not parts:
        none = np.empty(0, np.int64)
        return Windows(pl.Series(KEY, [], pl.String), none, none, none, np.empty(0, np.bool_), np.empty((0, width), np.int64))
    start, end, time = (np.concatenate([getattr(part, name) for part in parts]) for name in ("start", "end", "time"))
    final, slots = np.concatenate([part.final for part in parts]), np.concatenate([part.slots for part in parts])
    return Windows(pl.concat([part.keys for part in parts], rechunk=True), start, end, time, final, slots)


def lowered(shape: Shape, output: EventType, parts: Sequence[Windows]) -> pl.DataFrame:
    """The output event's fields in their order; rows by (event time, key, start, updates first)."""
    windows = _together(parts, shape.layout.width)
    columns = {name: getattr(windows, name) for name in ("time", "keys", "start", "final")}
    order = pl.DataFrame(columns).select(pl.arg_sort_by(*columns)).to_series().to_numpy()
    sorted_ = windows.take(order)
    fields = {field.name: field for field in output.fields}
    return pl.DataFrame([_column(shape, fields[one.name], one, sorted_) for one in shape.stream.fields])


def _column(shape: Shape, field: Field, one: OutputField, windows: Windows) -> pl.Series:
    dtype = WHOLE[field.type]
    if one.source == "key":
        return key_part(windows.keys, len(shape.stream.inputs[0].key), one.index, dtype).alias(field.name)
    if one.source == "aggregate":
        return _aggregate(shape, field, one, windows).alias(field.name)
    columns = {"window_start": windows.start, "window_end": windows.end, "time": windows.time, "final": windows.final}
    if one.source not in columns:
        raise Fatal(f"field {field.name} of stream {shape.stream.name}: a window has no {one.source}")
    column = pl.Series(field.name, columns[one.source])
    return column.cast(pl.Boolean if one.source == "final" else dtype)


def _aggregate(shape: Shape, field: Field, one: OutputField, windows: Windows) -> pl.Series:
    if one.kind is None:
        raise Fatal(f"field {field.name} of stream {shape.stream.name} aggregates nothing")
    measure = next(m for m in shape.stream.measures if m.id == one.measure)
    term = Term(one.measure, one.kind, 0, 0, one.argument)
    columns = _term_columns(shape, measure, term, windows)
    given = None if one.kind in COUNTS else columns.count > 0
    if field.type in ("float", "double"):
        value = exact(term, measure, columns)
        return _series(divide(value), value.given, WHOLE[field.type])
    if columns.cells is not None or one.kind in SQUARED or one.kind in ("mean", "recent_mean"):
        value = exact(term, measure, columns)
        return _series(_nearest(value), value.given, WHOLE[field.type])
    if one.kind == "since":
        return _series(columns.total // max(1, one.argument), given, WHOLE[field.type])
    numbers = columns.count if one.kind in COUNTS else columns.total
    return _series(numbers != 0 if field.type == "boolean" else numbers, given, WHOLE[field.type])


def _nearest(value: Rational) -> Int64s:
    """Half up; of a root its float64."""
    if value.root:
        return np.array([0 if np.isnan(v) else round(v) for v in divide(value).tolist()], np.int64)
    pairs = zip(value.numerator.tolist(), value.denominator.tolist(), value.given.tolist(), strict=True)
    return np.array([(2 * n + d) // (2 * d) if ok else 0 for n, d, ok in pairs], np.int64)


def _series(values: npt.NDArray[Any], given: Bools | None, dtype: pl.DataType) -> pl.Series:
    column = pl.Series(values)
    if given is not None and not given.all():
        column = column.set(pl.Series(~given), None)
    return column.cast(dtype)


def _term_columns(shape: Shape, measure: Measure, term: Term, windows: Windows) -> TermColumns:
    """The integers that a kind is made from, as reading a feature gathers them."""
    places, slots = shape.layout.of[measure.id], windows.slots
    none = np.zeros(len(slots), np.int64)
    status = np.zeros(len(slots), np.int8)
    cells = cells_slot(measure, term)
    if cells is not None:
        held = slots[:, places[cells] : places[cells] + slot_width(measure, cells)]
        return TermColumns(none, none, none, none, status, held)
    if term.kind == "bucket":
        return TermColumns(slots[:, places["histogram"] + term.argument], none, none, none, status)
    if term.kind in RECENT:
        return TermColumns(*_recent(measure, term, slots, places["recent"]), none, none, status)
    slot = value_slot(term)
    if slot in ("last", "first"):
        at = places[slot]
        total = windows.time - slots[:, at] if term.kind == "since" else slots[:, at + VALUE]
        return TermColumns((slots[:, at + 1] > 0).astype(np.int64), total, none, none, status)
    count = slots[:, places[count_slot(measure)]]
    squares = [slots[:, places[limb]] if term.kind in SQUARED else none for limb in _LIMBS]
    return TermColumns(count, none if slot is None else slots[:, places[slot]], squares[0], squares[1], status)


_LIMBS: tuple[SlotKind, SlotKind] = ("square_lo", "square_hi")


def _recent(measure: Measure, term: Term, slots: Int64s, at: int) -> tuple[Int64s, Int64s]:
    """How many values are held, and the one asked for or their sum."""
    entries = slots[:, at : at + measure.size * KEY_PARTS].reshape(len(slots), measure.size, KEY_PARTS)
    held = entries[:, :, 1] > 0
    if term.kind == "recent":
        return held[:, term.argument].astype(np.int64), entries[:, term.argument, VALUE]
    return held.sum(axis=1), np.where(held, entries[:, :, VALUE], 0).sum(axis=1)
