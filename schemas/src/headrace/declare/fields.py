"""Typed fields of events, and the expressions their names build.

A field is annotated with one of the types below (or str, int, bool), optionally refined:
`Annotated[Decimal, Scale(1), Range(-60, 140), Unit("degF")]`; `Nullable[...]` or `... | None` allows null.
On the event class the same name is an expression: `Departed.dep_delay > 15`, `Departed.dep_delay.mean(...)`.
"""

from __future__ import annotations

import datetime
import decimal
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin, overload

from headrace.declare.accumulating import Accumulating
from headrace.declare.aggregates import Aggregate, Feature, newest
from headrace.declare.computing import Computing
from headrace.declare.errors import Where, here, refuse
from headrace.plan.ir import AggregateKind, Field, FieldType

T = TypeVar("T")
TIMESTAMP_MAX_MS = 253_402_300_799_999  # end of the year 9999: a declared range keeps arithmetic on times provable
MINUTES_MAX = 100_000


@dataclass(frozen=True, slots=True)
class Range:
    """Inclusive bounds in the field's natural unit; values outside are dead letters."""

    minimum: int | None
    maximum: int | None


@dataclass(frozen=True, slots=True)
class Scale:
    """Digits after the decimal point."""

    digits: int


@dataclass(frozen=True, slots=True)
class Unit:
    name: str


@dataclass(frozen=True, slots=True)
class Doc:
    text: str


@dataclass(frozen=True, slots=True)
class _Null:
    pass


Nullable = Annotated[T, _Null()]


class Expr(Accumulating, Computing):
    """A row expression over one event, kept as SQL text."""

    def __init__(self, event: str, text: str, *, atomic: bool = False) -> None:
        self.event, self.text, self.atomic = event, text, atomic

    def _wrapped(self) -> str:
        return self.text if self.atomic else f"({self.text})"

    def _with(self, sign: str, other: object, *, swapped: bool = False) -> Expr:
        sides = [self._wrapped(), self.operand(other)]
        left, right = reversed(sides) if swapped else sides
        return Expr(self.event, f"{left} {sign} {right}")

    def operand(self, other: object) -> str:
        """Another side as SQL text: an expression over the same event, or a constant."""
        if not isinstance(other, Expr):
            return literal(other)
        if other.event != self.event:
            raise refuse(here(), f"an expression over both {self.event} and {other.event}", "a row has the fields of one event")
        return other._wrapped()

    def derived(self, text: str, *, atomic: bool = True) -> Expr:
        return Expr(self.event, text, atomic=atomic)

    def __add__(self, other: object) -> Expr:
        return self._with("+", other)

    def __sub__(self, other: object) -> Expr:
        return self._with("-", other)

    def __mul__(self, other: object) -> Expr:
        return self._with("*", other)

    def __floordiv__(self, other: object) -> Expr:
        return self._with("//", other)

    def __mod__(self, other: object) -> Expr:
        return self._with("%", other)

    def __radd__(self, other: object) -> Expr:
        return self._with("+", other, swapped=True)

    def __rsub__(self, other: object) -> Expr:
        return self._with("-", other, swapped=True)

    def __rmul__(self, other: object) -> Expr:
        return self._with("*", other, swapped=True)

    def __gt__(self, other: object) -> Expr:
        return self._with(">", other)

    def __ge__(self, other: object) -> Expr:
        return self._with(">=", other)

    def __lt__(self, other: object) -> Expr:
        return self._with("<", other)

    def __le__(self, other: object) -> Expr:
        return self._with("<=", other)

    def __eq__(self, other: object) -> Expr:  # type: ignore[override]
        return self._with("=", other)

    def __ne__(self, other: object) -> Expr:  # type: ignore[override]
        return self._with("<>", other)

    __hash__ = None  # type: ignore[assignment]

    def __and__(self, other: object) -> Expr:
        return self._with("AND", other)

    def __or__(self, other: object) -> Expr:
        return self._with("OR", other)

    def __invert__(self) -> Expr:
        return Expr(self.event, f"NOT {self._wrapped()}")

    def __neg__(self) -> Expr:
        return Expr(self.event, f"-{self._wrapped()}")

    def __bool__(self) -> bool:
        raise refuse(here(), f"`{self.text}` has no truth value here", "write & | ~ instead of and, or, not")

    def is_null(self) -> Expr:
        return Expr(self.event, f"{self._wrapped()} IS NULL")

    def count(self, where: str | Expr | None = None) -> Aggregate:
        """Number of rows where the value is not null."""
        return self.aggregate("count", where)

    def sum(self, where: str | Expr | None = None) -> Aggregate:
        return self.aggregate("sum", where)

    def mean(self, where: str | Expr | None = None) -> Aggregate:
        return self.aggregate("mean", where)

    def variance(self, where: str | Expr | None = None) -> Aggregate:
        return self.aggregate("variance", where)

    def min(self, where: str | Expr | None = None) -> Aggregate:
        return self.aggregate("min", where)

    def max(self, where: str | Expr | None = None) -> Aggregate:
        return self.aggregate("max", where)

    @overload
    def last(self, *, max_age: str, where: str | Expr | None = None) -> Feature: ...
    @overload
    def last(self, *, max_age: None = None, where: str | Expr | None = None) -> Aggregate: ...
    def last(self, *, max_age: str | None = None, where: str | Expr | None = None) -> Feature | Aggregate:
        """The newest value that is not null; of a feature set missing when older than max_age at the time of the request.

        In a stream, of the window, and without max_age.
        """
        return newest(self.aggregate("last", where), max_age)

    def aggregate(self, kind: AggregateKind, where: str | Expr | None) -> Aggregate:
        return Aggregate(self.event, kind, self.text, condition_text(self.event, where), here())


class FieldExpr(Expr):
    """A field by its name: what `Departed.dep_delay` is. The subclasses are the annotations users write."""

    avro: ClassVar[FieldType]
    unit: ClassVar[str] = ""
    span: ClassVar[Range] = Range(None, None)
    scale: ClassVar[int] = 0

    def __init__(self, event: str, name: str) -> None:
        super().__init__(event, name, atomic=True)


class Text(FieldExpr):
    avro = "string"


class Flag(FieldExpr):
    avro = "boolean"


class Int(FieldExpr):
    """32 bits: sums of it need no declared range."""

    avro = "int"


class Long(FieldExpr):
    """64 bits: give it a Range where it is summed or multiplied."""

    avro = "long"


class Double(FieldExpr):
    """An IEEE double: for request inputs only, never for accumulators."""

    avro = "double"


class Timestamp(FieldExpr):
    """UTC, milliseconds since 1970, up to the year 9999."""

    avro = "timestamp"
    unit = "ms since 1970 UTC"
    span = Range(0, TIMESTAMP_MAX_MS)


class Minutes(FieldExpr):
    """A duration in whole minutes, negative when early."""

    avro = "long"
    unit = "min"
    span = Range(-MINUTES_MAX, MINUTES_MAX)


class Decimal(FieldExpr):
    """A scaled long: refine with Scale(digits) and Range."""

    avro = "decimal"


BUILTINS: dict[object, type[FieldExpr]] = {str: Text, int: Long, bool: Flag, float: Double}


def field_of(name: str, annotation: Any, where: Where) -> tuple[Field, type[FieldExpr]]:
    """The IR field of one annotation, and the class of its expression."""
    nullable, refinements, base = peel(annotation)
    kind = BUILTINS.get(base, base)
    if not (isinstance(kind, type) and issubclass(kind, FieldExpr) and hasattr(kind, "avro")):
        known = "str, int, bool, Text, Flag, Int, Long, Double, Timestamp, Minutes, Decimal, Items[...], a class of Record"
        raise refuse(where, f"field '{name}': {base!r} is not a field type", f"one of {known}")
    last: dict[type, Any] = {type(item): item for item in refinements}
    scale = last[Scale].digits if Scale in last else kind.scale
    span: Range = last.get(Range, kind.span)
    factor = 10**scale
    field = Field(
        name=name,
        type=kind.avro,
        nullable=nullable,
        unit=last[Unit].name if Unit in last else kind.unit,
        scale=scale,
        minimum=None if span.minimum is None else span.minimum * factor,
        maximum=None if span.maximum is None else span.maximum * factor,
        doc=last[Doc].text if Doc in last else "",
    )
    return field, kind


def condition_text(event: str, where: str | Expr | None) -> str | None:
    if isinstance(where, Expr):
        if where.event != event:
            raise refuse(here(), f"a condition over {where.event} on rows of {event}")
        return where.text
    return where


def peel(annotation: Any) -> tuple[bool, list[Any], Any]:
    """Strip `| None` and Annotated, outermost first; inner refinements come first so outer ones win."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        nullable, refinements, base = peel(inner)
        return nullable or any(isinstance(item, _Null) for item in metadata), [*refinements, *metadata], base
    if get_origin(annotation) in (Union, UnionType):
        arguments = [item for item in get_args(annotation) if item is not NoneType]
        if len(arguments) == 1:
            _, refinements, base = peel(arguments[0])
            return True, refinements, base
    return False, [], annotation


def literal(value: object) -> str:
    """A Python constant as SQL."""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int):
        return f"({value})" if value < 0 else str(value)
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, decimal.Decimal) and value.is_finite():
        return f"({value:f})" if value < 0 else f"{value:f}"
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        return f"TIMESTAMP '{value.astimezone(datetime.UTC).replace(tzinfo=None).isoformat(' ')}'"
    if isinstance(value, datetime.timedelta) and not value.microseconds % 1000:
        return literal(value // datetime.timedelta(milliseconds=1))
    raise refuse(here(), f"{value!r} in an expression", _literal_hint(value))


def _literal_hint(value: object) -> str:
    if value is None:
        return "write .is_null(), or .null_if(...)"
    if isinstance(value, float):
        return f'write decimal.Decimal("{value}"), or SQL text: where="temp > 71.5"'
    if isinstance(value, datetime.datetime):
        return "give it a zone: datetime(2013, 6, 1, tzinfo=UTC)"
    return "integers, text, booleans, decimal.Decimal, datetimes with a zone, timedeltas"
