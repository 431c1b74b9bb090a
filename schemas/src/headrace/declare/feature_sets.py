"""Feature sets: features of one entity that share state, cut and progress."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from headrace.declare.aggregates import Aggregate, AggregateGroup, Feature, FeatureGroup
from headrace.declare.durations import duration_ms
from headrace.declare.errors import Where, attribute_line, here, refuse
from headrace.plan.expressions import nearest
from headrace.plan.ir import Placement

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
) -> Callable[[type], FeatureSetDeclaration]:
    """Make a feature set of a class whose attributes are features.

    Args:
        entity: the field, or fields, of every event read and of the request.
        ttl: how long tiles live; at least window + hop + poison bound + request_lag.
        stale_after: a value is `stale` when the newest event of its topics is that much older than the request.
        request_lag: how far events may run ahead of the requests that still read them.
        owner: the pipeline's when empty.
    """
    where = here()

    def declare(cls: type) -> FeatureSetDeclaration:
        features: dict[str, Feature] = {}
        for name, value in vars(cls).items():
            if isinstance(value, Aggregate):
                hint = 'write .over("1h", hop="5m")'
                raise refuse(value.location, f"{cls.__name__}.{name} has no window", hint)
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
        )

    return declare


def snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
