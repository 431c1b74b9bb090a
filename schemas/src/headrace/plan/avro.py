"""The Avro schema of a plan's events: what the registry holds and producers of any language read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from headrace.contracts.events import EventSchema
from headrace.plan.ir import EventType, Field, NestedRecord, Plan

TIME_MS_MIN, TIME_MS_MAX = -62_135_596_800_000, 253_402_300_799_999  # years 1 to 9999: what calendars and engines can say


def event_avro_schema(event: EventType, pipeline: str) -> dict[str, Any]:
    """Record schema of one event type.

    Times are timestamp-millis, decimals longs with the attribute `scale`; unit and bounds stand as
    attributes and in the doc. A nullable field is a union with null first and default null, so that it
    may be added later (BACKWARD); an array that is not nullable has the empty one as default.
    """
    return {
        "type": "record",
        "name": event.record,
        "namespace": f"headrace.pipelines.{pipeline.replace('-', '_')}",
        "doc": f"{event.name} of {pipeline}; key {event.key}, event time {event.time}.",
        "fields": _fields(event, ""),
    }


def _fields(event: EventType, path: str) -> list[dict[str, Any]]:
    """Fields of the event, or of its record at `path`; a record stands where the first of its fields does."""
    records = {record.path: record for record in event.records}
    required = {name for record in event.records for name in record.required}
    found: dict[str, dict[str, Any]] = {}
    for part in event.fields:
        if not part.name.startswith(path):
            continue
        name, _, rest = part.name[len(path) :].partition(".")
        if not rest:
            found[name] = _field(replace(part, nullable=part.nullable and part.name not in required), name)
        elif name not in found:
            found[name] = _record(event, records[path + name], name)
    return list(found.values())


def _record(event: EventType, record: NestedRecord, name: str) -> dict[str, Any]:
    """Its Avro name comes from its path: two of one class may differ in what is nullable inside."""
    words = "".join(word.title().replace("_", "") for word in record.path.split("."))
    kind = {"type": "record", "name": event.record + words, "fields": _fields(event, record.path + ".")}
    described: dict[str, Any] = {"name": name, "type": ["null", kind] if record.nullable else kind}
    if record.nullable:
        described["default"] = None
    return described | {"doc": record.doc or f"{record.record}."}


def _kind(kind: str | None) -> Any:
    if kind == "timestamp":
        return {"type": "long", "logicalType": "timestamp-millis"}
    return "long" if kind == "decimal" else kind


def _field(part: Field, name: str) -> dict[str, Any]:
    kind = {"type": "array", "items": _kind(part.item)} if part.type == "array" else _kind(part.type)
    described: dict[str, Any] = {"name": name, "type": ["null", kind] if part.nullable else kind}
    if part.nullable:
        described["default"] = None
    elif part.type == "array":
        described["default"] = []
    described["doc"] = _doc(part)
    if part.unit:
        described["unit"] = part.unit
    if "decimal" in (part.type, part.item):
        described["scale"] = part.scale
    return described


def _doc(part: Field) -> str:
    words = [part.doc or part.name.rpartition(".")[2].replace("_", " ")]
    if part.type == "array":
        words.append(f"at most {part.items_max} items")
    if part.unit:
        words.append(f"unit {part.unit}")
    if "decimal" in (part.type, part.item):
        words.append(f"value times 10^{part.scale}")
    if part.minimum is not None or part.maximum is not None:
        low = "-" if part.minimum is None else part.minimum
        high = "-" if part.maximum is None else part.maximum
        words.append(f"range {low} to {high} (as stored)")
    return "; ".join(words) + "."


def _bounds(part: Field) -> tuple[int | None, int | None]:
    """Range of the stored number. A time no calendar has is no time, and sums of such would wrap."""
    if "timestamp" not in (part.type, part.item):
        return part.minimum, part.maximum
    low = TIME_MS_MIN if part.minimum is None else max(part.minimum, TIME_MS_MIN)
    return low, TIME_MS_MAX if part.maximum is None else min(part.maximum, TIME_MS_MAX)


def event_schema(plan: Plan, event: EventType | str) -> EventSchema:
    """What the codec needs of one event of a plan; build it once per plan and keep it."""
    if isinstance(event, str):
        event = next(e for e in plan.events if e.name == event)
    bounds = {f.name: _bounds(f) for f in event.fields}
    ranges = {name: bound for name, bound in bounds.items() if bound != (None, None)}
    longest = {f.name: f.items_max for f in event.fields if f.type == "array"}
    return EventSchema(event.topic, event_avro_schema(event, plan.pipeline), event.time, ranges, longest)
