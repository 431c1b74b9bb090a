"""From one outside value to one typed Avro value: a compiled function per declared field, of a nested record per path.

Two outside forms: `json` (native JSON types) and `text` (CSV cells). Both refuse anything that would have to be guessed:
a time without a zone, a decimal with more digits than declared, a number that is not finite.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from headrace.contracts.errors import Poison, Reason
from headrace.plan.ir import Field

Form = Literal["json", "text"]
Take = Callable[[Any], Any]  # outside value, never None, to the value Avro writes; raises Poison

INT_BOUNDS = (-(2**31), 2**31 - 1)
LONG_BOUNDS = (-(2**63), 2**63 - 1)
TIME_BOUNDS = (-62_135_596_800_000, 253_402_300_799_999)  # years 1 to 9999, what Python's and the engines' times can hold
EXACT_FLOAT_MAX = 2**53  # above, neighbouring integers share a double
DECIMAL_DIGITS_MAX = 40  # of the text; a long holds 19, so anything longer is out of range anyway
SHOWN_CHARACTERS_MAX = 60  # of a refused value in its explanation

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}", re.ASCII)
_DECIMAL = re.compile(r"([+-]?)([0-9]+)(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]{1,3}))?", re.ASCII)
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}
_NOT_FINITE = {"nan", "inf", "infinity", "-nan", "-inf", "-infinity", "+inf", "+infinity"}


def compile_field(field: Field, form: Form) -> Take:
    """A function from one outside value to the field's Avro value, range checked."""
    return _COMPILERS[field.type](field, form)


def shown(value: object) -> str:
    """A refused value for its explanation: bounded, on one line."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS_MAX else text[: SHOWN_CHARACTERS_MAX - 3] + "..."


def wrong_type(field: Field, expected: str, value: object) -> Poison:
    return Poison(Reason.WRONG_TYPE, f"{field.name} is {shown(value)}, expected {expected}")


def out_of_range(field: Field, value: object, low: int, high: int) -> Poison:
    return Poison(Reason.OUT_OF_RANGE, f"{field.name} is {shown(value)}, outside {low} to {high}")


def not_finite(field: Field, value: object) -> Poison:
    return Poison(Reason.NOT_FINITE, f"{field.name} is {shown(value)}; send null where nothing was measured")


def _bounds(field: Field, widest: tuple[int, int]) -> tuple[int, int]:
    low = widest[0] if field.minimum is None else max(field.minimum, widest[0])
    high = widest[1] if field.maximum is None else min(field.maximum, widest[1])
    return low, high


def _string(field: Field, form: Form) -> Take:
    del form  # a cell is a string already

    def take(value: Any) -> str:
        if type(value) is str:
            return value
        raise wrong_type(field, "a string", value)

    return take


def _integer(field: Field, form: Form) -> Take:
    low, high = _bounds(field, INT_BOUNDS if field.type == "int" else LONG_BOUNDS)

    def take(value: Any) -> int:
        if type(value) is not int:
            value = _whole(field, value) if form == "json" else _digits(field, value)
        if low <= value <= high:
            return value
        raise out_of_range(field, value, low, high)

    return take


def _whole(field: Field, value: Any) -> int:
    """JSON has one kind of number, and 3.0 is an integer in it; True is none, though Python thinks so."""
    if type(value) is not float:
        raise wrong_type(field, "an integer", value)
    if not math.isfinite(value):
        raise not_finite(field, value)
    if abs(value) > EXACT_FLOAT_MAX:
        raise out_of_range(field, value, *LONG_BOUNDS)
    if not value.is_integer():
        raise wrong_type(field, "an integer", value)
    return int(value)


def _digits(field: Field, text: str) -> int:
    if _INTEGER.fullmatch(text):
        return int(text)
    if text.strip().lower() in _NOT_FINITE:
        raise not_finite(field, text)
    raise wrong_type(field, "an integer", text)


def _floating(field: Field, form: Form) -> Take:
    low = -math.inf if field.minimum is None else field.minimum
    high = math.inf if field.maximum is None else field.maximum

    def take(value: Any) -> float:
        if form == "text":
            value = _float_of_text(field, value)
        elif type(value) is not float and type(value) is not int:
            raise wrong_type(field, "a number", value)
        if not math.isfinite(value):
            raise not_finite(field, value)
        if low <= value <= high:
            return float(value)
        raise Poison(Reason.OUT_OF_RANGE, f"{field.name} is {shown(value)}, outside {low} to {high}")

    return take


def _float_of_text(field: Field, text: str) -> float:
    if _DECIMAL.fullmatch(text):
        return float(text)
    if text.strip().lower() in _NOT_FINITE:
        raise not_finite(field, text)
    raise wrong_type(field, "a number", text)


def _boolean(field: Field, form: Form) -> Take:
    def take(value: Any) -> bool:
        if type(value) is bool:
            return value
        found = _BOOLEANS.get(value.lower()) if form == "text" else None
        if found is None:
            raise wrong_type(field, "true or false", value)
        return found

    return take


def _timestamp(field: Field, form: Form) -> Take:
    """Milliseconds since 1970 UTC, or ISO 8601 with a zone; digits below a millisecond are cut off."""
    low, high = _bounds(field, TIME_BOUNDS)

    def take(value: Any) -> int:
        if type(value) is str:
            value = int(value) if form == "text" and _INTEGER.fullmatch(value) else _time_of_text(field, value)
        elif type(value) is not int:
            value = _whole(field, value)
        if low <= value <= high:
            return value
        raise out_of_range(field, value, low, high)

    return take


def _time_of_text(field: Field, text: str) -> int:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise wrong_type(field, "milliseconds since 1970 or an ISO 8601 time", text) from None
    if when.tzinfo is None:
        raise wrong_type(field, "a time with a zone, such as Z or +02:00", text)
    return (when - _EPOCH) // _MILLISECOND


def _decimal(field: Field, form: Form) -> Take:
    """A decimal as text or number to value * 10**scale, exactly; more digits than declared are refused, never rounded."""
    low, high = _bounds(field, LONG_BOUNDS)

    def take(value: Any) -> int:
        if type(value) is int:
            scaled = value * 10**field.scale
        elif type(value) is str:
            scaled = _scaled(field, value)
        elif type(value) is float and form == "json":
            scaled = _scaled(field, _shortest(field, value))
        else:
            raise wrong_type(field, "a decimal", value)
        if low <= scaled <= high:
            return scaled
        raise out_of_range(field, value, low, high)

    return take


def _shortest(field: Field, value: float) -> str:
    """Decimal text of a JSON number: exact up to 15 digits, beyond that the parser has already lost some."""
    if not math.isfinite(value):
        raise not_finite(field, value)
    if abs(value) * 10**field.scale >= 10**15:
        raise wrong_type(field, "a decimal as text: a JSON number keeps only 15 digits", value)
    return repr(value)


def _scaled(field: Field, text: str) -> int:
    match = _DECIMAL.fullmatch(text)
    if match is None:
        if text.strip().lower() in _NOT_FINITE:
            raise not_finite(field, text)
        raise wrong_type(field, "a decimal", text)
    sign, whole, fraction, exponent = match.groups(default="")
    digits = whole + fraction
    zeros = field.scale - len(fraction) + int(exponent or 0)  # to append; negative: to take away, and they must be zeros
    if len(digits) + max(zeros, 0) > DECIMAL_DIGITS_MAX:
        raise out_of_range(field, text, *LONG_BOUNDS)
    if zeros < 0:
        kept, dropped = digits[:zeros], digits[zeros:]
        if dropped.strip("0"):
            raise wrong_type(field, f"at most {field.scale} decimals (nothing is rounded)", text)
        digits = kept
    magnitude = int((digits or "0") + "0" * max(zeros, 0))
    return -magnitude if sign == "-" else magnitude


def _array(field: Field, form: Form) -> Take:
    """A JSON list; in a CSV cell its text. Items are taken as in JSON either way."""
    take_item = compile_field(replace(field, type=field.item or "string", item=None), "json")

    def take(value: Any) -> list[Any]:
        if form == "text":
            value = _list_of_text(field, value)
        if type(value) is not list:
            raise wrong_type(field, "a list", value)
        if len(value) > field.items_max:
            raise Poison(Reason.OUT_OF_RANGE, f"{field.name} has {len(value)} items, at most {field.items_max}")
        return [one(number, item) for number, item in enumerate(value)]

    def one(number: int, item: Any) -> Any:
        if item is None:
            raise Poison(Reason.WRONG_TYPE, f"{field.name}[{number}] is null; leave it out of the list")
        try:
            return take_item(item)
        except Poison as poison:  # its detail begins with the field's name
            detail = poison.detail.removeprefix(field.name)
            raise Poison(poison.reason, f"{field.name}[{number}]{detail}") from None

    return take


def _list_of_text(field: Field, text: str) -> Any:
    try:
        return json.loads(text, parse_constant=lambda word: float(word.replace("Infinity", "inf")))
    except (ValueError, RecursionError):
        raise wrong_type(field, 'a list in JSON, such as ["a", "b"]', text) from None


_COMPILERS: dict[str, Callable[[Field, Form], Take]] = {
    "string": _string,
    "int": _integer,
    "long": _integer,
    "float": _floating,
    "double": _floating,
    "boolean": _boolean,
    "timestamp": _timestamp,
    "decimal": _decimal,
    "array": _array,
}
