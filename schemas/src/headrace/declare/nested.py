"""Records inside events, and arrays of plain values.

class Address(Record):
    city: Text
    zip: Nullable[Text]

class Ordered(Event, ...):
    address: Address                                # Ordered.address.city is an expression, `address.city` in SQL text
    items: Items[Text]                              # Ordered.items.contains("book"), Ordered.items.each().distinct()
    amounts: Annotated[Items[Cents], AtMost(64)]    # a longer array is a dead letter

A record may stand in a record, three deep. An array may stand in a record; of records there is none. `Nullable[Address]`
allows the record to be absent: then all its fields are null.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from inspect import get_annotations
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, get_args, get_origin, get_type_hints

from headrace.declare.errors import Complaint, UnknownField, Where, attribute_line, here, refuse
from headrace.declare.fields import Expr, FieldExpr, field_of, literal, peel
from headrace.plan.expression_leaves import identifier
from headrace.plan.expressions import nearest
from headrace.plan.ir import Field, NestedRecord

E = TypeVar("E", bound=FieldExpr)
ITEMS_DEFAULT = 256  # bounds sums of items, and what one event adds to an accumulator
DEPTH_MAX = 3  # records in records: a column of SQL has four parts


@dataclass(frozen=True, slots=True)
class AtMost:
    """Items an array may hold; an event with more is a dead letter."""

    items: int


class Items(Generic[E]):
    """An array of plain values, none of them null. Range, Scale and Unit are those of its items."""

    def __init__(self, event: str, name: str, kind: type[E]) -> None:
        self.event, self.text, self._kind = event, identifier(name), kind

    def each(self) -> E:
        """One item at a time: the aggregates of it have a row for each item."""
        return self._item(f"each({self.text})")

    def length(self) -> Expr:
        return self._value(f"array_length({self.text})")

    def contains(self, value: object) -> Expr:
        """Whether an item equals it."""
        other = value.operand(value) if isinstance(value, Expr) else literal(value)
        return self._value(f"array_contains({self.text}, {other})")

    def at(self, place: int) -> E:
        """The item at a place: the first is 1, the last -1; null where there is none."""
        return self._item(f"array_at({self.text}, {place})")

    def total(self) -> Expr:
        """Sum of the items; null of an empty array."""
        return self._value(f"array_sum({self.text})")

    def smallest(self) -> E:
        return self._item(f"array_min({self.text})")

    def largest(self) -> E:
        return self._item(f"array_max({self.text})")

    def distinct_items(self) -> Expr:
        """How many different items."""
        return self._value(f"array_distinct({self.text})")

    def is_null(self) -> Expr:
        return Expr(self.event, f"{self.text} IS NULL")

    def is_not_null(self) -> Expr:
        return Expr(self.event, f"{self.text} IS NOT NULL")

    def __contains__(self, value: object) -> bool:
        raise refuse(here(), f"`in` over `{self.text}` has no truth value here", "write .contains(...)")

    def __iter__(self) -> Iterator[E]:
        raise refuse(here(), f"`{self.text}` has items per event, none here", "write .each().sum(), .at(1), .length()")

    def _item(self, text: str) -> E:
        return self._kind(self.event, text)

    def _value(self, text: str) -> Expr:
        return Expr(self.event, text, atomic=True)


class Record:
    """Base of records inside events; annotated like an event."""

    __own__: ClassVar[dict[str, tuple[Any, Where]]]
    __where__: ClassVar[Where]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.__where__ = where = here()
        found = own_annotations(cls, where)
        if not found:
            raise refuse(where, f"record {cls.__name__} has no fields", "such as city: Text")
        cls.__own__ = {name: (annotation, attribute_line(where, name)) for name, annotation in found.items()}

    if not TYPE_CHECKING:  # a type checker knows the fields, and must not take every name for one

        def __getattr__(self, name):
            if name.startswith("_"):
                raise AttributeError(name)
            detail = f"unknown field '{name}' of {type(self).__name__}"
            raise UnknownField([Complaint(here(), detail, nearest(name, type(self).__own__))])


@dataclass(frozen=True, slots=True)
class Declared:
    """What one annotation of an event comes to: its fields and records, their lines, and what its name is."""

    fields: tuple[Field, ...]
    records: tuple[NestedRecord, ...]
    lines: dict[str, Where]
    value: Any


def declared(event: str, path: str, annotation: Any, line: Where, outer: bool = False, depth: int = 1) -> Declared:
    """A field, an array or a record at a path of an event. outer: whether a record around it may be null."""
    nullable, refinements, base = peel(annotation)
    if get_origin(base) in (list, Items):
        field, kind = _array(path, base, refinements, line)
        field = replace(field, nullable=nullable or outer)
        return Declared((field,), (), {path: line}, Items(event, path, kind))
    if isinstance(base, type) and issubclass(base, Record) and base is not Record:
        return _record(event, path, base, nullable, line, outer, depth)
    field, kind = field_of(path, annotation, line)
    value = kind(event, identifier(path) if "." in path else path)
    return Declared((replace(field, nullable=field.nullable or outer),), (), {path: line}, value)


def _array(path: str, base: Any, refinements: list[Any], line: Where) -> tuple[Field, type[FieldExpr]]:
    (inner,) = get_args(base)
    nullable, more, plain = peel(inner)
    if nullable:
        raise refuse(line, f"array '{path}' of values that may be null", "leave null items out of the array")
    if get_origin(plain) in (list, Items) or (isinstance(plain, type) and issubclass(plain, Record)):
        what = "records" if isinstance(plain, type) and issubclass(plain, Record) else "arrays"
        raise refuse(line, f"array '{path}' of {what}", "arrays hold plain values: declare one array for each part of it")
    unrefined: Any = plain
    for item in (*more, *refinements):
        unrefined = _annotated(unrefined, item)
    field, kind = field_of(path, unrefined, line)
    most = next((item.items for item in reversed(refinements) if isinstance(item, AtMost)), ITEMS_DEFAULT)
    return replace(field, type="array", item=kind.avro, items_max=most, nullable=False), kind  # type: ignore[arg-type]


def _annotated(base: Any, refinement: Any) -> Any:
    from typing import Annotated

    return Annotated[base, refinement]


def _record(event: str, path: str, kind: type[Record], nullable: bool, line: Where, outer: bool, depth: int) -> Declared:
    if depth > DEPTH_MAX:
        raise refuse(line, f"record '{path}' is {depth} deep", f"{DEPTH_MAX} records in each other at most")
    value = object.__new__(kind)
    records: list[NestedRecord] = []
    fields: list[Field] = []
    lines: dict[str, Where] = {path: line}
    required: list[str] = []
    for name, (annotation, inner_line) in kind.__own__.items():
        inner = declared(event, f"{path}.{name}", annotation, inner_line, outer or nullable, depth + 1)
        object.__setattr__(value, name, inner.value)
        fields += inner.fields
        records += inner.records
        lines |= inner.lines
        own_nullable = peel(annotation)[0]
        if not inner.records and not own_nullable:
            required.append(inner.fields[0].name)
        elif inner.records and not inner.records[0].nullable:
            required += _always(inner)
    mine = NestedRecord(path, kind.__name__, nullable, tuple(required) if nullable or outer else (), _doc(kind))
    return Declared(tuple(fields), (mine, *records), lines, value)


def _always(inner: Declared) -> list[str]:
    """Fields of a record that is never null where its own record is there."""
    return list(inner.records[0].required)


def _doc(kind: type) -> str:
    return (kind.__doc__ or "").strip().partition("\n")[0]


def own_annotations(cls: type, where: Where) -> dict[str, Any]:
    """Own annotations with strings resolved, in declared order; names may live in the function that declares the class."""
    own = get_annotations(cls)
    frame = sys._getframe(2)
    namespaces: dict[str, Any] = {}
    while frame is not None:
        namespaces = {**frame.f_globals, **frame.f_locals} if frame.f_code.co_filename == where.file else namespaces
        if namespaces:
            break
        frame = frame.f_back
    try:
        alone = type(cls.__name__, (), {"__annotations__": own})  # without the bases, whose names mean nothing here
        hints = get_type_hints(alone, globalns=namespaces or None, include_extras=True)
    except NameError as error:
        raise refuse(where, f"{cls.__name__}: {error}", "import the type from headrace.declare") from None
    return {name: hints[name] for name in own}
