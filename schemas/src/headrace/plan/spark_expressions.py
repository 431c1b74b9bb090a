"""Row expressions as SQL of Apache Spark 4: the same typed tree as Polars, DuckDB and Python evaluate, to the same bits.

Each node and each function of the white list has its own lowering here; text is never passed through, and a function
without a row in `FUNCTIONS` is refused by name. The SQL needs ANSI mode (a wrong proof of range fails instead of
wrapping) and a session in UTC; `svc_features.adapters.spark.session` sets both.

What differs from DuckDB and is met here: `div` and `%` truncate; strings escape by backslash; regular expressions are
Java's (`.` stops at five line ends unless `(?d)`, `$` stands before a last newline); LIKE has an escape character; there
is no gcd and no unsigned integer; a timestamp has a zone, so calendars are read from dates; an index of an array is an
INT from 0. A nested record's field is a column named by its path, an array's item a column of a row for each: whoever
makes the views sees to both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import singledispatch
from typing import Any

from headrace.plan.expression_engines import INLINE_CHARACTERS_MAX
from headrace.plan.expression_functions import letters, patterns
from headrace.plan.expression_functions.calendar import (
    CLOCK_PARTS,
    DAY_MS,
    EPOCH_MONTH,
    FIXED_UNITS,
    MONDAY_MS,
    MONTH_UNITS,
)
from headrace.plan.expression_functions.rounding import sql_up
from headrace.plan.expression_functions.table import Call
from headrace.plan.expression_functions.zones import sql_local
from headrace.plan.expression_leaves import Column, Constant, Items
from headrace.plan.expression_nodes import Absolute, Floated, IsNull, Negated, Node, Rescaled
from headrace.plan.expression_operators import Binary, Case, Choice, Inverted, Logic
from headrace.plan.expressions import Expression

TYPES = {"boolean": "BOOLEAN", "string": "STRING", "float": "DOUBLE"}
ESCAPES = "!~^#@\x01"  # one that the pattern lacks becomes LIKE's escape character
GCD_STEPS = 93  # Euclid over int64: Fibonacci's numbers are the slowest


class NotOnSpark(ValueError):
    """The plan says something that has no lowering for Spark; the text names it and the way out."""


def sql_of(expression: Expression, prefix: str = "") -> str:
    """SQL text; prefix such as "e." goes before every column; timestamps as BIGINT ms, decimals as scaled BIGINT.

    Raises: NotOnSpark.
    """
    lowered = _sql(expression.root, prefix)
    if expression.type.kind != "float":
        return lowered
    return f"(CASE WHEN {lowered} = 0 THEN CAST(0 AS DOUBLE) ELSE {lowered} END)"


def identifier(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def text(value: str) -> str:
    """A string literal."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def let(arguments: Sequence[str], body: Callable[..., str]) -> str:
    """SQL of a body that repeats its arguments: long ones are bound once, so that nested text grows linearly."""
    if sum(map(len, arguments)) <= INLINE_CHARACTERS_MAX:
        return body(*arguments)
    names = [f"a{index}" for index in range(len(arguments))]
    bound = ", ".join(f"'{name}', {argument}" for name, argument in zip(names, arguments, strict=True))
    # fields have no leading underscore, so the name hides none
    return f"transform(array(named_struct({bound})), __let -> {body(*(f'__let.{name}' for name in names))})[0]"


def _finite(value: str) -> str:
    # here NaN equals NaN
    infinity = "CAST('Infinity' AS DOUBLE)"
    return f"nullif(nullif(nullif({value}, CAST('NaN' AS DOUBLE)), {infinity}), -{infinity})"


def quotient(left: str, right: str) -> str:
    """Floored; null for a zero divisor."""
    return let((left, right), _quotient)


def modulo(left: str, right: str) -> str:
    """With the divisor's sign; null for a zero divisor."""
    return let((left, right), _modulo)


def _quotient(left: str, right: str) -> str:
    divisor = f"nullif({right}, 0)"
    signs = f"{left} % {divisor} <> 0 AND ({left} < 0) <> ({right} < 0)"
    return f"({left} div {divisor} - CASE WHEN {signs} THEN 1 ELSE 0 END)"


def _modulo(left: str, right: str) -> str:
    divisor = f"nullif({right}, 0)"
    signs = f"{left} % {divisor} <> 0 AND ({left} < 0) <> ({right} < 0)"
    return f"({left} % {divisor} + CASE WHEN {signs} THEN {right} ELSE 0 END)"


# ---------------------------------------------------------------- nodes


@singledispatch
def _sql(node: Node, prefix: str) -> str:
    raise NotOnSpark(f"{node.canonical} has no lowering for Spark; set HEADRACE_OFFLINE_ENGINE=duckdb")


@_sql.register
def _(node: Column, prefix: str) -> str:
    column = f"{prefix}{identifier(node.name)}"
    if node.type.kind in ("integer", "timestamp"):
        return f"CAST({column} AS BIGINT)"
    if node.type.item is not None and node.type.item.kind in ("integer", "timestamp"):
        return f"CAST({column} AS ARRAY<BIGINT>)"
    return _finite(f"CAST({column} AS DOUBLE)") if node.type.kind == "float" else column


@_sql.register
def _(node: Constant, prefix: str) -> str:
    if isinstance(node.value, str):
        return text(node.value)
    value = "NULL" if node.value is None else str(node.value).upper()
    return f"CAST({value} AS {TYPES.get(node.type.kind, 'BIGINT')})"


@_sql.register
def _(node: Items, prefix: str) -> str:
    return f"array({', '.join(_sql(item, prefix) for item in node.written)})"


@_sql.register
def _(node: Rescaled, prefix: str) -> str:
    return f"({_sql(node.operand, prefix)} * CAST({node.factor} AS BIGINT))"


@_sql.register
def _(node: Floated, prefix: str) -> str:
    unit = 10**node.operand.type.scale
    return f"(CAST({_sql(node.operand, prefix)} AS DOUBLE) / CAST({unit} AS DOUBLE))"


@_sql.register
def _(node: Negated, prefix: str) -> str:
    return f"(- {_sql(node.operand, prefix)})"  # the space: two minuses begin a comment


@_sql.register
def _(node: Absolute, prefix: str) -> str:
    return f"abs({_sql(node.operand, prefix)})"


@_sql.register
def _(node: IsNull, prefix: str) -> str:
    return f"({_sql(node.operand, prefix)} IS NULL)"


@_sql.register
def _(node: Binary, prefix: str) -> str:
    left, right, sign = _sql(node.left, prefix), _sql(node.right, prefix), node.operator
    if sign == "//":
        return quotient(left, right)
    if sign == "%":
        return modulo(left, right)
    if sign == "/":
        return _finite(f"({left} / nullif({right}, 0))")
    return _finite(f"({left} {sign} {right})") if node.type.kind == "float" else f"({left} {sign} {right})"


@_sql.register
def _(node: Logic, prefix: str) -> str:
    return f"({_sql(node.left, prefix)} {node.operator} {_sql(node.right, prefix)})"


@_sql.register
def _(node: Inverted, prefix: str) -> str:
    return f"(NOT {_sql(node.operand, prefix)})"


@_sql.register
def _(node: Case, prefix: str) -> str:
    whens = " ".join(f"WHEN {_sql(when, prefix)} THEN {_sql(then, prefix)}" for when, then in node.branches)
    return f"(CASE {whens} ELSE {_sql(node.default, prefix)} END)"


@_sql.register
def _(node: Choice, prefix: str) -> str:
    items = [_sql(item, prefix) for item in node.items]
    return items[0] if len(items) == 1 else f"{node.function.lower()}({', '.join(items)})"


@_sql.register
def _(node: Call, prefix: str) -> str:
    lowering = FUNCTIONS.get(node.function.name)
    if lowering is None:
        raise NotOnSpark(f"{node.function.label} has no lowering for Spark; set HEADRACE_OFFLINE_ENGINE=duckdb")
    texts = [_sql(operand, prefix) for operand in node.operands]
    return let(texts, lambda *names: lowering(*names, *node.settings))


# ---------------------------------------------------------------- numbers


def _sign(x: str) -> str:
    return f"CAST(CASE WHEN {x} > 0 THEN 1 WHEN {x} < 0 THEN -1 WHEN {x} = 0 THEN 0 END AS BIGINT)"


def _divide(numerator: str, divisor: str, mode: str) -> str:
    """Floored, and one more where the mode says so: see expression_functions.rounding."""
    n, d = f"({numerator} * CASE WHEN {divisor} < 0 THEN -1 ELSE 1 END)", f"abs({divisor})"
    if mode == "floor":
        return quotient(n, d)
    return let((n, d, quotient(n, d)), lambda n, d, q: sql_up(n, d, q, mode))


def _round(value: str, divisor: int, factor: int, mode: str) -> str:
    return value if divisor == 1 else f"({_divide(value, f'CAST({divisor} AS BIGINT)', mode)} * {factor})"


def _clamp(value: str, low: str, high: str) -> str:
    known = f"{value} IS NOT NULL AND {low} IS NOT NULL AND {high} IS NOT NULL"
    return f"CASE WHEN {known} THEN least(greatest({value}, {low}), {high}) END"


def _gcd(a: str, b: str) -> str:
    step = "CASE WHEN __g.b = 0 THEN __g ELSE named_struct('a', __g.b, 'b', __g.a % nullif(__g.b, 0)) END"
    start = f"named_struct('a', abs({a}), 'b', abs({b}))"
    known = f"({a}) IS NOT NULL AND ({b}) IS NOT NULL"
    return f"CASE WHEN {known} THEN aggregate(sequence(1, {GCD_STEPS}), {start}, (__g, __i) -> {step}, __g -> __g.a) END"


def _power(value: str, exponent: int) -> str:
    return "(" + " * ".join([value] * exponent) + ")"


# ---------------------------------------------------------------- text


def _translated(lower: bool) -> Callable[[str], str]:
    def lowered(value: str) -> str:
        sources, targets = letters.pairs(lower)
        return f"translate({value}, {text(''.join(sources))}, {text(''.join(targets))})"

    return lowered


def _trimmed(side: str) -> Callable[[str, str], str]:
    return lambda value, characters: f"trim({side} {text(characters)} FROM {value})"


def _like(value: str, pattern: str) -> str:
    escape = next((sign for sign in ESCAPES if sign not in pattern), None)
    if escape is None:
        raise NotOnSpark(f"a LIKE pattern with all of {ESCAPES!r} in it; set HEADRACE_OFFLINE_ENGINE=duckdb")
    return f"({value} LIKE {text(pattern)} ESCAPE {text(escape)})"


def _matches(value: str, pattern: str) -> str:
    return f"({value} RLIKE {text('(?d)(?:' + patterns.anchored(pattern, 'z') + ')')})"


def _whole(value: str, pattern: str) -> str:
    anchored = rf"\A(?:{pattern})\z"
    return f"({value} RLIKE {text(anchored)})"


def _try_integer(value: str, pattern: str) -> str:
    return f"CASE WHEN {_whole(value, pattern)} THEN try_cast({value} AS BIGINT) END"


def _try_decimal(value: str, pattern: str, scale: int) -> str:
    digits = f"split_part({value}, '.', 1) || rpad(split_part({value}, '.', 2), {scale}, '0')"
    return f"CASE WHEN {_whole(value, pattern)} THEN try_cast({digits} AS BIGINT) END"


def md5_of(value: str) -> str:
    """32 hexadecimal digits of the UTF-8 text."""
    return f"md5(CAST({value} AS BINARY))"


def unsigned(hexadecimal: str) -> str:
    """16 hexadecimal digits as a number; there are no unsigned integers here, so a decimal holds it."""
    return f"CAST(conv({hexadecimal}, 16, 10) AS DECIMAL(20, 0))"


def _hash_bucket(value: str, buckets: int) -> str:
    def lowered(digest: str) -> str:
        reversed_bytes = ", ".join(f"substring({digest}, {at}, 2)" for at in range(15, 0, -2))
        return f"CAST({unsigned(f'concat({reversed_bytes})')} % CAST({buckets} AS DECIMAL(20, 0)) AS BIGINT)"

    return let([md5_of(value)], lowered)


# ---------------------------------------------------------------- time


def _day(value: str) -> str:
    """The civil date of ms, read from no session zone."""
    return f"date_from_unix_date(CAST({quotient(value, f'CAST({DAY_MS} AS BIGINT)')} AS INT))"


CALENDAR = {
    "year": "year({})", "quarter": "quarter({})", "month": "month({})", "week": "weekofyear({})",
    "isoyear": "extract(YEAROFWEEK FROM {})", "day": "day({})", "doy": "dayofyear({})",
    "isodow": "extract(DAYOFWEEK_ISO FROM {})",
}  # fmt: skip


def _extract(value: str, part: str) -> str:
    if part in CALENDAR:
        return f"CAST({CALENDAR[part].format(_day(value))} AS BIGINT)"
    unit, shift, modulus = CLOCK_PARTS[part]
    found = f"({quotient(value, f'CAST({unit} AS BIGINT)')} + {shift})"
    return modulo(found, f"CAST({modulus} AS BIGINT)") if modulus else found


def _shift(unit: str) -> int:
    return MONDAY_MS if unit == "week" else 0


def _trunc(value: str, unit: str) -> str:
    if unit in FIXED_UNITS:
        size, shift = FIXED_UNITS[unit], _shift(unit)
        return f"({quotient(f'({value} - {shift})', f'CAST({size} AS BIGINT)')} * {size} + {shift})"
    return f"(CAST(unix_date(trunc({_day(value)}, '{unit.upper()}')) AS BIGINT) * {DAY_MS})"


def _count(value: str, unit: str) -> str:
    if unit in FIXED_UNITS:
        return quotient(f"({value} - {_shift(unit)})", f"CAST({FIXED_UNITS[unit]} AS BIGINT)")

    def months(day: str) -> str:
        since = f"CAST(year({day}) * 12 + month({day}) - 1 - {EPOCH_MONTH} AS BIGINT)"
        return quotient(since, f"CAST({MONTH_UNITS[unit]} AS BIGINT)")

    return let([_day(value)], months)


# ---------------------------------------------------------------- choice


def _bucket(value: str, *bounds: str) -> str:
    return "(" + " + ".join(f"CAST({value} >= {bound} AS BIGINT)" for bound in bounds) + ")"


def _width_bucket(value: str, low: int, high: int, count: int) -> str:
    inside = f"(least(greatest({value}, {low}), {high}) - ({low})) * {count} div {high - low} + 1"
    return (
        f"CAST(CASE WHEN {value} < {low} THEN 0 WHEN {value} >= {high} THEN {count + 1} "
        f"WHEN {value} IS NOT NULL THEN {inside} END AS BIGINT)"
    )


def _index_in(value: str, words: tuple[Any, ...]) -> str:
    listed = ", ".join(text(word) if isinstance(word, str) else f"CAST({word} AS BIGINT)" for word in words)
    return f"(array_position(array({listed}), {value}) - 1)"


# ---------------------------------------------------------------- arrays


def _array_at(array: str, place: str) -> str:
    length = f"array_size({array})"
    inside = f"{place} <> 0 AND {place} <= {length} AND {place} >= -{length}"  # a place is any BIGINT, an index an INT
    index = f"CASE WHEN {place} > 0 THEN {place} - 1 ELSE {length} + {place} END"
    return f"CASE WHEN {inside} THEN get({array}, CAST({index} AS INT)) END"


def _array_sum(array: str) -> str:
    total = f"aggregate({array}, CAST(0 AS BIGINT), (__sum, __item) -> __sum + __item)"
    return f"CASE WHEN array_size({array}) > 0 THEN {total} END"


FUNCTIONS: dict[str, Callable[..., str]] = {
    "sign": _sign, "round": _round, "floor": _round, "ceil": _round, "trunc": _round, "divide": _divide, "clamp": _clamp,
    "gcd": _gcd, "power": _power, "to_integer": lambda x: f"CAST({x} AS BIGINT)",
    "bit_and": lambda a, b: f"({a} & {b})", "bit_or": lambda a, b: f"({a} | {b})", "bit_xor": lambda a, b: f"({a} ^ {b})",
    "bit_not": lambda a: f"(-1 - {a})", "shift_left": lambda a, factor: f"({a} * CAST({factor} AS BIGINT))",
    "shift_right": lambda a, n: f"shiftright({a}, {n})", "bit_count": lambda a: f"CAST(bit_count({a}) AS BIGINT)",
    "length": lambda s: f"CAST(char_length({s}) AS BIGINT)", "octet_length": lambda s: f"CAST(octet_length({s}) AS BIGINT)",
    "lower": _translated(True), "upper": _translated(False),
    "trim": _trimmed("BOTH"), "ltrim": _trimmed("LEADING"), "rtrim": _trimmed("TRAILING"),
    "substring": lambda s, start, length: f"substring({s}, {start}, {length})",
    "left": lambda s, n: f"left({s}, {n})", "right": lambda s, n: f"right({s}, {n})",
    "starts_with": lambda s, p: f"startswith({s}, {p})", "ends_with": lambda s, p: f"endswith({s}, {p})",
    "contains": lambda s, p: f"contains({s}, {p})", "strpos": lambda s, p: f"CAST(instr({s}, {text(p)}) AS BIGINT)",
    "replace": lambda s, a, b: f"replace({s}, {text(a)}, {text(b)})",
    "split_part": lambda s, p, n: f"split_part({s}, {text(p)}, {n})",
    "concat": lambda *parts: "concat(" + ", ".join(f"coalesce({part}, '')" for part in parts) + ")",
    "joined": lambda a, b: f"concat({a}, {b})", "like": _like, "regexp_matches": _matches,
    "try_integer": _try_integer, "try_decimal": _try_decimal, "to_text": lambda i: f"CAST({i} AS STRING)",
    "extract": _extract, "at_time_zone": sql_local, "date_trunc": _trunc,
    "date_diff": lambda a, b, unit: f"({_count(b, unit)} - {_count(a, unit)})",
    "days_in_month": lambda t: f"CAST(day(last_day({_day(t)})) AS BIGINT)", "epoch_ms": lambda t: t,
    "timestamp_ms": lambda i, factor: f"({i} * CAST({factor} AS BIGINT))",
    "timestamp_s": lambda i, factor: f"({i} * CAST({factor} AS BIGINT))",
    "bucket": _bucket, "width_bucket": _width_bucket, "index_in": _index_in, "hash_bucket": _hash_bucket,
    "array_length": lambda a: f"CAST(array_size({a}) AS BIGINT)", "array_contains": lambda a, x: f"array_contains({a}, {x})",
    "array_at": _array_at, "array_sum": _array_sum, "array_min": lambda a: f"array_min({a})",
    "array_max": lambda a: f"array_max({a})",
    "array_distinct": lambda a: f"CAST(array_size(array_distinct({a})) AS BIGINT)",
}  # fmt: skip
