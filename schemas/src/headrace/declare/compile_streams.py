"""Declared streams become streams of the plan, each after those whose results it reads."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.declare.errors import Where
from headrace.declare.events import Event
from headrace.declare.measuring import Measuring
from headrace.declare.stream_results import InputDeclaration, Result
from headrace.declare.streams import StreamDeclaration, declaration_of
from headrace.plan import ir
from headrace.plan.validate import Path


def in_order(streams: Sequence[type[Event]], measuring: Measuring, location: Where) -> list[StreamDeclaration]:
    """Each once, in the declared order as far as a stream comes after those it reads. Complains of what is no stream, or
    is read and not listed."""
    declared: list[StreamDeclaration] = []
    for event in streams:
        known = declaration_of(event)
        if known is None:
            measuring.complain(location, f"{event.__name__} is no stream", "list events in events=[...]")
        else:
            declared.append(known)
    listed = {item.output for item in declared}
    found: list[StreamDeclaration] = []

    def visit(item: StreamDeclaration) -> None:  # a class reads classes made before it, so there are no circles
        for read in item.inputs:
            upstream = declaration_of(read.event)
            if upstream is not None and upstream.output not in listed:
                hint = "add it to Pipeline(streams=[...])"
                measuring.complain(item.location, f"stream {upstream.output} is not in the pipeline", hint)
            elif upstream is not None and upstream not in found:
                visit(upstream)
        found.append(item)

    for item in declared:
        if item not in found:
            visit(item)
    return found


def lowered(declared: StreamDeclaration, measuring: Measuring, locations: dict[Path, Where], owner: str) -> ir.Stream:
    """The stream of the plan; the lines of its parts go to `locations`."""
    here: Path = ("stream", declared.name)
    locations[here] = declared.location
    aggregates = [item.aggregate for item in declared.results if item.aggregate is not None]
    measures = measuring.measures(aggregates)
    fields = []
    for item in declared.results:
        locations[(*here, item.field.name)] = item.location
        measure = "" if item.aggregate is None else measures[measuring.measure_key(item.aggregate)].id
        if item.aggregate is not None:
            locations.setdefault((*here, measure), item.aggregate.location)
        fields.append(_output(item, measure))
    return ir.Stream(
        name=declared.name,
        output=measuring.event_name(declared.output, declared.location),
        inputs=tuple(
            _input(read, index, declared, measuring.event_name(read.event.__name__, declared.location))
            for index, read in enumerate(declared.inputs)
        ),
        fields=tuple(fields),
        window=declared.window,
        join=declared.join,
        distinct=declared.distinct,
        measures=tuple(measures.values()),
        partitions=declared.partitions,
        store=declared.store,
        tick_ms=declared.tick_ms,
        owner=declared.owner or owner,
    )


def _input(read: InputDeclaration, index: int, declared: StreamDeclaration, event: str) -> ir.StreamInput:
    carried = tuple(
        ir.Carried(item.field.name, item.text) for item in declared.results if item.source == "column" and item.index == index
    )
    return ir.StreamInput(event, read.key, read.where, read.each, carried, read.table)


def _output(item: Result, measure: str) -> ir.OutputField:
    name = item.field.name
    if item.source == "column":
        return ir.OutputField(name, "column", item.index, column=name)
    if item.aggregate is not None:
        return ir.OutputField(name, "aggregate", measure=measure, kind=item.aggregate.kind, argument=item.aggregate.argument)
    return ir.OutputField(name, item.source, item.index)
