"""Streams: events made of events. `@stream` makes an event class of a class whose attributes are the fields of results.

@stream(Payment, by="card", window=Tumbling("10s"))
class CardTenSeconds:
    payments = Payment.count()
    total = Payment.amount.sum()

@stream(IntervalJoin(Ordered, Shipped, by="order_id", after="1d", how="left"))
class OrderShipped:
    total = Ordered.total
    shipped_at = Shipped.shipped_at

Both are events: `CardTenSeconds.payments.max().over("1h", hop="5m")`. STREAMS.md defines what each operator gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from headrace.declare.durations import duration_ms
from headrace.declare.errors import Where, attribute_line, here, refuse
from headrace.declare.events import Event, EventClass, EventLaw
from headrace.declare.feature_sets import snake_case
from headrace.declare.fields import Decimal, Double, Expr, FieldExpr, Flag, Int, Long, Text, Timestamp, condition_text
from headrace.declare.nested import Items
from headrace.declare.operators import By, Joining, Windowing, one_of
from headrace.declare.stream_results import (
    InputDeclaration,
    Result,
    Shape,
    automatic,
    everything,
    expression_of,
    named,
)
from headrace.plan import ir, stream_types

Conditions = str | Expr | Mapping[type[Event], str | Expr] | None
FIELD_KINDS: tuple[type[FieldExpr], ...] = (Text, Flag, Int, Long, Double, Timestamp, Decimal)
KINDS: Mapping[str, type[FieldExpr]] = {kind.avro: kind for kind in FIELD_KINDS} | {"float": Double}


@dataclass(frozen=True, slots=True)
class StreamDeclaration:
    """What `@stream` said; the class it decorates stands for the results."""

    name: str
    law: EventLaw  # of its results
    inputs: tuple[InputDeclaration, ...]
    results: tuple[Result, ...]
    window: ir.Window | None
    join: ir.Join | None
    distinct: ir.Distinct | None
    partitions: int
    store: ir.StoreKind
    tick_ms: int | None
    owner: str
    location: Where

    @property
    def output(self) -> str:
        """Record name of its results."""
        return self.law.record


class Derived(Event, topic="results", key="key", time="at", lateness="0s"):
    """Base of what streams make: `@stream` has typed it already."""

    def __init_subclass__(cls, *, law: EventLaw) -> None:  # type: ignore[override]
        cls.__law__ = law


def declaration_of(event: type[Event]) -> StreamDeclaration | None:
    """What makes this event; None if producers do."""
    return event.__dict__.get("__stream__")


def stream(
    source: type[Event] | Joining,
    *,
    by: By = None,
    where: Conditions = None,
    each: str | Items[Any] | None = None,
    window: Windowing | None = None,
    emit: ir.Emit = "close",
    distinct: str | None = None,
    topic: str | None = None,
    time: str | None = None,
    lateness: str | None = None,
    partitions: int = 2,
    store: ir.StoreKind = "rocksdb",
    tick: str | None = None,
    owner: str = "",
) -> Callable[[type], Any]:
    """Make a stream of a class whose attributes are the fields of its results.

    Args:
        source: an event, another stream, or a join of two.
        by: the field, or fields, that make the key; () for one key of all rows; the message key if left out. Results are
            keyed by it: by its one text field, else by a text `key`. Rows where a part of it is null are left out.
        where: which rows take part; of a join an expression, or {Ordered: "total > 0"}.
        each: an array: one row for each of its items.
        window: what the attributes aggregate over.
        emit: close: one final result for a window; update: one whenever rows changed it; both, told apart by `final`.
        distinct: rows of a key pass if none came within so long before them, such as "6h".
        topic: one plural noun, or a full topic name; the class name if left out.
        time: name of the results' event time.
        lateness: how late results may be to who reads them; what the stream itself may cause if left out.
        partitions: of its state and of its topic.
        store: where its state lies; of memory the changelog is the only copy.
        tick: a stream that has been silent for so long, in processing time, is closed by the clock.
        owner: the pipeline's when empty.
    """
    location = here()
    one_of("emit", emit, get_args(ir.Emit), location)
    one_of("store", store, get_args(ir.StoreKind), location)
    inputs = _inputs(source, by, where, each, location)
    join = source.join if isinstance(source, Joining) else None
    shown = replace(window.window, emit=emit) if window is not None else None
    if window is None and emit != "close":
        raise refuse(location, f'emit="{emit}" without a window', "only windows have updates: write window=...")
    if distinct is not None and (window is not None or join is not None):
        raise refuse(location, "distinct beside a window or a join", "make two streams: one reads the other")
    if window is not None and join is not None:
        raise refuse(location, "a window beside a join", "make two streams: the window reads the join's results")
    horizon = None if distinct is None else ir.Distinct(duration_ms(distinct))
    tick_ms = None if tick is None else duration_ms(tick)
    shape = Shape(inputs, shown, join, time)
    most_ms = max(read.event.__law__.lateness_ms for read in inputs)
    late_ms = stream_types.lateness_ms(most_ms, shown, join) if lateness is None else duration_ms(lateness)

    def declare(cls: type) -> type[Event]:
        typed = tuple(_results(cls, shape, location))
        keys = [item.field.name for item in typed if item.source == "key" and item.index in (0, -1)]  # the text comes last
        law = EventLaw(
            record=cls.__name__,
            topic=topic or snake_case(cls.__name__).replace("_", "-"),
            key=keys[-1],
            time=next(item.field.name for item in typed if item.source == "time"),
            lateness_ms=late_ms,
            poison_bound_ms=min(late_ms, max(read.event.__law__.poison_bound_ms for read in inputs)),
            dedup_id=None,
            dedup_horizon_ms=0,
            partitions=partitions,
            available_after_ms=_available_after(inputs, late_ms),
            fields=tuple(item.field for item in typed),
            location=location,
            records=(),
            lines={item.field.name: attribute_line(location, item.field.name) for item in typed},
        )
        declared = StreamDeclaration(
            name=snake_case(cls.__name__),
            law=law,
            inputs=inputs,
            results=typed,
            window=shown,
            join=join,
            distinct=horizon,
            partitions=partitions,
            store=store,
            tick_ms=tick_ms,
            owner=owner,
            location=location,
        )
        return _event_class(cls, law, declared)

    return declare


def _results(cls: type, shape: Shape, location: Where) -> list[Result]:
    given = automatic(shape, location)
    own = list(named(cls, location, shape))
    if not own:
        if shape.window is not None or shape.join is not None or shape.inputs[0].each is not None:
            raise refuse(location, f"{cls.__name__} has no fields", "such as payments = Payment.count()")
        own = list(everything(shape.inputs[0], location))
    known = {item.field.name for item in given}
    for item in own:
        if item.field.name in known:
            hint = "leave it out, or choose another name"
            raise refuse(item.location, f"every result has '{item.field.name}' already", hint)
        known.add(item.field.name)
    return given + own


def _event_class(cls: type, law: EventLaw, declared: StreamDeclaration) -> type[Event]:
    fields = {field.name: KINDS[field.type](cls.__name__, field.name) for field in law.fields}
    space = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__, "__stream__": declared}
    return EventClass(cls.__name__, (Derived,), {**space, **fields}, law=law)


def _inputs(source: object, by: Any, where: Conditions, each: Any, location: Where) -> tuple[InputDeclaration, ...]:
    if isinstance(source, Joining):
        if by is not None or each is not None:
            raise refuse(location, "by or each beside a join", f'write them in it: {type(source).__name__}(..., by="...")')
        return _sides(source, where, location)
    if not (isinstance(source, type) and issubclass(source, Event)):
        raise refuse(location, f"a stream of {source!r}", "name an event, a stream, or a join of two")
    array = each.text.replace('"', "") if isinstance(each, Items) else each
    read = InputDeclaration(source, _key_of(source, by, location), None, array)
    if array is not None and (array not in read.fields or read.fields[array].type != "array"):
        arrays = [name for name, item in read.fields.items() if item.type == "array"]
        raise refuse(location, f"each: '{array}' is no array of {source.__name__}", f"known: {', '.join(arrays) or 'none'}")
    return (_filtered(read, _conditions((source,), where, location).get(source), location),)


def _sides(joining: Joining, where: Conditions, location: Where) -> tuple[InputDeclaration, ...]:
    conditions = _conditions((joining.left, joining.right), where, location)
    found = []
    for event in (joining.left, joining.right):
        table = joining.join.kind == "table" and event is joining.right
        key = _key_of(event, None if table else joining.by, joining.location)
        found.append(_filtered(InputDeclaration(event, key, table=table), conditions.get(event), location))
    return tuple(found)


def _conditions(events: Sequence[type[Event]], where: Conditions, location: Where) -> Mapping[type[Event], str | Expr]:
    """Which rows of which event take part."""
    if where is None:
        return {}
    if isinstance(where, str):
        if len(events) > 1:
            raise refuse(location, "where as text: of which side?", f'where={{{events[0].__name__}: "..."}}')
        return {events[0]: where}
    found = where if isinstance(where, Mapping) else {event: where for event in events if event.__name__ == where.event}
    known = " or ".join(event.__name__ for event in events)
    if isinstance(where, Expr) and not found:
        raise refuse(location, f"a condition over {where.event}, which is not read", f"over {known}")
    for event in found:
        if event not in events:
            raise refuse(location, f"a condition over {event.__name__}, which is not read", f"over {known}")
    return found


def _filtered(read: InputDeclaration, where: Any, location: Where) -> InputDeclaration:
    text = condition_text(read.event.__name__, where)
    if text is None:
        return read
    parsed = expression_of(text, read, location)
    if parsed.type.kind != "boolean":
        raise refuse(location, f"where `{text}` is a {parsed.type}", "it must be a condition")
    return replace(read, where=parsed.canonical)


def _key_of(event: type[Event], by: By, location: Where) -> tuple[str, ...]:
    if isinstance(by, Mapping) and event not in by:
        raise refuse(location, f"by says nothing of {event.__name__}", f'by={{{event.__name__}: "..."}}')
    chosen = by[event] if isinstance(by, Mapping) else by
    if chosen is None:
        return (event.__law__.key,)
    return (chosen,) if isinstance(chosen, str) else tuple(chosen)


def _available_after(inputs: tuple[InputDeclaration, ...], lateness_ms: int) -> int | None:
    """Of loaded history: when a result is known at the latest, if all inputs say when they are. None of a live source."""
    delays = [read.event.__law__.available_after_ms for read in inputs]
    known = [delay for delay in delays if delay is not None]
    return max(known) + lateness_ms if len(known) == len(delays) else None
