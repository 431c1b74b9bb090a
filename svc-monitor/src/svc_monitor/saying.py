"""What the monitor says, as records with ids that a second telling would share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from headrace.contracts.records import (
    FindingRaised,
    PerformanceMeasured,
    RolloutChanged,
    RolloutJudged,
    Severity,
    Verdict,
)
from headrace.plan.ir import Model, Plan
from svc_monitor.domain.drift import DriftLook
from svc_monitor.domain.performance import Performance
from svc_monitor.domain.verdict import Judgement

COMPONENT = "svc-monitor"
ALL = "all"  # the group over all models
FigureKey = tuple[str, int]  # model digest or ALL, start of the period


@dataclass(slots=True)
class Said:
    """What a round of watching has to say."""

    findings: list[FindingRaised] = field(default_factory=list)
    verdicts: list[RolloutJudged] = field(default_factory=list)
    performance: list[PerformanceMeasured] = field(default_factory=list)


@dataclass(slots=True)
class Spoken:
    """What has been said about one model, in this life or an earlier one: ids, and the last figures of each period."""

    verdicts: set[str] = field(default_factory=set)
    findings: set[str] = field(default_factory=set)
    figures: dict[FigureKey, tuple[object, ...]] = field(default_factory=dict)

    def remember(self, record: RolloutJudged | FindingRaised | PerformanceMeasured) -> None:
        """Take in a record read back."""
        match record:
            case RolloutJudged():
                self.verdicts.add(record.verdict_id)
            case FindingRaised():
                self.findings.add(record.finding_id)
            case PerformanceMeasured():
                key, figures = figures_of(record)
                self.figures[key] = figures


def verdict_id(rollout: RolloutChanged) -> str:
    """One verdict per epoch."""
    return f"{rollout.pipeline}/{rollout.model}/{rollout.epoch}"


def verdict_on(rollout: RolloutChanged, result: Judgement, now_ms: int) -> RolloutJudged:
    """A conclusive judgement of the rollout's step."""
    facts = {
        "reason": result.reason,
        "challenger_loss": result.challenger_loss,
        "control_loss": result.control_loss,
        "difference": result.difference,
        "p_value": result.p_value,
        "alpha": result.alpha,
    }
    return RolloutJudged(
        verdict_id=verdict_id(rollout), pipeline=rollout.pipeline, model=rollout.model, epoch=rollout.epoch, step=rollout.step,
        verdict=Verdict(result.result.upper()), challenger_decisions=result.challenger_labelled,
        control_decisions=result.control_labelled, evidence=_json(facts), judged_ms=now_ms,
    )  # fmt: skip


def drift_finding(plan: Plan, model: Model, model_digest: str, look: DriftLook, now_ms: int) -> FindingRaised:
    """Drift of a champion's inputs. One per champion: its watch ends with the first, whichever look a restart finds it in."""
    identity = hashlib.sha256(f"drift/{plan.pipeline}/{model.name}/{model_digest}".encode()).hexdigest()[:32]
    facts = {
        "model_digest": model_digest,
        "from_ms": look.start_ms,
        "until_ms": look.end_ms,
        "days": look.days,
        "rows": look.rows,
        "psi": dict(look.psi),
        "worst_input": look.worst_input,
        "worst_psi": look.worst_psi,
        "p_value": look.p_value,
        "alpha": look.alpha,
    }
    return FindingRaised(
        finding_id=identity, pipeline=plan.pipeline, model=model.name, kind="drift", severity=Severity.WARNING,
        component=COMPONENT, event_time_ms=look.end_ms, evidence=_json(facts), raised_ms=now_ms,
    )  # fmt: skip


def measured(plan: Plan, model: Model, p: Performance, now_ms: int) -> PerformanceMeasured:
    """One period's figures, of one model or of all."""
    overall = p.group == ALL
    arm = ALL if overall else "model" if p.group else "rules"
    return PerformanceMeasured(
        pipeline=plan.pipeline, model=model.name, arm=arm, model_digest="" if overall else p.group,
        from_ms=p.from_ms, until_ms=p.until_ms, decisions=p.decisions, matured=p.matured, labelled=p.labelled,
        precision=p.precision, recall=p.recall, auc=p.auc, rule_auc=p.rule_auc, brier=p.brier, measured_ms=now_ms,
    )  # fmt: skip


def figures_of(p: PerformanceMeasured) -> tuple[FigureKey, tuple[object, ...]]:
    """What a measurement is about, and what it says; when it was measured is neither."""
    key = (ALL if p.arm == ALL else p.model_digest, p.from_ms)
    return key, (p.decisions, p.matured, p.labelled, p.precision, p.recall, p.auc, p.rule_auc, p.brier)


def _json(facts: Mapping[str, object]) -> str:
    return orjson.dumps(facts, option=orjson.OPT_SORT_KEYS).decode()
