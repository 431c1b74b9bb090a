"""Functions that choose: buckets, vocabularies, stable hashes. CASE, COALESCE, LEAST and GREATEST are operators."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from headrace.plan.expression_functions.table import (
    Function,
    Typed,
    constant_integer,
    constants,
    counted,
    number,
    of_kind,
    string,
)
from headrace.plan.expression_leaves import Constant
from headrace.plan.expression_nodes import Node, ValueType
from headrace.plan.expression_types import Misfit, bounded, unified

if TYPE_CHECKING:
    import polars as pl

BUCKETS_MAX = 10_000
HASH_BUCKETS_MAX = 2**62


def _bucket_typed(arguments: Sequence[Node]) -> Typed:
    counted(arguments, 2)
    for index in range(len(arguments)):
        of_kind(arguments, index, "a number or a time", "integer", "float", "timestamp", "local")
    (value, *bounds), common = unified(arguments)
    result = ValueType("integer", 0, 0, len(bounds))
    if common.kind == "float":  # the bounds stay nodes: doubles are no constants of the language
        edges = constants([_unfloated(bound) for bound in bounds], 1)
        texts = tuple(bounds)
        _ascending([edge / 10 ** _scale(bound) for edge, bound in zip(edges, bounds, strict=True)])
        return Typed((value, *texts), (), result)
    edges = constants(bounds, 1)
    _ascending(list(edges))
    return Typed((value, *bounds), (), result)


def _unfloated(node: Node) -> Node:
    return getattr(node, "operand", node) if node.type.kind == "float" else node


def _scale(node: Node) -> int:
    return _unfloated(node).type.scale


def _ascending(edges: list[Any]) -> None:
    for index, (low, high) in enumerate(pairwise(edges)):
        if low >= high:
            raise Misfit("bounds of buckets do not ascend", "write them from the smallest to the largest", index + 2)


def _polars_bucket(value: pl.Expr, *bounds: pl.Expr) -> pl.Expr:
    import polars as pl

    total = (value >= bounds[0]).cast(pl.Int64)
    for bound in bounds[1:]:
        total = total + (value >= bound).cast(pl.Int64)
    return total


def _duckdb_bucket(value: str, *bounds: str) -> str:
    return "(" + " + ".join(f"CAST({value} >= {bound} AS BIGINT)" for bound in bounds) + ")"


def _python_bucket(value: Any, *bounds: Any) -> int:
    return sum(value >= bound for bound in bounds)


def _width_typed(arguments: Sequence[Node]) -> Typed:
    counted(arguments, 4, 0)
    count = constant_integer(arguments, 3, 1, BUCKETS_MAX)
    for index in range(3):
        number(arguments, index)
    (value, *edges), _ = unified(arguments[:3])
    low, high = constants(edges, 1)
    if low >= high:
        raise Misfit("bounds of buckets do not ascend", "write the smaller first", 2)
    bounded(ValueType("integer", 0, 0, (high - low) * count))
    bounded(ValueType("integer", 0, -high, -low))
    return Typed((value,), (low, high, count), ValueType("integer", 0, 0, count + 1))


def _polars_width(value: pl.Expr, low: int, high: int, count: int) -> pl.Expr:
    import polars as pl

    inside = (value.clip(low, high) - low) * count // (high - low) + 1
    return pl.when(value < low).then(0).when(value >= high).then(count + 1).when(value.is_not_null()).then(inside)


def _duckdb_width(value: str, low: int, high: int, count: int) -> str:
    inside = f"(least(greatest({value}, {low}), {high}) - ({low})) * {count} // {high - low} + 1"
    return (
        f"CAST(CASE WHEN {value} < {low} THEN 0 WHEN {value} >= {high} THEN {count + 1} "
        f"WHEN {value} IS NOT NULL THEN {inside} END AS BIGINT)"
    )


def _python_width(value: int, low: int, high: int, count: int) -> int:
    return 0 if value < low else count + 1 if value >= high else (value - low) * count // (high - low) + 1


def _index_typed(arguments: Sequence[Node]) -> Typed:
    counted(arguments, 2)
    node = of_kind(arguments, 0, "text or an integer", "string", "integer")
    words: list[Any] = []
    for index, argument in enumerate(arguments[1:], start=1):
        if not isinstance(argument, Constant) or argument.value is None:
            raise Misfit("not a constant", "a vocabulary is a list of constants", index)
        if argument.type.kind != node.type.kind or argument.type.scale or node.type.scale:
            raise Misfit(f"{argument.type} in a vocabulary of {node.type}", "text and integers have vocabularies", index)
        if argument.value in words:
            raise Misfit(f"'{argument.value}' stands twice in the vocabulary", argument=index)
        words.append(argument.value)
    return Typed((node,), (tuple(words),), ValueType("integer", 0, -1, len(words) - 1))


def _polars_index(value: pl.Expr, words: tuple[Any, ...]) -> pl.Expr:
    import polars as pl

    found = value.replace_strict(list(words), list(range(len(words))), default=-1, return_dtype=pl.Int64)
    return pl.when(value.is_not_null()).then(found)


def _duckdb_index(value: str, words: tuple[Any, ...]) -> str:
    listed = ", ".join("'" + word.replace("'", "''") + "'" if isinstance(word, str) else f"{word}::BIGINT" for word in words)
    return f"CASE WHEN {value} IS NOT NULL THEN CAST(coalesce(list_position([{listed}], {value}), 0) AS BIGINT) - 1 END"


def _python_index(value: Any, words: tuple[Any, ...]) -> int:
    return words.index(value) if value in words else -1


def _hash_typed(arguments: Sequence[Node]) -> Typed:
    counted(arguments, 2, 0)
    buckets = constant_integer(arguments, 1, 1, HASH_BUCKETS_MAX)
    return Typed((string(arguments, 0),), (buckets,), ValueType("integer", 0, 0, buckets - 1))


def python_hash(value: str, buckets: int) -> int:
    return int.from_bytes(hashlib.md5(value.encode(), usedforsecurity=False).digest()[:8], "little") % buckets


def _polars_hash(value: pl.Expr, buckets: int) -> pl.Expr:
    import polars as pl

    def hashed(column: pl.Series) -> pl.Series:
        """Polars has no hash that stays the same between releases; MD5 of a batch takes half a microsecond a row."""
        texts = column.fill_null("").to_list()
        digests = b"".join([hashlib.md5(text.encode(), usedforsecurity=False).digest() for text in texts])
        return pl.Series((np.frombuffer(digests, "<u8")[::2] % buckets).astype(np.int64))

    return pl.when(value.is_not_null()).then(value.map_batches(hashed, return_dtype=pl.Int64, is_elementwise=True))


FUNCTIONS = (
    Function(
        "bucket", "bucket(x, b1, b2, ...) -> integer", "How many of the ascending constant bounds x has reached: 0 below b1.",
        _bucket_typed, _polars_bucket, _duckdb_bucket, _python_bucket, (("bucket(12, 0, 10, 20)", 2),), repeats=3,
    ),
    Function(
        "width_bucket", "width_bucket(x, low, high, n) -> integer",
        "Which of n equal buckets of [low, high) x is in, 1 to n; 0 below, n + 1 from high on.",
        _width_typed, _polars_width, _duckdb_width, _python_width,
        (("width_bucket(5, 0, 10, 4)", 3), ("width_bucket(10, 0, 10, 4)", 5)), repeats=4,
    ),
    Function(
        "index_in", "index_in(x, a, b, ...) -> integer",
        "Place of x in a frozen vocabulary, 0 for the first, -1 where it is not in it; null for null.",
        _index_typed, _polars_index, _duckdb_index, _python_index,
        (("index_in('UA', 'AA', 'UA')", 1), ("index_in('XX', 'AA', 'UA')", -1)), repeats=2,
    ),
    Function(
        "hash_bucket", "hash_bucket(s, n) -> integer",
        "A stable bucket from 0 to n - 1: the first eight bytes of MD5 of the UTF-8 text, least byte first, modulo n.",
        _hash_typed, _polars_hash, lambda s, n: f"CAST(md5_number_upper({s}) % CAST({n} AS UBIGINT) AS BIGINT)", python_hash,
        (("hash_bucket('abc', 1000)", python_hash("abc", 1000)),),
    ),
)  # fmt: skip
