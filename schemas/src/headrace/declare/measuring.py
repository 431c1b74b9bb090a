"""Aggregates become measures: what is over the same rows and value shares one accumulator, in canonical form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeAlias, get_args

from headrace.declare.aggregates import Aggregate
from headrace.declare.errors import Complaint, DeclarationError, Where
from headrace.plan import ir
from headrace.plan.expressions import Expression, ExpressionError, nearest, parse
from headrace.plan.validate import slots_for

MeasureKey: TypeAlias = tuple[str, str, str, int, int, tuple[int, ...]]
SLOT_ORDER: tuple[ir.SlotKind, ...] = get_args(ir.SlotKind)
# Families of slots that keep to themselves, after those that share a measure.
FAMILIES: tuple[ir.SlotKind, ...] = ("last", "recent", "distinct", "registers", "histogram")


def accumulated(parsed: Expression, kind: ir.AggregateKind, fields: Mapping[str, ir.Field]) -> str:
    """The canonical text of what an accumulator holds for a value: integers."""
    value = parsed.canonical
    if parsed.type.kind == "boolean":  # a condition counts as 1 or 0, unknown as null
        return parse(f"case when {value} then 1 when not ({value}) then 0 end", fields).canonical
    if parsed.type.kind == "string" and kind in ("count", "since"):  # what the text is does not matter
        return parse(f"case when {value} is not null then 1 end", fields).canonical
    return value


@dataclass
class Measuring:
    """Collects complaints; knows the events by record name."""

    complaints: list[Complaint] = field(default_factory=list[Complaint])
    events: dict[str, ir.EventType] = field(default_factory=dict[str, ir.EventType])  # by record name

    def complain(self, where: Where, detail: str, hint: str = "") -> None:
        """Each mistake is told once."""
        complaint = Complaint(where, detail, hint)
        if complaint not in self.complaints:
            self.complaints.append(complaint)

    def stop(self) -> None:
        if self.complaints:
            raise DeclarationError(self.complaints)

    def event_name(self, record: str, where: Where) -> str:
        if record in self.events:
            return self.events[record].name
        self.complain(
            where, f"event {record} is not in the pipeline", f"add it to Pipeline(events=[...]); {nearest(record, self.events)}"
        )
        return record

    def measures(self, aggregates: Iterable[Aggregate]) -> dict[MeasureKey, ir.Measure]:
        """Aggregates over the same rows and value share one measure that keeps the slots of all.

        A `last` has no hop, so it is a measure of its own: tiles do not carry its slot, nor its block theirs. So are those
        that keep another form of the value: hashes and buckets.
        """
        slots: dict[MeasureKey, set[ir.SlotKind]] = {}
        for aggregate in aggregates:
            key = self.measure_key(aggregate)
            slots.setdefault(key, set()).update(slots_for(aggregate.keeps, bool(key[1])))
        found: dict[MeasureKey, ir.Measure] = {}
        for index, key in enumerate(sorted(slots)):
            event, value, where, _, size, edges = key
            scale = self.scale(event, value)
            kept: tuple[ir.SlotKind, ...] = tuple(slot for slot in SLOT_ORDER if slot in slots[key])
            found[key] = ir.Measure(f"m{index}", event, value or None, where or None, kept, scale, size, edges)
        return found

    def scale(self, event: str, value: str) -> int:
        try:
            return parse(value, self.fields_of(event)).type.scale if value else 0
        except ExpressionError:
            return 0  # complained about already

    def fields_of(self, event: str) -> dict[str, ir.Field]:
        """Fields of an event by its plan name."""
        return {item.name: item for known in self.events.values() if known.name == event for item in known.fields}

    def measure_key(self, aggregate: Aggregate) -> MeasureKey:
        """(event, canonical value, canonical where, family, size, edges), "" for none. Complains once per mistake."""
        event = self.event_name(aggregate.event, aggregate.location)
        fields = self.fields_of(event)
        value, where = aggregate.value or "", aggregate.where or ""
        own = slots_for(aggregate.keeps, bool(value))[0]
        family = 1 + FAMILIES.index(own) if own in FAMILIES else 0
        if not fields:
            return event, value, where, family, aggregate.size, ()
        parsed = self.expression(value, fields, aggregate.location)
        if parsed is not None:
            value = accumulated(parsed, aggregate.kind, fields)
        condition = self.expression(where, fields, aggregate.location)
        edges = self.edges(aggregate, 0 if parsed is None else parsed.type.scale)
        return event, value, condition.canonical if condition is not None else where, family, aggregate.size, edges

    def edges(self, aggregate: Aggregate, scale: int) -> tuple[int, ...]:
        """In the unit of the value's scale."""
        scaled = [Decimal(edge).scaleb(scale) for edge in aggregate.edges]
        if any(edge != edge.to_integral_value() for edge in scaled):
            hint = f"at most {scale} digits after the point, as the value has"
            self.complain(aggregate.location, f"an edge of {', '.join(aggregate.edges)} lies between two values", hint)
        return tuple(int(edge) for edge in scaled)

    def expression(self, text: str, fields: Mapping[str, ir.Field], where: Where) -> Expression | None:
        if not text:
            return None
        try:
            return parse(text, fields)
        except ExpressionError as error:
            self.complain(where, error.located, error.hint)
            return None
