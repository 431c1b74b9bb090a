"""From accepted events to the rows of a join, of distinct or of a stream that only filters and maps."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from headrace.plan import expressions
from headrace.plan.expression_nodes import ValueType
from headrace.plan.expressions import Expression
from headrace.plan.ir import EventType, Stream
from headrace.plan.items import item_column
from headrace.plan.streams.frames import GONE, ITEM, KEY, OFFSET, PARTITION, TIME, input_event, key_text
from headrace.plan.streams.outputs import RowOutput

_DTYPES = {"boolean": pl.Boolean(), "string": pl.String(), "float": pl.Float64(), "null": pl.Null()}


class RowPrepare:
    """The `Prepare` of one input: KEY, TIME, PARTITION, OFFSET, ITEM, GONE of a table, and the carried columns.

    A part of the key may be the item of `each`, `each(array)`. A deletion passes whatever `where` says: its event has no
    values. carried: types of the carried columns.
    """

    def __init__(self, stream: Stream, index: int, events: Sequence[EventType]) -> None:
        asked, event = stream.inputs[index], input_event(stream, index, events)
        fields = {field.name: field for field in event.fields}
        parsed = {c.name: expressions.parse(c.expression, fields, allow_float=True) for c in asked.columns}
        where = None if asked.where is None else expressions.parse(asked.where, fields, allow_float=True)
        self.carried = pl.Schema({name: _dtype(expression.type) for name, expression in parsed.items()})
        self._each, self._parts = asked.each, asked.key
        self._keyless = any(name in fields and fields[name].nullable for name in asked.key)
        self._where = None if where is None else where.to_polars().fill_null(False)
        if self._where is not None and asked.table:
            self._where = self._where | pl.col(GONE)
        marks = [TIME, PARTITION, OFFSET, *((GONE,) if asked.table else ())]
        self._needed = sorted({*_columns([where, *parsed.values()]), *asked.key, *marks} - {_item(asked.each)})
        self._needed += [asked.each] if asked.each and asked.each not in self._needed else []
        self._columns = [
            key_text(asked.key),
            *(pl.col(name).cast(pl.Int64) for name in (TIME, PARTITION, OFFSET)),
            pl.col(ITEM) if asked.each else pl.lit(0, pl.Int64).alias(ITEM),
            *(expression.to_polars().cast(self.carried[name]).alias(name) for name, expression in parsed.items()),
            *((pl.col(GONE).cast(pl.Boolean),) if asked.table else ()),
        ]

    def __call__(self, frame: pl.DataFrame) -> pl.DataFrame:
        rows = self._filtered(frame).select(self._columns)
        return rows.filter(pl.col(KEY).is_not_null()) if self._keyless and rows[KEY].null_count() else rows

    def keyless(self, frame: pl.DataFrame) -> int:
        """How many rows a call leaves out because a part of their key is null; nothing to do where no part may be."""
        return int(self._filtered(frame).select(key_text(self._parts)).to_series().null_count()) if self._keyless else 0

    def _filtered(self, frame: pl.DataFrame) -> pl.DataFrame:
        rows = frame.select(self._needed)
        if self._each is not None:
            rows = _exploded(rows, self._each)
        return rows if self._where is None else rows.filter(self._where)


def build_prepare(stream: Stream, index: int, events: Sequence[EventType]) -> RowPrepare:
    """What makes rows of the events of one input. Raises: ExpressionError for text that does not parse."""
    return RowPrepare(stream, index, events)


class RowResults:
    """Of a stream without an operator: prepared rows to its output event's columns, in the order of the rows.

    The event time of a result is the row's.
    """

    def __init__(self, stream: Stream, events: Sequence[EventType]) -> None:
        self._output = RowOutput(stream, events)

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        return self._output.frame(rows[KEY], rows[TIME].to_numpy(), (rows,))


def _exploded(rows: pl.DataFrame, array: str) -> pl.DataFrame:
    """A row per item: the item in `item_column`, its index in ITEM."""
    lengths = pl.col(array).list.len()
    some = rows.filter(lengths > 0)  # null is not greater
    some = some.with_columns(pl.col(array).alias(item_column(array)), pl.int_ranges(lengths, dtype=pl.Int64).alias(ITEM))
    return some.explode(item_column(array), ITEM)


def _item(each: str | None) -> str:
    return "" if each is None else item_column(each)


def _columns(parsed: Sequence[Expression | None]) -> set[str]:
    return {name for expression in parsed if expression is not None for name in expression.columns}


def _dtype(kind: ValueType) -> pl.DataType:
    if kind.item is not None:
        return pl.List(_dtype(kind.item))
    return _DTYPES.get(kind.kind, pl.Int64())
