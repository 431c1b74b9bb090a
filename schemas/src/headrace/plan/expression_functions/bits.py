"""Bits of int64 in two's complement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from headrace.plan.expression_functions.table import Function, Typed, constant_integer, counted, integer
from headrace.plan.expression_nodes import Node, ValueType
from headrace.plan.expression_types import bounded

if TYPE_CHECKING:
    import polars as pl

MASK = 2**64 - 1


def _two(reach: Callable[[ValueType, ValueType], tuple[int, int]]) -> Callable[[Sequence[Node]], Typed]:
    def typed(arguments: Sequence[Node]) -> Typed:
        counted(arguments, 2, 0)
        left, right = integer(arguments, 0), integer(arguments, 1)
        low, high = reach(left.type, right.type)
        return Typed((left, right), (), ValueType("integer", 0, low, high))

    return typed


def _hull(left: ValueType, right: ValueType) -> tuple[int, int]:
    """All numbers of as many bits as the larger operand."""
    bits = max(abs(bound if bound >= 0 else bound + 1) for value in (left, right) for bound in (value.minimum, value.maximum))
    top = (1 << bits.bit_length()) - 1
    return (0 if left.minimum >= 0 and right.minimum >= 0 else -top - 1), top


def _and_reach(left: ValueType, right: ValueType) -> tuple[int, int]:
    tops = [value.maximum for value in (left, right) if value.minimum >= 0]
    return (0, min(tops)) if tops else _hull(left, right)


def _not_typed(arguments: Sequence[Node]) -> Typed:
    counted(arguments, 1, 0)
    node = integer(arguments, 0)
    return Typed((node,), (), ValueType("integer", 0, -1 - node.type.maximum, -1 - node.type.minimum))


def _left_typed(arguments: Sequence[Node]) -> Typed:
    counted(arguments, 2, 0)
    node, factor = integer(arguments, 0), 1 << constant_integer(arguments, 1, 0, 62)
    return Typed((node,), (factor,), bounded(ValueType("integer", 0, node.type.minimum * factor, node.type.maximum * factor)))


def _right_typed(arguments: Sequence[Node]) -> Typed:
    counted(arguments, 2, 0)
    node, by = integer(arguments, 0), constant_integer(arguments, 1, 0, 62)
    return Typed((node,), (by,), ValueType("integer", 0, node.type.minimum >> by, node.type.maximum >> by))


def _count_typed(arguments: Sequence[Node]) -> Typed:
    counted(arguments, 1, 0)
    return Typed((integer(arguments, 0),), (), ValueType("integer", 0, 0, 64))


def _polars_count(value: pl.Expr) -> pl.Expr:
    import polars as pl

    return value.bitwise_count_ones().cast(pl.Int64)


FUNCTIONS = (
    Function(
        "bit_and", "bit_and(a, b) -> integer", "Bits set in both.", _two(_and_reach),
        lambda a, b: a & b, lambda a, b: f"({a} & {b})", lambda a, b: a & b, (("bit_and(12, 10)", 8),),
    ),
    Function(
        "bit_or", "bit_or(a, b) -> integer", "Bits set in either.", _two(_hull),
        lambda a, b: a | b, lambda a, b: f"({a} | {b})", lambda a, b: a | b, (("bit_or(12, 10)", 14),),
    ),
    Function(
        "bit_xor", "bit_xor(a, b) -> integer", "Bits set in one alone.", _two(_hull),
        lambda a, b: a ^ b, lambda a, b: f"xor({a}, {b})", lambda a, b: a ^ b, (("bit_xor(12, 10)", 6),),
    ),
    Function(
        "bit_not", "bit_not(a) -> integer", "Every bit turned: -1 - a.", _not_typed,
        lambda a: -1 - a, lambda a: f"(-1 - {a})", lambda a: -1 - a, (("bit_not(5)", -6),),
    ),
    Function(
        "shift_left", "shift_left(a, n) -> integer", "a times 2 to the n; n a constant from 0 to 62.", _left_typed,
        lambda a, factor: a * factor, lambda a, factor: f"({a} * CAST({factor} AS BIGINT))", lambda a, factor: a * factor,
        (("shift_left(3, 4)", 48),),
    ),
    Function(
        "shift_right", "shift_right(a, n) -> integer", "a divided by 2 to the n, floored; n a constant from 0 to 62.",
        _right_typed, lambda a, n: a // (1 << n), lambda a, n: f"({a} >> {n})", lambda a, n: a >> n,
        (("shift_right(-5, 1)", -3),),
    ),
    Function(
        "bit_count", "bit_count(a) -> integer", "Number of bits set, 0 to 64.", _count_typed,
        _polars_count, lambda a: f"CAST(bit_count({a}) AS BIGINT)", lambda a: (a & MASK).bit_count(),
        (("bit_count(-1)", 64), ("bit_count(5)", 2)),
    ),
)  # fmt: skip
