"""The drift test: its statistic against a naive loop, its error rate on days that do not drift, its power on days that do."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.plan.ir import Watch
from headrace.plan.profile import DAY_MS, DayHistograms, reference_profile
from svc_monitor.domain import drift
from svc_monitor.domain.drift import DriftRule, DriftWatch, look, permutation_p_value, psi

REFERENCE_DAYS, ROWS_A_DAY = 60, 40
COARSE = DriftRule(14, alpha_bp=5_000)  # needs a tenth of the draws


def naive_psi(current: list[float], reference: list[float]) -> float:
    floored = [(max(c, 1e-4), max(r, 1e-4)) for c, r in zip(current, reference, strict=True)]
    return sum((c - r) * math.log(c / r) for c, r in floored)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=2, max_size=12))
def test_psi_equals_its_formula_and_is_zero_only_without_a_difference(counts: list[tuple[int, int]]) -> None:
    current, reference = (np.array(side) / max(1, sum(side)) for side in zip(*counts, strict=True))
    value = float(psi(current, reference))
    assert value == pytest.approx(naive_psi(list(current), list(reference)), abs=1e-12)
    assert value >= 0
    assert (value == 0) == bool((np.maximum(current, 1e-4) == np.maximum(reference, 1e-4)).all())


def days_of(generator: np.random.Generator, first: int, days: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of days that scatter as a whole: each day has its own level, shared by all of its rows and both inputs."""
    level = np.repeat(generator.normal(shift, 2.0, days), ROWS_A_DAY)
    times = np.repeat(np.arange(first, first + days) * DAY_MS, ROWS_A_DAY) + np.tile(np.arange(ROWS_A_DAY) * 60_000, days)
    rows = level[:, None] + generator.normal(0, 1, (len(level), 2))
    rows[generator.random(rows.shape) < 0.05] = np.nan
    return times + DAY_MS // 2, rows


def compared(seed: int, shift: float, days: int = 14) -> drift.DriftLook:
    generator = np.random.default_rng(seed)
    profile = reference_profile(["a", "b"], *days_of(generator, 0, REFERENCE_DAYS))
    served = DayHistograms(profile.binning)
    first = max(profile.counts) + 1
    served.add(*days_of(generator, first, days, shift))
    return look(profile, served, first, DriftRule(14))


def test_the_permutation_p_value_is_the_share_of_choices_of_days_that_look_as_extreme() -> None:
    """Against all choices of 2 of 8 days, enumerated."""
    generator = np.random.default_rng(5)
    counts = generator.multinomial(50, generator.dirichlet(np.ones(4), size=(8, 2)))
    pooled = counts / 50

    def largest(chosen: tuple[int, int]) -> float:
        inside = pooled[list(chosen)].mean(axis=0)
        outside = pooled[[day for day in range(8) if day not in chosen]].mean(axis=0)
        return max(naive_psi(list(inside[column]), list(outside[column])) for column in range(2))

    observed = largest((0, 1))
    extreme = [largest((a, b)) >= observed - 1e-12 for a in range(8) for b in range(a + 1, 8)]
    expected = sum(extreme) / len(extreme)
    assert permutation_p_value(counts[:2], counts[2:], alpha=0.001) == pytest.approx(expected, abs=0.02)


def test_p_values_of_days_that_do_not_drift_are_uniform_although_their_psi_passes_the_effect_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """300 undrifted comparisons: a fifth of them may have p <= 0.2, within four standard errors."""
    monkeypatch.setattr(drift, "DRAWS_PER_ALPHA", 0.4)  # a coarse p-value is still a valid one
    looks = [compared(seed, 0.0) for seed in range(300)]
    for level in (0.05, 0.2, 0.5):
        share = np.mean([seen.p_value is not None and seen.p_value <= level for seen in looks])
        assert abs(share - level) < 4 * math.sqrt(level * (1 - level) / 300)
    assert np.mean([seen.worst_psi > 0.2 for seen in looks]) > 0.25  # the effect size alone would cry wolf
    assert sum(seen.drifted for seen in looks) <= 2


def test_a_fuller_reference_and_more_missing_values_online_are_no_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    """Days all alike, ten times the rows in the reference, and a third of the served values lost: p stays uniform."""
    monkeypatch.setattr(drift, "DRAWS_PER_ALPHA", 0.4)
    values = []
    for seed in range(200):
        generator = np.random.default_rng(seed)
        rows = generator.normal(0, 1, (60 * 400 + 14 * 40, 1))
        times = np.concatenate([np.repeat(np.arange(60), 400), np.repeat(np.arange(60, 74), 40)]) * DAY_MS
        profile = reference_profile(["a"], times[: 60 * 400], rows[: 60 * 400])
        rows[60 * 400 :][generator.random(14 * 40) < 1 / 3] = np.nan
        served = DayHistograms(profile.binning)
        served.add(times[60 * 400 :], rows[60 * 400 :])
        result = look(profile, served, max(profile.counts) + 1, DriftRule(14))
        assert 0.2 < result.missing[0][1] < 0.5
        values.append(result.p_value)
    for level in (0.05, 0.2, 0.5):
        assert abs(np.mean([value <= level for value in values]) - level) < 4 * math.sqrt(level * (1 - level) / 200)


def test_an_input_without_a_value_all_window_long_is_no_drift() -> None:
    generator = np.random.default_rng(3)
    profile = reference_profile(["a", "b"], *days_of(generator, 0, REFERENCE_DAYS))
    first = max(profile.counts) + 1
    times, rows = days_of(generator, first, 14)
    rows[:, 1] = np.nan
    served = DayHistograms(profile.binning)
    served.add(times, rows)
    result = look(profile, served, first, DriftRule(14))
    assert not result.drifted
    assert (dict(result.missing)["b"], dict(result.psi)["b"]) == (1.0, 0.0)


def test_a_shift_of_every_day_is_found_and_names_its_input() -> None:
    found = compared(1, 5.0)
    assert found.drifted
    assert found.p_value is not None
    assert found.p_value <= found.alpha
    assert (found.worst_input, found.worst_psi) == max(found.psi, key=lambda pair: pair[1])
    assert found.rows == 14 * ROWS_A_DAY


def test_a_significant_but_small_shift_is_no_finding() -> None:
    """With days all alike, a shift of a tenth of a deviation is significant, and its PSI small."""
    generator = np.random.default_rng(2)
    rows = 2_000
    times = np.repeat(np.arange(80) * DAY_MS + DAY_MS // 2, rows)
    values = generator.normal(0, 1, (len(times), 1))
    values[60 * rows :] += 0.15
    profile = reference_profile(["a"], times[: 60 * rows], values[: 60 * rows])
    served = DayHistograms(profile.binning)
    served.add(times[60 * rows :], values[60 * rows :])
    result = look(profile, served, max(profile.counts) + 1, DriftRule(14))
    assert result.p_value is not None
    assert result.p_value <= result.alpha
    assert result.worst_psi < 0.2
    assert not result.drifted


@pytest.mark.parametrize(("days", "judged"), [(14, True), (8, True), (7, False), (0, False)])
def test_too_few_served_days_are_no_judgement(days: int, judged: bool) -> None:
    result = compared(1, 5.0, days)
    assert (result.p_value is not None) == judged
    assert result.drifted == judged
    assert result.days == days


def test_a_short_reference_is_no_judgement() -> None:
    generator = np.random.default_rng(1)
    profile = reference_profile(["a", "b"], *days_of(generator, 0, 20))
    served = DayHistograms(profile.binning)
    served.add(*days_of(generator, 20, 14, 5.0))
    result = look(profile, served, 20, DriftRule(14))
    assert result.p_value is None
    assert not result.drifted


def test_the_looks_of_a_year_spend_no_more_than_alpha() -> None:
    rule = DriftRule(14, alpha_bp=500)
    assert rule.look_alpha * (365 / drift.LOOK_EVERY_DAYS) == pytest.approx(0.05)
    assert DriftRule.declared(Watch(("a",), 14 * DAY_MS, 200, 500)) == rule


def stream(shift_from_day: int) -> tuple[DayHistograms, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(11)
    profile = reference_profile(["a", "b"], *days_of(generator, 0, REFERENCE_DAYS))
    first = max(profile.counts) + 1
    calm = days_of(generator, first, shift_from_day)
    moved = days_of(generator, first + shift_from_day, 35, 6.0)
    return profile, np.concatenate([calm[0], moved[0]]), np.concatenate([calm[1], moved[1]])


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4_000), st.integers(0, 99))
def test_the_watch_depends_on_neither_batches_nor_order_within_a_window(batch: int, seed: int) -> None:
    profile, times, rows = stream(21)
    ends = int(times.max()) + DAY_MS

    at_once = DriftWatch(profile, COARSE)
    mixed = np.random.default_rng(seed).permutation(len(times))
    at_once.observe(times[mixed], rows[mixed])

    batched, looks = DriftWatch(profile, COARSE), []
    for low in range(0, len(times), batch + 100):
        part = slice(low, low + batch + 100)
        batched.observe(times[part], rows[part])
        looks += batched.advance(int(times[part].max()))
    assert looks + batched.advance(ends) == at_once.advance(ends)


def test_the_watch_looks_weekly_over_the_last_window_and_stops_at_its_finding() -> None:
    profile, times, rows = stream(21)
    watch = DriftWatch(profile, COARSE)
    start = profile.binning.day_begins_ms(max(profile.counts) + 1)
    watch.observe(times, rows)
    assert watch.advance(start + 14 * DAY_MS - 1) == []
    (first,) = watch.advance(start + 14 * DAY_MS)
    assert (first.start_ms, first.end_ms, first.drifted) == (start, start + 14 * DAY_MS, False)
    later = watch.advance(start + 56 * DAY_MS)
    assert [seen.end_ms for seen in later] == [start + (21 + 7 * step) * DAY_MS for step in range(len(later))]
    assert [seen.drifted for seen in later] == [False] * (len(later) - 1) + [True]
    assert watch.found == later[-1]
    assert watch.advance(start + 100 * DAY_MS) == []


def test_rows_before_the_window_are_ignored_and_counted() -> None:
    profile, _, rows = stream(7)
    watch = DriftWatch(profile, DriftRule(14), not_before_ms=profile.binning.day_begins_ms(100) + 1)
    assert watch.window_day == 101
    begins = profile.binning.day_begins_ms(101)
    assert watch.observe(np.array([begins - 1, begins]), rows[:2]) == 1
    assert watch.served.rows(101) == 1
