"""Versions side by side: a changed row leaves the model in use its own, until nobody uses it."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.contracts.records import RolloutState, Verdict
from headrace.plan.difference import row_of
from headrace.plan.hashes import from_json, to_json
from headrace.plan.ir import Plan
from headrace.plan.reading import read_plan
from headrace.plan.retained import declared, home_of, sets_in_play, version_of
from svc_governance.chain import link
from svc_governance.domain.candidates import approve
from svc_governance.domain.pipelines import admit, retire
from svc_governance.domain.rollout import kill
from svc_governance.domain.state import fold
from unit.svc_governance.worlds import HOLD, MODEL, PIPELINE, Story, a_model, a_plan, by

KEY = (PIPELINE, MODEL)
OLD, NEW = a_plan(), a_plan(window_hours=2)


def plan_of(story: Story) -> Plan:
    return story.state.pipelines[PIPELINE].plan


def homes(story: Story) -> dict[str, str]:
    """By arm the hash of the set it reads."""
    found = {}
    for arm in story.state.rollouts[KEY].record.arms:
        version = version_of(plan_of(story), arm.plan_hash)
        assert version is not None
        found[arm.name] = version.feature_sets[0].hash
    return found


def test_a_changed_set_stands_beside_the_one_the_champion_was_trained_on() -> None:
    story = Story().admitted(OLD).promoted("run-1")
    before = story.state.rollouts[KEY].record
    story.admitted(NEW)
    after, plan = story.state.rollouts[KEY].record, plan_of(story)
    assert set(sets_in_play(plan)) == {OLD.feature_sets[0].hash, NEW.feature_sets[0].hash}
    assert homes(story) == {"champion": OLD.feature_sets[0].hash}
    assert (after.state, after.epoch, after.plan_hash) == (before.state, before.epoch + 1, plan.hash)
    assert declared(plan) == NEW
    assert read_plan(to_json(plan)) == plan, "services take it up as any plan"


def test_the_next_model_runs_against_it_and_its_promotion_releases_the_old_version() -> None:
    story = Story().admitted(OLD).promoted("run-1").admitted(NEW).gated("run-2").approved("run-2")
    assert homes(story) == {"champion": OLD.feature_sets[0].hash, "challenger": NEW.feature_sets[0].hash}
    story.judged(Verdict.PASS)
    assert len(plan_of(story).retained) == 1
    epoch = story.state.pipelines[PIPELINE].epoch
    story.judged(Verdict.PASS)
    record = story.state.rollouts[KEY].record
    assert homes(story) == {"champion": NEW.feature_sets[0].hash}
    assert plan_of(story) == NEW
    assert record.plan_hash == NEW.hash
    assert story.state.pipelines[PIPELINE].epoch == epoch + 1


def test_a_failed_next_model_leaves_the_old_version_in_use() -> None:
    story = Story().admitted(OLD).promoted("run-1").admitted(NEW).gated("run-2").approved("run-2").judged(Verdict.FAIL)
    assert homes(story) == {"champion": OLD.feature_sets[0].hash}
    assert len(plan_of(story).retained) == 1


def test_killing_the_model_releases_its_version() -> None:
    story = Story().admitted(OLD).promoted("run-1").admitted(NEW)
    story.tell(kill(story.state, by("ops"), PIPELINE, MODEL, HOLD))
    assert plan_of(story) == NEW
    assert story.state.rollouts[KEY].record.state is RolloutState.KILLED


def test_going_back_to_the_old_declaration_needs_no_version_beside_it() -> None:
    story = Story().admitted(OLD).promoted("run-1").admitted(NEW).admitted(OLD)
    assert plan_of(story) == OLD
    assert [arm.plan_hash for arm in story.state.rollouts[KEY].record.arms] == [""]


def test_three_versions_may_stand_side_by_side() -> None:
    story = Story().admitted(OLD).promoted("run-1").admitted(NEW).gated("run-2").approved("run-2")
    third = a_plan(window_hours=3)
    story.admitted(third)
    assert homes(story) == {"champion": OLD.feature_sets[0].hash, "challenger": NEW.feature_sets[0].hash}
    assert len(sets_in_play(plan_of(story))) == 3


def test_the_same_declaration_again_and_an_exported_plan_change_nothing() -> None:
    story = Story().admitted(OLD).promoted("run-1").admitted(NEW)
    assert admit(story.state, by("ada"), NEW).facts == ()
    assert admit(story.state, by("ada"), from_json(to_json(plan_of(story)))).facts == ()


def test_a_retained_version_that_was_tampered_with_is_refused() -> None:
    from dataclasses import replace

    from headrace.plan.retained import with_retained

    story = Story().admitted(OLD).promoted("run-1").admitted(NEW)
    (version,) = plan_of(story).retained
    for broken in (replace(version, hash="0" * 64), replace(version, owner="mallory"), replace(version, models=())):
        with pytest.raises(ValueError, match="retained"):
            read_plan(to_json(with_retained(NEW, [broken])))


MOVES = st.lists(st.sampled_from(["pass", "fail", "kill", "next", "plan 1", "plan 2", "plan 3", "retire"]), max_size=25)


@settings(max_examples=40, deadline=None)
@given(MOVES)
def test_on_any_path_every_arm_finds_the_row_it_was_trained_for_and_nothing_else_is_retained(moves: list[str]) -> None:
    """The rows of candidates are noted by hand as they are approved; the plan in force must hold just these."""
    story, number, rows = Story().admitted(OLD), 0, dict[str, object]()
    for move in moves:
        live = story.state.live(PIPELINE)
        rollout = story.state.rollouts.get(KEY)
        if move in ("pass", "fail") and rollout is not None:
            story.judged({"pass": Verdict.PASS, "fail": Verdict.FAIL}[move])
        elif move == "kill":
            story.tell(kill(story.state, by("ops"), PIPELINE, MODEL, HOLD))
        elif move.startswith("plan"):
            story.admitted(a_plan(a_model(), window_hours=int(move[-1])))
        elif move == "retire":
            story.tell(retire(story.state, by("ops"), PIPELINE))
        elif move == "next" and live is not None and (rollout is None or not rollout.in_flight):
            number += 1
            story.gated(f"run-{number}")
            rows[f"run-{number}"] = row_of(live.plan, MODEL)
            story.tell(approve(story.state, by("grace"), f"run-{number}", "", HOLD))
        plan, rollout = plan_of(story), story.state.rollouts.get(KEY)
        if story.state.live(PIPELINE) is None or rollout is None:
            continue
        assert rollout.record.plan_hash == plan.hash
        used = set()
        for arm in rollout.record.arms:
            version = version_of(plan, arm.plan_hash)
            assert version is not None
            if arm.candidate_id:
                assert row_of(version, MODEL) == rows[arm.candidate_id]
                used.add(home_of(plan, MODEL, row_of(version, MODEL)))
        assert {version.hash for version in plan.retained} == used - {""}


def test_a_chain_from_before_arms_had_versions_is_read_as_ever() -> None:
    """Entries are kept for ever, and never rewritten."""
    story = Story().admitted(OLD).gated("run-1")
    decision = approve(story.state, by("grace"), "run-1", "", HOLD)
    facts = tuple(
        dataclasses.replace(fact, body={**fact.body, "arms": [_without(arm, "plan_hash") for arm in fact.body["arms"]]})
        if fact.action == "rollout.changed"
        else fact
        for fact in decision.facts
    )
    old, new = story.state, story.state
    for fact, of_old in zip(decision.facts, facts, strict=True):
        new, old = fold(new, link(new, fact, 1)), fold(old, link(old, of_old, 1))
    assert old.rollouts == new.rollouts


def _without(arm: dict[str, object], name: str) -> dict[str, object]:
    return {key: value for key, value in arm.items() if key != name}
