"""The reference page of row expressions, written from the white list: `python -m headrace.plan.expression_reference`."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

from headrace.plan.expression_functions import GROUPS, LEFT_OUT, Function
from headrace.plan.expression_functions.calendar import PARTS, UNITS
from headrace.plan.expression_functions.rounding import MODES
from headrace.plan.expression_functions.zones import issue
from headrace.plan.expressions import parse

PAGE = Path(__file__).with_name("EXPRESSIONS.md")

HEAD = f"""# Row expressions

One row in, one value out. Written as SQL text, or in Python (`Departed.dep_delay > 15`), both become one typed tree with
one canonical text; the plan keeps and hashes that text. Polars (the stream), DuckDB (recomputation) and plain Python (the
oracle, requests) evaluate it alike to the bit: no text ever reaches an engine, each function has its own lowering.

This page is written from the white list by `python -m headrace.plan.expression_reference`; a test compares them.

## Types

| type | what it is | declared as |
|---|---|---|
| integer | int64 with a proven interval | `Int`, `Long`, `Minutes` |
| decimal | int64 scaled by a power of ten, with a proven interval | `Decimal` with `Scale(digits)` |
| condition | true, false or null | `Flag` |
| text | Unicode, counted in code points | `Text` |
| timestamp | an instant, ms UTC, years 1 to 9999 | `Timestamp` |
| local time | what clocks of a zone show: `t at time zone 'Area/City'` | never a field |
| double | only in requests and on-demand inputs, never accumulated | `Double`, features |
| array | items of one type above, none of them null, at most as many as declared | `Items[Text]`, `list[str]` |

A field of a nested record is named by its path: `address.city`, `buyer.address.zip`. It is null where its record is null;
the record itself is no value. Arrays have functions and no operators: nothing compares two of them.

## What holds everywhere

- **Null** in gives null out, but where a row below says otherwise. AND and OR know three values: `false and null` is
  false, `true or null` is true.
- **Overflow** of int64 cannot happen: declared ranges prove it, or the plan is refused.
- **`//` and `%` floor**: `-7 // 2` is -4, `-7 % 2` is 1. Division and modulo by zero give null.
- **Decimals** are exact: `+`, `-` and comparison align the scales, `*` adds them.
- **Doubles**: no NaN and no infinity leaves an operation (null instead), no negative zero leaves an expression.
- **Zones** are those of IANA {issue()}, frozen with the engine semantics, because the engines carry different issues.
- **Time** never comes from a clock: an expression sees one row and nothing else.

## One item at a time

`each(items)` is one item of an array. It stands only where rows are accumulated, in the value or the `where` of an aggregate
of a feature set: there a record counts once for each of its items, in their order. `Ordered.items.each().distinct()` counts
different items, `Ordered.amounts.each().sum(where="each(amounts) > 500 and status = 'paid'")` adds some of them, and
`last` is the last item of the newest record. Value and `where` read items of one array, beside any other field of the
record. An array that is empty or null has no items and adds nothing. A model's label, inputs and rules see one row and
take an array's functions.

## Operators

`+ - * // %` on numbers (`/` where doubles are allowed), `t - t` is ms, `t + interval '5 minutes'`; `= <> < <= > >=`;
`and or not`; `is [not] null`, `is [not] true`, `is [not] false`, `is [not] distinct from`; `between`, `in (...)`,
`like`, `||`; `case when ... then ... else ... end`; literals `15`, `0.25`, `'text'`, `true`, `null`,
`timestamp '2013-06-01 09:00:00'` (UTC), `date '2013-06-01'`, `interval '2 hours'` (ms; weeks at most).

| function | what it is |
|---|---|
| `abs(x) -> number` | Without the sign. |
| `coalesce(a, b, ...)` | The first that is not null. |
| `least(a, b, ...)`, `greatest(a, b, ...)` | Of numbers or times; nulls are passed over, null only if all are. |
| `if(condition, a, b)`, `iff` | a where the condition is true, else b (also where it is null); becomes CASE. |
| `nullif(a, b)` | Null where they are equal, else a; becomes CASE. |

Rounding modes: {", ".join(f"`{mode}`" for mode in MODES)}. Parts of a time: {", ".join(f"`{part}`" for part in PARTS)}.
Units: {", ".join(f"`{unit}`" for unit in UNITS)}.
"""

LEFT_OUT_HEAD = """
## Left out

| not in the language | why | write |
|---|---|---|
"""

PYTHON = """
## In Python

`Event.field` has the operators `+ - * // % > >= < <= == != & | ~` and a method for each function:
`Departed.dep_delay.clamp(0, 120)`, `Departed.departed_at.hour(zone="America/New_York")`, `Departed.tail.is_null()`,
`Departed.carrier.index_in("UA", "AA")`. Constants are int, str, bool, `decimal.Decimal`, datetimes with a zone, timedeltas.
Where the two spellings differ:

| Python | SQL |
|---|---|
| `a & b`, `a \\| b`, `~a` | `a and b`, `a or b`, `not a` |
| `x.is_in(1, 2)`, `x.between(1, 5)` | `x in (1, 2)`, `x between 1 and 5` |
| `x.if_null(0)`, `x.null_if(0)`, `(x > 0).then(1, 2)` | `coalesce(x, 0)`, `nullif(x, 0)`, `if(x > 0, 1, 2)` |
| `least(x, y)`, `greatest(x, y)` | the same |
| `s.join(r)`, `s.matches("^N")` | `s \\|\\| r`, `regexp_matches(s, '^N')` |
| `s.parse_integer()`, `s.parse_decimal(8, 2)` | `try_cast(s as bigint)`, `try_cast(s as decimal(8, 2))` |
| `i.to_text()`, `(x > 0).to_integer()` | `cast(i as varchar)`, `cast(x > 0 as bigint)` |
| `t.at_zone("Europe/Berlin")` | `t at time zone 'Europe/Berlin'` |
| `t.truncate("day")`, `t.part("doy")` | `date_trunc('day', t)`, `extract(doy from t)` |
| `t.days_until(u, zone="...")` | `date_diff('day', t at time zone '...', u at time zone '...')` |
| `a.length()`, `a.distinct_items()` | `array_length(a)`, `array_distinct(a)` |
| `a.contains(x)`, `a.at(1)` | `array_contains(a, x)`, `array_at(a, 1)` |
| `a.total()`, `a.smallest()`, `a.largest()`, `a.each()` | `array_sum(a)`, `array_min(a)`, `array_max(a)`, `each(a)` |
| `Ordered.address.city` | `address.city` |
| `i.to_timestamp_s()`, `i.bits_set()` | `timestamp_s(i)`, `bit_count(i)` |
"""


def page() -> str:
    """The whole page in Markdown."""
    parts = [HEAD]
    for title, functions in GROUPS:
        rows = "\n".join(_row(function) for function in functions)
        parts.append(f"\n## {title}\n\n| function | what it is | examples |\n|---|---|---|\n{rows}\n")
    reasons: dict[tuple[str, str], list[str]] = {}
    for name, reason in LEFT_OUT.items():
        reasons.setdefault(reason, []).append(f"`{name}`")
    rows = "\n".join(f"| {', '.join(names)} | {why} | {_cell(instead)} |" for (why, instead), names in reasons.items())
    return "".join([*parts, LEFT_OUT_HEAD, rows, "\n", PYTHON])


def _row(function: Function) -> str:
    examples = "; ".join(f"`{_cell(text)}` is {_value(text, value)}" for text, value in function.examples)
    return f"| `{_cell(function.signature)}` | {_cell(function.doc)} | {examples} |"


def _value(text: str, value: object) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    scale = parse(text, {}).type.scale
    return f"`{Decimal(int(str(value))).scaleb(-scale)}`" if scale else f"`{value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
