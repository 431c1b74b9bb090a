"""What a test writes becomes what the log stores: times as text, decimals in their unit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, TypeAlias

from headrace.contracts.event_shapes import flattened
from headrace.plan.ir import EventType, Field

When: TypeAlias = "str | int | datetime"
"""ISO text with a zone, milliseconds since 1970 UTC, or an aware datetime."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def time_ms(value: object) -> int:
    """Milliseconds since 1970 UTC. Raises: ValueError for a time without a zone, or no time at all."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError(f"{value!r} is not a time: write 2013-06-01T09:00Z") from None
    if not isinstance(found, datetime):
        raise ValueError(f"{value!r} is not a time: write 2013-06-01T09:00Z")
    if found.tzinfo is None:
        raise ValueError(f"{value!r} has no zone: write it with Z or an offset")
    return (found - _EPOCH) // _MILLISECOND


def span_ms(text: str) -> int:
    """Milliseconds of a duration such as "90s", "5m", "1d". Raises: ValueError."""
    match = re.fullmatch(r"(\d+)(ms|s|m|h|d)", text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration: such as 90s, 5m, 2h, 1d")
    return int(match[1]) * _UNITS_MS[match[2]]


def row_of(event: EventType, values: Mapping[str, Any]) -> dict[str, Any]:
    """A row as the event's schema stores it; fields that are left out are null.

    Raises: ValueError for a name the event does not have, or a time or decimal that cannot be read. Whether the row may
    stand (nulls, ranges) is decided where it is in production: a row that may not is a dead letter.
    """
    known = {field.name: field for field in event.fields}
    values = flattened(values, {record.path: record.nullable for record in event.records})
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"{event.record} has no field {', '.join(unknown)}: it has {', '.join(known)}")
    absent = {record.path for record in event.records if not any(name.startswith(record.path + ".") for name in values)}
    return {
        name: _stored(field, values.get(name))
        for name, field in known.items()
        if name in values or not any(name.startswith(path + ".") for path in absent)
    }


def _stored(field: Field, value: Any) -> Any:
    if value is None:
        return None
    if field.type == "array":
        item = replace(field, type=field.item or "string", item=None)
        return [_stored(item, one) for one in value] if isinstance(value, list | tuple) else value
    if field.type == "timestamp":
        return time_ms(value)
    if field.type == "decimal":
        try:
            scaled = Decimal(str(value)) * 10**field.scale
        except InvalidOperation:
            raise ValueError(f"{field.name}: {value!r} is not a number") from None
        if scaled != scaled.to_integral_value():
            raise ValueError(f"{field.name}: {value!r} has more than {field.scale} digits after the point")
        return int(scaled)
    if field.type in ("float", "double") and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value
