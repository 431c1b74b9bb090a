"""The white list: each function means in Polars, DuckDB and plain Python what its row of the table says."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.plan.expression_functions import FUNCTIONS, LEFT_OUT
from headrace.plan.expressions import ExpressionError, parse
from support.expression_calls import CALLS, POOLS
from unit.plan.engines import FIELDS, ROW, assert_engines_agree

LETTERS = "aAzZ01 -%_.éÉßİǅΣςж👍\u0301\n"


def rows(seed: int, count: int = 48) -> list[dict[str, Any]]:
    """Mostly the awkward values above, else random ones."""
    rng = random.Random(seed)

    def value(name: str, pool: list[Any]) -> Any:
        if rng.random() < 0.6:
            return rng.choice(pool)
        if name in ("s", "r"):
            return "".join(rng.choices(LETTERS, k=rng.randrange(8)))
        if name in ("t", "z"):
            return rng.randrange(-(10**12), 5 * 10**12)
        return rng.choice(pool)

    return [{name: value(name, pool) for name, pool in POOLS.items()} for _ in range(count)]


@pytest.mark.parametrize("text", CALLS)
def test_a_function_gives_the_same_values_in_all_three_engines(text: str) -> None:
    """Goal: parity of every lowering. Method: awkward and random rows, nulls among them, compared by bits and type."""
    expression = parse(text, FIELDS, allow_float=True)
    for seed in range(3):
        assert_engines_agree(expression, rows(seed))


@pytest.mark.parametrize("text", CALLS)
def test_a_call_keeps_its_canonical_text_and_its_proven_interval(text: str) -> None:
    expression = parse(text, FIELDS, allow_float=True)
    again = parse(expression.canonical, FIELDS, allow_float=True)
    assert (again.root, again.canonical) == (expression.root, expression.canonical)
    if expression.type.kind in ("integer", "timestamp", "local"):
        evaluate = expression.compile()
        values = [value for row in rows(7, 200) if (value := evaluate(row)) is not None]
        assert all(expression.type.minimum <= value <= expression.type.maximum for value in values)


@pytest.mark.parametrize(
    ("text", "value"), [(text, value) for function in FUNCTIONS.values() for text, value in function.examples]
)
def test_the_examples_of_the_table_are_true_in_all_three_engines(text: str, value: object) -> None:
    expression = parse(text, FIELDS)
    assert expression.compile()(ROW) == value
    assert_engines_agree(expression, [ROW, ROW])


ATOMS = st.sampled_from(
    ["a", "Z", "é", "-", "👍", ".", "[a-z]", "[^0-9]", "[A-Z_ ]", r"[\]\-\^]", r"\.", r"\$", r"\\", r"\/", "'", "~", "&", "#"]
)
SUFFIXES = st.sampled_from(["", "", "", "?", "{2}", "{0,2}", "*", "+"])
PIECES = st.lists(st.tuples(ATOMS, SUFFIXES).map("".join), max_size=4).map("".join)
ALTERNATIVE = st.tuples(st.sampled_from(["", "^"]), PIECES, st.sampled_from(["", "$"])).map("".join)


@given(st.lists(ALTERNATIVE, min_size=1, max_size=3).map("|".join), st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_a_pattern_of_the_common_part_matches_alike_in_all_three_engines(pattern: str, seed: int) -> None:
    text = "regexp_matches(s, '" + pattern.replace("'", "''") + "')"
    try:
        expression = parse(text, FIELDS)
    except ExpressionError as error:
        assert "pattern" in error.detail or "empty" in error.detail
        return
    assert_engines_agree(expression, rows(seed))


@given(st.text(alphabet="ab%_.é\n\\", max_size=6), st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_like_matches_alike_in_all_three_engines(pattern: str, seed: int) -> None:
    assert_engines_agree(parse("s like '" + pattern + "'", FIELDS), rows(seed))


@given(st.lists(st.text(max_size=8), min_size=1, max_size=16))
@settings(max_examples=100, deadline=None)
def test_any_unicode_text_means_the_same_in_all_three_engines(texts: list[str]) -> None:
    """Surrogates cannot be in a text, and NUL ends one in no engine."""
    given_rows = [{**ROW, "s": text, "r": text[::-1]} for text in texts]
    for text in ("length(s)", "lower(s)", "upper(s)", "octet_length(s)", "trim(s)", "left(s, 3)", "right(s, 3)", "s || r",
                 "substring(s, 2, 3)", "contains(s, r)", "s like '_%'", "hash_bucket(s, 97)",
                 "try_cast(s as bigint)"):  # fmt: skip
        assert_engines_agree(parse(text, FIELDS), given_rows)


def test_letters_change_one_for_one_over_all_of_unicode() -> None:
    every = [chr(point) for point in range(1, 0x110000) if not 0xD800 <= point < 0xE000]
    chunk = [{**ROW, "s": "".join(every[start : start + 1000])} for start in range(0, len(every), 1000)]
    for text in ("lower(s)", "upper(s)", "length(s)"):
        assert_engines_agree(parse(text, FIELDS), chunk)
    lower, upper = (parse(f"{name}(s)", FIELDS).compile() for name in ("lower", "upper"))
    assert all(upper({"s": lower({"s": sign})}) == sign for sign in "AÀŽΩЖԱẞ" if sign != "ẞ")
    assert lower({"s": "ÀŽΩЖİẞ"}) == "àžωжİẞ"
    assert upper({"s": "ßıςé"}) == "ßıςÉ"


FAULTS = [
    ("round(a, 1)", 0, "round without a mode", "round(x, 1, 'half_even')"),
    ("round(d, 1, 'bankers')", 12, "'bankers' where one word", "'half_even'"),
    ("round(f, 1, 'half_up')", 6, "a double where", "clamp and bucket"),
    ("a + sqrt(b)", 4, "'sqrt' is left out", "bucket"),
    ("a > 1 and mod(b, 2) = 0", 10, "'mod' is left out", "a % b"),
    ("now() > t", 0, "'now' is left out: an expression that reads a clock", "event time"),
    ("t > current_timestamp", 4, "left out", "event time"),
    ("lower(a)", 6, "integer where text is needed", "lower(s)"),
    ("substring(s, 0)", 13, "0 is not from 1", ""),
    ("substring(s, a)", 13, "not a constant integer", "write a number"),
    ("s like r", 7, "not a constant text", "in quotes"),
    ("s ilike 'x'", 0, "ilike is not in the expression language", "lower(s) like"),
    ("regexp_matches(s, '(a+)+')", 18, "'(a' is not in the common part", "no groups"),
    (r"regexp_matches(s, '\d')", 18, "is not in the common part", "classes such as"),
    ("regexp_matches(s, '.*.*.*x')", 18, "too many open repeats", "at most 2"),
    ("regexp_matches(s, '[z-a]')", 18, "runs backwards", "smaller"),
    ("t at time zone 'America/New_Yrok'", 15, "unknown time zone", "did you mean 'America/New_York'?"),
    ("t at time zone 'EST5EDTT'", 15, "unknown time zone", "EST5EDT"),
    ("t at time zone s", 15, "not a constant text", ""),
    ("(t at time zone 'UTC') at time zone 'UTC'", 1, "a local time has no zone to leave", "two instants"),
    ("t = t at time zone 'UTC'", 0, "local and timestamp do not go together", "one zone"),
    ("t > 5", 0, "integer and timestamp do not go together", "timestamp '2013"),
    ("t > timestamp '2013-13-01 00:00:00'", 14, "is not a time", "write timestamp '2013-06-01 09:00:00'"),
    ("t > timestamp '2013-06-01 00:00:00+02'", 14, "has an offset", "in UTC"),
    ("t + interval '1 month'", -1, "an interval without a fixed length", "interval '5 minutes'"),
    ("hour(timestamp_ms(u))", 5, "may leave the years 1 to 9999", "Range"),
    ("date_trunc('fortnight', t)", 11, "where one word of a list", "'week'"),
    ("extract(hour from s)", 18, "extract over string", "timestamp"),
    ("date_diff('day', t, a)", 20, "integer where a timestamp", "date_diff(unit, start, end)"),
    ("power(b, 3)", 0, "may overflow", "Range"),
    ("shift_left(u, 1)", 0, "may overflow", "Range"),
    ("gcd(u, 2)", 0, "may overflow", "Range"),
    ("divide(u, 3, 0, 'floor')", 7, "may overflow", "range"),
    ("divide(a, b)", 0, "divide without digits and mode", "divide(a, b, 2, 'half_even')"),
    ("bit_and(d, 1)", 8, "decimal(2) where an integer", "floor"),
    ("a & 1 = 1", 0, "'&' is not in the expression language", "bit_and"),
    ("a ** 2", 0, "'**' is not in the expression language", "power(x, 2)"),
    ("bucket(a, 5, 3)", 13, "do not ascend", "smallest"),
    ("bucket(a, b)", 10, "not a constant", "number"),
    ("width_bucket(a, 5, 5, 3)", 19, "do not ascend", ""),
    ("index_in(s, 'a', 'a')", 17, "twice in the vocabulary", ""),
    ("index_in(s, 'a', 2)", 17, "integer in a vocabulary of string", ""),
    ("hash_bucket(a, 10)", 12, "integer where text is needed", "hash_bucket(s, n)"),
    ("hash_bucket(s, 0)", 15, "0 is not from 1", ""),
    ("cast(s as bigint)", 5, "a cast of string to bigint", "try_cast(text as bigint)"),
    ("try_cast(s as decimal(2, 2))", 9, "no digit before the point", "decimal(12, 2)"),
    ("sum(a)", 0, "'sum' is left out: a row expression sees one row", "aggregate"),
    ("if(a, 1, 2)", 3, "integer where a condition is needed", "compare"),
    ("nullif(a)", 0, "1 arguments where nullif takes 2", "nullif(a, b)"),
    ("s + 'x'", 0, "'+' over string and string", "a || b"),
    ("a = 1 and (b", 11, "not a SQL expression", ""),
    ("count(*) over ()", 0, "", ""),
    ("n.deep.q = 1", 0, "unknown column 'n.deep.q'", "did you mean 'n.deep.k'?"),
    ("n is null", 0, "'n' is a record", "name a field of it: n.c, n.deep.k, n.w"),
    ("n.deep = 1", 0, "'n.deep' is a record", "n.deep.k"),
    ("x.c = 'x'", 0, "unknown column 'x.c'", "did you mean 'n."),
    ("l + 1", 0, "'+' over array of integer and integer", "arithmetic takes numbers"),
    ("l = i", 0, "an array where one value is needed", "array_at(a, 1)"),
    ("coalesce(w, n.w)", 0, "an array where one value is needed", "array_at(a, 1)"),
    ("s in (w)", 0, "an array where one value is needed", "array_contains(a, x)"),
    ("array_length(s)", 13, "string where an array is needed", "array_length(a)"),
    ("array_contains(w, 1)", 18, "integer where a value as the items, string, is needed", "array_contains(a, x)"),
    ("array_contains(l, 0.5)", 18, "decimal(1) among items of integer", "more digits"),
    ("array_sum(w)", 10, "items are string", "array of numbers"),
    ("array_at(l, 0.5)", 12, "decimal(1) where an integer", "floor"),
    ("array_sum(l, 1)", 0, "2 arguments where 1 is needed", "array_sum(a)"),
    ("[1, a]", 1, "an array of other than constants", "[3, 1, 2]"),
    ("array_length([1, 'x'])", 14, "an array of other than constants", "[3, 1, 2]"),
    ("each(s)", 5, "each takes an array field", "each(items)"),
    ("sum(l)", 0, "'sum' is left out", ""),
]


@pytest.mark.parametrize(("text", "position", "detail", "hint"), FAULTS)
def test_a_refusal_points_at_the_character_and_says_what_to_write(text: str, position: int, detail: str, hint: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse(text, FIELDS, allow_float=True)
    error = caught.value
    assert (error.position, detail in error.detail, hint in error.hint) == (position, True, True), str(error)


@pytest.mark.parametrize("name", sorted(LEFT_OUT))
def test_what_is_left_out_is_refused_with_its_reason(name: str) -> None:
    assert name not in FUNCTIONS
    with pytest.raises(ExpressionError, match=re.escape(LEFT_OUT[name][0])) as caught:
        parse(f"{name}(a)", FIELDS)
    assert LEFT_OUT[name][1] in caught.value.hint


def test_the_white_list_has_some_sixty_functions() -> None:
    """With abs, coalesce, least, greatest, if, nullif and the operators, which are nodes of their own."""
    assert len(FUNCTIONS) >= 50
    assert all(function.examples and function.doc for function in FUNCTIONS.values())


def test_nesting_cannot_blow_up_what_engines_get() -> None:
    """A lowering that repeats its operand would grow exponentially: long SQL is bound to a name, and weight is bounded."""
    text = "a"
    for _ in range(12):
        text = f"({text}) // 2"
    assert len(parse(text, FIELDS).to_duckdb()) < 20_000
    assert_engines_agree(parse(text, FIELDS), rows(3))
    for _ in range(40):
        text = f"round({text}, -1, 'half_up')"
    with pytest.raises(ExpressionError, match="nested too deeply"):
        parse(text, FIELDS)
