"""Events: a topic, its law (key, event time, lateness, poison bound, duplicate horizon) and its typed fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, overload

from headrace.declare.aggregates import Aggregate, Feature, newest
from headrace.declare.durations import duration_ms
from headrace.declare.errors import Complaint, UnknownField, Where, attribute_line, here, refuse
from headrace.declare.fields import Expr, condition_text
from headrace.declare.nested import declared, own_annotations
from headrace.plan.expressions import nearest
from headrace.plan.ir import Field, NestedRecord

POISON_BOUND_DEFAULT_MS = 300_000  # clocks of producers agree better than that
RESERVED = frozenset({"count", "expr", "since"})


@dataclass(frozen=True, slots=True)
class EventLaw:
    """Everything the class statement of an event said."""

    record: str
    topic: str
    key: str
    time: str
    lateness_ms: int
    poison_bound_ms: int
    dedup_id: str | None
    dedup_horizon_ms: int
    partitions: int
    available_after_ms: int | None
    fields: tuple[Field, ...]
    location: Where
    records: tuple[NestedRecord, ...]
    lines: dict[str, Where]  # where each field, and each record, was written


class EventClass(type):
    """Makes a misspelt field of an event say what was meant."""

    if not TYPE_CHECKING:  # a type checker knows the fields, and must not take every name for one

        def __getattr__(cls, name):
            law = cls.__dict__.get("__law__")
            if name.startswith("_") or law is None:
                raise AttributeError(name)
            detail = f"unknown field '{name}' of {cls.__name__}"
            raise UnknownField([Complaint(here(), detail, nearest(name, [field.name for field in law.fields]))])


class Event(metaclass=EventClass):
    """Base of declared events.

    class Departed(Event, topic="departures", key="flight_id", time="departed_at", lateness="2h", dedup=("flight_id", "6h")):
        flight_id: str
        departed_at: Timestamp
        dep_delay: Nullable[Minutes]

    Fields are plain values, arrays of these (`Items[Text]`) and records of both (nested.py); key, time, duplicate id and
    entities may lie in a record: key="buyer.id". `topic` is one plural noun (the pipeline's own topic, version 1) or a full
    topic name. `poison_bound` says how far event time may run ahead of append time (default 5 minutes, never above
    lateness). `available_after` declares loaded history: an event is taken as known that long after its event time.
    """

    __law__: ClassVar[EventLaw]

    def __init_subclass__(
        cls,
        *,
        topic: str,
        key: str,
        time: str,
        lateness: str,
        poison_bound: str | None = None,
        dedup: tuple[str, str] | None = None,
        partitions: int = 2,
        available_after: str | None = None,
    ) -> None:
        super().__init_subclass__()
        where = here()
        lateness_ms = duration_ms(lateness)
        fields: list[Field] = []
        records: list[NestedRecord] = []
        lines: dict[str, Where] = {}
        for name, annotation in own_annotations(cls, where).items():
            line = attribute_line(where, name)
            if name in RESERVED:
                raise refuse(line, f"field name '{name}' is taken", f"Event.{name}(...) is a method")
            found = declared(cls.__name__, name, annotation, line)
            fields += found.fields
            records += found.records
            lines |= found.lines
            setattr(cls, name, found.value)
        cls.__law__ = EventLaw(
            record=cls.__name__,
            topic=topic,
            key=key,
            time=time,
            lateness_ms=lateness_ms,
            poison_bound_ms=min(POISON_BOUND_DEFAULT_MS, lateness_ms) if poison_bound is None else duration_ms(poison_bound),
            dedup_id=None if dedup is None else dedup[0],
            dedup_horizon_ms=0 if dedup is None else duration_ms(dedup[1]),
            partitions=partitions,
            available_after_ms=None if available_after is None else duration_ms(available_after),
            fields=tuple(fields),
            location=where,
            records=tuple(records),
            lines=lines,
        )

    @classmethod
    def count(cls, where: str | Expr | None = None) -> Aggregate:
        """Number of rows."""
        return Aggregate(cls.__name__, "count", None, condition_text(cls.__name__, where), here())

    @overload
    @classmethod
    def since(cls, *, max_age: str, where: str | Expr | None = None, unit: str = "1ms") -> Feature: ...
    @overload
    @classmethod
    def since(cls, *, max_age: None = None, where: str | Expr | None = None, unit: str = "1ms") -> Aggregate: ...
    @classmethod
    def since(cls, *, max_age: str | None = None, where: str | Expr | None = None, unit: str = "1ms") -> Feature | Aggregate:
        """Time from the newest row to the request, in `unit`; missing when longer than max_age.

        In a stream, to the event time of the result, and without max_age.
        """
        condition = condition_text(cls.__name__, where)
        return newest(Aggregate(cls.__name__, "since", None, condition, here(), argument=duration_ms(unit)), max_age)

    @classmethod
    def expr(cls, text: str) -> Expr:
        """A row expression as SQL text: `Departed.expr("case when dep_delay > 0 then dep_delay else 0 end").mean()`."""
        return Expr(cls.__name__, text)
