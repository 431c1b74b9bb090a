"""Outside values to typed values: fast functions against slow exact arithmetic."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from headrace.contracts.errors import Poison, Reason
from headrace.plan.ir import Field
from svc_ingest.domain.fields import LONG_BOUNDS, compile_field

GUST = Field("gust", "decimal", scale=3)
decimals = st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**17), max_value=10**17)


def outcome(field: Field, value: Any, form: Any = "json") -> Any:
    try:
        return compile_field(field, form)(value)
    except Poison as fault:
        return fault.reason


@given(decimals, st.sampled_from(["{:f}", "{:e}", "{:E}"]), st.sampled_from(["json", "text"]))
@example(Decimal("12.3450"), "{:f}", "text")
@example(Decimal("-0.000"), "{:f}", "json")
def test_a_decimal_text_is_scaled_exactly_or_refused(value: Decimal, style: str, form: str) -> None:
    scaled = Fraction(value) * 10**GUST.scale
    if scaled.denominator != 1:
        expected: Any = Reason.WRONG_TYPE
    elif not LONG_BOUNDS[0] <= scaled <= LONG_BOUNDS[1]:
        expected = Reason.OUT_OF_RANGE
    else:
        expected = int(scaled)
    assert outcome(GUST, style.format(value), form) == expected


@given(st.integers(-(10**11), 10**11), st.integers(0, 3))
def test_a_decimal_number_of_json_means_its_digits(digits: int, places: int) -> None:
    """The shortest text of a double gives back what the sender wrote, up to fifteen digits."""
    number = float(Decimal(digits).scaleb(-places))
    assert outcome(GUST, number) == digits * 10 ** (3 - places)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1_000", Reason.WRONG_TYPE), ("١٢", Reason.WRONG_TYPE), ("", Reason.WRONG_TYPE), (".5", Reason.WRONG_TYPE),
        ("5.", 5000), ("1e400", Reason.OUT_OF_RANGE), ("1e99", Reason.OUT_OF_RANGE), ("0e99", Reason.OUT_OF_RANGE),
        ("9" * 5000, Reason.OUT_OF_RANGE), ("0.0000000", 0), ("NaN", Reason.NOT_FINITE), ("-inf", Reason.NOT_FINITE),
        ("+7", 7000), (" 7", Reason.WRONG_TYPE), ("0x10", Reason.WRONG_TYPE),
    ],
)  # fmt: skip
def test_decimal_texts_at_the_edge(text: str, expected: Any) -> None:
    assert outcome(GUST, text, "text") == expected


@given(st.datetimes(timezones=st.builds(lambda m: timezone(timedelta(minutes=m)), st.integers(-14 * 60, 14 * 60))))
def test_a_time_with_a_zone_is_its_instant_cut_to_the_millisecond(when: datetime) -> None:
    try:
        instant = when.astimezone(UTC)
    except OverflowError:
        assume(False)
        raise
    expected = Fraction((instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1), 1000).__floor__()
    for form in ("json", "text"):
        assert outcome(Field("at", "timestamp"), when.isoformat(), form) == expected


@pytest.mark.parametrize("kind", ["int", "long"])
@pytest.mark.parametrize("form", ["json", "text"])
@given(value=st.integers(-(2**66), 2**66))
def test_an_integer_is_itself_inside_its_type_and_refused_outside(kind: Any, form: str, value: int) -> None:
    bits = 31 if kind == "int" else 63
    fits = -(2**bits) <= value < 2**bits
    field = Field("n", kind)
    assert outcome(field, value if form == "json" else str(value), form) == (value if fits else Reason.OUT_OF_RANGE)


@given(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.lists(st.integers())))
def test_any_json_value_is_taken_or_refused_with_a_reason(value: Any) -> None:
    assume(value is not None)
    for kind in ("string", "int", "long", "float", "double", "boolean", "timestamp", "decimal"):
        taken = outcome(Field("x", kind, scale=2), value)
        assert isinstance(taken, Reason) or type(taken) in (str, int, float, bool)


@given(st.text())
def test_any_cell_is_taken_or_refused_with_a_reason(cell: str) -> None:
    for kind in ("string", "int", "long", "float", "double", "boolean", "timestamp", "decimal"):
        taken = outcome(Field("x", kind, scale=2), cell, "text")
        assert isinstance(taken, Reason) or type(taken) in (str, int, float, bool)


def test_declared_bounds_are_of_the_stored_number() -> None:
    field = Field("temp", "decimal", scale=1, minimum=-400, maximum=500)
    assert [outcome(field, text) for text in ("-40", "50.0", "50.1", "-40.1")] == [-400, 500, *[Reason.OUT_OF_RANGE] * 2]
