"""Rollout judgement: the statistic against a naive one, its error rate under equal arms, its power, its reticence."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.plan.profile import DAY_MS
from svc_monitor.domain.labels import Decision, Matured
from svc_monitor.domain.verdict import RolloutEvidence, judge, step_alpha


def row(day: int, arm: str, score: float | None, label: bool | None, decided: bool = True) -> Matured:
    decision = Decision("r", day * DAY_MS + 5, "k", arm, "model", score, None, decided)
    return Matured(decision, label, excluded=label is None)


def evidence(rows: list[Matured], since_ms: int = 0) -> RolloutEvidence:
    gathered = RolloutEvidence(since_ms)
    for each in rows:
        gathered.add(each)
    return gathered


ROWS = st.lists(
    st.builds(
        row,
        st.integers(0, 3),
        st.sampled_from(["champion", "challenger"]),
        st.integers(0, 4).map(lambda n: n / 4),
        st.booleans(),
    ),
    max_size=40,
)


@given(ROWS, st.randoms(use_true_random=False))
def test_the_statistic_equals_the_textbook_one_in_any_order(rows: list[Matured], shuffle: random.Random) -> None:
    """Stratified mean score: sum over days of (challenger's losses - expected) against its hypergeometric variance."""
    excess = variance = weight = 0.0
    for day in range(4):
        losses = {
            arm: [
                ((each.decision.score or 0.0) - bool(each.label)) ** 2
                for each in rows
                if each.decision.arm == arm and each.decision.t_ms // DAY_MS == day
            ]
            for arm in ("champion", "challenger")
        }
        mine, theirs = losses["challenger"], losses["champion"]
        if not mine or not theirs:
            continue
        both = np.array(mine + theirs)
        excess += sum(mine) - len(mine) * both.mean()
        variance += len(mine) * len(theirs) / len(both) * both.var(ddof=1)
        weight += len(mine) * len(theirs) / len(both)
    shuffled = list(rows)
    shuffle.shuffle(shuffled)
    got = judge(evidence(shuffled), 1, 0.05)
    assert got == judge(evidence(rows), 1, 0.05)
    if not weight:
        assert (got.result, got.p_value, got.difference) == ("inconclusive", None, None)
        return
    assert got.difference == pytest.approx(excess / weight, abs=1e-12)
    expected = 1.0 if variance < 1e-18 else 0.5 * math.erfc(excess / math.sqrt(2 * variance))
    assert got.p_value == pytest.approx(expected, abs=1e-9)
    assert got.result == ("fail" if expected <= 0.05 else "pass")


def trial(seed: int, days: int, weight: float, harm: float) -> list[Matured]:
    """Flights of good and bad days; a challenger that mixes `harm` of noise into the true chance."""
    generator = np.random.default_rng(seed)
    rows = []
    for day in range(days):
        chance = np.clip(generator.normal(generator.beta(2, 5), 0.15, 120), 0.02, 0.98)
        late = generator.random(120) < chance
        arm = np.where(generator.random(120) < weight, "challenger", "champion")
        noisy = np.where(arm == "challenger", chance + harm * (generator.random(120) - chance), chance)
        rows += [
            row(day, str(a), float(p), bool(y), bool(p > 0.5)) for a, p, y in zip(arm, noisy, late, strict=True)
        ]  # fmt: skip
    return rows


def test_an_equal_challenger_fails_no_more_often_than_alpha() -> None:
    """400 fair trials at alpha 5 %: within four standard errors, although whole days are good or bad."""
    fails = [judge(evidence(trial(seed, 6, 0.3, 0.0)), 100, 0.05).result == "fail" for seed in range(400)]
    assert abs(np.mean(fails) - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 400)


def test_a_clearly_worse_challenger_fails_and_a_better_one_passes() -> None:
    worse = judge(evidence(trial(3, 12, 0.2, 1.0)), 200, 0.01)
    assert worse.result == "fail"
    assert worse.difference is not None
    assert worse.difference > 0
    better = [
        row(each.decision.t_ms // DAY_MS, {"challenger": "champion", "champion": "challenger"}[each.decision.arm],
            each.decision.score, each.label)
        for each in trial(3, 12, 0.8, 1.0)
    ]  # fmt: skip
    assert judge(evidence(better), 200, 0.01).result == "pass"


def test_a_bad_day_on_which_only_one_arm_served_does_not_count() -> None:
    fair = trial(1, 6, 0.5, 0.0)
    disaster = [row(50, "challenger", 0.0, True) for _ in range(500)]
    before, after = (judge(evidence(rows), 200, 0.05) for rows in (fair, fair + disaster))
    assert (before.result, before.p_value) == (after.result, after.p_value)


def test_no_data_and_no_control_are_inconclusive_never_a_pass() -> None:
    assert judge(evidence([]), 0, 0.05).result == "inconclusive"
    alone = judge(evidence([row(0, "challenger", 0.5, True)] * 50), 10, 0.05)
    assert (alone.result, alone.p_value) == ("inconclusive", None)
    few = judge(evidence([row(0, "challenger", 0.5, True)] * 9 + [row(0, "rules", 0.5, True)] * 50), 10, 0.05)
    assert few.result == "inconclusive"
    assert few.reason.startswith("9 of 10")


def test_only_labelled_decisions_of_the_step_and_its_arms_count() -> None:
    rows = [
        row(0, "challenger", 0.5, True),  # before the step
        row(3, "challenger", 0.5, None),
        row(3, "", 0.5, True),
        row(3, "challenger", 0.5, True),
        row(3, "champion", 0.5, False),
    ]
    gathered = evidence(rows, since_ms=2 * DAY_MS)
    assert (gathered.labelled("challenger"), gathered.labelled("control")) == (1, 1)


def test_rules_forecast_what_they_decide() -> None:
    rows = [row(0, "rules", None, True, decided=True), row(0, "rules", None, True, decided=False)]
    assert evidence(rows).mean_loss("control") == 0.5
    assert evidence([row(0, "challenger", 0.8, True)]).mean_loss("challenger") == pytest.approx(0.04)
    assert evidence([]).mean_loss("control") is None


def test_alpha_is_shared_among_the_steps_with_a_control() -> None:
    assert step_alpha(500, [5, 20, 100]) == 0.025
    assert step_alpha(500, [100]) == 0.05
