"""The typed tree of a row expression, each node lowered to Polars, DuckDB and plain Python.

Values are int64 (integers, decimals as scaled longs, timestamps in ms UTC, local times in ms of the zone's own clock),
booleans, strings, and, only where the caller allows them, IEEE doubles. Three rules make the engines agree: `//` and `%`
floor and give null on a zero divisor; arithmetic on doubles gives null instead of NaN or infinity; a negative zero
never leaves an expression.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

if TYPE_CHECKING:
    import polars as pl

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
EPOCH = datetime(1970, 1, 1)  # all times here are UTC, naive so that text has no offset
INLINE_CHARACTERS_MAX = 48  # longer SQL is bound to a name before it is repeated

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


def identifier(name: str) -> str:
    """The name of a field as SQL; that of a nested record's field is a path."""
    return ".".join(map(_word, name.split(".")))


@cache
def _word(name: str) -> str:
    """One name, quoted only where the parser would not read it back as a column."""
    try:
        parsed = sqlglot.parse_one(name, dialect="duckdb")
    except SqlglotError:
        parsed = None
    if isinstance(parsed, exp.Column) and parsed.name == name and not parsed.table:
        return name
    return '"' + name.replace('"', '""') + '"'


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


def datetime_text(time_ms: int) -> str:
    """ISO 8601 of a UTC time in ms, years 1 to 9999, without a zone: 2013-06-01 09:00:00.000."""
    return (EPOCH + timedelta(milliseconds=time_ms)).isoformat(" ", "milliseconds")


def polars_finite(value: pl.Expr) -> pl.Expr:
    import polars as pl

    return pl.when(value.is_finite()).then(value)


def polars_quotient(left: pl.Expr, right: pl.Expr) -> pl.Expr:
    """One rounding each: by a single value Polars multiplies with the reciprocal, which rounds twice. left is finite."""
    return left / (right + left * 0.0)


def duckdb_finite(value: str) -> str:
    # nullif, not a CASE, so that the text of a nested expression grows linearly
    return f"nullif(nullif(nullif({value}, 'nan'::DOUBLE), 'inf'::DOUBLE), '-inf'::DOUBLE)"


def python_finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Column(Node):
    name: str
    type: ValueType
    atomic = True

    @property
    def canonical(self) -> str:
        return identifier(self.name)

    def column_names(self) -> frozenset[str]:
        return frozenset((self.name,))

    def polars(self) -> pl.Expr:
        import polars as pl

        if self.type.kind in ("integer", "timestamp"):
            return pl.col(self.name).cast(pl.Int64)  # Int32 columns would wrap in arithmetic
        if self.type.item is not None and self.type.item.kind in ("integer", "timestamp"):
            return pl.col(self.name).cast(pl.List(pl.Int64))
        return polars_finite(pl.col(self.name).cast(pl.Float64)) if self.type.kind == "float" else pl.col(self.name)

    def duckdb(self, prefix: str) -> str:
        column = f'{prefix}"{self.name}"'
        if self.type.kind in ("integer", "timestamp"):
            return f"CAST({column} AS BIGINT)"
        if self.type.item is not None and self.type.item.kind in ("integer", "timestamp"):
            return f"CAST({column} AS BIGINT[])"
        return duckdb_finite(f"CAST({column} AS DOUBLE)") if self.type.kind == "float" else column

    def evaluator(self) -> Evaluator:
        name = self.name
        if self.type.kind != "float":
            return lambda row: row[name]

        def read(row: Row) -> float | None:
            value: Any = row[name]
            return None if value is None else python_finite(float(value))

        return read


@dataclass(frozen=True)
class Item(Column):
    """One item of an array: such expressions have a row for each item, and read it from a column of its own."""

    array: str = ""

    @property
    def canonical(self) -> str:
        return f"EACH({identifier(self.array)})"

    def column_names(self) -> frozenset[str]:
        return frozenset((self.array,))

    def arrays(self) -> frozenset[str]:
        return frozenset((self.array,))


@dataclass(frozen=True)
class Constant(Node):
    """A literal: integers scaled, None a typed null."""

    value: int | str | bool | None
    type: ValueType

    @property
    def atomic(self) -> bool:  # type: ignore[override]
        return self.type.kind == "timestamp" or not (isinstance(self.value, int) and self.value < 0)

    @property
    def canonical(self) -> str:
        if self.value is None:
            return "NULL"
        if isinstance(self.value, bool):
            return "TRUE" if self.value else "FALSE"
        if isinstance(self.value, str):
            return "'" + self.value.replace("'", "''") + "'"
        if self.type.kind == "timestamp":
            return f"TIMESTAMP '{datetime_text(self.value)}'"
        if not self.type.scale:
            return str(self.value)
        whole, fraction = divmod(abs(self.value), 10**self.type.scale)
        return f"{'-' if self.value < 0 else ''}{whole}.{fraction:0{self.type.scale}d}"

    def polars(self) -> pl.Expr:
        import polars as pl

        types: dict[str, Any] = {"boolean": pl.Boolean, "string": pl.String, "float": pl.Float64, "null": pl.Null}
        return pl.lit(self.value, dtype=types.get(self.type.kind, pl.Int64))

    def duckdb(self, prefix: str) -> str:
        types = {"boolean": "BOOLEAN", "string": "VARCHAR", "float": "DOUBLE"}
        if isinstance(self.value, str):
            return "'" + self.value.replace("'", "''") + "'"
        text = "NULL" if self.value is None else str(self.value).upper()
        return f"CAST({text} AS {types.get(self.type.kind, 'BIGINT')})"

    def evaluator(self) -> Evaluator:
        value = self.value
        return lambda row: value


@dataclass(frozen=True)
class Items(Node):
    """An array of constants, all at one type."""

    values: tuple[int | str | bool, ...]
    written: tuple[Node, ...]
    type: ValueType
    atomic = True

    @property
    def children(self) -> tuple[Node, ...]:
        return self.written

    @property
    def canonical(self) -> str:
        return f"[{', '.join(node.canonical for node in self.written)}]"

    def polars(self) -> pl.Expr:
        import polars as pl

        types: dict[str, Any] = {"boolean": pl.Boolean, "string": pl.String}
        kind = self.type.item.kind if self.type.item else ""
        return pl.lit(pl.Series([list(self.values)], dtype=pl.List(types.get(kind, pl.Int64)))).first()

    def duckdb(self, prefix: str) -> str:
        return f"[{', '.join(node.duckdb(prefix) for node in self.written)}]"

    def evaluator(self) -> Evaluator:
        value = list(self.values)
        return lambda row: value


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


def duckdb_let(arguments: Sequence[str], body: Callable[..., str]) -> str:
    """SQL of a body that repeats its arguments: long ones are bound once, so that nested text grows linearly."""
    if sum(map(len, arguments)) <= INLINE_CHARACTERS_MAX:
        return body(*arguments)
    names = [f"a{index}" for index in range(len(arguments))]
    bound = ", ".join(f"'{name}': {argument}" for name, argument in zip(names, arguments, strict=True))
    # fields have no leading underscore, so the name hides none
    return f"list_transform([{{{bound}}}], lambda __let: {body(*(f'__let.{name}' for name in names))})[1]"


def duckdb_quotient(left: str, right: str) -> str:
    """DuckDB's `//` truncates: one less where the remainder is not zero and the signs differ."""
    return duckdb_let((left, right), _quotient)


def duckdb_modulo(left: str, right: str) -> str:
    return duckdb_let((left, right), _modulo)


def _quotient(left: str, right: str) -> str:
    divisor = f"nullif({right}, 0)"
    return f"({left} // {divisor} - CASE WHEN {left} % {divisor} <> 0 AND ({left} < 0) <> ({right} < 0) THEN 1 ELSE 0 END)"


def _modulo(left: str, right: str) -> str:
    divisor = f"nullif({right}, 0)"
    return f"({left} % {divisor} + CASE WHEN {left} % {divisor} <> 0 AND ({left} < 0) <> ({right} < 0) THEN {right} ELSE 0 END)"
