"""What svc-governance tells Prometheus of the state in force."""

from __future__ import annotations

import math

from prometheus_client import CollectorRegistry

from headrace.contracts.records import AckStatus, RolloutState
from svc_governance.domain.pipelines import on_plan_ack
from svc_governance.domain.training import on_finding
from svc_governance.telemetry import Telemetry
from unit.svc_governance.worlds import MODEL, PIPELINE, Story, a_finding, an_ack


def test_weights_of_a_rollout_add_up_and_arms_that_are_gone_say_nothing() -> None:
    registry, story = CollectorRegistry(), Story().admitted().gated().approved()
    telemetry = Telemetry(registry)

    def weight(arm: str) -> float | None:
        labels = {"pipeline": PIPELINE, "model": MODEL, "arm": arm}
        return registry.get_sample_value("governance_rollout_weight_ratio", labels)

    telemetry.standing(story.state)
    arms = story.state.rollouts[PIPELINE, MODEL].record.arms
    assert sum(weight(arm.name) or 0 for arm in arms) == 1
    assert weight("challenger") == 0.05
    promoted = Story().admitted().promoted()
    assert promoted.state.rollouts[PIPELINE, MODEL].record.state is RolloutState.PROMOTED
    telemetry.standing(promoted.state)
    assert (weight("champion"), weight("challenger")) == (1, 0)


def test_candidates_are_told_by_what_became_of_them() -> None:
    registry, story = CollectorRegistry(), Story().admitted().gated()
    telemetry = Telemetry(registry)

    def there(state: str) -> float | None:
        labels = {"pipeline": PIPELINE, "model": MODEL, "state": state}
        return registry.get_sample_value("governance_candidates", labels)

    telemetry.standing(story.state)
    assert there("gated") == 1
    telemetry.standing(story.approved().state)
    assert (there("gated"), there("canary")) == (0, 1)


def test_parked_replicas_and_findings_are_counted() -> None:
    registry, story = CollectorRegistry(), Story().admitted()
    telemetry = Telemetry(registry)
    story.tell(on_plan_ack(story.state, an_ack("svc-ingest", 1, AckStatus.PARKED, "a fault")))
    story.tell(on_finding(story.state, a_finding(), 0))
    telemetry.standing(story.state)
    assert registry.get_sample_value("governance_parked_replicas", {"pipeline": PIPELINE}) == 1
    told = [s for f in registry.collect() if f.name == "governance_findings" for s in f.samples]
    assert sum(s.value for s in told) == len(story.state.findings) > 0


def test_the_chain_has_no_length_before_it_is_read() -> None:
    """Goal: a start is no shrinking: 0 would be fewer entries than there were."""
    registry = CollectorRegistry()
    telemetry = Telemetry(registry)
    assert math.isnan(registry.get_sample_value("governance_chain_entries") or 0.0)
    telemetry.chain(7)
    assert registry.get_sample_value("governance_chain_entries") == 7
