"""Random feature sets over the events of law_worlds: every aggregate, combination and step, in random windows."""

from __future__ import annotations

import random
from collections.abc import Callable

from headrace.plan.ir import AggregateKind, Feature, FeatureSet, Measure, SlotKind, Step, Term
from support.law_worlds import HOUR, MIN

CARRIER_INDEX = "CASE WHEN carrier = 'UA' THEN 0 WHEN carrier = 'AA' THEN 1 WHEN carrier = 'Zürich' THEN 2 ELSE NULL END"
HOPS = (5 * MIN, 15 * MIN, HOUR, HOUR)
PLAIN: dict[AggregateKind, tuple[SlotKind, ...]] = {
    "sum": ("nonnull", "sum"),
    "mean": ("nonnull", "sum"),
    "variance": ("nonnull", "sum", "square_lo", "square_hi"),
    "stddev": ("nonnull", "sum", "square_lo", "square_hi"),
    "min": ("nonnull", "min"),
    "max": ("nonnull", "max"),
    "first": ("first",),
}
VALUES = (
    ("departures", "delay", 0), ("departures", "fare", 2), ("weather", "gust", 0), ("departures", "EACH(bags)", 1),
    ("departures", "ARRAY_SUM(bags)", 1), ("departures", "plane.seats", 0), ("departures", "ARRAY_LENGTH(crew)", 0),
)  # fmt: skip
EACH_WHERES = {
    "EACH(bags)": ("EACH(bags) > 0", "(EACH(bags) < 50) AND (delay > 15)"),
    "EACH(crew)": ("EACH(crew) <> 'Ann'", "ARRAY_CONTAINS(crew, 'Bo')"),
}
WHERES = {
    "departures": (None, "delay > 15", "gate = 1 OR delay < 0", "plane.model = 'A320'", "ARRAY_CONTAINS(crew, 'Ann')"),
    "weather": (None, "gust > 0"),
}
EDGES = (-1_000, -5, 0, 1, 7, 15, 30, 60, 5_000, 2**40)


def random_set(seed: int, features: int = 14, only: str = "", entity: tuple[str, ...] = ()) -> FeatureSet:
    """A feature set drawn from a seed; many draws together hold every kind.

    Args:
        only: draw from one method of `_Draw` alone, such as "plain" or "distinct".
        entity: of departures, which then are all that is drawn from.
    """
    return _Draw(random.Random(seed), features, only, entity).feature_set()


class _Draw:
    def __init__(self, rng: random.Random, features: int, only: str, entity: tuple[str, ...]) -> None:
        self.rng, self.count, self.only, self.given = rng, features, only, entity
        self.events = ("departures",) if entity else ("departures", "weather")
        self.values = [value for value in VALUES if value[0] in self.events]
        self.measures: list[Measure] = []

    def feature_set(self) -> FeatureSet:
        makers: list[Callable[[], tuple[Term, ...]]] = [
            self.counted, self.plain, self.plain, self.since, self.distinct, self.histogram, self.words, self.recent, self.last,
        ]  # fmt: skip
        if self.only:
            makers = [getattr(self, self.only)]
        features = []
        for number in range(self.count):
            terms, lowering = self.rng.choice(makers)(), "value"
            if self.rng.random() < 0.3 and terms[0].kind != "stddev":
                other = self.rng.choice(makers)()
                if other[0].kind != "stddev":
                    terms, lowering = (*terms, *other), self.rng.choice(("ratio", "difference"))
            impute = self.rng.choice((None, None, "0", "-1.5"))
            steps = tuple(self.step() for _ in range(self.rng.choice((0, 0, 0, 1, 2))))
            features.append(Feature(f"f{number}", terms, lowering, impute, steps))  # type: ignore[arg-type]
        return FeatureSet(
            name="drawn",
            entity=self.given or self.rng.choice((("origin",), ("origin",), ("origin", "gate"))),
            events=tuple(sorted({m.event for m in self.measures})),
            measures=tuple(self.measures),
            features=tuple(features),
            ttl_ms=30 * HOUR,
            stale_after_ms=self.rng.choice((20 * MIN, 3 * HOUR)),
        )

    def measure(self, event: str, value: str | None, slots: tuple[SlotKind, ...], scale: int = 0, size: int = 0,
                edges: tuple[int, ...] = ()) -> str:  # fmt: skip
        where = self.rng.choice((*WHERES[event], *EACH_WHERES.get(value or "EACH(crew)", ()) * (event == "departures")))
        self.measures.append(Measure(f"m{len(self.measures)}", event, value, where, slots, scale, size, edges))
        return self.measures[-1].id

    def windowed(self, measure: str, kind: AggregateKind, argument: int = 0) -> tuple[Term, ...]:
        hop = self.rng.choice(HOPS)
        return (Term(measure, kind, hop * self.rng.choice((1, 12, 24, 24)), hop, argument),)

    def aged(self, measure: str, kind: AggregateKind, argument: int = 0) -> tuple[Term, ...]:
        return (Term(measure, kind, self.rng.choice((30 * MIN, 12 * HOUR, 24 * HOUR)), 0, argument),)

    def counted(self) -> tuple[Term, ...]:
        event = self.rng.choice(self.events)
        return self.windowed(self.measure(event, None, ("rows",)), "count")

    def plain(self) -> tuple[Term, ...]:
        (event, value, scale), kind = self.rng.choice(self.values), self.rng.choice(list(PLAIN))
        if value == "fare" and kind in ("variance", "stddev"):
            value, scale = "delay", 0  # squares need the smaller range
        return self.windowed(self.measure(event, value, PLAIN[kind], scale), kind)

    def last(self) -> tuple[Term, ...]:
        event, value, scale = self.rng.choice(self.values)
        return self.aged(self.measure(event, value, ("last",), scale), "last")

    def since(self) -> tuple[Term, ...]:
        event, value, scale = self.rng.choice((*self.values, ("departures", None, 0)))
        return self.aged(self.measure(event, value, ("last",), scale), "since", self.rng.choice((0, 1, 60_000)))

    def distinct(self) -> tuple[Term, ...]:
        value = self.rng.choice(("flight_id", "carrier", "delay", "departed_at", "EACH(crew)", "EACH(bags)", "plane.model"))
        slot: SlotKind = self.rng.choice(("distinct", "registers"))
        scale = int("bags" in value)
        return self.windowed(self.measure("departures", value, (slot,), scale, self.rng.choice((4, 16))), "distinct")

    def histogram(self) -> tuple[Term, ...]:
        event, value, scale = self.rng.choice(self.values)
        edges = tuple(sorted(self.rng.sample(EDGES, self.rng.randint(1, len(EDGES)))))
        measure = self.measure(event, value, ("histogram",), scale, 0, edges)
        kind: AggregateKind = self.rng.choice(("quantile", "quantile", "bucket", "top"))
        argument = self.rng.choice((1, 2_500, 5_000, 9_900, 10_000)) if kind == "quantile" else self.rng.randint(0, len(edges))
        return self.windowed(measure, kind, argument)

    def words(self) -> tuple[Term, ...]:
        measure = self.measure("departures", CARRIER_INDEX, ("histogram",), 0, 0, (1, 2))
        kind: AggregateKind = self.rng.choice(("bucket", "top"))
        return self.windowed(measure, kind, self.rng.randint(0, 2))

    def recent(self) -> tuple[Term, ...]:
        event, value, scale = self.rng.choice(self.values)
        size = self.rng.randint(1, 5)
        kind: AggregateKind = self.rng.choice(("recent", "recent", "recent_sum", "recent_mean"))
        argument = self.rng.randrange(size) if kind == "recent" else 0
        measure = self.measure(event, value, ("recent",), scale, size)
        return self.aged(measure, kind, argument) if self.rng.random() < 0.7 else self.windowed(measure, kind, argument)

    def step(self) -> Step:
        low, high = self.rng.choice((("0", "10.5"), ("0.25", None), (None, "1000"), ("2", "2")))
        kind = self.rng.choice(("clip", "outlier", "bucket"))
        if kind == "bucket":
            return Step("bucket", edges=("0", "0.5", "1", "30"))
        return Step(kind, low, high)
