"""The leaves of a row expression: fields, items of arrays, and what is written out, each lowered to every engine."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from headrace.plan.expression_engines import duckdb_finite, polars_finite, python_finite
from headrace.plan.expression_nodes import Evaluator, Node, Row, ValueType

if TYPE_CHECKING:
    import polars as pl

EPOCH = datetime(1970, 1, 1)  # all times here are UTC, naive so that text has no offset


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


def datetime_text(time_ms: int) -> str:
    """ISO 8601 of a UTC time in ms, years 1 to 9999, without a zone: 2013-06-01 09:00:00.000."""
    return (EPOCH + timedelta(milliseconds=time_ms)).isoformat(" ", "milliseconds")


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
