"""Two rows of one model served at once: each arm gets the row it was trained for, and the passport says whose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from headrace.contracts.records import ArmServed, DecisionSource, Door, RolloutAckStatus
from support.models import stored, trained
from svc_serve.adapters.artefacts import OnnxExecutor
from svc_serve.deciding import Decider
from svc_serve.features import SetReader
from svc_serve.owned_reads import OwnedReads
from svc_serve.rollouts import RolloutLoader
from unit.svc_serve.rig import MODEL, PLAN, SET, Rig

SHORTER = replace(MODEL, inputs=MODEL.inputs[:3], rules="delay_mean_1h > 50")
NEW_SET = replace(SET, hash="6" * 64)
NEW = replace(PLAN, models=(SHORTER,), feature_sets=(NEW_SET,), retained=(PLAN,), hash="4" * 64)
DECLARED = "5" * 64  # the hash of NEW without what it retains


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """The plan in force is NEW; PLAN is the older one it retains."""
    rig = Rig(tmp_path)
    older = rig.decider
    rig.decider = Decider(
        NEW, SHORTER, [SetReader(NEW_SET, rig.views(), rig.codec)], rig.clock, older=[older], declared_hash=DECLARED
    )
    rig.loader = RolloutLoader(rig.decider, rig.objects, rig.trusted, "0", {})
    rig.plan, rig.model = NEW, SHORTER
    return rig


def old_arm(rig: Rig, name: str = "champion", weight: int = 5_000, home: str = PLAN.hash) -> ArmServed:
    arm = stored(rig.objects, rig.key(), PLAN, MODEL, trained(len(MODEL.inputs), 1), name=name, weight=weight)
    return replace(arm, plan_hash=home)


def new_arm(rig: Rig, name: str = "challenger", weight: int = 5_000) -> ArmServed:
    return rig.arm(2, name=name, weight=weight)


def test_each_arm_is_given_its_own_row_and_the_passport_says_whose_it_is(rig: Rig) -> None:
    rig.serve(1, old_arm(rig), new_arm(rig))
    numbers = range(40)
    passports = rig.decider.decide([rig.request(number) for number in numbers])
    assert [p.request_id for p in passports] == [f"F{number}" for number in numbers]
    assert {p.arm for p in passports} == {"champion", "challenger"}
    for passport in passports:
        made_for = (PLAN.hash, SET.hash, 4) if passport.arm == "champion" else (DECLARED, NEW_SET.hash, 3)
        assert passport.decision_source is DecisionSource.MODEL
        assert (passport.plan_hash, passport.sets[0].hash, len(passport.vector)) == made_for
        assert passport.epoch == 1
        assert passport == replace(rig.decider.decide([rig.request(int(passport.request_id[1:]))])[0], cost_us=passport.cost_us)


def test_an_arm_of_a_version_that_is_not_retained_is_refused_and_nothing_changes(rig: Rig) -> None:
    rig.serve(1, new_arm(rig, "champion", 10_000))
    ack = rig.loader.take_up(rig.rollout(2, old_arm(rig, weight=10_000, home="9" * 64)), 0)
    assert ack.status is RolloutAckStatus.REFUSED
    assert "does not retain" in ack.detail
    assert rig.decide().plan_hash == DECLARED


def test_a_model_is_never_loaded_for_rows_it_was_not_trained_for(rig: Rig) -> None:
    ack = rig.loader.take_up(rig.rollout(1, old_arm(rig, weight=10_000, home="")), 0)
    assert ack.status is RolloutAckStatus.REFUSED
    assert "columns" in ack.detail


def test_a_failing_model_falls_to_the_previous_one_only_where_rows_are_the_same(rig: Rig) -> None:
    """The previous champion takes rows of the older version: for a row of the new one the rules answer."""

    class Failing:
        def run(self, *_: object) -> list[object]:
            raise RuntimeError("out of memory")

    def break_champion() -> None:
        executor = rig.decider.serving.models["champion"].executor
        assert isinstance(executor, OnnxExecutor)
        executor.session = Failing()  # type: ignore[assignment]

    rig.serve(1, old_arm(rig, weight=10_000))
    rig.serve(2, new_arm(rig, "champion", 10_000))
    break_champion()
    passport = rig.decide()
    assert (passport.decision_source, passport.source_reason) == (DecisionSource.RULES, "executor_error")
    rig.serve(3, rig.arm(3, name="champion"))
    rig.serve(4, rig.arm(4, name="champion"))
    break_champion()
    assert rig.decide().decision_source is DecisionSource.PREVIOUS


def test_rules_of_the_plan_in_force_answer_where_rules_are_the_arm(rig: Rig) -> None:
    """The older version's rule says yes above 30, the newer one's above 50; the mean is 40."""
    rig.serve(1, ArmServed(name="rules", weight=10_000))
    assert rig.decide().decision is False
    assert rig.decide().plan_hash == DECLARED


def test_an_arm_trained_for_another_owned_set_is_answered_by_the_rules(rig: Rig) -> None:
    """A request has one owner's answer here, of the set in force; the old set's would be another one."""
    owned = replace(SET, placement="owned")
    old = replace(PLAN, feature_sets=(owned,))
    older = Decider(old, MODEL, [], rig.clock, OwnedReads(owned, followed=False))
    rig.decider = Decider(NEW, SHORTER, [SetReader(NEW_SET, rig.views(), rig.codec)], rig.clock, older=[older])
    rig.loader = RolloutLoader(rig.decider, rig.objects, rig.trusted, "0", {})
    rig.serve(1, old_arm(rig), new_arm(rig))
    passports = rig.decider.decide([replace(rig.request(number), door=Door.EVENT) for number in range(40)])
    assert {p.arm for p in passports} == {"champion", "challenger"}
    for passport in passports:
        old_row = passport.arm == "champion"
        assert len(passport.sets) == (0 if old_row else 1)
        assert (passport.decision_source, passport.source_reason) == (
            (DecisionSource.DEFAULT, "pending,rule_input_missing") if old_row else (DecisionSource.MODEL, "")
        )
