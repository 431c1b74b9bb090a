"""The rollout controller: every arrow of its drawing, and what holds along any path."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.contracts.records import RolloutAckStatus, RolloutApplied, RolloutChanged, RolloutState, Severity, Verdict
from headrace.plan.hashes import sealed
from headrace.plan.ir import Field
from svc_governance.domain.candidates import approve
from svc_governance.domain.facts import Decision, Fact, body_of
from svc_governance.domain.pipelines import admit, retire
from svc_governance.domain.rollout import FULL_WEIGHT, kill, on_rollout_ack, on_verdict
from svc_governance.domain.state import CandidateState
from svc_governance.domain.training import on_finding
from unit.svc_governance.worlds import HOLD, MODEL, NOW, PIPELINE, Story, a_model, a_plan, a_verdict, an_answer, by

P, F, W = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE
A, PENDING, REFUSED = RolloutAckStatus.APPLIED, RolloutAckStatus.PENDING, RolloutAckStatus.REFUSED
KEY = (PIPELINE, MODEL)


@pytest.mark.parametrize(
    ("verdicts", "state", "step", "weights", "candidate"),
    [
        ([], RolloutState.CANARY, 5, {"rules": 9500, "challenger": 500}, CandidateState.CANARY),
        ([W], RolloutState.CANARY, 5, {"rules": 9500, "challenger": 500}, CandidateState.CANARY),
        ([P], RolloutState.CANARY, 20, {"rules": 8000, "challenger": 2000}, CandidateState.CANARY),
        ([P, W], RolloutState.CANARY, 20, {"rules": 8000, "challenger": 2000}, CandidateState.CANARY),
        ([P, P], RolloutState.PROMOTED, 100, {"champion": 10000}, CandidateState.PROMOTED),
        ([F], RolloutState.ROLLED_BACK, 0, {"rules": 10000}, CandidateState.ROLLED_BACK),
        ([P, F], RolloutState.ROLLED_BACK, 0, {"rules": 10000}, CandidateState.ROLLED_BACK),
        ([P, P, F], RolloutState.PROMOTED, 100, {"champion": 10000}, CandidateState.PROMOTED),
    ],
)
def test_verdicts_move_the_first_rollout_as_drawn(verdicts, state, step, weights, candidate):
    story = Story().admitted().gated().approved().judged(*verdicts)
    record = story.state.rollouts[KEY].record
    assert (record.state, record.step) == (state, step)
    assert {arm.name: arm.weight for arm in record.arms} == weights
    assert story.state.candidates["run-1"].state is candidate


def test_a_second_model_runs_against_the_champion_and_supersedes_it():
    story = Story().admitted().promoted("run-1").gated("run-2").approved("run-2")
    record = story.state.rollouts[KEY].record
    assert [(arm.name, arm.candidate_id, arm.weight) for arm in record.arms] == [
        ("champion", "run-1", 9500),
        ("challenger", "run-2", 500),
    ]
    story.judged(P, P)
    assert story.state.candidates["run-1"].state is CandidateState.SUPERSEDED
    assert story.state.candidates["run-2"].state is CandidateState.PROMOTED


def test_a_failed_second_model_gives_all_traffic_back_to_the_champion():
    story = Story().admitted().promoted("run-1").gated("run-2").approved("run-2").judged(F)
    arms = story.state.rollouts[KEY].record.arms
    assert [(arm.name, arm.candidate_id, arm.weight) for arm in arms] == [("champion", "run-1", 10000)]
    assert story.state.candidates["run-1"].state is CandidateState.PROMOTED
    assert story.state.candidates["run-2"].state is CandidateState.ROLLED_BACK


def test_the_only_step_100_promotes_on_approval():
    story = Story().admitted(a_plan(a_model(steps=(100,)))).gated().approved()
    assert story.state.rollouts[KEY].record.state is RolloutState.PROMOTED


def test_a_verdict_on_another_epoch_leads_to_nothing():
    story = Story().admitted().gated().approved()
    epoch = story.state.rollouts[KEY].record.epoch
    assert on_verdict(story.state, a_verdict(epoch - 1, P), NOW).facts == ()
    assert on_verdict(story.state, a_verdict(epoch + 1, P), NOW).facts == ()


def test_a_waiting_verdict_is_noted_once_and_may_be_followed_by_a_final_one():
    story = Story().admitted().gated().approved()
    epoch = story.state.rollouts[KEY].record.epoch
    assert len(story.tell(on_verdict(story.state, a_verdict(epoch, W), NOW)).facts) == 1
    assert story.tell(on_verdict(story.state, a_verdict(epoch, W), NOW)).facts == ()
    assert [f.action for f in story.tell(on_verdict(story.state, a_verdict(epoch, P), NOW)).facts] == [
        "verdict.received",
        "rollout.changed",
    ]


@pytest.mark.parametrize("verdicts", [[], [P], [P, P], [F]])
def test_the_kill_switch_gives_rules_from_any_state(verdicts):
    story = Story().admitted().gated().approved().judged(*verdicts)
    before = story.state.rollouts[KEY].record.epoch
    story.tell(kill(story.state, by("grace"), PIPELINE, MODEL, HOLD))
    record = story.state.rollouts[KEY].record
    assert (record.state, record.epoch) == (RolloutState.KILLED, before + 1)
    assert [(arm.name, arm.weight) for arm in record.arms] == [("rules", FULL_WEIGHT)]


def test_the_kill_switch_works_before_any_rollout_and_twice_is_once():
    story = Story().admitted()
    assert len(story.tell(kill(story.state, by("ops"), PIPELINE, MODEL, HOLD)).facts) == 1
    assert story.tell(kill(story.state, by("ops"), PIPELINE, MODEL, HOLD)).facts == ()


def test_killing_an_unknown_model_is_not_found():
    refusal = kill(Story().admitted().state, by("ops"), PIPELINE, "nothing", HOLD).refusal
    assert refusal is not None
    assert refusal.status == 404


def test_a_new_plan_with_the_same_row_keeps_the_rollout_under_its_hash():
    story = Story().admitted().promoted()
    before = story.state.rollouts[KEY].record
    story.admitted(a_plan(a_model(retrain=False)))
    after = story.state.rollouts[KEY].record
    assert after.plan_hash == story.state.pipelines[PIPELINE].plan.hash != before.plan_hash
    assert (after.epoch, after.arms, after.state, after.salt) == (before.epoch + 1, before.arms, before.state, before.salt)


def other_requests(plan):
    """The same plan, whose requests carry another field."""
    orders = dataclasses.replace(plan.events[0], fields=(*plan.events[0].fields, Field("gift", "boolean")))
    return sealed(dataclasses.replace(plan, events=(orders, *plan.events[1:])))


def test_a_new_plan_with_other_requests_falls_back_to_rules():
    story = Story().admitted().promoted()
    story.admitted(other_requests(a_plan(window_hours=2)))
    record = story.state.rollouts[KEY].record
    assert [arm.name for arm in record.arms] == ["rules"]
    assert record.state is RolloutState.ROLLED_BACK
    assert story.state.pipelines[PIPELINE].plan.retained == ()


def answered(story: Story, *answers: RolloutApplied) -> list[list[str]]:
    """Tell replicas' answers; what each led to."""
    return [[f.action for f in story.tell(on_rollout_ack(story.state, answer, NOW)).facts] for answer in answers]


def in_force(story: Story) -> RolloutChanged:
    return story.state.rollouts[KEY].record


@pytest.mark.parametrize("verdicts", [[], [P]])
def test_a_replica_that_refuses_a_canary_ends_it_with_a_finding(verdicts):
    story = Story().admitted().gated().approved().judged(*verdicts)
    before = in_force(story)
    told = answered(story, an_answer(before.epoch, REFUSED, "0", "model: known answer differs by 0.3"))
    assert told == [["rollout.applied", "finding.raised", "rollout.changed"]]
    after = in_force(story)
    assert (after.state, after.epoch, after.step) == (RolloutState.ROLLED_BACK, before.epoch + 1, 0)
    assert [(arm.name, arm.weight) for arm in after.arms] == [("rules", FULL_WEIGHT)]
    assert "replica 0 refused" in after.reason
    assert "known answer differs" in after.reason
    assert story.state.candidates["run-1"].state is CandidateState.ROLLED_BACK
    (finding,) = story.state.findings.values()
    assert (finding.raised.kind, finding.raised.severity) == ("rollout_refused", Severity.WARNING)
    assert json.loads(finding.raised.evidence)["detail"] == "model: known answer differs by 0.3"


@pytest.mark.parametrize("first", [A, PENDING, REFUSED])
@pytest.mark.parametrize("order", [1, -1])
def test_one_replica_of_two_refusing_is_enough_in_any_order(first, order):
    """Whatever the other says, before or after; both refusing still is one step back."""
    story = Story().admitted().promoted("run-1").gated("run-2").approved("run-2")
    epoch = in_force(story).epoch
    answered(story, *[an_answer(epoch, first, "0", "x"), an_answer(epoch, REFUSED, "1", "no such operator")][::order])
    record = in_force(story)
    assert (record.state, record.epoch) == (RolloutState.ROLLED_BACK, epoch + 1)
    assert [(arm.name, arm.candidate_id, arm.weight) for arm in record.arms] == [("champion", "run-1", FULL_WEIGHT)]
    assert story.state.candidates["run-2"].state is CandidateState.ROLLED_BACK
    assert story.state.candidates["run-1"].state is CandidateState.PROMOTED
    assert answered(story, an_answer(epoch + 1, A, "0"), an_answer(epoch + 1, A, "1")) == [["rollout.applied"]] * 2
    assert in_force(story) == record


def test_after_a_refusal_the_next_candidate_can_be_approved():
    story = Story().admitted().gated().approved()
    answered(story, an_answer(in_force(story).epoch, REFUSED))
    story.gated("run-2").approved("run-2")
    assert (in_force(story).state, in_force(story).epoch) == (RolloutState.CANARY, 3)


@pytest.mark.parametrize("status", [A, PENDING])
def test_other_answers_are_noted_once_and_move_nothing(status):
    story = Story().admitted().gated().approved()
    before = in_force(story)
    answer = an_answer(before.epoch, status, detail="waits")
    assert answered(story, answer, answer) == [["rollout.applied"], []]
    assert (in_force(story), story.state.findings) == (before, {})


@pytest.mark.parametrize("off", [-1, 1])
def test_a_refusal_of_another_epoch_leads_to_nothing(off):
    story = Story().admitted().gated().approved().judged(P)
    assert answered(story, an_answer(in_force(story).epoch + off, REFUSED)) == [[]]


@pytest.mark.parametrize(("verdicts", "state"), [([P, P], RolloutState.PROMOTED), ([F], RolloutState.ROLLED_BACK)])
def test_a_refusal_out_of_a_canary_is_a_finding_for_people_and_moves_nothing(verdicts, state):
    """There is no control to go back to: the kill switch is theirs."""
    story = Story().admitted().gated().approved().judged(*verdicts)
    before = in_force(story)
    assert before.state is state
    refusal = an_answer(before.epoch, REFUSED, detail="object gone")
    assert answered(story, refusal, refusal) == [["rollout.applied", "finding.raised"], []]
    assert in_force(story) == before
    (finding,) = story.state.findings.values()
    assert finding.raised.severity is Severity.CRITICAL


def test_a_refusal_noted_by_an_earlier_version_that_did_nothing_ends_the_canary_when_it_comes_again():
    story = Story().admitted().gated().approved()
    refusal = an_answer(in_force(story).epoch, REFUSED)
    story.tell(Decision((Fact("svc-serve", "rollout.applied", f"{PIPELINE}/{MODEL}", body_of(refusal)),)))
    assert answered(story, refusal) == [["finding.raised", "rollout.changed"]]


def test_the_finding_comes_back_from_its_topic_without_a_trace():
    story = Story().admitted().gated().approved()
    answered(story, an_answer(in_force(story).epoch, REFUSED))
    (finding,) = story.state.findings.values()
    assert on_finding(story.state, finding.raised, NOW).facts == ()


MOVES = st.lists(st.sampled_from(["pass", "fail", "wait", "kill", "next", "plan", "retire", "refuse"]), max_size=25)


@settings(max_examples=60, deadline=None)
@given(MOVES)
def test_any_path_grows_epochs_by_one_adds_weights_to_all_and_keeps_the_salt_in_a_rollout(moves):
    """Walk the controller at random beside the rule each record must keep towards the one before it."""
    story, seen, number = Story().admitted().gated("run-0").approved("run-0"), [], 0
    plans = [a_plan(), a_plan(a_model(retrain=False))]
    for move in moves:
        record = story.state.rollouts[KEY].record
        if move in ("pass", "fail", "wait"):
            story.judged({"pass": P, "fail": F, "wait": W}[move])
        elif move == "kill":
            story.tell(kill(story.state, by("ops"), PIPELINE, MODEL, HOLD))
        elif move == "plan":
            plans.reverse()
            story.tell(admit(story.state, by("ada"), plans[0]))
        elif move == "retire":
            story.tell(retire(story.state, by("ops"), PIPELINE))
            story.admitted(plans[0])
        elif move == "refuse":
            answered(story, an_answer(record.epoch, REFUSED))
        elif record.state is not RolloutState.CANARY:
            number += 1
            story.gated(f"run-{number}")
            story.tell(approve(story.state, by("grace"), f"run-{number}", "", HOLD))
        seen.append(story.state.rollouts[KEY].record)
    for before, after in pairwise(seen):
        assert after == before or after.epoch == before.epoch + 1
        assert sum(arm.weight for arm in after.arms) == FULL_WEIGHT
        assert all(arm.weight > 0 for arm in after.arms)
        same_rollout = before.state is RolloutState.CANARY and "challenger" in {arm.name for arm in after.arms}
        assert not same_rollout or after.salt == before.salt
        assert not same_rollout or after.step >= before.step
