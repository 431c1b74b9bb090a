"""Row expressions on Spark: every function of the white list means what plain Python says, bit for bit."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import polars as pl
import pytest

from headrace.plan.expression_functions import FUNCTIONS
from headrace.plan.expressions import ExpressionError, parse
from headrace.plan.ir import Field
from headrace.plan.spark_expressions import FUNCTIONS as LOWERED
from headrace.plan.spark_expressions import sql_of
from svc_features.adapters.spark import SparkSession
from unit.plan.engines import FIELDS, ROW, bits, frame_of
from unit.plan.test_expression_functions import CALLS, rows

from .tables import view

TOGETHER = 25  # expressions of one query: beyond, its compiled code is too large for Java, and Spark interprets it
OPERATORS = [
    "a + b - 3", "a * b", "-a", "- (-a)", "a // b", "a % b", "a // -3", "a % -3", "d + p", "d * p", "d // p", "f + g", "f * g",
    "f / g", "a / 3 + f", "f - g > 0", "-f", "abs(f)", "a = b", "s = r", "f = g", "q and a > 0",
    "q or a > 0", "not q", "a is null", "s is not null", "case when a > 0 then s when q then r else 'x' end",
    "coalesce(a, b, 0)", "least(a, b)", "greatest(a, b, 3)", "least(f, g)", "a in (1, 2, -7)", "s in ('x', 'née', '')",
    "a between -5 and 5", "'it''s \\ ${x} \"q\" `b` é👍' || s", "coalesce(q, false)",
]  # fmt: skip
ATOMS = [
    "a",
    "Z",
    "é",
    "-",
    "👍",
    ".",
    "[a-z]",
    "[^0-9]",
    "[A-Z_ ]",
    r"[\]\-\^]",
    r"\.",
    r"\$",
    r"\\",
    r"\/",
    "~",
    "&",
    "#",
]
SUFFIXES = ["", "", "", "?", "{2}", "{0,2}", "*", "+"]


def held(spark: SparkSession, data: Sequence[dict[str, Any]]) -> None:
    """CREATE generated with a column row_number."""
    view(spark, "generated", frame_of(list(data)).with_row_index("row_number").cast({"row_number": pl.Int64}))


def assert_spark_agrees(spark: SparkSession, texts: Sequence[str], data: Sequence[dict[str, Any]]) -> None:
    held(spark, data)
    for start in range(0, len(texts), TOGETHER):
        some = [parse(text, FIELDS, allow_float=True) for text in texts[start : start + TOGETHER]]
        columns = ", ".join(f"{sql_of(expression, 'e.')} AS c{i}" for i, expression in enumerate(some))
        found = spark.sql(f"SELECT row_number, {columns} FROM generated e ORDER BY row_number").toArrow()
        for i, expression in enumerate(some):
            evaluate = expression.compile()
            expected = [bits(evaluate(row)) for row in data]
            assert [bits(v) for v in found.column(f"c{i}").to_pylist()] == expected, expression.canonical


def test_every_function_and_operator_gives_the_bits_of_plain_python(spark: SparkSession) -> None:
    """Awkward and random rows, nulls among them; the calls that Polars and DuckDB are tested with, and every example."""
    examples = [text for name in LOWERED for text, _ in FUNCTIONS[name].examples]
    assert_spark_agrees(spark, [*CALLS, *OPERATORS, *examples], [row for seed in range(2) for row in rows(seed)])


def test_patterns_of_the_common_part_match_alike(spark: SparkSession) -> None:
    """Java's line ends, dollar and classes differ; `like` has an escape character."""
    rng, texts = random.Random(5), list[str]()
    while len(texts) < 240:
        pieces = ["".join(rng.choice(ATOMS) + rng.choice(SUFFIXES) for _ in range(rng.randrange(4)))
                  for _ in range(rng.randint(1, 3))]  # fmt: skip
        pattern = "|".join(rng.choice(("", "^")) + piece + rng.choice(("", "$")) for piece in pieces)
        try:
            parse(text := f"regexp_matches(s, '{pattern}')", FIELDS)
        except ExpressionError:
            continue
        texts.append(text)
    likes = ("".join(rng.choices("ab%_.é!~\\^", k=rng.randrange(7))) for _ in range(120))
    texts += [f"s like '{pattern}'" for pattern in likes]
    texts = [text for text in texts if _parses(text)]
    ends = ["a\n", "a\r", "a\u2028b", "a\u0085", "\n", "ab\n\n", "a.b", "\\", "a\\b", "!", "~a", None]
    data = [{**ROW, "s": s} for s in ends] + rows(11)
    assert_spark_agrees(spark, texts, data)


def _parses(text: str) -> bool:
    try:
        parse(text, FIELDS)
    except ExpressionError:
        return False
    return True


def test_letters_and_lengths_over_all_of_unicode(spark: SparkSession) -> None:
    every = [chr(point) for point in range(1, 0x110000) if not 0xD800 <= point < 0xE000]
    data = [{**ROW, "s": "".join(every[start : start + 2000])} for start in range(0, len(every), 2000)]
    texts = ["lower(s)", "upper(s)", "length(s)", "octet_length(s)", "left(s, 3)", "right(s, 3)", "substring(s, 2, 3)",
             "hash_bucket(s, 97)", "s || s", "trim(s)"]  # fmt: skip
    assert_spark_agrees(spark, texts, data)


def test_an_overflow_that_no_range_excludes_fails_instead_of_wrapping(spark: SparkSession) -> None:
    """ANSI mode is part of the law: a wrong proof of range must not become a wrong value."""
    held(spark, [{**ROW, "a": 2**62}])  # outside the declared range of a
    lowered = sql_of(parse("a * 50", {"a": Field("a", "long", minimum=-50, maximum=50)}))
    with pytest.raises(Exception, match="ARITHMETIC_OVERFLOW"):
        spark.sql(f"SELECT {lowered} FROM generated").collect()
