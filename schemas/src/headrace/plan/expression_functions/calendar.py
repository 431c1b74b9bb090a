"""Functions of time. A timestamp is a UTC instant; `t at time zone 'Area/City'` is the local time its clocks show.

Parts, truncation and differences of a timestamp are those of UTC, of a local time those of its zone. Years 1 to 9999.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from headrace.plan.avro import TIME_MS_MAX, TIME_MS_MIN
from headrace.plan.expression_engines import duckdb_modulo, duckdb_quotient
from headrace.plan.expression_functions import zones
from headrace.plan.expression_functions.table import Function, Typed, constant_text, counted, integer, of_kind, one_of
from headrace.plan.expression_leaves import Constant
from headrace.plan.expression_nodes import Node, ValueType
from headrace.plan.expression_types import Misfit, bounded, nearest

if TYPE_CHECKING:
    import polars as pl

SECOND_MS, MINUTE_MS, HOUR_MS, DAY_MS = 1_000, 60_000, 3_600_000, 86_400_000
EPOCH_DAY_OF_WEEK = 4  # 1970-01-01 was a Thursday; Sunday is 0
EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
EPOCH_MONTH = 1970 * 12
MONDAY_MS = 4 * DAY_MS  # 1970-01-05, from which weeks are counted
BIGINT = "CAST({} AS BIGINT)"

# Parts that are (t // unit + shift) % modulus; without a modulus the quotient itself.
CLOCK_PARTS: dict[str, tuple[int, int, int]] = {
    "millisecond": (1, 0, 1_000), "second": (SECOND_MS, 0, 60), "minute": (MINUTE_MS, 0, 60), "hour": (HOUR_MS, 0, 24),
    "dow": (DAY_MS, EPOCH_DAY_OF_WEEK, 7), "minute_of_day": (MINUTE_MS, 0, 1_440), "epoch": (SECOND_MS, 0, 0),
}  # fmt: skip
CALENDAR_PARTS: dict[str, tuple[int, int, str, str]] = {  # lowest, highest, Polars' and DuckDB's name
    "year": (1, 9999, "year", "year"), "quarter": (1, 4, "quarter", "quarter"), "month": (1, 12, "month", "month"),
    "week": (1, 53, "week", "weekofyear"), "isoyear": (0, 10_000, "iso_year", "isoyear"), "day": (1, 31, "day", "day"),
    "doy": (1, 366, "ordinal_day", "dayofyear"), "isodow": (1, 7, "weekday", "isodow"),
}  # fmt: skip
PARTS = (*CLOCK_PARTS, *CALENDAR_PARTS)
FIXED_UNITS = {"second": SECOND_MS, "minute": MINUTE_MS, "hour": HOUR_MS, "day": DAY_MS, "week": 7 * DAY_MS}
MONTH_UNITS = {"month": 1, "quarter": 3, "year": 12}
UNITS = (*FIXED_UNITS, *MONTH_UNITS)


def moment(arguments: Sequence[Node], index: int) -> Node:
    """A timestamp or local time within the years a calendar has."""
    node = of_kind(arguments, index, "a timestamp", "timestamp", "local")
    if node.type.minimum < TIME_MS_MIN or node.type.maximum > TIME_MS_MAX:
        raise Misfit("may leave the years 1 to 9999", "declare a Range of the timestamp, or clamp it", index)
    return node


def civil(time_ms: int) -> date:
    return date.fromordinal(time_ms // DAY_MS + EPOCH_ORDINAL)


def _datetime(value: pl.Expr) -> pl.Expr:
    import polars as pl

    return value.cast(pl.Datetime("ms"))


def _extract_typed(arguments: Sequence[Node]) -> Typed:
    part, node = one_of(arguments, 0, PARTS), moment(arguments, 1)
    if part == "epoch":
        return Typed((node,), (part,), ValueType("integer", 0, node.type.minimum // 1000, node.type.maximum // 1000))
    low, high = (0, CLOCK_PARTS[part][2] - 1) if part in CLOCK_PARTS else CALENDAR_PARTS[part][:2]
    return Typed((node,), (part,), ValueType("integer", 0, low, high))


def _polars_extract(value: pl.Expr, part: str) -> pl.Expr:
    import polars as pl

    if part in CALENDAR_PARTS:
        return getattr(_datetime(value).dt, CALENDAR_PARTS[part][2])().cast(pl.Int64)
    unit, shift, modulus = CLOCK_PARTS[part]
    quotient = value // unit + shift
    return quotient % modulus if modulus else quotient


def _duckdb_extract(value: str, part: str) -> str:
    if part in CALENDAR_PARTS:
        return f"CAST({CALENDAR_PARTS[part][3]}(epoch_ms({value})) AS BIGINT)"
    unit, shift, modulus = CLOCK_PARTS[part]
    quotient = f"({duckdb_quotient(value, str(unit))} + {shift})"
    return duckdb_modulo(quotient, str(modulus)) if modulus else quotient


def _python_extract(value: int, part: str) -> int:
    if part in CLOCK_PARTS:
        unit, shift, modulus = CLOCK_PARTS[part]
        quotient = value // unit + shift
        return quotient % modulus if modulus else quotient
    day = civil(value)
    if part in ("year", "month", "day"):
        return int(getattr(day, part))
    if part in ("isoyear", "week", "isodow"):
        return day.isocalendar()[("isoyear", "week", "isodow").index(part)]
    return (day.month + 2) // 3 if part == "quarter" else day.timetuple().tm_yday


def _zone_typed(arguments: Sequence[Node]) -> Typed:
    node, name = of_kind(arguments, 0, "a timestamp", "timestamp", "local"), constant_text(arguments, 1)
    if node.type.kind == "local":
        hint = "twice in autumn an hour has two instants: keep the timestamp, and compare local times with each other"
        raise Misfit("a local time has no zone to leave", hint, 0)
    try:
        known = zones.zone(name)
    except KeyError:
        raise Misfit(f"unknown time zone '{name}'", nearest(name, zones.names(), "write 'Area/City'"), 1) from None
    low, high = max(node.type.minimum, zones.FIRST_MS), min(node.type.maximum, zones.END_MS - 1)
    value = ValueType("local", 0, low + min(known.offsets), high + max(known.offsets))
    return Typed((node,), (known,), value)


def _trunc_typed(arguments: Sequence[Node]) -> Typed:
    counted(arguments, 2, 0)
    unit, node = one_of(arguments, 0, UNITS), moment(arguments, 1)
    low = max(TIME_MS_MIN - 7 * DAY_MS, node.type.minimum - 366 * DAY_MS)
    return Typed((node,), (unit,), ValueType(node.type.kind, 0, low, node.type.maximum))


def _shift(unit: str) -> int:
    return MONDAY_MS if unit == "week" else 0


def _polars_trunc(value: pl.Expr, unit: str) -> pl.Expr:
    import polars as pl

    if unit in FIXED_UNITS:
        size, shift = FIXED_UNITS[unit], _shift(unit)
        return (value - shift) // size * size + shift
    when = _datetime(value).dt
    month = {"month": when.month(), "quarter": when.quarter() * 3 - 2, "year": pl.lit(1)}[unit]
    # the year through its own expression, so that a constant month takes its height
    return pl.datetime(when.year(), month, 1, time_unit="ms").cast(pl.Int64)


def _duckdb_trunc(value: str, unit: str) -> str:
    if unit in FIXED_UNITS:
        size, shift = FIXED_UNITS[unit], _shift(unit)
        return f"({duckdb_quotient(f'({value} - {shift})', str(size))} * {size} + {shift})"
    return f"epoch_ms(CAST(date_trunc('{unit}', epoch_ms({value})) AS TIMESTAMP))"


def _python_trunc(value: int, unit: str) -> int:
    if unit in FIXED_UNITS:
        size, shift = FIXED_UNITS[unit], _shift(unit)
        return (value - shift) // size * size + shift
    day, months = civil(value), MONTH_UNITS[unit]
    return (date(day.year, (day.month - 1) // months * months + 1, 1).toordinal() - EPOCH_ORDINAL) * DAY_MS


def _diff_typed(arguments: Sequence[Node]) -> Typed:
    counted(arguments, 3, 0)
    unit, start, end = one_of(arguments, 0, UNITS), moment(arguments, 1), moment(arguments, 2)
    if start.type.kind != end.type.kind:
        raise Misfit(f"{start.type} and {end.type} do not go together", "bring both to one zone, or none", 2)
    low, high = _python_count(end.type.minimum, unit) - _python_count(start.type.maximum, unit), 0
    high = _python_count(end.type.maximum, unit) - _python_count(start.type.minimum, unit)
    return Typed((start, end), (unit,), ValueType("integer", 0, low, high))


def _python_count(value: int, unit: str) -> int:
    """How many whole units since 1970, floored: a difference of counts is the number of boundaries between."""
    if unit in FIXED_UNITS:
        return int((value - _shift(unit)) // FIXED_UNITS[unit])
    day = civil(value)
    return (day.year * 12 + day.month - 1 - EPOCH_MONTH) // MONTH_UNITS[unit]


def _polars_count(value: pl.Expr, unit: str) -> pl.Expr:
    import polars as pl

    if unit in FIXED_UNITS:
        return (value - _shift(unit)) // FIXED_UNITS[unit]
    when = _datetime(value).dt
    months = when.year().cast(pl.Int64) * 12 + when.month().cast(pl.Int64) - 1 - EPOCH_MONTH
    return months // MONTH_UNITS[unit]


def _duckdb_count(value: str, unit: str) -> str:
    if unit in FIXED_UNITS:
        return duckdb_quotient(f"({value} - {_shift(unit)})", str(FIXED_UNITS[unit]))
    months = f"(year(epoch_ms({value})) * 12 + month(epoch_ms({value})) - 1 - {EPOCH_MONTH})"
    return f"CAST({duckdb_quotient(months, str(MONTH_UNITS[unit]))} AS BIGINT)"


def _days_typed(arguments: Sequence[Node]) -> Typed:
    counted(arguments, 1, 0)
    return Typed((moment(arguments, 0),), (), ValueType("integer", 0, 28, 31))


def _polars_days(value: pl.Expr) -> pl.Expr:
    import polars as pl

    return _datetime(value).dt.days_in_month().cast(pl.Int64)


def _python_days(value: int) -> int:
    day = civil(value)
    after = date(day.year + day.month // 12, day.month % 12 + 1, 1) if (day.year, day.month) != (9999, 12) else None
    return 31 if after is None else (after - date(day.year, day.month, 1)).days


def _number_of_typed(arguments: Sequence[Node]) -> Typed:
    counted(arguments, 1, 0)
    node = of_kind(arguments, 0, "a timestamp", "timestamp", "local")
    return Typed((node,), (), ValueType("integer", 0, node.type.minimum, node.type.maximum))


def _time_of_typed(factor: int) -> Callable[[Sequence[Node]], Typed]:
    def typed(arguments: Sequence[Node]) -> Typed:
        counted(arguments, 1, 0)
        node = integer(arguments, 0)
        value = ValueType("timestamp", 0, node.type.minimum * factor, node.type.maximum * factor)
        return Typed((node,), (factor,), bounded(value))

    return typed


def _scaled(value: Any, factor: int) -> Any:
    return value * factor


def _duckdb_scaled(value: str, factor: int) -> str:
    return f"({value} * CAST({factor} AS BIGINT))"


def _constant(node: Node) -> str:
    assert isinstance(node, Constant), "the type rule asked for one"
    return str(node.value)


WHEN = "a timestamp in UTC, or a local time"

FUNCTIONS = (
    Function(
        "extract", "extract(part from t) -> integer",
        f"A part of {WHEN}: {', '.join(PARTS)}. `dow` has Sunday 0, `isodow` Monday 1 to Sunday 7, `week` is ISO's, `epoch` "
        "counts seconds. `hour(t)` and so on mean the same.",
        _extract_typed, _polars_extract, _duckdb_extract, _python_extract,
        (("extract(hour from timestamp '2013-06-01 09:30:00')", 9), ("extract(dow from timestamp '2013-06-01 09:30:00')", 6)),
        written=lambda a: f"EXTRACT({_constant(a[0]).upper()} FROM {a[1].canonical})",
    ),
    Function(
        "at_time_zone", "t at time zone 'Area/City' -> local time",
        f"What clocks there show, by the frozen zone table (IANA {zones.issue()}), from 1970 to 2099; null outside.",
        _zone_typed, zones.polars_local, zones.duckdb_local, zones.python_local,
        (("extract(hour from timestamp '2013-07-01 12:00:00' at time zone 'America/New_York')", 8),
         ("extract(hour from timestamp '2013-01-01 12:00:00' at time zone 'America/New_York')", 7)),
        written=lambda a: f"{a[0].wrapped} AT TIME ZONE {a[1].canonical}", atomic=False,
    ),
    Function(
        "date_trunc", "date_trunc(unit, t) -> as t", f"Start of the unit: {', '.join(UNITS)}; weeks start on Monday.",
        _trunc_typed, _polars_trunc, _duckdb_trunc, _python_trunc,
        (("epoch_ms(date_trunc('hour', timestamp '1970-01-01 01:59:00'))", 3_600_000),
         ("extract(doy from date_trunc('quarter', timestamp '2013-06-20 00:00:00'))", 91)),
    ),
    Function(
        "date_diff", "date_diff(unit, start, end) -> integer",
        "How many boundaries of the unit lie between: days between two local times are nights slept.",
        _diff_typed, lambda a, b, unit: _polars_count(b, unit) - _polars_count(a, unit),
        lambda a, b, unit: f"({_duckdb_count(b, unit)} - {_duckdb_count(a, unit)})",
        lambda a, b, unit: _python_count(b, unit) - _python_count(a, unit),
        (("date_diff('day', timestamp '2013-06-01 23:00:00', timestamp '2013-06-02 01:00:00')", 1),
         ("date_diff('month', timestamp '2013-06-30 00:00:00', timestamp '2013-01-01 00:00:00')", -5)), repeats=2,
    ),
    Function(
        "days_in_month", "days_in_month(t) -> integer", "28 to 31.", _days_typed, _polars_days,
        lambda t: f"CAST(day(last_day(epoch_ms({t}))) AS BIGINT)", _python_days,
        (("days_in_month(timestamp '2012-02-10 00:00:00')", 29),),
    ),
    Function(
        "epoch_ms", "epoch_ms(t) -> integer", "Milliseconds since 1970, of a local time those on its own clock.",
        _number_of_typed, lambda t: t, lambda t: t, lambda t: t, (("epoch_ms(timestamp '1970-01-01 00:00:01')", 1_000),),
    ),
    Function(
        "timestamp_ms", "timestamp_ms(i) -> timestamp", "The instant that many milliseconds after 1970, UTC.",
        _time_of_typed(1), _scaled, _duckdb_scaled, _scaled, (("extract(year from timestamp_ms(0))", 1970),),
    ),
    Function(
        "timestamp_s", "timestamp_s(i) -> timestamp", "The instant that many seconds after 1970, UTC.",
        _time_of_typed(1000), _scaled, _duckdb_scaled, _scaled, (("extract(doy from timestamp_s(86400))", 2),),
    ),
)  # fmt: skip
