"""Functions of text. Positions and lengths count Unicode code points; nothing depends on a locale or a Unicode version."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from headrace.plan.expression_functions import letters, patterns
from headrace.plan.expression_functions.table import Function, Typed, constant_integer, constant_text, counted, integer, string
from headrace.plan.expression_leaves import Constant
from headrace.plan.expression_nodes import Node, ValueType
from headrace.plan.expression_types import Misfit

if TYPE_CHECKING:
    import polars as pl

STRING, BOOLEAN = ValueType("string"), ValueType("boolean")
LENGTH_MAX = 2**31 - 1  # of one text: what Kafka can carry is far below
WILDCARDS_MAX = 4  # each may cost a scan of the text
DIGITS_MAX = 18  # of a number in a text, so that it fits 64 bits


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _lit(text: str) -> pl.Expr:
    import polars as pl

    return pl.lit(text, dtype=pl.String)


def _one(result: ValueType) -> Callable[[Sequence[Node]], Typed]:
    def typed(arguments: Sequence[Node]) -> Typed:
        counted(arguments, 1, 0)
        return Typed((string(arguments, 0),), (), result)

    return typed


def _two(arguments: Sequence[Node]) -> Typed:
    counted(arguments, 2, 0)
    return Typed((string(arguments, 0), string(arguments, 1)), (), BOOLEAN)


def _trim_typed(arguments: Sequence[Node]) -> Typed:
    counted(arguments, 1, 2)
    characters = constant_text(arguments, 1) if len(arguments) == 2 else " "
    return Typed((string(arguments, 0),), (characters,), STRING)


def _substring_typed(arguments: Sequence[Node]) -> Typed:
    counted(arguments, 2, 3)
    start = constant_integer(arguments, 1, 1, LENGTH_MAX)
    length = constant_integer(arguments, 2, 0, LENGTH_MAX) if len(arguments) == 3 else LENGTH_MAX
    return Typed((string(arguments, 0),), (start, length), STRING)


def _end_typed(arguments: Sequence[Node]) -> Typed:
    counted(arguments, 2, 0)
    return Typed((string(arguments, 0),), (constant_integer(arguments, 1, 0, LENGTH_MAX),), STRING)


def _strpos_typed(arguments: Sequence[Node]) -> Typed:
    counted(arguments, 2, 0)
    return Typed((string(arguments, 0),), (constant_text(arguments, 1),), ValueType("integer", 0, 0, LENGTH_MAX))


def _polars_strpos(value: pl.Expr, needle: str) -> pl.Expr:
    import polars as pl

    found = value.str.splitn(_lit(needle), 2).struct.field("field_0").str.len_chars().cast(pl.Int64) + 1
    return pl.when(value.str.contains(_lit(needle), literal=True)).then(found).when(value.is_not_null()).then(0)


def _replace_typed(arguments: Sequence[Node]) -> Typed:
    counted(arguments, 3, 0)
    return Typed((string(arguments, 0),), (constant_text(arguments, 1), constant_text(arguments, 2, empty=True)), STRING)


def _split_typed(arguments: Sequence[Node]) -> Typed:
    counted(arguments, 3, 0)
    return Typed((string(arguments, 0),), (constant_text(arguments, 1), constant_integer(arguments, 2, 1, 1000)), STRING)


def _polars_split(value: pl.Expr, separator: str, part: int) -> pl.Expr:
    import polars as pl

    found = value.str.split(_lit(separator)).list.get(part - 1, null_on_oob=True)
    return pl.when(value.is_not_null()).then(found.fill_null(_lit("")))


def _python_split(value: str, separator: str, part: int) -> str:
    parts = value.split(separator)
    return parts[part - 1] if part <= len(parts) else ""


def _concat_typed(arguments: Sequence[Node]) -> Typed:
    counted(arguments, 1)
    parts = [Constant("", STRING) if node.type.kind == "null" else string(arguments, i) for i, node in enumerate(arguments)]
    return Typed(tuple(parts), (), STRING)


def _joined_typed(arguments: Sequence[Node]) -> Typed:
    return Typed((string(arguments, 0), string(arguments, 1)), (), STRING)


def _polars_concat(*values: pl.Expr) -> pl.Expr:
    import polars as pl

    return pl.concat_str([value.fill_null(_lit("")) for value in values])


def _like_typed(arguments: Sequence[Node]) -> Typed:
    pattern = constant_text(arguments, 1, empty=True)
    if len(re.findall("%+", pattern)) > WILDCARDS_MAX:
        raise Misfit(f"more than {WILDCARDS_MAX} '%'", "write contains(s, '...') and so on", 1)
    return Typed((string(arguments, 0),), (pattern,), BOOLEAN)


def _pattern_typed(arguments: Sequence[Node]) -> Typed:
    counted(arguments, 2, 0)
    pattern = constant_text(arguments, 1)
    patterns.check(pattern, argument=1)
    return Typed((string(arguments, 0),), (pattern,), BOOLEAN)


def _digits_typed(arguments: Sequence[Node]) -> Typed:
    reach = 10**DIGITS_MAX - 1
    return Typed((string(arguments, 0),), (f"-?[0-9]{{1,{DIGITS_MAX}}}",), ValueType("integer", 0, -reach, reach))


def _polars_whole(value: pl.Expr, pattern: str) -> pl.Expr:
    import polars as pl

    return pl.when(value.str.contains(rf"\A(?:{pattern})\z")).then(value.str.to_integer(strict=False))


def _decimal_typed(arguments: Sequence[Node]) -> Typed:
    precision, scale = constant_integer(arguments, 1, 1, DIGITS_MAX), constant_integer(arguments, 2, 1, 12)
    if scale >= precision:
        raise Misfit(f"decimal({precision}, {scale}) has no digit before the point", "write for example decimal(12, 2)")
    pattern = f"-?[0-9]{{1,{precision - scale}}}([.][0-9]{{1,{scale}}})?"
    reach = 10**precision - 1
    return Typed((string(arguments, 0),), (pattern, scale), ValueType("integer", scale, -reach, reach))


def _polars_decimal(value: pl.Expr, pattern: str, scale: int) -> pl.Expr:
    import polars as pl

    parts = value.str.splitn(_lit("."), 2).struct
    digits = pl.concat_str([parts.field("field_0"), parts.field("field_1").fill_null(_lit("")).str.pad_end(scale, "0")])
    return pl.when(value.str.contains(rf"\A(?:{pattern})\z")).then(digits.str.to_integer(strict=False))


def _duckdb_decimal(value: str, pattern: str, scale: int) -> str:
    digits = f"split_part({value}, '.', 1) || rpad(split_part({value}, '.', 2), {scale}, '0')"
    return f"CASE WHEN regexp_full_match({value}, '{pattern}') THEN TRY_CAST({digits} AS BIGINT) END"


def _python_decimal(value: str, pattern: str, scale: int) -> int | None:
    if not patterns.full_match(value, pattern):
        return None
    whole, _, fraction = value.partition(".")
    return int(whole + fraction.ljust(scale, "0"))


def _text_of_typed(arguments: Sequence[Node]) -> Typed:
    return Typed((integer(arguments, 0),), (), STRING)


def _polars_text(value: pl.Expr) -> pl.Expr:
    import polars as pl

    return value.cast(pl.String)


def _length(measure: str) -> Callable[[Any], Any]:
    def lowered(value: pl.Expr) -> pl.Expr:
        import polars as pl

        return getattr(value.str, measure)().cast(pl.Int64)

    return lowered


def _written_pair(sign: str) -> Callable[[Sequence[Node]], str]:
    return lambda arguments: f"{arguments[0].wrapped} {sign} {arguments[1].wrapped}"


LENGTH = ValueType("integer", 0, 0, LENGTH_MAX)

FUNCTIONS = (
    Function(
        "length", "length(s) -> integer", "Number of code points.", _one(LENGTH),
        _length("len_chars"), lambda s: f"length({s})", len, (("length('née')", 3),),
    ),
    Function(
        "octet_length", "octet_length(s) -> integer", "Number of UTF-8 bytes.", _one(LENGTH),
        _length("len_bytes"), lambda s: f"strlen({s})", lambda s: len(s.encode()), (("octet_length('née')", 4),),
    ),
    Function(
        "lower", "lower(s) -> text",
        "Small letters of Latin, Greek, Cyrillic and Armenian, one code point for one; others stay (`İ` and `ẞ` too).",
        _one(STRING), letters.polars_lower, letters.duckdb_lower, letters.python_lower, (("lower('ÀB')", "àb"),), repeats=4,
    ),
    Function(
        "upper", "upper(s) -> text", "Capital letters, as `lower`; `ß` and `ı` stay.",
        _one(STRING), letters.polars_upper, letters.duckdb_upper, letters.python_upper,
        (("upper('straße')", "STRAßE"),), repeats=4,
    ),
    Function(
        "trim", "trim(s[, characters]) -> text", "Without these characters at both ends; spaces alone if none are given.",
        _trim_typed, lambda s, c: s.str.strip_chars(_lit(c)), lambda s, c: f"trim({s}, {quoted(c)})", str.strip,
        (("trim('  a ')", "a"), ("trim('--a', '-')", "a")),
    ),
    Function(
        "ltrim", "ltrim(s[, characters]) -> text", "As trim, at the start alone.",
        _trim_typed, lambda s, c: s.str.strip_chars_start(_lit(c)), lambda s, c: f"ltrim({s}, {quoted(c)})", str.lstrip,
        (("ltrim('00120', '0')", "120"),),
    ),
    Function(
        "rtrim", "rtrim(s[, characters]) -> text", "As trim, at the end alone.",
        _trim_typed, lambda s, c: s.str.strip_chars_end(_lit(c)), lambda s, c: f"rtrim({s}, {quoted(c)})", str.rstrip,
        (("rtrim('a  ')", "a"),),
    ),
    Function(
        "substring", "substring(s, start[, length]) -> text", "Code points from start (the first is 1); constants.",
        _substring_typed, lambda s, start, length: s.str.slice(start - 1, length),
        lambda s, start, length: f"substring({s}, {start}, {length})",
        lambda s, start, length: s[start - 1 : start - 1 + length], (("substring('headrace', 5)", "race"),),
    ),
    Function(
        "left", "left(s, n) -> text", "The first n code points.", _end_typed,
        lambda s, n: s.str.slice(0, n), lambda s, n: f"left({s}, {n})", lambda s, n: s[:n], (("left('N14228', 1)", "N"),),
    ),
    Function(
        "right", "right(s, n) -> text", "The last n code points.", _end_typed,
        lambda s, n: s.str.tail(n), lambda s, n: f"right({s}, {n})", lambda s, n: s[max(0, len(s) - n) :],
        (("right('N14228', 2)", "28"),),
    ),
    Function(
        "starts_with", "starts_with(s, prefix) -> condition", "Whether s begins so.", _two,
        lambda s, p: s.str.starts_with(p), lambda s, p: f"starts_with({s}, {p})", str.startswith,
        (("starts_with('EWR', 'E')", True),),
    ),
    Function(
        "ends_with", "ends_with(s, suffix) -> condition", "Whether s ends so.", _two,
        lambda s, p: s.str.ends_with(p), lambda s, p: f"ends_with({s}, {p})", str.endswith, (("ends_with('EWR', 'R')", True),),
    ),
    Function(
        "contains", "contains(s, part) -> condition", "Whether part stands in s.", _two,
        lambda s, p: s.str.contains(p, literal=True), lambda s, p: f"contains({s}, {p})", lambda s, p: p in s,
        (("contains('EWR', 'W')", True),),
    ),
    Function(
        "strpos", "strpos(s, part) -> integer", "Where a constant part first stands, 1 for the start, 0 if nowhere.",
        _strpos_typed, _polars_strpos, lambda s, p: f"strpos({s}, {quoted(p)})", lambda s, p: s.find(p) + 1,
        (("strpos('née', 'e')", 3),), repeats=3,
    ),
    Function(
        "replace", "replace(s, from, to) -> text", "Every occurrence, from the left; both constant.", _replace_typed,
        lambda s, a, b: s.str.replace_all(_lit(a), _lit(b), literal=True),
        lambda s, a, b: f"replace({s}, {quoted(a)}, {quoted(b)})", str.replace, (("replace('a-b-c', '-', '')", "abc"),),
    ),
    Function(
        "split_part", "split_part(s, separator, n) -> text", "The n-th part, 1 for the first; '' where there are fewer.",
        _split_typed, _polars_split, lambda s, p, n: f"split_part({s}, {quoted(p)}, {n})", _python_split,
        (("split_part('2013-06-01.UA.1545', '.', 2)", "UA"),), repeats=2,
    ),
    Function(
        "concat", "concat(s, ...) -> text", "All together; a null is ''.", _concat_typed, _polars_concat,
        lambda *parts: "(" + " || ".join(f"coalesce({part}, '')" for part in parts) + ")",
        lambda *parts: "".join(part or "" for part in parts), (("concat('a', null, 'b')", "ab"),), strict=False,
    ),
    Function(
        "joined", "s || s -> text", "Both together; null where either is null.", _joined_typed,
        lambda a, b: a + b, lambda a, b: f"({a} || {b})", lambda a, b: a + b, (("'a' || 'b'", "ab"),),
        written=_written_pair("||"), atomic=False,
    ),
    Function(
        "like", "s like pattern -> condition", "`%` is any text, `_` one code point; the whole of s must match; no escapes.",
        _like_typed, patterns.polars_like, lambda s, p: f"({s} LIKE {quoted(p)})", patterns.python_like,
        (("'N14228' like 'N%8'", True),), written=_written_pair("LIKE"), atomic=False,
    ),
    Function(
        "regexp_matches", "regexp_matches(s, pattern) -> condition",
        "Whether the pattern is found in s. " + patterns.GRAMMAR,
        _pattern_typed, patterns.polars_matches, patterns.duckdb_matches, patterns.python_matches,
        (("regexp_matches('N14228', '^N[0-9]+$')", True),),
    ),
    Function(
        "try_integer", "try_cast(s as bigint) -> integer",
        f"The integer a text is: at most {DIGITS_MAX} ASCII digits, maybe after a minus; else null.",
        _digits_typed, _polars_whole, lambda s, p: f"CASE WHEN regexp_full_match({s}, '{p}') THEN TRY_CAST({s} AS BIGINT) END",
        lambda s, p: int(s) if patterns.full_match(s, p) else None,
        (("try_cast('-012' as bigint)", -12), ("try_cast('1e3' as bigint)", None)),
        written=lambda arguments: f"TRY_CAST({arguments[0].canonical} AS BIGINT)", repeats=2,
    ),
    Function(
        "try_decimal", "try_cast(s as decimal(precision, scale)) -> decimal",
        "The decimal a text is, with at most that many digits; else null.",
        _decimal_typed, _polars_decimal, _duckdb_decimal, _python_decimal,
        (("try_cast('-1.5' as decimal(6, 2))", -150), ("try_cast('1.555' as decimal(6, 2))", None)),
        written=lambda a: f"TRY_CAST({a[0].canonical} AS DECIMAL({a[1].canonical}, {a[2].canonical}))", repeats=3,
    ),
    Function(
        "to_text", "cast(i as varchar) -> text", "An integer as decimal digits.", _text_of_typed,
        _polars_text, lambda i: f"CAST({i} AS VARCHAR)", str, (("cast(-7 as varchar)", "-7"),),
        written=lambda arguments: f"CAST({arguments[0].canonical} AS VARCHAR)",
    ),
)  # fmt: skip
