"""What results of a stream hold: their key, their time, the window's bounds, and what the user names; typed at once.

A result is an event, so feature sets, models and other streams write `CardTenSeconds.total` as of any event.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from inspect import get_annotations
from typing import Any

from headrace.declare.aggregates import Aggregate, AggregateGroup, Feature, FeatureGroup
from headrace.declare.errors import Where, attribute_line, refuse
from headrace.declare.events import RESERVED, Event
from headrace.declare.fields import Doc, Expr, Range, Unit
from headrace.declare.measuring import accumulated
from headrace.declare.nested import Items, Record
from headrace.plan import ir
from headrace.plan.expressions import Expression, ExpressionError, nearest, parse
from headrace.plan.stream_types import aggregate_field, value_field
from headrace.plan.validate import slots_for


@dataclass(frozen=True, slots=True)
class InputDeclaration:
    """One event that a stream reads. `where` and `each` as the plan will have them."""

    event: type[Event]
    key: tuple[str, ...]
    where: str | None = None
    each: str | None = None
    table: bool = False

    @property
    def fields(self) -> dict[str, ir.Field]:
        return {item.name: item for item in self.event.__law__.fields}


@dataclass(frozen=True, slots=True)
class Result:
    """One field of the output: what it is, and where it comes from."""

    field: ir.Field
    source: ir.OutputSource
    location: Where
    index: int = 0
    text: str = ""  # of a column: its canonical expression
    aggregate: Aggregate | None = None


@dataclass(frozen=True, slots=True)
class Described:
    """A field of results with what the user says of it."""

    value: Aggregate | Expr
    refinements: tuple[Range | Unit | Doc, ...]


def described(value: Aggregate | Expr, *refinements: Range | Unit | Doc) -> Described:
    """A field of results with a range, a unit or a doc: `total = described(Payment.amount.sum(), Range(0, 1_000_000))`.

    The range is in the natural unit. What is summed further down needs one where none can be proven; a result outside it
    is a dead letter of whoever reads it.
    """
    return Described(value, refinements)


@dataclass(frozen=True, slots=True)
class Shape:
    """All that decides which fields results have by themselves."""

    inputs: tuple[InputDeclaration, ...]
    window: ir.Window | None
    join: ir.Join | None
    time: str | None  # name of the event time, as the user wishes


def expression_of(text: str, read: InputDeclaration, where: Where) -> Expression:
    """A row expression over one input. Doubles may pass. Raises: DeclarationError at the line."""
    try:
        found = parse(text, read.fields, allow_float=True)
    except ExpressionError as error:
        raise refuse(where, error.located, error.hint) from None
    for array in found.arrays:
        if array != read.each:
            raise refuse(
                where, f"`{found.canonical}` has a value for each item", f'one row for each: @stream(..., each="{array}")'
            )
    return found


def automatic(shape: Shape, where: Where) -> list[Result]:
    """Key, event time, bounds of the window, and whether a result is final; in this order."""
    left, key = shape.inputs[0], shape.inputs[0].key
    found: list[Result] = []
    for index, name in enumerate(key):
        if name not in left.fields:
            raise refuse(where, f"unknown key field '{name}' of {left.event.__name__}", nearest(name, left.fields))
        part = replace(left.fields[name], name=flat(name), nullable=False)
        if shape.join is not None:
            part = replace(part, minimum=None, maximum=None)  # the other side's may reach further
        found.append(Result(part, "key", where, index))
    if len(key) != 1 or found[0].field.type != "string":
        text = ir.Field("key", "string", doc="the key's parts as text" if key else "empty: one key for all rows")
        found.append(Result(text, "key", where, -1))
    plain = shape.window is None and shape.join is None
    time = shape.time or (flat(left.event.__law__.time) if plain else "at")
    own = {item.name: item for item in left.event.__law__.fields}.get(left.event.__law__.time)
    span = (own.minimum, own.maximum) if plain and own is not None else (None, None)
    found.append(Result(_moment(time, "event time", *span), "time", where))
    if shape.window is not None:
        found.append(Result(_moment("window_start", "first moment of the window"), "window_start", where))
        found.append(Result(_moment("window_end", "first moment after the window"), "window_end", where))
        if shape.window.emit == "both":
            found.append(Result(ir.Field("final", "boolean", doc="false of updates"), "final", where))
    names = [item.field.name for item in found]
    for name in names:
        if names.count(name) > 1:
            raise refuse(where, f"two fields of results would be named '{name}'", 'name the event time otherwise: time="..."')
    return found


def _moment(name: str, doc: str, minimum: int | None = None, maximum: int | None = None) -> ir.Field:
    return ir.Field(name, "timestamp", unit="ms since 1970 UTC", doc=doc, minimum=minimum, maximum=maximum)


def flat(path: str) -> str:
    """A field of a nested record stands in a result under one name: `buyer.id` as `buyer_id`."""
    return path.replace(".", "_")


def named(cls: type, where: Where, shape: Shape) -> Iterator[Result]:
    """What the class body names, in its order."""
    for name in get_annotations(cls):
        line = attribute_line(where, name)
        raise refuse(
            line, f"{cls.__name__}.{name} is annotated", f"types follow: {name} = described(..., Range(0, 9), Unit(...))"
        )
    for name, value in vars(cls).items():
        if name.startswith("__"):
            continue
        line = attribute_line(where, name)
        for full, item in _members(name, value):
            if full in RESERVED:
                raise refuse(line, f"field name '{full}' is taken", f"Event.{full}(...) is a method")
            yield _result(f"{cls.__name__}.{full}", full, item, line, shape)


def _members(name: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, AggregateGroup | FeatureGroup):
        return [(f"{name}_{suffix}", item) for suffix, item in value.members.items()]
    return [(name, value)]


def _result(shown: str, name: str, value: Any, line: Where, shape: Shape) -> Result:
    if isinstance(value, Described):
        found = _result(shown, name, value.value, line, shape)
        return replace(found, field=refined(found.field, value.refinements, line))
    if isinstance(value, Feature):
        hint = "leave out .over(...) and max_age=...: the stream has the window"
        raise refuse(value.location, f"{shown} is a feature", hint)
    if isinstance(value, Aggregate):
        if shape.window is None:
            raise refuse(value.location, f"{shown} has no window", 'write window=Tumbling("1m") after @stream(...')
        return _aggregated(name, value, shape)
    if isinstance(value, Items):
        hint = f"`.at(1)`, `.length()`, or one result for each: each='{value.text}' and .each()"
        raise refuse(line, f"{shown} is an array", hint)
    if isinstance(value, Record):
        raise refuse(line, f"{shown} is a record", "name fields of it")
    if not isinstance(value, Expr):
        raise refuse(line, f"{shown} is no field", "such as Payment.amount, or Payment.amount.sum() in a window")
    if shape.window is not None:
        raise refuse(line, f"{shown} has many values in a window", "say which: .last(), .first(), .min(), .sum()")
    index = _side(shown, value.event, line, shape)
    read = shape.inputs[index]
    parsed = expression_of(value.text, read, line)
    if parsed.type.kind in ("local", "array", "null"):
        hint = "write .epoch_ms() of a time in UTC, or parts of it" if parsed.type.kind == "local" else "one plain value"
        raise refuse(line, f"{shown} is a {parsed.type}", hint)
    field = value_field(name, parsed, read.fields)
    missing = shape.join is not None and shape.join.how in (("outer",), ("left", "outer"))[index]
    return Result(replace(field, nullable=field.nullable or missing), "column", line, index, parsed.canonical)


def _side(shown: str, record: str, line: Where, shape: Shape) -> int:
    names = [read.event.__name__ for read in shape.inputs]
    if record not in names:
        raise refuse(line, f"{shown} is of {record}, which the stream does not read", f"it reads {' and '.join(names)}")
    return names.index(record)


def _aggregated(name: str, aggregate: Aggregate, shape: Shape) -> Result:
    _side(name, aggregate.event, aggregate.location, shape)
    read = shape.inputs[0]
    value = None
    if aggregate.value is not None:
        parsed = expression_of(aggregate.value, read, aggregate.location)
        text = accumulated(parsed, aggregate.kind, read.fields)
        value = value_field("value", parse(text, read.fields, allow_float=True), read.fields)
    if aggregate.where is not None:
        expression_of(aggregate.where, read, aggregate.location)
    slots = slots_for(aggregate.keeps, aggregate.value is not None)
    edges = tuple(range(len(aggregate.edges)))  # their number is all that types depend on
    measure = ir.Measure("", "", None, aggregate.where, slots, 0, aggregate.size, edges)
    rows = shape.window.rows if shape.window is not None else 0
    field = aggregate_field(name, aggregate.kind, aggregate.argument, measure, value, rows)
    return Result(field, "aggregate", aggregate.location, 0, aggregate=aggregate)


def everything(read: InputDeclaration, where: Where) -> Iterator[Result]:
    """All fields of the input, for a stream whose class names none."""
    for item in read.fields.values():
        if item.type == "array":
            raise refuse(where, f"array '{item.name}' cannot be carried", "name the fields that results have")
        if item.name in read.key or item.name == read.event.__law__.time:
            continue
        field = replace(item, name=flat(item.name))
        yield Result(field, "column", where, 0, expression_of(_quoted(item.name), read, where).canonical)


def _quoted(path: str) -> str:
    return ".".join(f'"{part}"' for part in path.split("."))


def refined(field: ir.Field, refinements: Sequence[Range | Unit | Doc], line: Where) -> ir.Field:
    """The field with the range, unit and doc that the user gives it."""
    for item in refinements:
        if isinstance(item, Range):
            if field.type not in ("int", "long", "decimal", "timestamp"):
                raise refuse(line, f"a range on {field.name}, a {field.type}", "integers and decimals have ranges")
            factor = 10**field.scale
            low, high = (None if bound is None else bound * factor for bound in (item.minimum, item.maximum))
            field = replace(field, minimum=low, maximum=high)
        elif isinstance(item, Unit):
            field = replace(field, unit=item.name)
        else:
            field = replace(field, doc=item.text)
    return field
