"""Aggregates over one event, windows over them, and the features they become. Only descriptions: compile.py lowers them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from typing import Literal

from headrace.declare.durations import duration_ms
from headrace.declare.errors import Where, here, refuse
from headrace.plan.ir import AggregateKind, Step
from headrace.plan.lower import ORDERED
from headrace.plan.validate_aggregates import RATIO


@dataclass(frozen=True, slots=True)
class Aggregate:
    """What is accumulated; becomes a feature with `.over(window, hop=...)`."""

    event: str  # record name of the event class
    kind: AggregateKind
    value: str | None
    where: str | None
    location: Where
    size: int = 0
    edges: tuple[str, ...] = ()  # decimal text, in the value's natural unit
    argument: int = 0
    estimated: bool = False  # a distinct count from registers

    @property
    def keeps(self) -> str:
        """The kind by which the plan's rules know what it accumulates."""
        return "estimate" if self.estimated else self.kind

    @property
    def window_hint(self) -> str:
        """What a feature set wants written."""
        return 'write max_age="1d"' if self.kind in ORDERED else 'write .over("1h", hop="5m")'

    def over(self, window: str, *, hop: str) -> Feature:
        """Over the tiles that start in [floor(t - window, hop), t]."""
        if self.kind in ORDERED:
            raise refuse(here(), f"{self.kind} over tiles", f"the newest values have no hop: {self.window_hint}")
        return Feature((Windowed(self, duration_ms(window), duration_ms(hop)),), here())


@dataclass(frozen=True, slots=True)
class Windowed:
    aggregate: Aggregate
    window_ms: int
    hop_ms: int


@dataclass(frozen=True, slots=True)
class AggregateGroup:
    """Several aggregates under one name; become features `<name>_<suffix>`."""

    members: dict[str, Aggregate]

    def over(self, window: str, *, hop: str) -> FeatureGroup:
        return FeatureGroup({suffix: aggregate.over(window, hop=hop) for suffix, aggregate in self.members.items()})


@dataclass(frozen=True, slots=True)
class Feature:
    """One windowed aggregate, or the ratio or difference of two, and what happens to its exact value."""

    terms: tuple[Windowed, ...]
    location: Where
    imputed: str | None = field(default=None)
    lowering: Literal["value", "ratio", "difference"] = "value"
    steps: tuple[Step, ...] = ()

    def __truediv__(self, other: Feature) -> Feature:
        """The share of one count or sum in another; missing where the divisor is zero."""
        kinds = self._combined(other, "ratio")
        if not RATIO.issuperset(kinds):
            raise refuse(here(), "a ratio of something else than two counts or sums", "mean and variance divide already")
        return Feature((self.terms[0], other.terms[0]), here(), lowering="ratio")

    def __sub__(self, other: Feature) -> Feature:
        """The difference of two windows, exact; missing where either is."""
        kinds = self._combined(other, "difference")
        if {"stddev", "top"} & kinds:
            raise refuse(here(), f"a difference of {' and '.join(sorted(kinds))}", "subtract counts, sums, means, extremes")
        return Feature((self.terms[0], other.terms[0]), here(), lowering="difference")

    def _combined(self, other: Feature, what: str) -> set[AggregateKind]:
        if any(len(side.terms) != 1 for side in (self, other)):
            raise refuse(here(), f"a {what} of more than two counts or sums", "combine further with on_demand(...)")
        if any(side.steps or side.imputed is not None for side in (self, other)):
            raise refuse(here(), f"a {what} after impute or a step", f"the {what} first, then impute, clip, outlier or bucket")
        return {self.terms[0].aggregate.kind, other.terms[0].aggregate.kind}

    def impute(self, value: int | str) -> Feature:
        """The value to use when missing: an integer, or decimal text such as "-1.5". Steps do not touch it."""
        return replace(self, imputed=decimal_text(value, "impute"))

    def clip(self, low: int | str | None = None, high: int | str | None = None) -> Feature:
        """The value, not below `low` and not above `high`."""
        return self._with(Step("clip", _optional(low, "clip"), _optional(high, "clip")))

    def outlier(self, low: int | str | None = None, high: int | str | None = None) -> Feature:
        """1 where the value lies outside [low, high], else 0: a feature beside the value's own."""
        return self._with(Step("outlier", _optional(low, "outlier"), _optional(high, "outlier")))

    def bucket(self, edges: Sequence[int | str]) -> Feature:
        """The number of the bucket: how many of the ascending edges are not above the value."""
        return self._with(Step("bucket", edges=tuple(decimal_text(edge, "bucket") for edge in edges)))

    def _with(self, step: Step) -> Feature:
        return replace(self, steps=(*self.steps, step))


@dataclass(frozen=True, slots=True)
class FeatureGroup:
    """Features that a feature set names `<attribute>_<suffix>`."""

    members: dict[str, Feature]

    def impute(self, value: int | str) -> FeatureGroup:
        return FeatureGroup({suffix: feature.impute(value) for suffix, feature in self.members.items()})


def newest(aggregate: Aggregate, max_age: str | None) -> Feature | Aggregate:
    """Of a feature set the newest value of its key: no tiles, so hop 0. Without an age, of a stream's window."""
    return aggregate if max_age is None else last_of(aggregate, max_age)


def last_of(aggregate: Aggregate, max_age: str) -> Feature:
    """The newest value of its key: no tiles, so hop 0."""
    return Feature((Windowed(aggregate, duration_ms(max_age), 0),), here())


def decimal_text(value: int | str, name: str) -> str:
    """A number a plan can hold: an integer, or finite decimal text."""
    try:
        finite = Decimal(value).is_finite()
    except InvalidOperation:
        finite = False
    if isinstance(value, float | bool) or not finite:
        raise refuse(here(), f"{name}({value!r})", 'an integer, or decimal text such as "-1.5"')
    return str(value)


def _optional(value: int | str | None, name: str) -> str | None:
    return None if value is None else decimal_text(value, name)
