"""What svc-serve tells of each decision: by rung, status of what was read, score, time, and the trace that leads to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from svc_serve.telemetry import STATUSES, ServeMetrics
from unit.svc_serve.rig import Rig


@pytest.fixture
def told(tmp_path: Path) -> tuple[CollectorRegistry, ServeMetrics, Rig]:
    registry = CollectorRegistry()
    return registry, ServeMetrics(registry), Rig(tmp_path)


def test_every_value_read_is_counted_once_by_its_status(told: tuple[CollectorRegistry, ServeMetrics, Rig]) -> None:
    registry, metrics, rig = told
    made = rig.decide()
    read = replace(made.sets[0], statuses=(0, 1, 2, 3, 4, 0))
    metrics.decided(replace(made, sets=(read,)))
    found = {
        s.labels["status"]: s.value
        for f in registry.collect()
        if f.name == "serve_feature_values"
        for s in f.samples
        if s.name.endswith("_total")
    }
    assert found == {"fresh": 2, "stale": 1, "missing": 1, "ahead": 1, "expired": 1}
    assert tuple(found) == STATUSES


def test_time_runs_from_the_request_s_append_or_its_receipt_to_the_decision(
    told: tuple[CollectorRegistry, ServeMetrics, Rig],
) -> None:
    registry, metrics, rig = told
    made = replace(rig.decide(), received_ms=10_000, decided_ms=12_500)
    metrics.decided(replace(made, request_append_ms=None))
    metrics.decided(replace(made, request_append_ms=8_000))
    metrics.decided(replace(made, request_append_ms=13_000))  # the broker's clock is ahead: not less than nothing
    labels = {"pipeline": made.pipeline, "model": made.model, "door": made.door.value.lower()}
    assert registry.get_sample_value("serve_decision_seconds_sum", labels) == 2.5 + 4.5
    assert registry.get_sample_value("serve_decision_seconds_count", labels) == 3


def test_only_traced_decisions_leave_an_exemplar(told: tuple[CollectorRegistry, ServeMetrics, Rig]) -> None:
    registry, metrics, rig = told
    made = rig.decide()

    def exemplars() -> set[str]:
        return {s.exemplar.labels["trace_id"] for f in registry.collect() for s in f.samples if s.exemplar}

    metrics.decided(replace(made, trace_id=""))
    assert exemplars() == set()
    metrics.decided(replace(made, trace_id="a" * 32))
    assert exemplars() == {"a" * 32}


def test_yes_and_scores_are_told_by_arm(told: tuple[CollectorRegistry, ServeMetrics, Rig]) -> None:
    registry, metrics, rig = told
    made = rig.decide()
    for decision, score in ((True, 0.8), (False, 0.2), (True, None)):
        metrics.decided(replace(made, decision=decision, score=score))
    labels = {"pipeline": made.pipeline, "model": made.model, "arm": made.arm}
    assert registry.get_sample_value("serve_positive_decisions_total", labels) == 2
    assert registry.get_sample_value("serve_score_count", labels) == 2
    assert registry.get_sample_value("serve_score_sum", labels) == 1.0
