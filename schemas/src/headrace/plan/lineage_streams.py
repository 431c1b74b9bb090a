"""Lineage of what streams make, and the nodes and links that lineage is built of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from headrace.plan.hashes import columns_read, hash8, input_columns, ranged
from headrace.plan.ir import EventType, Measure, OutputField, Stream
from headrace.plan.report_streams import key_text, operator_text

Kind = Literal["source", "topic", "field", "measure", "stream", "set", "feature", "input", "model"]


@dataclass(frozen=True, slots=True)
class Node:
    """`id` is the kind and the full name: `feature:origin_load.departures_1h`."""

    id: str
    kind: Kind
    name: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """`target` is made from `source`; `role` says as what."""

    source: str
    target: str
    role: str


def measure_text(measure: Measure) -> str:
    """Such as `dep_delay where origin = 'EWR'`; rows where nothing is valued."""
    value = measure.value or f"rows of {measure.event}"
    return f"{value} where {measure.where}" if measure.where else value


def law_of(event: EventType) -> Iterator[tuple[str, str]]:
    """(field, role) of what decides about whole records of an event."""
    yield event.time, "event time"
    yield event.key, "message key"
    if event.dedup_id:
        yield event.dedup_id, "duplicate id"
    for item in event.fields:
        if ranged(item):
            yield item.name, "declared range"


def stream_nodes(stream: Stream, events: Mapping[str, EventType]) -> Iterator[Node | Link]:
    """The stream, what decides about all its results, its measures, and where each field of a result comes from."""
    here = f"stream:{stream.name}"
    yield Node(here, "stream", stream.name, f"{operator_text(stream)}, by {key_text(stream)}, {hash8(stream.hash)}")
    for read in stream.inputs:
        event = events[read.event]
        known = {item.name: item for item in event.fields}
        yield Link(f"topic:{event.topic}", here, "rows")
        roles = [*((part, "key") for part in read.key), *law_of(event)]
        roles += [(read.each, "each")] if read.each is not None else []
        roles += [(column, "where") for column in sorted(input_columns(read, known).get("", ()))]
        yield from (Link(f"field:{event.name}.{column}", here, role) for column, role in roles)
    for measure in stream.measures:
        at = f"measure:{stream.name}.{measure.id}"
        event = events[measure.event]
        yield Node(at, "measure", f"{stream.name}.{measure.id}", measure_text(measure))
        yield Link(f"topic:{event.topic}", at, "rows")
        for role, columns in columns_read(measure, {item.name: item for item in event.fields}).items():
            yield from (Link(f"field:{event.name}.{column}", at, role) for column in sorted(columns))
    output = events[stream.output]
    yield Link(here, f"topic:{output.topic}", "makes")
    for item in stream.fields:
        target = f"field:{output.name}.{item.name}"
        yield from (Link(source, target, role) for source, role in _sources(stream, item, events))


def _sources(stream: Stream, item: OutputField, events: Mapping[str, EventType]) -> Iterator[tuple[str, str]]:
    if item.source == "aggregate":
        yield f"measure:{stream.name}.{item.measure}", str(item.kind)
    elif item.source == "column":
        read = stream.inputs[item.index]
        known = {field.name: field for field in events[read.event].fields}
        text = next(column.expression for column in read.columns if column.name == item.column)
        for column in sorted(input_columns(read, known)[item.column]):
            yield f"field:{read.event}.{column}", text
    elif item.source == "key":
        read = stream.inputs[0]
        for part in read.key if item.index < 0 else (read.key[item.index],):
            yield f"field:{read.event}.{part}", "key"
    else:
        yield f"stream:{stream.name}", item.source.replace("_", " ")
