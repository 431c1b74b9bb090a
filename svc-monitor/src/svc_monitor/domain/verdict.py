"""Is a challenger worse than the control that served beside it? The judgement of one rollout step.

Both arms are judged on matured labels of the same days, so a bad day hurts both alike. The loss of a decision is
Brier's, (forecast - truth)^2, where the forecast is the score, or 0 / 1 where rules decided: one proper score for
every rung of the ladder, free of the decision threshold.

Which request meets which arm is drawn by the hash of its routing key, as in a randomised trial. So the test is the
stratified mean-score test (Cochran, Mantel, Haenszel): within each day the losses are compared against what a random
split of that day's losses would give; that variance is known, with no assumption about how days vary. Days are strata
rather than clusters for that reason: the lot falls per request, not per day. Routing keys that come back many times
would need the key as unit; then their losses are not independent draws.

    fewer labelled challenger decisions than the dwell, or no control beside it  -> inconclusive, never "pass"
    worse, at this step's share of the declared alpha                            -> fail
    else                                                                         -> pass

A step is judged once, when its dwell is reached; alpha is shared equally among the steps that can be judged, so a
challenger that is no worse fails anywhere on its way up with probability <= alpha.
Source: Landis, Heyman, Koch 1978, Int. Stat. Rev. 46 (mean-score statistic).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from headrace.plan.profile import DAY_MS
from svc_monitor.domain.labels import Matured

FORECAST_UNITS = 1_000_000  # forecasts are rounded to millionths, so that sums of losses are exact integers
FULL_WEIGHT = 100  # per cent; at full weight no control serves beside the challenger

# The control is what served before: a model, or the rules that decide while no model lives.
SIDES = {"challenger": "challenger", "champion": "control", "rules": "control"}

Result = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict and its evidence. losses are mean Brier scores over all labelled decisions of each arm."""

    result: Result
    reason: str
    challenger_labelled: int
    control_labelled: int
    challenger_loss: float | None
    control_loss: float | None
    difference: float | None  # challenger - control within days; above 0: worse
    p_value: float | None  # one-sided, that the challenger is no worse
    alpha: float


@dataclass(slots=True)
class _Sum:
    """Losses of one arm on one day, in exact integers; mergeable."""

    n: int = 0
    loss: int = 0
    square: int = 0


@dataclass(slots=True)
class RolloutEvidence:
    """Losses by day and arm since a step began. Adding is commutative, so order and batching do not matter."""

    since_ms: int  # decisions requested before are not of this step
    day_start_ms: int = 0
    _sums: dict[tuple[int, str], _Sum] = field(default_factory=dict)

    def add(self, matured: Matured) -> None:
        """Count a labelled decision of an arm in SIDES; everything else is ignored."""
        decision = matured.decision
        if matured.label is None or decision.t_ms < self.since_ms or decision.arm not in SIDES:
            return
        forecast = float(decision.decision) if decision.score is None else decision.score
        error = round(forecast * FORECAST_UNITS) - matured.label * FORECAST_UNITS
        entry = self._sums.setdefault(((decision.t_ms - self.day_start_ms) // DAY_MS, SIDES[decision.arm]), _Sum())
        entry.n, entry.loss, entry.square = entry.n + 1, entry.loss + error**2, entry.square + error**4

    def labelled(self, arm: str) -> int:
        return sum(entry.n for (_, name), entry in self._sums.items() if name == arm)

    def mean_loss(self, arm: str) -> float | None:
        count = self.labelled(arm)
        total = sum(entry.loss for (_, name), entry in self._sums.items() if name == arm)
        return total / count / FORECAST_UNITS**2 if count else None

    def strata(self) -> list[tuple[_Sum, _Sum]]:
        """(challenger, control) of each day on which both served."""
        days = sorted({day for day, _ in self._sums})
        pairs = [(self._sums.get((day, "challenger")), self._sums.get((day, "control"))) for day in days]
        return [(challenger, control) for challenger, control in pairs if challenger is not None and control is not None]


def step_alpha(alpha_bp: int, steps: Sequence[int]) -> float:
    """Error rate of one step: alpha shared equally among the steps below full weight."""
    judged = sum(weight < FULL_WEIGHT for weight in steps)
    return alpha_bp / 10_000 / max(1, judged)


def judge(evidence: RolloutEvidence, dwell_decisions: int, alpha: float) -> Judgement:
    """Judge one step on the evidence so far: call when labels mature, act on the first result that is not inconclusive."""
    challenger, control = evidence.labelled("challenger"), evidence.labelled("control")
    strata = evidence.strata()
    difference, p_value = _worse(strata)

    def judgement(result: Result, reason: str) -> Judgement:
        losses = evidence.mean_loss("challenger"), evidence.mean_loss("control")
        return Judgement(result, reason, challenger, control, *losses, difference, p_value, alpha)

    if challenger < max(1, dwell_decisions):
        return judgement("inconclusive", f"{challenger} of {dwell_decisions} labelled decisions of the challenger")
    if p_value is None:
        return judgement("inconclusive", "no control served beside the challenger")
    if p_value <= alpha:
        return judgement("fail", f"worse than the concurrent control, p {p_value:.2g} <= {alpha:.2g}")
    return judgement("pass", f"not worse than the concurrent control, p {p_value:.2g} > {alpha:.2g}")


def _worse(strata: list[tuple[_Sum, _Sum]]) -> tuple[float | None, float | None]:
    """(mean difference within days, one-sided p-value). (None, None) without a day on which both served."""
    excess = variance = weight = 0.0
    for challenger, control in strata:
        n, m = challenger.n, control.n
        total = n + m
        loss, square = challenger.loss + control.loss, challenger.square + control.square
        unit = FORECAST_UNITS**2
        share = n * m / total  # weight of a day: what two arms of these sizes can tell
        spread = (total * square - loss * loss) / (total * (total - 1)) / unit**2  # exact integers first
        excess += (m * challenger.loss - n * control.loss) / total / unit  # = share * difference of the means
        variance += share * spread
        weight += share
    if not weight:
        return None, None
    if variance <= 0:
        return excess / weight, 1.0  # all losses of each day equal: no difference at all
    return excess / weight, 0.5 * math.erfc(excess / math.sqrt(2 * variance))
