"""Aggregates over one event, windows over them, and the features they become. Only descriptions: compile.py lowers them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation

from headrace.declare.durations import duration_ms
from headrace.declare.errors import Where, here, refuse
from headrace.plan.ir import AggregateKind


@dataclass(frozen=True, slots=True)
class Aggregate:
    """What is accumulated; becomes a feature with `.over(window, hop=...)`."""

    event: str  # record name of the event class
    kind: AggregateKind
    value: str | None
    where: str | None
    location: Where

    def over(self, window: str, *, hop: str) -> Feature:
        """Over the tiles that start in [floor(t - window, hop), t]."""
        return Feature((Windowed(self, duration_ms(window), duration_ms(hop)),), here())


@dataclass(frozen=True, slots=True)
class Windowed:
    aggregate: Aggregate
    window_ms: int
    hop_ms: int


@dataclass(frozen=True, slots=True)
class Feature:
    """One windowed aggregate, or the ratio of two."""

    terms: tuple[Windowed, ...]
    location: Where
    imputed: str | None = field(default=None)

    def __truediv__(self, other: Feature) -> Feature:
        """The share of one count or sum in another; missing where the divisor is zero."""
        sides = (self, other)
        if any(len(side.terms) != 1 or side.terms[0].aggregate.kind not in ("count", "sum") for side in sides):
            raise refuse(here(), "a ratio of something else than two counts or sums", "mean and variance divide already")
        return Feature((self.terms[0], other.terms[0]), here())

    def impute(self, value: int | str) -> Feature:
        """The value to use when missing: an integer, or decimal text such as "-1.5"."""
        try:
            finite = Decimal(value).is_finite()
        except InvalidOperation:
            finite = False
        if isinstance(value, float | bool) or not finite:
            raise refuse(here(), f"impute({value!r})", 'an integer, or decimal text such as "-1.5"')
        return replace(self, imputed=str(value))


def last_of(aggregate: Aggregate, max_age: str) -> Feature:
    """The newest value of its key: no tiles, so hop 0."""
    return Feature((Windowed(aggregate, duration_ms(max_age), 0),), here())
