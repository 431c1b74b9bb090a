"""Types of what a stream makes: one field for each expression and aggregate, with the range that is proven and whether null.

A range that can be proven is declared, so that what is summed further down can be proven too; a wider one is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from headrace.plan.expression_leaves import Column, Constant, Item
from headrace.plan.expression_nodes import INT64_MAX, INT64_MIN, IsNull, Node, Unary, ValueType
from headrace.plan.expression_operators import Binary, Case, Choice, Inverted, Logic
from headrace.plan.expressions import Expression, parse
from headrace.plan.ir import AggregateKind, Field, FieldType, Join, Measure, Stream, Window

COUNT_MAX = 2**40  # no window has more rows; sums of counts are proven with it
KEY_TYPES = frozenset({"string", "int", "long", "boolean", "timestamp"})
COUNTS: frozenset[AggregateKind] = frozenset({"count", "distinct", "bucket"})
DOUBLES: frozenset[AggregateKind] = frozenset({"mean", "variance", "stddev", "quantile", "recent_mean"})
UNITLESS: frozenset[AggregateKind] = frozenset({"variance"})
_SAFE = 2**53 - 1  # bounds that JSON can carry
_TYPES: dict[str, FieldType] = {"boolean": "boolean", "string": "string", "timestamp": "timestamp", "float": "double"}


def value_field(name: str, expression: Expression, fields: Mapping[str, Field]) -> Field:
    """The field that holds an expression's value; a field as it stands keeps its type, unit and range."""
    root = expression.root
    if isinstance(root, Item):
        array = fields[root.array]
        return replace(array, name=name, type=array.item or "string", item=None, items_max=0, nullable=False, doc="")
    if isinstance(root, Column):
        return replace(fields[root.name], name=name)
    value = expression.type
    low, high = _proven(value)
    kind = _TYPES.get(value.kind) or ("decimal" if value.scale else "long")
    return Field(name, kind, may_be_null(root, fields), "", value.scale, low, high)


def _proven(value: ValueType) -> tuple[int | None, int | None]:
    if value.kind != "integer":
        return None, None
    low = value.minimum if value.minimum > INT64_MIN and abs(value.minimum) <= _SAFE else None
    return low, value.maximum if value.maximum < INT64_MAX and abs(value.maximum) <= _SAFE else None


def may_be_null(node: Node, fields: Mapping[str, Field]) -> bool:
    """Whether an expression can give null. True where nobody has shown that it cannot."""
    if isinstance(node, Item):
        return False
    if isinstance(node, Column):
        return fields[node.name].nullable
    if isinstance(node, Constant):
        return node.value is None
    if isinstance(node, IsNull):
        return False
    if isinstance(node, Unary | Inverted):
        return may_be_null(node.operand, fields)
    if isinstance(node, Binary):
        # A quotient by zero is null, and so is a double that is no number.
        uncertain = node.operator in ("//", "%", "/") or node.type.kind == "float"
        return uncertain or may_be_null(node.left, fields) or may_be_null(node.right, fields)
    if isinstance(node, Logic):
        return may_be_null(node.left, fields) or may_be_null(node.right, fields)
    if isinstance(node, Case):
        return any(may_be_null(part, fields) for part in (*(result for _, result in node.branches), node.default))
    if isinstance(node, Choice):
        return all(may_be_null(item, fields) for item in node.items)
    return True


def aggregate_field(name: str, kind: AggregateKind, argument: int, measure: Measure, value: Field | None, rows: int) -> Field:
    """The field of one aggregate over the rows of a window, of which there is at least one.

    Args:
        value: what is aggregated, None where rows are.
        rows: how many rows a window has, 0 if nobody knows.
    """
    if kind in COUNTS:
        return Field(name, "long", minimum=0, maximum=rows or COUNT_MAX)
    nothing = (
        measure.where is not None or (value is not None and value.nullable) or (kind in ("recent", "top") and argument > 0)
    )
    if kind == "since":
        return Field(name, "long", nothing, minimum=0)
    if kind == "top":
        return Field(name, "long", nothing, minimum=0, maximum=len(measure.edges))
    if value is None:
        return Field(name, "long", nothing)  # an aggregate of no value, which the rules refuse
    unit = "" if kind in UNITLESS else value.unit
    if kind in DOUBLES:
        return Field(name, "double", nothing, unit)
    if kind in ("sum", "recent_sum"):
        low, high = (_times(bound, measure.size if kind == "recent_sum" else rows) for bound in (value.minimum, value.maximum))
        low = min(low, 0) if low is not None else None  # fewer values than rows
        high = max(high, 0) if high is not None else None
        return Field(name, "decimal" if value.scale else "long", nothing, unit, value.scale, low, high)
    return replace(value, name=name, nullable=nothing)


def _times(bound: int | None, count: int) -> int | None:
    product = None if bound is None or not count else bound * count
    return None if product is None or abs(product) > _SAFE else product


def measured_field(measure: Measure, fields: Mapping[str, Field]) -> Field | None:
    """What a measure is over; None for rows. Raises: ExpressionError."""
    return None if measure.value is None else value_field("value", parse(measure.value, fields), fields)


def absent_sides(stream: Stream) -> tuple[bool, bool]:
    """Whether results can lack the left row, and the right one."""
    how = stream.join.how if stream.join is not None else "inner"
    return how == "outer", how in ("left", "outer")


def lateness_ms(inputs_ms: int, window: Window | None, join: Join | None) -> int:
    """How far results of one partition can lie behind each other.

    Rows are as late as their sources allow, `inputs_ms` at most. An update carries the newest time of a window whose end is
    still to come; a row without a partner is told once none can come any more, so as much later as the interval is long.
    """
    if window is not None and window.emit != "close":
        inputs_ms += window.size_ms + window.gap_ms
    if join is not None and join.kind == "interval":
        inputs_ms += join.after_ms if join.how in ("left", "outer") else 0
        inputs_ms += join.before_ms if join.how == "outer" else 0
    return inputs_ms
