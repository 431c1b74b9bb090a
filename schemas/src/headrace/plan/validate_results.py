"""The results of a stream are the event it declares: its fields, in its order, of the types that come out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from headrace.plan.expressions import parse
from headrace.plan.ir import EventType, Field, OutputField, Stream
from headrace.plan.problems import Path, Problem, known_as
from headrace.plan.stream_types import absent_sides, aggregate_field, measured_field, value_field


def result_problems(here: Path, stream: Stream, events: Mapping[str, EventType]) -> Iterator[Problem]:
    """Of a stream whose inputs, measures and terms are sound."""
    output = events[stream.output]
    names, declared = [item.name for item in stream.fields], [field.name for field in output.fields]
    if names != declared:
        yield Problem(here, f"results hold {', '.join(names)}, {output.record} {', '.join(declared)}", "the same, in order")
        return
    if output.partitions != stream.partitions:
        detail = f"{stream.partitions} partitions, its topic {output.partitions}"
        yield Problem(here, detail, "a task writes the partition whose number it has")
    if output.records:
        yield Problem(here, f"{output.record} has records inside", "results are flat")
    for item, field in zip(stream.fields, output.fields, strict=True):
        place = (*here, item.name)
        broken = list(_source_problems(place, stream, item))
        yield from broken or _type_problems(place, field, _given(stream, item, events))
    yield from _role_problems(here, stream, output)


def _source_problems(here: Path, stream: Stream, item: OutputField) -> Iterator[Problem]:
    windowed = stream.window is not None
    if item.source in ("window_start", "window_end", "aggregate") and not windowed:
        yield Problem(here, f"{item.source.replace('_', ' ')} without a window", "write window=...")
    if item.source == "column" and windowed:
        yield Problem(here, "a column of a window", "a window has many rows: aggregate them")
    elif item.source == "column" and not 0 <= item.index < len(stream.inputs):
        yield Problem(here, f"column of input {item.index}")
    elif item.source == "column":
        yield from known_as(here, "column", item.column, [column.name for column in stream.inputs[item.index].columns])
    if item.source == "final" and (stream.window is None or stream.window.emit != "both"):
        yield Problem(here, "final where every result is of one kind", 'it tells results apart with emit="both"')
    if item.source == "key" and not -1 <= item.index < len(stream.inputs[0].key):
        yield Problem(here, f"part {item.index} of the key")


def _given(stream: Stream, item: OutputField, events: Mapping[str, EventType]) -> Field:
    """The field as it comes out."""
    fields = [{field.name: field for field in events[read.event].fields} for read in stream.inputs]
    if item.source == "key":
        part = "" if item.index < 0 else stream.inputs[0].key[item.index]
        return Field(item.name, "string") if not part else replace(fields[0][part], name=item.name, nullable=False)
    if item.source == "final":
        return Field(item.name, "boolean")
    if item.source == "column":
        columns = {column.name: column.expression for column in stream.inputs[item.index].columns}
        parsed = parse(columns[item.column], fields[item.index], allow_float=True)
        found = value_field(item.name, parsed, fields[item.index])
        return replace(found, nullable=found.nullable or absent_sides(stream)[item.index])
    if item.source == "aggregate" and item.kind is not None:
        measure = next(measure for measure in stream.measures if measure.id == item.measure)
        rows = stream.window.rows if stream.window is not None else 0
        return aggregate_field(item.name, item.kind, item.argument, measure, measured_field(measure, fields[0]), rows)
    return Field(item.name, "timestamp")


def _type_problems(here: Path, declared: Field, given: Field) -> Iterator[Problem]:
    if (declared.type, declared.scale, declared.item) != (given.type, given.scale, given.item):
        yield Problem(here, f"is declared a {_shown(declared)}, but comes out as a {_shown(given)}")
    elif given.nullable and not declared.nullable:
        yield Problem(here, "can be null, but is declared never to be")


def _shown(field: Field) -> str:
    return f"{field.type} of scale {field.scale}" if field.scale else field.type


def _role_problems(here: Path, stream: Stream, output: EventType) -> Iterator[Problem]:
    """Key and event time of the results are the key's text and the time that the operator gives."""
    by_name = {item.name: item for item in stream.fields}
    key, time = by_name.get(output.key), by_name.get(output.time)
    whole = key is not None and key.source == "key" and (key.index == -1 or len(stream.inputs[0].key) == 1)
    if not whole:
        yield Problem(here, f"results are keyed by '{output.key}'", "by the key of the stream: its one text part, or its text")
    if time is None or time.source != "time":
        yield Problem(here, f"the event time of results is '{output.time}'", "the field that holds their time")
    if output.dedup_id is not None:
        yield Problem(here, "results have a duplicate id", "they are written exactly once")
