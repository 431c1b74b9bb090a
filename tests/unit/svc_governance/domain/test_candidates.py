"""Four eyes: who may approve what, when, and what the audit keeps of an attempt."""

from __future__ import annotations

import dataclasses

import pytest

from svc_governance.domain.candidates import approve, on_candidate, reject
from svc_governance.domain.state import CandidateState
from unit.svc_governance.worlds import GOOD_MANIFEST, HOLD, NOW, Story, a_candidate, a_finding, a_model, a_plan, by


@pytest.mark.parametrize(
    ("actor", "status", "says"),
    [
        ("ada", 403, "four eyes"),  # proposed it
        ("ops", 403, "role approver"),  # another person, but no approver
        ("nobody", 403, "role approver"),
    ],
)
def test_an_approval_by_the_wrong_person_is_refused_and_kept_in_the_audit(actor, status, says):
    story = Story().admitted().gated()
    decision = story.tell(approve(story.state, by(actor), "run-1", "", HOLD))
    assert decision.refusal is not None
    assert decision.refusal.status == status
    assert says in decision.refusal.detail
    assert [(fact.actor, fact.action) for fact in decision.facts] == [(actor, "approval.refused")]
    assert story.state.candidates["run-1"].state is CandidateState.GATED


def test_an_approver_who_proposed_may_not_approve_either():
    story = Story().admitted()
    story.tell(on_candidate(story.state, dataclasses.replace(a_candidate(), requested_by="both"), GOOD_MANIFEST))
    decision = approve(story.state, by("both"), "run-1", "", HOLD)
    assert decision.refusal is not None
    assert "four eyes" in decision.refusal.detail


def test_a_candidate_that_names_another_proposer_than_the_recorded_one_has_two():
    story = Story().admitted()
    trigger = story.trained()  # asked for by ada
    forged = dataclasses.replace(a_candidate(), trigger_id=trigger, requested_by="mallory")
    story.tell(on_candidate(story.state, forged, GOOD_MANIFEST))
    for actor in ("ada", "mallory"):
        decision = approve(story.state, by(actor), "run-1", "", HOLD)
        assert decision.refusal is not None
        assert "four eyes" in decision.refusal.detail


def test_an_approver_starts_the_rollout():
    story = Story().admitted().gated().approved()
    candidate = story.state.candidates["run-1"]
    assert (candidate.state, candidate.decided_by) == (CandidateState.CANARY, "grace")


def test_a_candidate_that_failed_the_gate_cannot_be_approved():
    story = Story().admitted()
    story.tell(on_candidate(story.state, a_candidate(metrics={"auc": 0.1}), GOOD_MANIFEST))
    decision = approve(story.state, by("grace"), "run-1", "", HOLD)
    assert decision.refusal is not None
    assert decision.refusal.status == 409


@pytest.mark.parametrize("again", ["run-1", "run-2"])
def test_nothing_is_approved_while_a_rollout_is_under_way(again):
    story = Story().admitted().gated("run-1").gated("run-2").approved("run-1")
    decision = approve(story.state, by("grace"), again, "", HOLD)
    assert decision.refusal is not None
    assert decision.refusal.status == 409


def test_a_candidate_of_a_declaration_changed_since_cannot_be_approved():
    story = Story().admitted().gated().admitted(a_plan(a_model(steps=(50, 100))))
    decision = approve(story.state, by("grace"), "run-1", "", HOLD)
    assert decision.refusal is not None
    assert "declared anew" in decision.refusal.detail


def test_an_unknown_candidate_is_not_found():
    decision = approve(Story().admitted().state, by("grace"), "run-9", "", HOLD)
    assert decision.refusal is not None
    assert decision.refusal.status == 404


def test_a_rejected_candidate_stays_rejected():
    story = Story().admitted().gated()
    story.tell(reject(story.state, by("grace"), "run-1", "too soon"))
    assert story.state.candidates["run-1"].state is CandidateState.REJECTED
    assert story.state.candidates["run-1"].reason == "too soon"
    assert approve(story.state, by("grace"), "run-1", "", HOLD).refusal is not None


def test_the_same_candidate_again_leads_to_nothing():
    story = Story().admitted().gated()
    assert story.tell(on_candidate(story.state, a_candidate(), GOOD_MANIFEST)).facts == ()


def test_a_model_retrained_for_a_finding_is_not_approved_by_its_owner():
    """The request goes out in the owner's name, so four eyes hold for it too."""
    from svc_governance.domain.training import on_finding

    story = Story().admitted().promoted()
    story.tell(on_finding(story.state, a_finding(), NOW))
    trained = dataclasses.replace(a_candidate("run-2"), trigger_id="finding-f-1", requested_by="someone")
    story.tell(on_candidate(story.state, trained, GOOD_MANIFEST))
    decision = approve(story.state, by("ops"), "run-2", "", HOLD)
    assert decision.refusal is not None
    assert "four eyes" in decision.refusal.detail
