"""The typed tree of a row expression: what a node is, and nodes over one operand. Each lowers to Polars, DuckDB and Python.

Values are int64 (integers, decimals as scaled longs, timestamps in ms UTC, local times in ms of the zone's own clock),
booleans, strings, and, only where the caller allows them, IEEE doubles. Three rules make the engines agree: `//` and `%`
floor and give null on a zero divisor; arithmetic on doubles gives null instead of NaN or infinity; a negative zero
never leaves an expression.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from headrace.plan.expression_engines import polars_quotient

if TYPE_CHECKING:
    import polars as pl

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

Kind: TypeAlias = Literal["integer", "boolean", "string", "timestamp", "local", "float", "null", "array"]
Row: TypeAlias = Mapping[str, object]
Evaluator: TypeAlias = Callable[[Row], Any]


@dataclass(frozen=True, slots=True)
class ValueType:
    """What a node yields. Integers carry a decimal scale and a proven interval, both in scaled units.

    An array has the type of its items; its interval is that of its length.
    """

    kind: Kind
    scale: int = 0
    minimum: int = INT64_MIN
    maximum: int = INT64_MAX
    item: ValueType | None = None

    def __str__(self) -> str:
        if self.item is not None:
            return f"array of {self.item}"
        return f"decimal({self.scale})" if self.kind == "integer" and self.scale else self.kind


BOOLEAN = ValueType("boolean")
FLOAT = ValueType("float")


class Node:
    """One node. `canonical` is SQL that parses back to an equal tree; coercions do not show in it."""

    type: ValueType
    atomic = False  # needs no parentheses inside another node

    @property
    def children(self) -> tuple[Node, ...]:
        return ()

    @property
    def canonical(self) -> str:
        raise NotImplementedError

    def polars(self) -> pl.Expr:
        raise NotImplementedError

    def duckdb(self, prefix: str) -> str:
        raise NotImplementedError

    def evaluator(self) -> Evaluator:
        raise NotImplementedError

    @property
    def wrapped(self) -> str:
        return self.canonical if self.atomic else f"({self.canonical})"

    def column_names(self) -> frozenset[str]:
        return frozenset().union(*(child.column_names() for child in self.children))

    def arrays(self) -> frozenset[str]:
        """Arrays of which it reads one item at a time."""
        return frozenset().union(*(child.arrays() for child in self.children))

    @cached_property
    def weight(self) -> int:
        """Nodes of the lowered tree, counting an operand as often as a lowering repeats it."""
        return 1 + sum(child.weight for child in self.children)


class Unary(Node):
    """A node over one operand that answers null to null."""

    operand: Node

    @property
    def children(self) -> tuple[Node, ...]:
        return (self.operand,)

    def apply(self, value: Any) -> Any:
        raise NotImplementedError

    def evaluator(self) -> Evaluator:
        operand, apply = self.operand.evaluator(), self.apply

        def evaluate(row: Row) -> Any:
            value = operand(row)
            return None if value is None else apply(value)

        return evaluate


@dataclass(frozen=True)
class Rescaled(Unary):
    """A decimal brought to a larger scale so that two sides agree; invisible in the canonical text."""

    operand: Node
    factor: int
    type: ValueType

    @property
    def atomic(self) -> bool:  # type: ignore[override]
        return self.operand.atomic

    @property
    def canonical(self) -> str:
        return self.operand.canonical

    def polars(self) -> pl.Expr:
        return self.operand.polars() * self.factor

    def duckdb(self, prefix: str) -> str:
        return f"({self.operand.duckdb(prefix)} * CAST({self.factor} AS BIGINT))"

    def apply(self, value: Any) -> Any:
        return value * self.factor


@dataclass(frozen=True)
class Floated(Unary):
    """An integer or decimal as a double: exact below 2**53, then one division by the power of ten."""

    operand: Node
    type: ValueType = FLOAT

    @property
    def atomic(self) -> bool:  # type: ignore[override]
        return self.operand.atomic

    @property
    def canonical(self) -> str:
        return self.operand.canonical

    def polars(self) -> pl.Expr:
        import polars as pl

        value = self.operand.polars().cast(pl.Float64)
        return polars_quotient(value, pl.lit(float(10**self.operand.type.scale))) if self.operand.type.scale else value

    def duckdb(self, prefix: str) -> str:
        return f"(CAST({self.operand.duckdb(prefix)} AS DOUBLE) / CAST({10**self.operand.type.scale} AS DOUBLE))"

    def apply(self, value: Any) -> Any:
        return float(value) / float(10**self.operand.type.scale)


@dataclass(frozen=True)
class Negated(Unary):
    operand: Node
    type: ValueType

    @property
    def canonical(self) -> str:
        return f"-{self.operand.wrapped}"

    def polars(self) -> pl.Expr:
        return -self.operand.polars()

    def duckdb(self, prefix: str) -> str:
        return f"(-{self.operand.duckdb(prefix)})"

    def apply(self, value: Any) -> Any:
        return -value


@dataclass(frozen=True)
class Absolute(Unary):
    operand: Node
    type: ValueType
    atomic = True

    @property
    def canonical(self) -> str:
        return f"ABS({self.operand.canonical})"

    def polars(self) -> pl.Expr:
        return self.operand.polars().abs()

    def duckdb(self, prefix: str) -> str:
        return f"abs({self.operand.duckdb(prefix)})"

    def apply(self, value: Any) -> Any:
        return abs(value)


@dataclass(frozen=True)
class IsNull(Node):
    operand: Node
    type: ValueType = BOOLEAN

    @property
    def children(self) -> tuple[Node, ...]:
        return (self.operand,)

    @property
    def canonical(self) -> str:
        return f"{self.operand.wrapped} IS NULL"

    def polars(self) -> pl.Expr:
        return self.operand.polars().is_null()

    def duckdb(self, prefix: str) -> str:
        return f"({self.operand.duckdb(prefix)} IS NULL)"

    def evaluator(self) -> Evaluator:
        operand = self.operand.evaluator()
        return lambda row: operand(row) is None
