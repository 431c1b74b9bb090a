"""Functions of arrays. Items are never null; nothing of an empty array is null, except that its length is 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from headrace.plan.expression_functions.table import Function, Typed, counted, integer, of_kind
from headrace.plan.expression_nodes import BOOLEAN, Node, ValueType
from headrace.plan.expression_types import Misfit, bounded, rescaled

if TYPE_CHECKING:
    import polars as pl


def _items(arguments: Sequence[Node], index: int = 0) -> ValueType:
    item = of_kind(arguments, index, "an array", "array").type.item
    assert item is not None, "an array has items"
    return item


def _exact(arguments: Sequence[Node]) -> ValueType:
    """Items that are equal in every engine where they are equal in one."""
    item = _items(arguments)
    if item.kind == "float":
        raise Misfit("items are doubles", "declare them Decimal with a Scale", 0)
    return item


def _length_typed(arguments: Sequence[Node]) -> Typed:
    counted(arguments, 1, 0)
    _items(arguments)
    return Typed((arguments[0],), (), ValueType("integer", 0, 0, arguments[0].type.maximum))


def _distinct_typed(arguments: Sequence[Node]) -> Typed:
    counted(arguments, 1, 0)
    _exact(arguments)
    return Typed((arguments[0],), (), ValueType("integer", 0, 0, arguments[0].type.maximum))


def _contains_typed(arguments: Sequence[Node]) -> Typed:
    counted(arguments, 2, 0)
    item = _exact(arguments)
    sought = of_kind(arguments, 1, f"a value as the items, {item},", item.kind)
    if sought.type.scale > item.scale:
        raise Misfit(f"{sought.type} among items of {item}", "it has more digits after the point than they can have", 1)
    return Typed((arguments[0], rescaled(sought, item.scale)), (), BOOLEAN)


def _numbers(arguments: Sequence[Node], *kinds: str) -> ValueType:
    counted(arguments, 1, 0)
    item = _exact(arguments)
    if item.kind not in kinds:
        raise Misfit(f"items are {item}", "it takes an array of numbers", 0)
    return item


def _sum_typed(arguments: Sequence[Node]) -> Typed:
    item, most = _numbers(arguments, "integer"), arguments[0].type.maximum
    low, high = min(item.minimum, item.minimum * most), max(item.maximum, item.maximum * most)
    return Typed((arguments[0],), (), bounded(ValueType("integer", item.scale, low, high)))


def _extreme_typed(arguments: Sequence[Node]) -> Typed:
    return Typed((arguments[0],), (), _numbers(arguments, "integer", "timestamp"))


def _at_typed(arguments: Sequence[Node]) -> Typed:
    counted(arguments, 2, 0)
    item = _items(arguments)
    if item.kind == "float":
        raise Misfit("items are doubles", "declare them Decimal with a Scale", 0)
    return Typed((arguments[0], integer(arguments, 1)), (), item)


def _polars_contains(array: pl.Expr, sought: pl.Expr) -> pl.Expr:
    import polars as pl

    return pl.when(array.is_not_null() & sought.is_not_null()).then(array.list.contains(sought))


def _polars_sum(array: pl.Expr) -> pl.Expr:
    import polars as pl

    return pl.when(array.list.len() > 0).then(array.list.sum())


def _polars_at(array: pl.Expr, place: pl.Expr) -> pl.Expr:
    import polars as pl

    length = array.list.len().cast(pl.Int64)
    inside = (place != 0) & (place <= length) & (place >= -length)
    index = pl.when(inside).then(pl.when(place > 0).then(place - 1).otherwise(place)).otherwise(0)
    return pl.when(inside).then(array.list.get(index, null_on_oob=True))


def _python_at(array: Sequence[Any], place: int) -> Any:
    return None if place == 0 or abs(place) > len(array) else array[place - 1 if place > 0 else place]


def _duckdb_at(array: str, place: str) -> str:
    inside = f"{place} <> 0 AND {place} <= len({array}) AND {place} >= -len({array})"
    return f"CASE WHEN {inside} THEN list_extract({array}, {place}) END"


def _polars_length(array: pl.Expr) -> pl.Expr:
    import polars as pl

    return array.list.len().cast(pl.Int64)


def _polars_distinct(array: pl.Expr) -> pl.Expr:
    import polars as pl

    return array.list.n_unique().cast(pl.Int64)


FUNCTIONS = (
    Function(
        "array_length", "array_length(a) -> integer", "How many items; 0 of an empty array.",
        _length_typed, _polars_length, lambda a: f"CAST(len({a}) AS BIGINT)", len,
        (("array_length([3, 1, 2])", 3),),
    ),
    Function(
        "array_contains", "array_contains(a, x) -> boolean", "Whether an item equals x; null where x is null.",
        _contains_typed, _polars_contains,
        lambda a, x: f"CASE WHEN {a} IS NOT NULL AND {x} IS NOT NULL THEN list_contains({a}, {x}) END",
        lambda a, x: x in a,
        (("array_contains(['AA', 'UA'], 'UA')", True), ("array_contains([3, 1], 2)", False)), repeats=2,
    ),
    Function(
        "array_at", "array_at(a, n) -> item", "The n-th item, the first is 1, the last -1; null where there is none.",
        _at_typed, _polars_at, _duckdb_at, _python_at,
        (("array_at([3, 1, 2], 1)", 3), ("array_at([3, 1, 2], -1)", 2), ("array_at([3, 1, 2], 4)", None)), repeats=4,
    ),
    Function(
        "array_sum", "array_sum(a) -> number", "Sum of the items; null of an empty array.",
        _sum_typed, _polars_sum, lambda a: f"CAST(list_sum({a}) AS BIGINT)", lambda a: sum(a) if a else None,
        (("array_sum([3, 1, 2])", 6), ("array_sum([0.25, 1.75])", 200)),
    ),
    Function(
        "array_min", "array_min(a) -> number or time", "The smallest item; null of an empty array.",
        _extreme_typed, lambda a: a.list.min(), lambda a: f"list_min({a})", lambda a: min(a, default=None),
        (("array_min([3, 1, 2])", 1),),
    ),
    Function(
        "array_max", "array_max(a) -> number or time", "The largest item; null of an empty array.",
        _extreme_typed, lambda a: a.list.max(), lambda a: f"list_max({a})", lambda a: max(a, default=None),
        (("array_max([3, 1, 2])", 3),),
    ),
    Function(
        "array_distinct", "array_distinct(a) -> integer", "How many different items.",
        _distinct_typed, _polars_distinct, lambda a: f"CAST(len(list_distinct({a})) AS BIGINT)", lambda a: len(set(a)),
        (("array_distinct(['x', 'y', 'x'])", 2),),
    ),
)  # fmt: skip
