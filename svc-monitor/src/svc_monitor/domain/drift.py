"""Has the distribution of a model's inputs moved since training? A test whose unit of evidence is the day.

One look compares N served days with the D days of the reference profile. Its statistic is the largest
population stability index (PSI) of the watched inputs. Under the null hypothesis "these days are like those"
any N of the D + N days could have been the served ones, so the statistic is recomputed for random choices of
N days among all of them (a permutation test). Taking the largest over the inputs inside each draw keeps the
error rate over all inputs together at its declared value, whatever their correlation.

    finding  <=>  PSI >= declared effect size  and  p <= alpha of this look
    alpha of a look = alpha a year / looks a year, so all looks of a year together raise a false finding with
    probability <= alpha a year (union bound: holds although the windows of neighbouring looks overlap)

Two sources of false alarm are taken out first. Days are thinned to equal numbers of rows, since the fuller side would
look calmer. And only values that are there are compared: a view that lags loses the youngest events, so early windows
are missing more often online than in training vectors; that is staleness, which each decision's status tells.

Effect size and significance are both needed: a week of days scatters so much that its PSI passes 0.2 without any drift,
and with enough days a drift of no consequence becomes significant.
Source: max-statistic permutation, Westfall and Young 1993; PSI bands (0.1 small, 0.2 large), Siddiqi 2006.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from headrace.plan.ir import Watch
from headrace.plan.profile import DAY_MS, DayHistograms

YEAR_DAYS = 365
LOOK_EVERY_DAYS = 7  # whole weeks: each look has every weekday equally often
SHARE_FLOOR = 1e-4  # an empty bin counts as one in ten thousand, the usual guard of the logarithm
DRAWS_PER_ALPHA = 20  # draws = this / alpha of a look: the p-value has its resolution well below alpha
DRAWS_MAX = 200_000
CHUNK_DRAWS = 4_000  # bounds memory: chunk * F * B floats
MIN_ROWS_A_DAY = 30  # fewer rows are no evidence of a day's distribution
MIN_REFERENCE_DAYS = 28


@dataclass(frozen=True, slots=True)
class DriftRule:
    """What counts as drift: declared, never learnt. window_days: N; psi_permille 200 = 0.2; alpha_bp a year, 1/10000."""

    window_days: int
    psi_permille: int = 200
    alpha_bp: int = 500

    @classmethod
    def declared(cls, watch: Watch) -> DriftRule:
        """The rule of a plan's watch; windows are whole days, at least one."""
        return cls(max(1, watch.window_ms // DAY_MS), watch.psi_permille, watch.alpha_bp)

    @property
    def look_alpha(self) -> float:
        """Error rate of one look: those of a year add up to alpha a year."""
        return self.alpha_bp / 10_000 * LOOK_EVERY_DAYS / YEAR_DAYS


@dataclass(frozen=True, slots=True)
class DriftLook:
    """One comparison and its evidence. p_value is None when the evidence does not allow a judgement."""

    start_ms: int
    end_ms: int
    days: int  # served days with enough rows
    rows: int
    psi: tuple[tuple[str, float], ...]  # per input, declaration order
    missing: tuple[tuple[str, float], ...]  # share of served rows without a value; no part of the judgement
    worst_input: str
    worst_psi: float
    p_value: float | None
    alpha: float
    drifted: bool


def psi(current_FB: np.ndarray, reference_FB: np.ndarray) -> np.ndarray:
    """Population stability index over the last axis: sum of (c - r) ln(c / r), shares floored at SHARE_FLOOR."""
    current, reference = np.maximum(current_FB, SHARE_FLOOR), np.maximum(reference_FB, SHARE_FLOOR)
    return ((current - reference) * np.log(current / reference)).sum(axis=-1)


def look(profile: DayHistograms, served: DayHistograms, first_day: int, rule: DriftRule) -> DriftLook:
    """Judge the served days [first_day, first_day + window_days) against the profile.

    Deterministic: the random generator is seeded by the content compared. Days short of rows are left out;
    with fewer than half of the window's days, or a short reference, nothing is concluded.
    """
    reference_days = [day for day in sorted(profile.counts) if profile.rows(day) >= MIN_ROWS_A_DAY]
    window = range(first_day, first_day + rule.window_days)
    days = [day for day in window if served.rows(day) >= MIN_ROWS_A_DAY]
    inputs = profile.binning.inputs
    if not days or not inputs or len(reference_days) < MIN_REFERENCE_DAYS:
        values, missing, p_value = np.zeros(len(inputs)), np.zeros(len(inputs)), None
    else:
        current, reference = served.present(days), profile.present(reference_days)
        here = (current.sum(axis=(0, 2)) > 0) & (reference.sum(axis=(0, 2)) > 0)
        values = np.where(here, psi(_mean_shares(current), _mean_shares(reference)), 0.0)
        missing = served.missing_share(days)
        enough = 2 * len(days) > rule.window_days
        p_value = permutation_p_value(current, reference, rule.look_alpha) if enough else None
    worst = int(np.argmax(values)) if len(values) else -1
    worst_psi = float(values[worst]) if len(values) else 0.0
    return DriftLook(
        start_ms=profile.binning.day_begins_ms(first_day),
        end_ms=profile.binning.day_begins_ms(first_day + rule.window_days),
        days=len(days),
        rows=sum(served.rows(day) for day in days),
        psi=tuple((name, float(value)) for name, value in zip(inputs, values, strict=True)),
        missing=tuple((name, float(share)) for name, share in zip(inputs, missing, strict=True)),
        worst_input=inputs[worst] if inputs else "",
        worst_psi=worst_psi,
        p_value=p_value,
        alpha=rule.look_alpha,
        drifted=p_value is not None and p_value <= rule.look_alpha and worst_psi * 1000 >= rule.psi_permille,
    )


def permutation_p_value(current_NFB: np.ndarray, reference_DFB: np.ndarray, alpha: float) -> float:
    """Share of choices of N days among all D + N whose largest PSI is at least the observed one: (1 + hits) / (1 + draws).

    Both arguments are counts per day, int64. Resolution is well below alpha.
    """
    pooled = np.concatenate([current_NFB, reference_DFB])
    generator = np.random.default_rng(int.from_bytes(hashlib.sha256(pooled.tobytes()).digest()[:16]))
    rows_F = np.median(current_NFB.sum(axis=2), axis=0).astype(np.int64)
    shares, present = _shares(_thinned(pooled, rows_F, generator))
    n, total = len(current_NFB), len(pooled)
    observed = _largest_psi(np.arange(n)[None, :], shares, present)[0]
    draws = min(DRAWS_MAX, int(DRAWS_PER_ALPHA / alpha))
    hits = 0
    for size in _chunks(draws):
        chosen = np.argpartition(generator.random((size, total), dtype=np.float32), n - 1, axis=1)[:, :n]
        # equal choices may differ in the last bits
        hits += int((_largest_psi(chosen, shares, present) >= observed * (1 - 1e-12)).sum())
    return (1 + hits) / (1 + draws)


def _thinned(counts_DFB: np.ndarray, rows_F: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """At most rows_F values of each day and input, drawn without replacement."""
    thinned = counts_DFB.copy()
    for day, column in np.argwhere(counts_DFB.sum(axis=2) > rows_F):
        thinned[day, column] = generator.multivariate_hypergeometric(
            counts_DFB[day, column], int(rows_F[column]), method="marginals"
        )
    return thinned


def _shares(counts_DFB: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(float64 [D, F, B] shares of each day, float64 [D, F] 1 where the day has values, else 0 with shares of 0)."""
    totals = counts_DFB.sum(axis=2)
    return counts_DFB / np.maximum(totals, 1)[:, :, None], (totals > 0).astype(np.float64)


def _mean_shares(counts_DFB: np.ndarray) -> np.ndarray:
    """float64 [F, B]: mean of the days' shares, over the days that have values."""
    shares, present = _shares(counts_DFB)
    return shares.sum(axis=0) / np.maximum(present.sum(axis=0), 1)[:, None]


def _largest_psi(chosen_RN: np.ndarray, shares_TFB: np.ndarray, present_TF: np.ndarray) -> np.ndarray:
    """float64 [R]: for each choice of N days, the largest PSI over the inputs against all other days."""
    total, inputs, bins = shares_TFB.shape
    member = np.zeros((len(chosen_RN), total))
    np.put_along_axis(member, chosen_RN, 1.0, axis=1)
    flat = shares_TFB.reshape(total, inputs * bins)
    inside, inside_days = (member @ flat).reshape(-1, inputs, bins), member @ present_TF
    outside, outside_days = flat.sum(axis=0).reshape(inputs, bins) - inside, present_TF.sum(axis=0) - inside_days
    current = inside / np.maximum(inside_days, 1)[:, :, None]
    reference = np.maximum(outside, 0) / np.maximum(outside_days, 1)[:, :, None]
    values = np.where((inside_days > 0) & (outside_days > 0), psi(current, reference), 0.0)
    return values.max(axis=1)


def _chunks(draws: int) -> Iterator[int]:
    for done in range(0, draws, CHUNK_DRAWS):
        yield min(CHUNK_DRAWS, draws - done)


class DriftWatch:
    """Looks at one model's served inputs once a week, over the last window, and stops at the first finding.

        watching --look: drifted--> found      (a new model brings a new profile and a new watch)
           ^  |
           +--+ look: not drifted, or no judgement

    The first window starts with the first whole day after the reference (or after `not_before_ms`). The outcome
    depends only on which rows were observed before a look's end was passed, not on how they were batched.
    """

    def __init__(self, profile: DayHistograms, rule: DriftRule, not_before_ms: int | None = None) -> None:
        binning = profile.binning
        first = max(profile.counts, default=-1) + 1
        if not_before_ms is not None:
            first = max(first, -(-(not_before_ms - binning.day_start_ms) // DAY_MS))
        self.profile, self.rule, self.window_day = profile, rule, first
        self.served = DayHistograms(binning)
        self.found: DriftLook | None = None

    def observe(self, t_ms: Sequence[int] | np.ndarray, vectors_NF: np.ndarray) -> int:
        """Count served rows by request time, columns in the profile's order. Returns rows ignored: older than the window."""
        times = np.asarray(t_ms, dtype=np.int64)
        counted = times >= self.profile.binning.day_begins_ms(self.window_day)
        self.served.add(times[counted], np.asarray(vectors_NF)[counted])
        return int((~counted).sum())

    def advance(self, watermark_ms: int, looks_max: int = 1_000) -> list[DriftLook]:
        """Looks whose window ended at or before the watermark (event time), oldest first; none after a finding.

        At most looks_max, the rest next time: a look costs up to a second.
        """
        looks: list[DriftLook] = []
        while self.found is None and len(looks) < looks_max and self._window_end_ms() <= watermark_ms:
            result = look(self.profile, self.served, self.window_day, self.rule)
            looks.append(result)
            self.found = result if result.drifted else None
            for day in range(self.window_day, self.window_day + LOOK_EVERY_DAYS):
                self.served.counts.pop(day, None)
            self.window_day += LOOK_EVERY_DAYS
        return looks

    def _window_end_ms(self) -> int:
        return self.profile.binning.day_begins_ms(self.window_day + self.rule.window_days)
