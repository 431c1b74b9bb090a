"""Nodes of a row expression over two or more operands: arithmetic, comparison, three-valued logic, case and coalesce."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, Literal

from headrace.plan.expression_engines import (
    duckdb_finite,
    duckdb_modulo,
    duckdb_quotient,
    polars_finite,
    polars_quotient,
    python_finite,
)
from headrace.plan.expression_nodes import BOOLEAN, Evaluator, Node, Row, ValueType

if TYPE_CHECKING:
    import polars as pl

ArithmeticOperator = Literal["+", "-", "*", "//", "%", "/"]
ComparisonOperator = Literal["=", "<>", "<", "<=", ">", ">="]

PYTHON_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "//": operator.floordiv, "%": operator.mod,
    "/": operator.truediv, "=": operator.eq, "<>": operator.ne, "<": operator.lt, "<=": operator.le,
    ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
MIRRORED = {"=": "=", "<>": "<>", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


@dataclass(frozen=True)
class Binary(Node):
    """Arithmetic or comparison of two operands already brought to one type and scale; null if either is null."""

    operator: ArithmeticOperator | ComparisonOperator
    left: Node
    right: Node
    type: ValueType

    @property
    def children(self) -> tuple[Node, ...]:
        return (self.left, self.right)

    @property
    def canonical(self) -> str:
        return f"{self.left.wrapped} {self.operator} {self.right.wrapped}"

    def polars(self) -> pl.Expr:
        left, right, sign = self.left, self.right, self.operator
        if sign in MIRRORED and not left.column_names():
            # a constant compared with a column of nulls alone gives one row, whatever the height of the frame
            left, right, sign = right, left, MIRRORED[sign]
        apply = polars_quotient if sign == "/" else PYTHON_OPERATORS[sign]
        result = apply(left.polars(), right.polars())
        return polars_finite(result) if self.type.kind == "float" else result

    def duckdb(self, prefix: str) -> str:
        left, right = self.left.duckdb(prefix), self.right.duckdb(prefix)
        if self.operator == "//":
            return duckdb_quotient(left, right)
        if self.operator == "%":
            return duckdb_modulo(left, right)
        if self.operator == "/":
            return duckdb_finite(f"({left} / nullif({right}, 0))")
        return (
            duckdb_finite(f"({left} {self.operator} {right})")
            if self.type.kind == "float"
            else f"({left} {self.operator} {right})"
        )

    def evaluator(self) -> Evaluator:
        left, right, apply = self.left.evaluator(), self.right.evaluator(), PYTHON_OPERATORS[self.operator]
        guarded = self.operator in ("//", "%", "/")
        floating = self.type.kind == "float"

        def evaluate(row: Row) -> Any:
            a, b = left(row), right(row)
            if a is None or b is None or (guarded and b == 0):
                return None
            result = apply(a, b)
            return python_finite(result) if floating else result

        return evaluate


@dataclass(frozen=True)
class Logic(Node):
    """AND, OR by Kleene: an unknown side matters only where the other does not decide."""

    operator: Literal["AND", "OR"]
    left: Node
    right: Node
    type: ValueType = BOOLEAN

    @property
    def children(self) -> tuple[Node, ...]:
        return (self.left, self.right)

    @property
    def canonical(self) -> str:
        return f"{self.left.wrapped} {self.operator} {self.right.wrapped}"

    def polars(self) -> pl.Expr:
        left, right = self.left.polars(), self.right.polars()
        return left & right if self.operator == "AND" else left | right

    def duckdb(self, prefix: str) -> str:
        return f"({self.left.duckdb(prefix)} {self.operator} {self.right.duckdb(prefix)})"

    def evaluator(self) -> Evaluator:
        left, right, deciding = self.left.evaluator(), self.right.evaluator(), self.operator == "OR"

        def evaluate(row: Row) -> bool | None:
            a = left(row)
            if a is deciding:
                return deciding
            b = right(row)
            if b is deciding:
                return deciding
            return None if a is None or b is None else not deciding

        return evaluate


@dataclass(frozen=True)
class Inverted(Node):
    operand: Node
    type: ValueType = BOOLEAN

    @property
    def children(self) -> tuple[Node, ...]:
        return (self.operand,)

    @property
    def canonical(self) -> str:
        return f"NOT {self.operand.wrapped}"

    def polars(self) -> pl.Expr:
        return ~self.operand.polars()

    def duckdb(self, prefix: str) -> str:
        return f"(NOT {self.operand.duckdb(prefix)})"

    def evaluator(self) -> Evaluator:
        operand = self.operand.evaluator()

        def evaluate(row: Row) -> bool | None:
            value = operand(row)
            return None if value is None else not value

        return evaluate


@dataclass(frozen=True)
class Case(Node):
    """The value of the first branch whose condition is true; a null condition is not."""

    branches: tuple[tuple[Node, Node], ...]
    default: Node
    type: ValueType
    atomic = True

    @property
    def children(self) -> tuple[Node, ...]:
        return (*(node for branch in self.branches for node in branch), self.default)

    @property
    def canonical(self) -> str:
        whens = " ".join(f"WHEN {condition.canonical} THEN {value.canonical}" for condition, value in self.branches)
        return f"CASE {whens} ELSE {self.default.canonical} END"

    def polars(self) -> pl.Expr:
        import polars as pl

        def choose(rest: pl.Expr, branch: tuple[Node, Node]) -> pl.Expr:
            condition, value = branch
            return pl.when(condition.polars()).then(value.polars()).otherwise(rest)

        return reduce(choose, reversed(self.branches), self.default.polars())

    def duckdb(self, prefix: str) -> str:
        whens = " ".join(f"WHEN {condition.duckdb(prefix)} THEN {value.duckdb(prefix)}" for condition, value in self.branches)
        return f"(CASE {whens} ELSE {self.default.duckdb(prefix)} END)"

    def evaluator(self) -> Evaluator:
        branches = [(condition.evaluator(), value.evaluator()) for condition, value in self.branches]
        default = self.default.evaluator()

        def evaluate(row: Row) -> Any:
            for condition, value in branches:
                if condition(row):
                    return value(row)
            return default(row)

        return evaluate


@dataclass(frozen=True)
class Choice(Node):
    """COALESCE, LEAST or GREATEST; all three pass over nulls and are null only when every item is."""

    function: Literal["COALESCE", "LEAST", "GREATEST"]
    items: tuple[Node, ...]
    type: ValueType
    atomic = True

    @property
    def children(self) -> tuple[Node, ...]:
        return self.items

    @property
    def canonical(self) -> str:
        return f"{self.function}({', '.join(item.canonical for item in self.items)})"

    def polars(self) -> pl.Expr:
        import polars as pl

        items = [item.polars() for item in self.items]
        if self.function != "COALESCE":
            return (pl.min_horizontal if self.function == "LEAST" else pl.max_horizontal)(*items)
        # pl.coalesce of a literal and a column is folded to one row, whatever the height of the frame
        return reduce(lambda rest, item: pl.when(item.is_not_null()).then(item).otherwise(rest), reversed(items))

    def duckdb(self, prefix: str) -> str:
        return f"{self.function.lower()}({', '.join(item.duckdb(prefix) for item in self.items)})"

    def evaluator(self) -> Evaluator:
        items = [item.evaluator() for item in self.items]
        if self.function == "COALESCE":
            return lambda row: next((value for item in items if (value := item(row)) is not None), None)
        choose: Callable[..., Any] = min if self.function == "LEAST" else max

        def evaluate(row: Row) -> Any:
            present = [value for item in items if (value := item(row)) is not None]
            return choose(present) if present else None

        return evaluate
