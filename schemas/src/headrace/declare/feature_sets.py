"""Feature sets: features of one entity that share state, cut and progress."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from headrace.declare.aggregates import Aggregate, AggregateGroup, Feature, FeatureGroup
from headrace.declare.durations import bytes_of, duration_ms
from headrace.declare.errors import Where, attribute_line, here, refuse
from headrace.declare.events import Event
from headrace.plan.expressions import nearest
from headrace.plan.ir import VIEW_BYTES_MAX, Placement

STALE_AFTER_DEFAULT = "1h"


@dataclass(frozen=True, slots=True)
class FeatureSetDeclaration:
    """What `@feature_set` makes of a class; as a model input it stands for all its features, `[...]` picks some."""

    name: str
    entity: tuple[str, ...]
    features: dict[str, Feature]
    ttl_ms: int
    stale_after_ms: int
    request_lag_ms: int
    placement: Placement
    partitions: int
    owner: str
    location: Where
    keys: int | None = None
    events_a_day: tuple[tuple[str, str], ...] = ()  # (record name, decimal text)
    view_bytes_max: int = VIEW_BYTES_MAX
    freshness_ms: int | None = None

    def __getitem__(self, names: str | tuple[str, ...]) -> FeatureSubset:
        chosen = (names,) if isinstance(names, str) else names
        for name in chosen:
            if name not in self.features:
                raise refuse(here(), f"unknown feature '{name}' of {self.name}", nearest(name, list(self.features)))
        return FeatureSubset(self, chosen)


@dataclass(frozen=True, slots=True)
class FeatureSubset:
    feature_set: FeatureSetDeclaration
    names: tuple[str, ...]


def feature_set(
    *,
    entity: str | tuple[str, ...],
    ttl: str,
    stale_after: str = STALE_AFTER_DEFAULT,
    request_lag: str = "0s",
    placement: Placement = "replicated",
    partitions: int = 2,
    owner: str = "",
    freshness: str | None = None,
    keys: int | None = None,
    events_a_day: Mapping[type[Event], float] | None = None,
    view_limit: str | None = None,
) -> Callable[[type], FeatureSetDeclaration]:
    """Make a feature set of a class whose attributes are features.

    Args:
        entity: the field, or fields, of every event read and of the request.
        ttl: how long tiles live; at least window + hop + poison bound + request_lag.
        stale_after: a value is `stale` when the newest event of its topics is that much older than the request.
        request_lag: how far events may run ahead of the requests that still read them.
        owner: the pipeline's when empty.
        freshness: how soon an event is promised to be readable, of 100 events 99, such as "5s p99": what alerts go by.
        keys: how many entities there are. With it `plan` and `apply` refuse a replicated set above `view_limit`.
        events_a_day: of one entity, by event. An event without a number is taken to fill every tile.
        view_limit: what every svc-serve replica may have to hold of it, such as "64GiB"; 16GiB unless said.

    None of the last four changes a value, so none disturbs state or models.
    """
    where = here()

    def declare(cls: type) -> FeatureSetDeclaration:
        features: dict[str, Feature] = {}
        for name, value in vars(cls).items():
            if isinstance(value, Aggregate):
                raise refuse(value.location, f"{cls.__name__}.{name} has no window", value.window_hint)
            if isinstance(value, AggregateGroup):
                line = attribute_line(where, name)
                raise refuse(line, f"{cls.__name__}.{name} has no window", 'write .over("1h", hop="5m")')
            if isinstance(value, Feature):
                features[name] = value
            elif isinstance(value, FeatureGroup):
                features |= {f"{name}_{suffix}": feature for suffix, feature in value.members.items()}
            elif not name.startswith("__"):
                line = attribute_line(where, name)
                raise refuse(line, f"{cls.__name__}.{name} is no feature", 'such as Departed.count().over("1h", hop="5m")')
        return FeatureSetDeclaration(
            name=snake_case(cls.__name__),
            entity=(entity,) if isinstance(entity, str) else tuple(entity),
            features=features,
            ttl_ms=duration_ms(ttl),
            stale_after_ms=duration_ms(stale_after),
            request_lag_ms=duration_ms(request_lag),
            placement=placement,
            partitions=partitions,
            owner=owner,
            location=where,
            keys=keys,
            events_a_day=tuple((event.__name__, f"{Decimal(str(rate)):f}") for event, rate in (events_a_day or {}).items()),
            view_bytes_max=VIEW_BYTES_MAX if view_limit is None else bytes_of(view_limit),
            freshness_ms=None if freshness is None else duration_ms(freshness.removesuffix("p99")),
        )

    return declare


def snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
