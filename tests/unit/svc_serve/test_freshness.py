"""The promised freshness of what is served, as the alert reads it."""

from __future__ import annotations

from dataclasses import replace

from prometheus_client import CollectorRegistry

from headrace.plan.hashes import sealed
from headrace.plan.topics import worker_group
from svc_serve.telemetry import ServeMetrics
from unit.svc_features.worlds import PLAN


def test_the_promise_of_a_replicated_set_is_told_under_the_group_that_keeps_it() -> None:
    """Goal: lag of a group is held against what its set declares. Method: promise, change, retire; read the registry."""
    registry = CollectorRegistry()
    metrics = ServeMetrics(registry)
    first, second = PLAN.feature_sets
    plan = sealed(replace(PLAN, feature_sets=(replace(first, freshness_ms=5_000), second)))

    def told() -> dict[tuple[str, str], float]:
        (family,) = [f for f in registry.collect() if f.name == "serve_freshness_bound_seconds"]
        return {(s.labels["feature_set"], s.labels["group"]): s.value for s in family.samples}

    metrics.promised(plan)
    metrics.promised(plan)
    assert told() == {(first.name, worker_group(plan, first)): 5.0}
    assert plan.feature_sets[0].hash == first.hash
    owned = replace(first, freshness_ms=5_000, placement="owned")
    metrics.promised(sealed(replace(PLAN, feature_sets=(owned, replace(second, freshness_ms=250)))))
    assert told() == {(second.name, worker_group(PLAN, second)): 0.25}
    metrics.not_promised(PLAN.pipeline)
    metrics.not_promised("another")
    assert told() == {}
