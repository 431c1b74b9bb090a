"""Declared fields as an expression sees them."""

from __future__ import annotations

from dataclasses import replace

from headrace.plan.avro import TIME_MS_MAX, TIME_MS_MIN
from headrace.plan.expression_nodes import FLOAT, INT64_MAX, INT64_MIN, ValueType
from headrace.plan.ir import Field

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1


def field_type(field: Field) -> ValueType:
    """The value type of a field, with its declared interval; a timestamp is within the years the codec accepts."""
    if field.type == "array":
        item = field_type(replace(field, type=field.item or "string"))
        return ValueType("array", 0, 0, field.items_max, item)
    if field.type in ("float", "double"):
        return FLOAT
    if field.type in ("string", "boolean"):
        return ValueType("string" if field.type == "string" else "boolean")
    low, high = (INT32_MIN, INT32_MAX) if field.type == "int" else (INT64_MIN, INT64_MAX)
    if field.type == "timestamp":
        low, high = TIME_MS_MIN, TIME_MS_MAX
    low = low if field.minimum is None else max(low, field.minimum)
    high = high if field.maximum is None else min(high, field.maximum)
    return ValueType("timestamp" if field.type == "timestamp" else "integer", field.scale, low, high)


def item_column(array: str) -> str:
    """The column that holds the item of the row at hand."""
    return f"each({array})"
