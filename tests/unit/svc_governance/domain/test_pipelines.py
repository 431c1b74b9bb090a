"""Admission: what enters, under which epoch, and what the services' answers amount to."""

from __future__ import annotations

import dataclasses

import pytest

from headrace.contracts.records import AckStatus, PipelineAdmitted
from headrace.plan.hashes import from_json, sealed
from svc_governance.domain.pipelines import admit, on_plan_ack, retire
from svc_governance.domain.state import State
from svc_governance.views import pipeline_view
from unit.svc_governance.worlds import PIPELINE, Story, a_model, a_plan, an_ack, by
from unit.svc_stream.stream_worlds import PLAN as SHOP


def test_an_admitted_plan_travels_whole():
    decision = admit(State(), by("ada"), a_plan())
    record = decision.facts[0].announced()
    assert isinstance(record, PipelineAdmitted)
    assert from_json(record.plan.encode()) == a_plan()


def test_the_same_plan_again_changes_nothing():
    story = Story().admitted()
    assert admit(story.state, by("ada"), a_plan()).facts == ()


def test_epochs_grow_over_new_plans_and_retirement():
    story, epochs = Story().admitted(), []
    for step in ("plan", "retire", "same plan"):
        if step == "retire":
            story.tell(retire(story.state, by("ops"), PIPELINE))
        else:
            story.admitted(a_plan(window_hours=2))
        epochs.append(story.state.pipelines[PIPELINE].epoch)
    assert epochs == [2, 3, 4]
    assert not story.state.pipelines[PIPELINE].retired


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (dataclasses.replace(a_plan(), hash="0" * 64), "hash"),
        (dataclasses.replace(a_plan(), owner="mallory"), "hash"),
        (sealed(dataclasses.replace(a_plan(), semantics_version=99)), "semantics"),
        (sealed(dataclasses.replace(a_plan(), pipeline="governance")), "domain of the platform"),
        (sealed(dataclasses.replace(a_plan(), pipeline="../etc")), "pipeline name"),
        (a_plan(a_model(steps=(20, 5, 100))), "rollout"),
        (a_plan(a_model(steps=(5, 20))), "rollout"),
        (a_plan(dataclasses.replace(a_model(), gate=(("auc", "better"),))), "gate"),
    ],
)
def test_a_plan_that_breaks_a_rule_is_refused_with_its_reason(plan, says):
    decision = admit(State(), by("ada"), plan)
    assert decision.facts == ()
    assert decision.refusal is not None
    assert decision.refusal.status == 422
    assert says in decision.refusal.detail


def test_an_approver_alone_may_not_apply():
    decision = admit(State(), by("grace"), a_plan())
    assert decision.refusal is not None
    assert decision.refusal.status == 403
    assert [fact.action for fact in decision.facts] == ["command.refused"]


def test_retiring_what_is_not_there_is_not_found():
    refusal = retire(State(), by("ops"), PIPELINE).refusal
    assert refusal is not None
    assert refusal.status == 404


def test_answers_of_the_epoch_in_force_count_once_and_older_ones_do_not():
    story = Story().admitted(a_plan(window_hours=2)).admitted()
    assert story.tell(on_plan_ack(story.state, an_ack("svc-serve", 1))).facts == ()
    assert len(story.tell(on_plan_ack(story.state, an_ack("svc-serve", 2))).facts) == 1
    assert story.tell(on_plan_ack(story.state, an_ack("svc-serve", 2))).facts == ()
    parked = an_ack("svc-serve", 2, AckStatus.PARKED, "no such column")
    assert len(story.tell(on_plan_ack(story.state, parked)).facts) == 1
    view = pipeline_view(PIPELINE, story.state.pipelines[PIPELINE])
    assert view["parked"] == ["svc-serve"]
    assert view["waiting"] == ["svc-ingest", "svc-stream", "svc-features", "svc-train", "svc-monitor"]


def test_changed_results_of_a_stream_may_not_share_a_topic_with_the_older_ones():
    story = Story()
    story.tell(admit(story.state, by("ada"), SHOP))
    hops = next(s for s in SHOP.streams if s.name == "shop_hops")
    assert hops.window is not None
    wider = dataclasses.replace(hops, window=dataclasses.replace(hops.window, size_ms=2 * hops.window.size_ms))
    changed = dataclasses.replace(SHOP, streams=tuple(wider if s is hops else s for s in SHOP.streams))
    decision = admit(story.state, by("ada"), sealed(changed))
    assert decision.refusal is not None
    assert decision.refusal.status == 409
    assert 'topic="shop.shop-hops.v2"' in decision.refusal.detail
    moved = tuple(dataclasses.replace(e, topic="shop.shop-hops.v2") if e.name == "shop_hops" else e for e in SHOP.events)
    assert admit(story.state, by("ada"), sealed(dataclasses.replace(changed, events=moved))).refusal is None
