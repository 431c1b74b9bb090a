"""What each engine has to be told so that all agree: finite doubles, one rounding per division, floors; and short SQL."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

INLINE_CHARACTERS_MAX = 48  # longer SQL is bound to a name before it is repeated


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
