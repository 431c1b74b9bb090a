"""Division of int64 by a positive or negative int64 with a declared rounding, alike in three engines.

All start from the floor q and the remainder r = n - q * d with 0 <= r < d (signs turned so that d > 0), and add one to q:
`floor` never, `ceil` where r > 0, `trunc` where r > 0 and n < 0, `half_even` and `half_up` (ties away from zero) by
comparing r with d - r, which cannot overflow. Division by zero is null.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace.plan.expression_engines import duckdb_let, duckdb_quotient

if TYPE_CHECKING:
    import polars as pl

MODES = ("half_even", "half_up", "floor", "ceil", "trunc")


def polars_divide(numerator: pl.Expr, divisor: pl.Expr, mode: str) -> pl.Expr:
    import polars as pl

    sign = pl.when(divisor < 0).then(-1).otherwise(1).cast(pl.Int64)
    n, d = numerator * sign, divisor * sign
    q = n // d  # null where d is 0
    r = n - q * d
    up = {
        "floor": pl.lit(False),
        "ceil": r > 0,
        "trunc": (r > 0) & (n < 0),
        "half_even": (r > d - r) | ((r == d - r) & (q % 2 != 0)),
        "half_up": (r > d - r) | ((r == d - r) & (n >= 0)),
    }[mode]
    return q if mode == "floor" else q + up.cast(pl.Int64)


def duckdb_divide(numerator: str, divisor: str, mode: str) -> str:
    n = f"({numerator} * CASE WHEN {divisor} < 0 THEN -1 ELSE 1 END)"
    d = f"abs({divisor})"
    quotient = duckdb_quotient(n, d)
    if mode == "floor":
        return quotient
    return duckdb_let((n, d, quotient), lambda n, d, q: sql_up(n, d, q, mode))


def sql_up(n: str, d: str, q: str, mode: str) -> str:
    """The floored quotient, and one more where the mode says so; the same text in every SQL."""
    r = f"({n} - {q} * {d})"
    up = {
        "ceil": f"{r} > 0",
        "trunc": f"{r} > 0 AND {n} < 0",
        "half_even": f"{r} > {d} - {r} OR ({r} = {d} - {r} AND {q} % 2 <> 0)",
        "half_up": f"{r} > {d} - {r} OR ({r} = {d} - {r} AND {n} >= 0)",
    }[mode]
    return f"({q} + CASE WHEN {up} THEN 1 ELSE 0 END)"


def python_divide(n: int, d: int, mode: str) -> Any:
    if d == 0:
        return None
    if d < 0:
        n, d = -n, -d
    q, r = divmod(n, d)
    up = {
        "floor": False,
        "ceil": r > 0,
        "trunc": r > 0 and n < 0,
        "half_even": r > d - r or (r == d - r and q % 2 != 0),
        "half_up": r > d - r or (r == d - r and n >= 0),
    }[mode]
    return q + up
