"""One model watched, without any broker: verdicts, drift, performance, and what never grows."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from headrace.contracts.records import RolloutState, SetRead, Verdict
from headrace.plan.profile import DAY_MS, DayHistograms
from svc_monitor import watching
from svc_monitor.watching import EPOCHS_MAX
from unit.svc_monitor.worlds import DAY0, HOUR, NOW, World, a_plan, at, delivery, passport, profile, rollout

NOON = DAY0 * DAY_MS + 12 * HOUR


def canary(world: World, epoch: int, first: int, *, challenger: float, champion: float = 0.1, pairs: int = 6) -> None:
    """PAIRS decisions of each arm under EPOCH, none of them late; scores as given."""
    for number in range(first, first + 2 * pairs):
        arm, score = ("challenger", challenger) if number % 2 else ("champion", champion)
        world.decided(passport(number, NOON + number, arm=arm, epoch=epoch, score=score))
        world.delivered(delivery(number, NOON + 2 * HOUR + number, 0))


def test_a_step_is_judged_once_on_decisions_of_its_own_epoch() -> None:
    """Epoch 7 served a bad challenger, epoch 8 a good one: the verdict on 8 knows nothing of 7."""
    world = World()
    canary(world, 7, 100, challenger=0.9)
    canary(world, 8, 200, challenger=0.1)
    world.watch.rollout(rollout(8), None)
    assert world.watch.advance().verdicts == [], "nothing has matured"
    world.time_to(NOON + 2 * DAY_MS)
    (verdict,) = world.watch.advance().verdicts
    assert (verdict.verdict, verdict.epoch, verdict.step) == (Verdict.PASS, 8, 10)
    assert (verdict.challenger_decisions, verdict.control_decisions) == (6, 6)
    canary(world, 8, 300, challenger=0.99)
    world.time_to(NOON + 4 * DAY_MS)
    assert world.watch.advance().verdicts == [], "judged once"


def test_a_canary_tells_how_many_labelled_decisions_it_has_and_how_many_wait_for_their_outcome() -> None:
    """Goal: who waits for a step sees what it waits for; the challenger's decisions of this epoch alone are counted."""
    world = World()
    assert world.watch.canary() is None
    canary(world, 7, 100, challenger=0.9)
    canary(world, 8, 200, challenger=0.1, pairs=3)
    world.watch.rollout(rollout(8), None)
    before = world.watch.canary()
    assert before is not None
    assert (before.epoch, before.step, before.dwell, before.waiting, before.judgement.challenger_labelled) == (8, 10, 5, 3, 0)
    world.time_to(NOON + 2 * DAY_MS)
    world.watch.advance()
    after = world.watch.canary()
    assert after is not None
    assert (after.waiting, after.judgement.challenger_labelled, after.judgement.control_labelled) == (0, 3, 3)
    assert after.judgement.reason == "3 of 5 labelled decisions of the challenger"
    world.watch.rollout(rollout(9, 100, RolloutState.PROMOTED), None)
    assert world.watch.canary() is None


def test_a_worse_challenger_fails_with_its_evidence() -> None:
    world = World()
    canary(world, 7, 100, challenger=0.9, pairs=20)
    world.watch.rollout(rollout(7), None)
    world.time_to(NOON + 2 * DAY_MS)
    (verdict,) = world.watch.advance().verdicts
    evidence = json.loads(verdict.evidence)
    assert verdict.verdict is Verdict.FAIL
    assert evidence["challenger_loss"] == pytest.approx(0.81)
    assert evidence["control_loss"] == pytest.approx(0.01)
    assert evidence["p_value"] <= evidence["alpha"] == pytest.approx(0.025)


@pytest.mark.parametrize("missing", ["labels", "challenger", "control", "rollout"])
def test_without_data_there_is_no_verdict(missing: str) -> None:
    """Nothing is ever passed for want of evidence."""
    world = World()
    for number in range(40):
        arm = {"challenger": "champion", "control": "challenger"}.get(missing, "challenger" if number % 2 else "champion")
        world.decided(passport(number, NOON + number, arm=arm, epoch=7))
        if missing != "labels":
            world.delivered(delivery(number, NOON + HOUR, 0))
    if missing != "rollout":
        world.watch.rollout(rollout(7), None)
    world.time_to(NOON + 2 * DAY_MS)
    assert world.watch.advance().verdicts == []


def test_decisions_that_mature_before_their_rollout_is_seen_count() -> None:
    world = World()
    canary(world, 7, 100, challenger=0.1)
    world.time_to(NOON + 2 * DAY_MS)
    assert world.watch.advance().verdicts == []
    world.watch.rollout(rollout(7), None)
    assert [v.epoch for v in world.watch.advance().verdicts] == [7]


def test_an_older_rollout_changes_nothing_and_a_verdict_of_an_earlier_life_is_not_repeated() -> None:
    world = World()
    canary(world, 7, 100, challenger=0.1)
    world.time_to(NOON + 2 * DAY_MS)
    world.watch.rollout(rollout(9), None)
    world.watch.rollout(rollout(7), None)
    assert world.watch.advance().verdicts == []
    again = World()
    again.watch.spoken.verdicts.add("shop/late/7")
    canary(again, 7, 100, challenger=0.1)
    again.watch.rollout(rollout(7), None)
    again.time_to(NOON + 2 * DAY_MS)
    assert again.watch.advance().verdicts == []


def served(world: World, first_day: int, days: int, shift: float, seed: int = 2) -> None:
    """40 decisions a day, amounts normal around SHIFT."""
    rng = np.random.default_rng(seed)
    for day in range(first_day, first_day + days):
        for number, amount in enumerate(rng.normal(shift, size=40).astype(np.float32).tolist()):
            t = day * DAY_MS + 12 * HOUR + number
            world.decided(passport(day * 1000 + number, t, amount=amount))


def looked(world: World) -> list[str]:
    """Advance until nothing is left to look at; ids of what was found."""
    found = []
    while True:
        before = len(world.watch.watched.looks)
        found += [f.finding_id for f in world.watch.advance().findings]
        if len(world.watch.watched.looks) == before:
            return found


def test_drift_sees_decisions_made_before_the_promotion_but_after_the_reference() -> None:
    """Two drifted weeks were served before the champion came; its watch starts at its reference's end, not at now."""
    world = World()
    served(world, DAY0, 15, shift=2.0)
    world.watch.rollout(rollout(3, 100, RolloutState.PROMOTED, "A"), profile(DAY0))
    world.time_to((DAY0 + 16) * DAY_MS)
    (finding,) = world.watch.advance().findings
    evidence = json.loads(finding.evidence)
    assert finding.kind == "drift"
    assert (evidence["model_digest"], evidence["worst_input"]) == ("A", "amount")
    assert finding.event_time_ms == evidence["until_ms"] <= (DAY0 + 8) * DAY_MS
    assert looked(world) == [], "a champion's watch ends with its first finding"


def test_a_restart_says_no_finding_twice_even_where_it_finds_it_in_another_week() -> None:
    """The first life saw a late batch only after its look; the second one sees all rows at once: same id."""
    ids = []
    for shifted_week in (0, 1):
        world = World()
        served(world, DAY0, 7, shift=2.0 if shifted_week == 0 else 0.0)
        served(world, DAY0 + 7, 8, shift=2.0)
        world.watch.rollout(rollout(3, 100, RolloutState.PROMOTED, "A"), profile(DAY0))
        world.time_to((DAY0 + 16) * DAY_MS)
        ids += looked(world)
    assert len(ids) == 2
    assert ids[0] == ids[1]


def test_a_finding_of_an_earlier_life_is_not_raised_again() -> None:
    first, second = World(), World()
    for world in (first, second):
        served(world, DAY0, 8, shift=2.0)
        world.watch.rollout(rollout(3, 100, RolloutState.PROMOTED, "A"), profile(DAY0))
        world.time_to((DAY0 + 9) * DAY_MS)
    second.watch.spoken.findings.update(looked(first))
    assert looked(second) == []
    assert second.watch.watched.looks[-1].drifted, "found again, not said again"


def test_a_promotion_switches_the_profile_and_a_missing_one_ends_the_watch() -> None:
    """Drift against A is none against B, whose reference has seen it; without a profile nobody is compared with A's."""
    world = World()
    served(world, DAY0, 8, shift=2.0)
    shifted = profile(DAY0)
    normal = DayHistograms(shifted.binning, dict(shifted.counts))
    world.watch.rollout(rollout(3, 100, RolloutState.PROMOTED, "A"), normal)
    world.watch.rollout(rollout(4, 100, RolloutState.PROMOTED, "B"), None)
    world.time_to((DAY0 + 9) * DAY_MS)
    assert looked(world) == []
    assert world.watch.watched.drift is None
    world.watch.rollout(rollout(4, 100, RolloutState.PROMOTED, "B"), normal)  # it could be read after all
    assert world.watch.watched.model_digest == "B"
    assert len(looked(world)) == 1
    other = replace(normal.binning, inputs=("something_else",))
    world.watch.rollout(rollout(5, 100, RolloutState.PROMOTED, "C"), DayHistograms(other, normal.counts))
    assert world.watch.watched.drift is None, "a profile of other inputs"


def test_one_look_a_round_so_that_a_long_log_does_not_hold_the_loop_up() -> None:
    world = World()
    world.watch.rollout(rollout(3, 100, RolloutState.PROMOTED, "A"), profile(DAY0))
    world.time_to((DAY0 + 100) * DAY_MS)
    world.watch.advance()
    assert len(world.watch.watched.looks) == 1
    assert looked(world) == []
    assert len(world.watch.watched.looks) == (100 - 7) // 7 + 1
    assert all(x.p_value is None for x in world.watch.watched.looks), "no rows, no judgement"


def test_rows_of_another_plan_are_no_evidence_of_drift_but_of_performance() -> None:
    world = World()
    foreign = replace(passport(1, NOON), plan_hash="other", sets=(a_read("unknown"),))
    world.decided(foreign, replace(passport(2, NOON), vector=(1.0,)))
    world.watch.rollout(rollout(3, 100, RolloutState.PROMOTED, "A"), profile(DAY0))
    drift = world.watch.watched.drift
    assert drift is not None
    assert sum(drift.served.rows(day) for day in drift.served.counts) == 0
    assert world.watch.refused["other_features"] == 2
    assert world.watch.join.open_decisions == 2


def a_read(name: str) -> SetRead:
    return SetRead(
        set=name, hash="h", entity="e", placement="replicated", partition=0, commit_sequence=1, cut=(), base_floor_ms=0,
        statuses=(), values=(),
    )  # fmt: skip


def test_performance_tells_maturity_and_excluded_outcomes_are_never_zero() -> None:
    """Four orders: one late and caught, one punctual, one lost, one never delivered. Lost is excluded, not 'not late'."""
    world = World()
    world.decided(*(passport(n, NOON + n, score=score) for n, score in ((1, 0.9), (2, 0.1), (3, 0.1), (4, 0.1))))
    world.delivered(delivery(1, NOON + HOUR, 60), delivery(2, NOON + HOUR, 0), delivery(3, NOON + HOUR, None, "lost"))
    world.time_to(NOON + 2 * HOUR)
    (early,) = [p for p in world.watch.advance().performance if p.arm == "all"]
    assert (early.decisions, early.matured, early.labelled, early.precision) == (5, 0, 0, None)
    world.time_to(NOON + 2 * DAY_MS)
    late = next(p for p in world.watch.advance().performance if p.arm == "all")
    assert (late.matured, late.labelled) == (5, 2), "the two labelled; lost, undelivered and the tick are not"
    assert (late.precision, late.recall, late.auc) == (1.0, 1.0, 1.0)
    assert late.brier == pytest.approx(0.01)
    assert dict(world.watch.join.counts) == {"decisions": 6, "labelled": 2, "excluded": 1, "unlabelled": 2}


def test_figures_already_told_are_not_told_again() -> None:
    first, second = World(), World()
    for world in (first, second):
        canary(world, 1, 0, challenger=0.9)
        world.time_to(NOON + 2 * DAY_MS)
    told = first.watch.advance().performance
    assert told
    for record in told:
        second.watch.spoken.remember(replace(record, measured_ms=0))
    assert second.watch.advance().performance == []


def test_a_repeated_passport_counts_once() -> None:
    world = World()
    world.decided(passport(1, NOON), passport(1, NOON), replace(passport(1, NOON), score=0.9))
    assert world.watch.join.open_decisions == 1
    world.time_to(NOON + 2 * DAY_MS)
    world.watch.advance()
    world.decided(passport(1, NOON))
    assert world.watch.join.counts["late_decisions"] == 1


def test_records_from_the_future_do_not_carry_event_time_away() -> None:
    """An outcome stamped past its own append time would mature every decision at once."""
    world = World()
    world.decided(passport(1, NOON))
    world.watch.outcome(delivery(2, NOW + 2 * HOUR, 0), at("d", 1))
    world.watch.decided(passport(3, NOW + 2 * HOUR), at("p", 2))
    world.delivered(delivery(4, NOON, 0))
    world.watch.advance()
    assert world.watch.watermark_ms == NOON - HOUR
    assert world.watch.refused["far_future"] == 2
    assert world.watch.join.open_decisions == 1


def test_the_slowest_partition_holds_time_back_until_it_is_read_to_its_end() -> None:
    world = World()
    world.watch.decided(passport(1, NOON), at("p", 0, partition=0))
    world.watch.decided(passport(2, NOON + 5 * DAY_MS), at("p", 0, partition=1))
    world.delivered(delivery(3, NOON + 9 * DAY_MS, 0))
    world.watch.advance()
    assert world.watch.watermark_ms == NOON
    world.watch.advance(idle_decided=[0])
    assert world.watch.watermark_ms == NOON + 5 * DAY_MS
    world.watch.advance()
    assert world.watch.watermark_ms == NOON + 5 * DAY_MS, "event time never goes back"


def test_memory_stays_bounded() -> None:
    """A hundred days and epochs: rows, epochs, open decisions and periods held row by row all stay small."""
    world = World(a_plan(), served_rows_max=500)
    for day in range(100):
        for number in range(20):
            t = (DAY0 + day) * DAY_MS + 12 * HOUR + number
            world.decided(passport(day * 100 + number, t, epoch=day))
            world.delivered(delivery(day * 100 + number, t + HOUR, 0))
        world.watch.advance()
    watch = world.watch
    assert watch.join.open_decisions <= 40
    assert len(watch._facts) <= 40
    assert len(watch._evidence) <= EPOCHS_MAX
    assert sum(len(times) for times, _ in watch._served.blocks()) <= 500 + 4096
    assert watch.weekly.open_periods <= 4
    assert watch.monthly.open_periods <= 4
    assert sum(p.decisions for p in watch.weekly.report() if p.group == "all") == 2000


def test_advance_computes_nothing_when_nothing_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    canary(world, 7, 100, challenger=0.1, pairs=2)
    world.watch.rollout(rollout(7), profile(DAY0))
    world.time_to(NOON + 2 * DAY_MS)
    world.watch.advance()

    def never(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(watching, "judge", never)
    monkeypatch.setattr(watching, "measured", never)
    monkeypatch.setattr(watching, "drift_finding", never)
    for _ in range(3):
        said = world.watch.advance()
        assert (said.verdicts, said.findings, said.performance) == ([], [], [])


def test_missing_inputs_reach_the_drift_watch_as_missing() -> None:
    world = World()
    world.decided(*(passport(n, NOON + n, amount=math.nan) for n in range(3)))
    world.watch.rollout(rollout(3, 100, RolloutState.PROMOTED, "A"), profile(DAY0))
    drift = world.watch.watched.drift
    assert drift is not None
    (counts,) = drift.served.counts.values()
    assert counts[0, -1] == 3
