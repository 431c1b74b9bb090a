"""Measures over the items of an array: `EACH(items)` in value or where makes one row of each item.

The law stays that of records: verdicts, cuts and windows know nothing of items. Within a record items stand in their
order, so an item's place in the order key of `last`, `first` and `recent` is offset * ITEM_STRIDE + index. A record
without items has no row in such a measure.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from headrace.contracts.event_shapes import ITEMS_MAX
from headrace.plan import expressions
from headrace.plan.expression_fields import item_column
from headrace.plan.ir import Field, Measure

if TYPE_CHECKING:
    import polars as pl

ITEM_STRIDE = ITEMS_MAX  # part of the state's format: see FORMATS.md

__all__ = ["ITEM_STRIDE", "array_of", "exploded", "item_column"]


def array_of(measure: Measure, fields: Mapping[str, Field]) -> str | None:
    """The array whose items a measure is over, None where it is over records."""
    if "EACH(" not in (measure.value or "") and "EACH(" not in (measure.where or ""):
        return None  # canonical text spells it so; most measures have none
    return _array_of(measure, tuple(fields.values()))


@lru_cache(maxsize=1024)
def _array_of(measure: Measure, fields: tuple[Field, ...]) -> str | None:
    known = {field.name: field for field in fields}
    found = {name for text in (measure.value, measure.where) if text for name in expressions.parse(text, known).arrays}
    return min(found, default=None)


def exploded(frame: pl.DataFrame, array: str) -> pl.DataFrame:
    """A row per item: the item in `item_column`, its place in `__offset`."""
    import polars as pl

    column, index = item_column(array), "__item"
    rows = frame.lazy().filter(pl.col(array).list.len() > 0)
    rows = rows.with_columns(pl.col(array).alias(column), pl.int_ranges(pl.col(array).list.len(), dtype=pl.Int64).alias(index))
    place = pl.col("__offset").cast(pl.Int64) * ITEM_STRIDE + pl.col(index)
    return rows.explode(column, index).with_columns(place.alias("__offset")).collect()
