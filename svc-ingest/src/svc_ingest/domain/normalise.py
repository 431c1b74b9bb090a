"""From one outside row to one typed event of the declared kind. Pure: the clock's reading comes in as an argument.

A row is refused (Poison, with a reason) when it has a field nobody declared, lacks one, carries a wrong type, a value out
of its declared range, no key, or a time further ahead than any clock is wrong. Lateness and the declared poison bound
are not judged here: they depend on the log, and svc-stream pronounces them on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from headrace.contracts.errors import PipelineFault, Poison, Reason
from headrace.contracts.event_shapes import flattened
from headrace.plan.ir import EventType, Source
from svc_ingest.domain.fields import Form, Take, compile_field, shown

TRACEPARENT_FIELD = "_traceparent"  # reserved: W3C trace context of one row, never part of the event
FAR_FUTURE_MS = 86_400_000  # a day: no time zone mistake moves an event further, broken clocks do


class Normalised(NamedTuple):
    """One typed event. `row` holds every declared field; `event_id` None means the origin is the identity."""

    row: dict[str, Any]
    key: bytes
    event_time_ms: int
    event_id: str | None
    traceparent: str | None


class _Column(NamedTuple):
    field: str
    source: str  # name in the outside row
    take: Take
    nullable: bool


class Normaliser:
    """Compiled once per source and form; `normalise` is then a loop over precompiled columns."""

    def __init__(self, event: EventType, columns: tuple[_Column, ...], names_declared: bool) -> None:
        self.event = event
        self.sources = tuple(column.source for column in columns)
        self.columns_mapped = names_declared
        self._columns = columns
        self._records = {record.path: record.nullable for record in event.records}
        self.known = frozenset(self.sources) | {TRACEPARENT_FIELD}

    def normalise(self, raw: Mapping[str, Any], now_ms: int) -> Normalised:
        """One outside row as a typed event.

        Args:
            raw: outside names to values; None is null. Not mutated. A nested record is an object, or its fields by their paths;
                a nullable one without a value in it is null.
            now_ms: ingest time, ms UTC.
        Raises: Poison UNKNOWN_FIELD, MISSING_FIELD, NULL_KEY, WRONG_TYPE, OUT_OF_RANGE, NOT_FINITE or FAR_FUTURE.
        """
        if self._records:
            raw = self._taken_apart(raw)
        row: dict[str, Any] = {}
        found = 0
        for field, source, take, nullable in self._columns:
            value = raw.get(source)
            if value is not None:
                row[field] = take(value)
                found += 1
            elif nullable:
                row[field] = None
                found += source in raw
            else:
                raise self._missing(field, source, raw)
        if found != len(raw):
            self._check_names(raw)
        if self._records:
            self._check_required(row)
        event = self.event
        key = row[event.key]
        if key is None or key == "":
            raise Poison(Reason.NULL_KEY, f"{event.key} is the key of {event.topic} and is empty")
        event_time_ms = row[event.time]
        if event_time_ms > now_ms + FAR_FUTURE_MS:
            raise Poison(Reason.FAR_FUTURE, f"{event.time} is {event_time_ms}, {event_time_ms - now_ms} ms ahead of the clock")
        identity = row[event.dedup_id] if event.dedup_id is not None else None
        return Normalised(
            row, str(key).encode(), event_time_ms, None if identity is None else str(identity), raw.get(TRACEPARENT_FIELD)
        )

    def _taken_apart(self, raw: Mapping[str, Any]) -> Mapping[str, Any]:
        """Fields by their paths. Raises: Poison where a record is something else."""
        flat = flattened(raw, self._records)
        for path in self._records:
            if path not in flat:
                continue
            if flat[path] is None:
                raise Poison(Reason.MISSING_FIELD, f"{path} is null, and is not nullable")
            raise Poison(Reason.WRONG_TYPE, f"{path} is {shown(flat[path])}, expected an object")
        return flat

    def _check_required(self, row: Mapping[str, Any]) -> None:
        """Raises: Poison where a nullable record is there without a field that it must have."""
        for record in self.event.records:
            if record.required and any(v is not None for name, v in row.items() if name.startswith(record.path + ".")):
                for name in record.required:
                    if row[name] is None:
                        raise Poison(Reason.MISSING_FIELD, f"{name} is null or missing, and {record.path} is not")

    def _missing(self, field: str, source: str, raw: Mapping[str, Any]) -> Poison:
        self._check_names(raw)  # a misspelt name is the better explanation of a missing one
        if field == self.event.key:
            return Poison(
                Reason.NULL_KEY, f"{source} is the key of {self.event.topic} and is {'null' if source in raw else 'missing'}"
            )
        return Poison(Reason.MISSING_FIELD, f"{source} is {'null, and is not nullable' if source in raw else 'missing'}")

    def _check_names(self, raw: Mapping[str, Any]) -> None:
        unknown = sorted(str(name) for name in raw.keys() - self.known)
        if unknown:
            raise Poison(Reason.UNKNOWN_FIELD, f"{', '.join(shown(name) for name in unknown[:5])} not declared")
        trace = raw.get(TRACEPARENT_FIELD)
        if trace is not None and not isinstance(trace, str):
            raise Poison(Reason.WRONG_TYPE, f"{TRACEPARENT_FIELD} is {shown(trace)}, expected a string")


def compile_source(pipeline: str, event: EventType, source: Source, form: Form) -> Normaliser:
    """The normaliser of one source.

    Raises: PipelineFault if the declaration does not hold together: a mapping of an unknown field, two fields from one
    column, a key or time that is no field, a time that is no timestamp.
    """
    fields = {field.name: field for field in event.fields}
    renamed = dict(source.columns)
    for needed in (*renamed, event.key, event.time, *(() if event.dedup_id is None else (event.dedup_id,))):
        if needed not in fields:
            raise PipelineFault(pipeline, f"source {source.name}: {needed} is no field of {event.record}")
    if fields[event.time].type != "timestamp" or fields[event.time].nullable:
        raise PipelineFault(pipeline, f"event {event.name}: its time {event.time} must be a timestamp and never null")
    columns = tuple(
        _Column(field.name, renamed.get(field.name, field.name), compile_field(field, form), field.nullable)
        for field in event.fields
    )
    names = [column.source for column in columns]
    if len(set(names)) < len(names):
        raise PipelineFault(pipeline, f"source {source.name}: two fields are read from one column")
    return Normaliser(event, columns, bool(renamed))
