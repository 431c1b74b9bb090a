"""Functions of integers and decimals (scaled longs). Overflow of int64 is excluded by the intervals of the operands."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from headrace.plan.expression_functions.rounding import MODES, duckdb_divide, polars_divide, python_divide
from headrace.plan.expression_functions.table import (
    Function,
    Typed,
    constant_integer,
    counted,
    integer,
    number,
    of_kind,
    one_of,
)
from headrace.plan.expression_nodes import FLOAT, INT64_MIN, Node, ValueType
from headrace.plan.expression_types import Misfit, bounded, interval, rescaled, unified

if TYPE_CHECKING:
    import polars as pl

DIGITS_MAX = 12  # as many as a declared decimal may have
EXPONENT_MAX = 16


def _rounded_type(node: Node, digits: int) -> tuple[int, int, ValueType]:
    """Divisor, factor and type of a number brought to that many digits; negative ones round before the point."""
    divisor, factor = 10 ** (node.type.scale - digits), 10 ** max(0, -digits)
    low, high = (node.type.minimum // divisor) * factor, -(-node.type.maximum // divisor) * factor
    return divisor, factor, bounded(ValueType("integer", max(0, digits), low, high))


def _rounding(arguments: Sequence[Node], digits: int, mode: str) -> Typed:
    node = number(arguments, 0)
    if digits >= node.type.scale:
        return Typed((node,), (1, 1, "floor"), node.type)
    divisor, factor, value = _rounded_type(node, digits)
    return Typed((node,), (divisor, factor, mode), value)


def _round_typed(arguments: Sequence[Node]) -> Typed:
    if len(arguments) < 3:
        raise Misfit("round without a mode", "write round(x, 1, 'half_even') or round(x, 1, 'half_up'): engines differ")
    counted(arguments, 3, 0)
    return _rounding(arguments, constant_integer(arguments, 1, -DIGITS_MAX, DIGITS_MAX), one_of(arguments, 2, MODES))


def _floored(mode: str) -> Callable[[Sequence[Node]], Typed]:
    def typed(arguments: Sequence[Node]) -> Typed:
        counted(arguments, 1, 2)
        digits = constant_integer(arguments, 1, -DIGITS_MAX, DIGITS_MAX) if len(arguments) == 2 else 0
        return _rounding(arguments, digits, mode)

    return typed


def _polars_round(value: pl.Expr, divisor: int, factor: int, mode: str) -> pl.Expr:
    import polars as pl

    return value if divisor == 1 else polars_divide(value, pl.lit(divisor, dtype=pl.Int64), mode) * factor


def _duckdb_round(value: str, divisor: int, factor: int, mode: str) -> str:
    return value if divisor == 1 else f"({duckdb_divide(value, f'CAST({divisor} AS BIGINT)', mode)} * {factor})"


def _python_round(value: int, divisor: int, factor: int, mode: str) -> Any:
    return value if divisor == 1 else python_divide(value, divisor, mode) * factor


def _divide_typed(arguments: Sequence[Node]) -> Typed:
    if len(arguments) < 4:
        raise Misfit("divide without digits and mode", "write divide(a, b, 2, 'half_even')")
    counted(arguments, 4, 0)
    digits, mode = constant_integer(arguments, 2, 0, DIGITS_MAX), one_of(arguments, 3, MODES)
    left, right = number(arguments, 0), number(arguments, 1)
    shift = digits + right.type.scale - left.type.scale
    left = rescaled(left, left.type.scale + max(0, shift))
    right = rescaled(right, right.type.scale + max(0, -shift))
    # both are negated where the divisor is negative, so neither may be the lowest int64
    for index, node in enumerate((left, right)):
        if node.type.minimum == INT64_MIN:
            raise Misfit("may overflow a 64-bit integer", "declare its range", index)
    reach = max(abs(left.type.minimum), abs(left.type.maximum))
    exact = interval("//", left.type, right.type)
    value = ValueType("integer", digits, max(-reach, exact.minimum - 1), min(reach, exact.maximum + 1))
    return Typed((left, right), (mode,), bounded(value))


def _sign_typed(arguments: Sequence[Node]) -> Typed:
    counted(arguments, 1, 0)
    node = of_kind(arguments, 0, "a number", "integer", "float")
    return Typed((node,), (), ValueType("integer", 0, -1, 1))


def _polars_sign(value: pl.Expr) -> pl.Expr:
    import polars as pl

    return (value > 0).cast(pl.Int64) - (value < 0).cast(pl.Int64)


def _clamp_typed(arguments: Sequence[Node]) -> Typed:
    counted(arguments, 3, 0)
    for index in range(3):
        of_kind(arguments, index, "a number or a time", "integer", "float", "timestamp", "local")
    operands, common = unified(arguments)
    if common.kind == "float":
        return Typed(tuple(operands), (), FLOAT)
    value, low, high = (operand.type for operand in operands)
    least = min(max(value.minimum, low.minimum), high.minimum)
    most = min(max(value.maximum, low.maximum), high.maximum)
    return Typed(tuple(operands), (), ValueType(common.kind, common.scale, least, most))


def _polars_clamp(value: pl.Expr, low: pl.Expr, high: pl.Expr) -> pl.Expr:
    import polars as pl

    known = value.is_not_null() & low.is_not_null() & high.is_not_null()
    return pl.when(known).then(pl.min_horizontal(pl.max_horizontal(value, low), high))


def _duckdb_clamp(value: str, low: str, high: str) -> str:
    known = f"{value} IS NOT NULL AND {low} IS NOT NULL AND {high} IS NOT NULL"
    return f"CASE WHEN {known} THEN least(greatest({value}, {low}), {high}) END"


def _gcd_typed(arguments: Sequence[Node]) -> Typed:
    counted(arguments, 2, 0)
    operands = (integer(arguments, 0), integer(arguments, 1))
    reach = max(max(abs(node.type.minimum), abs(node.type.maximum)) for node in operands)
    return Typed(operands, (), bounded(ValueType("integer", 0, 0, reach)))


def _polars_gcd(left: pl.Expr, right: pl.Expr) -> pl.Expr:
    import polars as pl

    def greatest(columns: Sequence[pl.Series]) -> pl.Series:
        a, b = (column.fill_null(0).to_numpy() for column in columns)
        return pl.Series(np.gcd(a, b), dtype=pl.Int64)

    known = left.is_not_null() & right.is_not_null()
    return pl.when(known).then(pl.map_batches([left, right], greatest, return_dtype=pl.Int64))


def _power_typed(arguments: Sequence[Node]) -> Typed:
    counted(arguments, 2, 0)
    node, exponent = number(arguments, 0), constant_integer(arguments, 1, 1, EXPONENT_MAX)
    low, high = node.type.minimum, node.type.maximum
    corners = (low**exponent, high**exponent)
    least = min(corners) if exponent % 2 or low > 0 or high < 0 else 0
    value = ValueType("integer", node.type.scale * exponent, least, max(corners))
    return Typed((node,), (exponent,), bounded(value))


def _polars_power(value: pl.Expr, exponent: int) -> pl.Expr:
    result = value
    for _ in range(exponent - 1):
        result = result * value
    return result


def _duckdb_power(value: str, exponent: int) -> str:
    return "(" + " * ".join([value] * exponent) + ")"


def _boolean_typed(arguments: Sequence[Node]) -> Typed:
    return Typed((of_kind(arguments, 0, "a condition", "boolean"),), (), ValueType("integer", 0, 0, 1))


def _polars_int(value: pl.Expr) -> pl.Expr:
    import polars as pl

    return value.cast(pl.Int64)


FUNCTIONS = (
    Function(
        "sign", "sign(x) -> integer", "-1, 0 or 1.", _sign_typed, _polars_sign,
        lambda x: f"CASE WHEN {x} > 0 THEN 1 WHEN {x} < 0 THEN -1 WHEN {x} = 0 THEN 0 END::BIGINT",
        lambda x: (x > 0) - (x < 0), (("sign(-3)", -1), ("sign(0.5)", 1)), repeats=3,
    ),
    Function(
        "round", "round(x, digits, mode) -> number",
        f"To that many digits; mode is one of {', '.join(MODES)}. `half_up` sends ties away from zero. Negative digits round "
        "before the point.",
        _round_typed, _polars_round, _duckdb_round, _python_round,
        (("round(2.5, 0, 'half_even')", 2), ("round(-2.5, 0, 'half_up')", -3), ("round(149, -2, 'half_up')", 100)), repeats=4,
    ),
    Function(
        "floor", "floor(x[, digits]) -> number", "Towards minus infinity.", _floored("floor"),
        _polars_round, _duckdb_round, _python_round, (("floor(-2.5)", -3),), repeats=2,
    ),
    Function(
        "ceil", "ceil(x[, digits]) -> number", "Towards plus infinity.", _floored("ceil"),
        _polars_round, _duckdb_round, _python_round, (("ceil(-2.5)", -2),), repeats=4,
    ),
    Function(
        "trunc", "trunc(x[, digits]) -> number", "Towards zero.", _floored("trunc"),
        _polars_round, _duckdb_round, _python_round, (("trunc(-2.5)", -2),), repeats=4,
    ),
    Function(
        "divide", "divide(a, b, digits, mode) -> decimal",
        "A decimal quotient with that many digits, rounded by the mode; null where b is 0. `a // b` floors to an integer.",
        _divide_typed, polars_divide, duckdb_divide, python_divide,
        (("divide(1, 3, 2, 'half_even')", 33), ("divide(-1, 8, 2, 'half_up')", -13), ("divide(1, 0, 2, 'floor')", None)),
        repeats=6,
    ),
    Function(
        "clamp", "clamp(x, low, high) -> as x", "x, but not below low nor above high; null where any of them is.",
        _clamp_typed, _polars_clamp, _duckdb_clamp, lambda x, low, high: min(max(x, low), high),
        (("clamp(12, 0, 10)", 10), ("clamp(-1.5, -1, 1)", -10)), repeats=2,
    ),
    Function(
        "gcd", "gcd(a, b) -> integer", "Greatest common divisor, never negative; gcd(0, 0) is 0.",
        _gcd_typed, _polars_gcd, lambda a, b: f"gcd({a}, {b})", math.gcd, (("gcd(-12, 18)", 6),), repeats=2,
    ),
    Function(
        "power", "power(x, n) -> number", f"x multiplied n times; n a constant from 1 to {EXPONENT_MAX}.",
        _power_typed, _polars_power, _duckdb_power, lambda x, n: x**n, (("power(-3, 3)", -27), ("power(1.5, 2)", 225)),
        repeats=2,
    ),
    Function(
        "to_integer", "cast(condition as bigint) -> integer", "1 for true, 0 for false.",
        _boolean_typed, _polars_int, lambda x: f"CAST({x} AS BIGINT)", int, (("cast(2 > 1 as bigint)", 1),),
        written=lambda arguments: f"CAST({arguments[0].canonical} AS BIGINT)",
    ),
)  # fmt: skip
