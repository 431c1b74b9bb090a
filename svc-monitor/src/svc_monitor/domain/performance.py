"""How good the decisions were, by period, against the rule that would have decided without a model.

All figures are exact functions of the set of matured decisions: counts and pairs are integers, sums are exact,
so neither order nor batching nor a restart changes a digit.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from svc_monitor.domain.labels import Decision, Matured

WEEK_MS = 7 * 86_400_000
MONDAY_MS = 4 * 86_400_000  # 1970-01-05; the epoch was a Thursday


Period = tuple[int, int]  # [from, until) of request time, ms UTC


def week_of(t_ms: int) -> Period:
    """The week of t, from Monday 00:00 UTC."""
    monday = (t_ms - MONDAY_MS) // WEEK_MS * WEEK_MS + MONDAY_MS
    return monday, monday + WEEK_MS


def month_of(t_ms: int) -> Period:
    """The month of t, UTC."""
    when = datetime.fromtimestamp(t_ms / 1000, UTC)
    after = (when.year + 1, 1) if when.month == 12 else (when.year, when.month + 1)
    first, last = datetime(when.year, when.month, 1, tzinfo=UTC), datetime(*after, 1, tzinfo=UTC)
    return int(first.timestamp()) * 1000, int(last.timestamp()) * 1000


def auc(labels: Sequence[bool] | np.ndarray, scores: Sequence[float] | np.ndarray) -> float | None:
    """Chance that a random positive outranks a random negative, ties counting half; None without both classes.

    Exact: pairs are counted in integers, one division at the end. -inf is the lowest rank; NaN is refused.
    Raises: ValueError on NaN.
    """
    truth, values = np.asarray(labels, dtype=bool), np.asarray(scores, dtype=np.float64)
    if np.isnan(values).any():
        raise ValueError("scores hold NaN: give missing scores a rank, such as -inf")
    positives = int(truth.sum())
    negatives = len(truth) - positives
    if not positives or not negatives:
        return None
    distinct, level = np.unique(values, return_inverse=True)
    above = np.bincount(level[truth], minlength=len(distinct))
    below = np.bincount(level[~truth], minlength=len(distinct))
    twice = int((above * (2 * (np.cumsum(below) - below) + below)).sum())  # 2 per pair won, 1 per tie
    return twice / (2 * positives * negatives)


@dataclass(frozen=True, slots=True)
class Performance:
    """One period's figures; a ratio is None where its denominator is 0.

    maturity: share of the period's decisions whose time has come (below 1: the figures will still move).
    auc, brier and rule_auc are over the same rows, those a model scored, so that they compare.
    """

    from_ms: int
    until_ms: int
    group: str
    decisions: int
    matured: int
    labelled: int
    excluded: int
    positives: int
    scored: int
    maturity: float
    precision: float | None
    recall: float | None
    auc: float | None
    rule_auc: float | None
    brier: float | None


@dataclass(slots=True)
class _Tally:
    decisions: int = 0
    matured: int = 0
    excluded: int = 0
    truth: bytearray = field(default_factory=bytearray)  # 0 or 1 per labelled decision
    decided: bytearray = field(default_factory=bytearray)
    scored_truth: bytearray = field(default_factory=bytearray)  # per labelled decision with a score
    scores: array[float] = field(default_factory=lambda: array("d"))
    rule_scores: array[float] = field(default_factory=lambda: array("d"))


Key = tuple[Period, str]


class PerformanceTable:
    """Figures by (period, group); a group is what the caller compares: a model, an arm, a decision source.

    About 20 bytes per labelled decision are kept until its period is closed, so that AUC is exact.
    """

    def __init__(self, period_of: Callable[[int], Period] = week_of) -> None:
        self._period_of = period_of
        self._tallies: dict[Key, _Tally] = {}
        self._figures: dict[Key, Performance] = {}  # of all keys but those in _stale
        self._stale: set[Key] = set()
        self._touched: set[Key] = set()

    def decide(self, decision: Decision, group: str = "") -> None:
        """Count a decision once, when LabelJoin takes it in."""
        self._tally(decision, group).decisions += 1

    def mature(self, matured: Matured, group: str = "") -> None:
        """Count what LabelJoin handed out."""
        decision, label = matured.decision, matured.label
        tally = self._tally(decision, group)
        tally.matured += 1
        tally.excluded += matured.excluded
        if label is None:
            return
        tally.truth.append(label)
        tally.decided.append(decision.decision)
        if decision.score is not None:
            tally.scored_truth.append(label)
            tally.scores.append(decision.score)
            tally.rule_scores.append(_ranked(decision.rule_score))

    def report(self) -> list[Performance]:
        """All periods and groups, in order."""
        self._refresh()
        return [self._figures[key] for key in sorted(self._figures)]

    def changed(self) -> list[Performance]:
        """Those touched since the last call, in order."""
        self._refresh()
        touched, self._touched = sorted(self._touched), set()
        return [self._figures[key] for key in touched]

    def close(self, before_ms: int) -> None:
        """Keep only the figures of periods that end at or before; the caller knows that no decision of theirs is still open."""
        for key in [key for key in self._tallies if key[0][1] <= before_ms]:
            self._figures[key] = _figures(*key, self._tallies.pop(key))
            self._stale.discard(key)

    @property
    def open_periods(self) -> int:
        """Periods and groups whose decisions are still held one by one."""
        return len(self._tallies)

    def _refresh(self) -> None:
        for key in self._stale:
            self._figures[key] = _figures(*key, self._tallies[key])
        self._stale.clear()

    def _tally(self, decision: Decision, group: str) -> _Tally:
        key = (self._period_of(decision.t_ms), group)
        self._touched.add(key)
        self._stale.add(key)
        return self._tallies.setdefault(key, _Tally())


def _ranked(score: float | None) -> float:
    return -math.inf if score is None or math.isnan(score) else score


def _figures(period: Period, group: str, tally: _Tally) -> Performance:
    hits = sum(truth & decided for truth, decided in zip(tally.truth, tally.decided, strict=True))
    truth = np.array(tally.scored_truth, dtype=bool)
    squares = [(score - truth) ** 2 for score, truth in zip(tally.scores, tally.scored_truth, strict=True)]
    return Performance(
        from_ms=period[0],
        until_ms=period[1],
        group=group,
        decisions=tally.decisions,
        matured=tally.matured,
        labelled=len(tally.truth),
        excluded=tally.excluded,
        positives=sum(tally.truth),
        scored=len(tally.scores),
        maturity=_ratio(tally.matured, tally.decisions) or 0.0,
        precision=_ratio(hits, sum(tally.decided)),
        recall=_ratio(hits, sum(tally.truth)),
        auc=auc(truth, np.array(tally.scores)),
        rule_auc=auc(truth, np.array(tally.rule_scores)),
        brier=_ratio(math.fsum(squares), len(squares)),
    )


def _ratio(part: float, whole: int) -> float | None:
    return part / whole if whole else None
