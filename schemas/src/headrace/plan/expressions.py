"""Row expressions: SQL text to a typed tree that Polars, DuckDB and plain Python evaluate alike.

EXPRESSIONS.md beside this file lists the language: operators, some 60 functions, what is left out and why. Text never
reaches an engine: each node and each function of the white list has its own lowering. Overflow of int64 is refused from
the declared ranges of the fields; division and modulo floor, and give null for a zero divisor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from headrace.plan.expression_dialect import TEXT_CHARACTERS_MAX, ExpressionError, tree_of
from headrace.plan.expression_fields import field_type
from headrace.plan.expression_nodes import Node, Row, ValueType
from headrace.plan.expression_types import nearest
from headrace.plan.expression_typing import Typing
from headrace.plan.ir import Field

if TYPE_CHECKING:
    import polars as pl

__all__ = ["TEXT_CHARACTERS_MAX", "Expression", "ExpressionError", "field_type", "nearest", "parse"]


@dataclass(frozen=True)
class Expression:
    """A parsed, typed row expression."""

    root: Node

    @property
    def type(self) -> ValueType:
        return self.root.type

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of the fields it reads, sorted."""
        return tuple(sorted(self.root.column_names()))

    @cached_property
    def arrays(self) -> tuple[str, ...]:
        """Arrays whose items it reads one at a time, sorted: over such an expression a record has as many rows as items."""
        return tuple(sorted(self.root.arrays()))

    @cached_property
    def canonical(self) -> str:
        """SQL that parses back to an equal expression: the form that plans keep and hash."""
        return self.root.canonical

    def to_polars(self) -> pl.Expr:
        """Over columns named as the fields; timestamps as int64 ms (or Datetime('ms')), decimals as scaled longs."""
        lowered = self.root.polars()
        if self.type.kind != "float":
            return lowered
        import polars as pl

        return pl.when(lowered == 0).then(0.0).otherwise(lowered)  # the optimiser drops `+ 0.0`

    def to_duckdb(self, prefix: str = "") -> str:
        """SQL text for DuckDB; prefix such as "e." goes before every column; timestamps as BIGINT ms."""
        lowered = self.root.duckdb(prefix)
        if self.type.kind != "float":
            return lowered
        return f"(CASE WHEN {lowered} = 0 THEN CAST(0 AS DOUBLE) ELSE {lowered} END)"

    def compile(self) -> Callable[[Row], Any]:
        """A function of one row. KeyError where the row lacks a column; nulls are None."""
        evaluate = self.root.evaluator()
        if self.type.kind != "float":
            return evaluate

        def unsigned_zero(row: Row) -> float | None:
            value = evaluate(row)
            return None if value is None else value + 0.0

        return unsigned_zero


def parse(text: str, fields: Mapping[str, Field], *, allow_float: bool = False) -> Expression:
    """Read SQL text as an expression over the fields.

    Raises: ExpressionError with the position and what to write instead.
    """
    try:
        return Expression(Typing(text, fields, allow_float).root(tree_of(text)))
    except RecursionError:
        raise ExpressionError("nested too deeply", text) from None
