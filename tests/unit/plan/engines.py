"""Fields, a row and the three engines, for tests of expressions."""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

import duckdb
import polars as pl

from headrace.plan.expressions import Expression
from headrace.plan.ir import Field

FIELDS = {
    field.name: field
    for field in (
        Field("a", "long", nullable=True, minimum=-50, maximum=50),
        Field("b", "int", nullable=True),
        Field("u", "long", nullable=True),
        Field("d", "decimal", nullable=True, scale=2, minimum=-10_000, maximum=10_000),
        Field("p", "decimal", scale=1, minimum=0, maximum=500),
        Field("s", "string", nullable=True),
        Field("q", "boolean", nullable=True),
        Field("t", "timestamp", nullable=True),
        Field("f", "double", nullable=True),
        Field("g", "double", nullable=True),
        Field("r", "string", nullable=True),
        Field("z", "timestamp", nullable=True),
        Field("l", "array", nullable=True, item="long", items_max=6, minimum=-(2**40), maximum=2**40),
        Field("i", "array", item="int", items_max=6),
        Field("m", "array", nullable=True, item="decimal", scale=2, items_max=6, minimum=-1000, maximum=1000),
        Field("w", "array", nullable=True, item="string", items_max=6),
        Field("v", "array", nullable=True, item="timestamp", items_max=6),
        Field("o", "array", nullable=True, item="boolean", items_max=6),
        Field("n.c", "string", nullable=True),
        Field("n.deep.k", "long", nullable=True, minimum=-50, maximum=50),
        Field("n.w", "array", nullable=True, item="string", items_max=6),
    )
}
POLARS = {"long": pl.Int64, "int": pl.Int32, "decimal": pl.Int64, "string": pl.String, "boolean": pl.Boolean,
          "timestamp": pl.Int64, "double": pl.Float64}  # fmt: skip
INT64 = 2**63
ROW = {"a": -7, "b": 2, "u": None, "d": 1234, "p": 15, "s": "x", "q": None, "t": 1_370_077_200_000, "f": 0.5, "g": 0.0,
       "r": None, "z": 0, "l": [1, -2], "i": [], "m": [150], "w": ["x"], "v": None, "o": [True], "n.c": "x", "n.deep.k": 2,
       "n.w": ["x", "y"]}  # fmt: skip


def frame_of(rows: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={name: _dtype(field) for name, field in FIELDS.items()}, orient="row")


def _dtype(field: Field) -> Any:
    return pl.List(POLARS[field.item or ""]) if field.type == "array" else POLARS[field.type]


def by_polars(expression: Expression, rows: list[dict[str, Any]]) -> list[Any]:
    return frame_of(rows).with_columns(expression.to_polars().alias("result"))["result"].to_list()  # a constant is broadcast


@cache
def connection() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config={"threads": 1})


def by_duckdb(expression: Expression, rows: list[dict[str, Any]]) -> list[Any]:
    connection().register("generated", frame_of(rows).with_row_index("row_number").to_arrow())
    query = f"select {expression.to_duckdb('e.')} from generated e order by row_number"
    return [value for (value,) in connection().execute(query).fetchall()]


def bits(value: Any) -> Any:
    """Doubles by their bits, so that 0.0 and -0.0 differ and NaN equals itself; others as they are."""
    return struct.pack(">d", value) if isinstance(value, float) else (type(value), value)


def assert_engines_agree(expression: Expression, rows: list[dict[str, Any]]) -> None:
    evaluate = expression.compile()
    python = [bits(evaluate(row)) for row in rows]
    assert [bits(value) for value in by_polars(expression, rows)] == python
    assert [bits(value) for value in by_duckdb(expression, rows)] == python
