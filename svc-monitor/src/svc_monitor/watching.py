"""Watching one model: labels joined to decisions, performance, drift of the champion's inputs, verdicts on its rollout.

All of it is a function of the records read and how far event time has come, so a restart that reads everything again
comes to the same answers; what was already said is read back and not said twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import orjson

from headrace.chassis.bus import Record
from headrace.contracts.records import (
    FindingRaised,
    PerformanceMeasured,
    PredictionMade,
    RolloutChanged,
    RolloutJudged,
    RolloutState,
    Severity,
    Verdict,
)
from headrace.plan.expressions import parse
from headrace.plan.ir import Model, Plan
from headrace.plan.profile import DAY_MS, DayHistograms
from svc_monitor.domain.drift import DriftLook, DriftRule, DriftWatch
from svc_monitor.domain.labels import Decision, LabelJoin, Matured, Outcome
from svc_monitor.domain.performance import PerformanceTable, month_of
from svc_monitor.domain.verdict import RolloutEvidence, judge, step_alpha

COMPONENT = "svc-monitor"
ALL = "all"


@dataclass(slots=True)
class _Facts:
    """Of one decision, what the label join does not keep."""

    epoch: int
    model_digest: str


@dataclass(slots=True)
class Said:
    """What a round of watching has to say."""

    findings: list[FindingRaised] = field(default_factory=list)
    verdicts: list[RolloutJudged] = field(default_factory=list)
    performance: list[PerformanceMeasured] = field(default_factory=list)


class ModelWatch:
    """One model of one plan."""

    def __init__(self, plan: Plan, model: Model, now_ms: Callable[[], int], served_rows_max: int) -> None:
        self.plan, self.model, self._now_ms = plan, model, now_ms
        event = next(e for e in plan.events if e.name == model.label.event)
        fields = {f.name: f for f in event.fields}
        self._label_event = event
        self._is_true = parse(model.label.where, fields).compile()
        self._is_excluded = parse(model.label.exclude, fields).compile() if model.label.exclude else lambda _: False
        self.join = LabelJoin(model.label.mature_ms)
        self.weekly, self.monthly = PerformanceTable(), PerformanceTable(month_of)
        self._facts: dict[str, _Facts] = {}
        self._columns = [[c.name for c in model.inputs].index(name) for name in model.watch.inputs]
        self._rule = DriftRule(max(1, model.watch.window_ms // DAY_MS), model.watch.psi_permille, model.watch.alpha_bp)
        self._served_t: list[int] = []
        self._served_rows: list[tuple[float, ...]] = []
        self._served_max = served_rows_max
        self.drift: DriftWatch | None = None
        self._drift_digest = ""
        self.looks: list[DriftLook] = []
        self._rollout: RolloutChanged | None = None
        self._evidence: dict[int, RolloutEvidence] = {}  # by epoch: passports carry the epoch they were served under
        self._judged: set[str] = set()
        self._raised: set[str] = set()
        self._decided_ms: int | None = None
        self._labelled_ms: int | None = None
        self._reported_day = -1

    # -- what comes in

    def decided(self, passport: PredictionMade) -> None:
        """A passport of this model."""
        decision = Decision(
            passport.request_id, passport.t_ms, passport.routing_key, passport.arm, passport.decision_source.value,
            passport.score, passport.rule_score, passport.decision,
        )  # fmt: skip
        self._decided_ms = max(passport.t_ms, self._decided_ms or passport.t_ms)
        if not self.join.decide(self._join_key(passport), decision):
            return
        self._facts[passport.request_id] = _Facts(passport.epoch, passport.model_digest or "")
        for table in (self.weekly, self.monthly):
            table.decide(decision, passport.model_digest or "")
            table.decide(decision, ALL)
        row = tuple(passport.vector[i] for i in self._columns)
        if len(self._served_t) < self._served_max:
            self._served_t.append(passport.t_ms)
            self._served_rows.append(row)
        if self.drift is not None:
            self.drift.observe([passport.t_ms], np.array([row]))

    def _join_key(self, passport: PredictionMade) -> str:
        if self.model.label.join == self.model.request_id:
            return passport.request_id
        return str(orjson.loads(passport.request_body)[self.model.label.join])

    def outcome(self, fields: Mapping[str, object], record: Record) -> None:
        """A record of the label's event."""
        event_time = fields[self._label_event.time]
        assert isinstance(event_time, int)
        label = None if self._is_excluded(fields) else bool(self._is_true(fields))
        self.join.observe(str(fields[self.model.label.join]), Outcome(label, event_time, record.offset, record.partition))
        self._labelled_ms = max(event_time, self._labelled_ms or event_time)

    def rollout(self, rollout: RolloutChanged, profile: DayHistograms | None) -> None:
        """A rollout is in force; profile: the champion's reference, if there is one and it is readable."""
        self._rollout = rollout
        if rollout.state is RolloutState.CANARY:
            self._evidence.setdefault(rollout.epoch, RolloutEvidence(0))
        champion = next((a for a in rollout.arms if a.name == "champion"), None)
        digest = champion.model_digest if champion else ""
        if profile is not None and digest != self._drift_digest:
            self._drift_digest, self.looks = digest, []
            self.drift = DriftWatch(profile, self._rule)
            if self._served_t:
                self.drift.observe(self._served_t, np.array(self._served_rows))

    def remember(self, verdict_ids: Sequence[str], finding_ids: Sequence[str]) -> None:
        """What an earlier life has said."""
        self._judged.update(verdict_ids)
        self._raised.update(finding_ids)

    # -- what goes out

    @property
    def watermark_ms(self) -> int | None:
        """Event time both decisions and outcomes have reached."""
        if self._decided_ms is None or self._labelled_ms is None:
            return None
        return min(self._decided_ms, self._labelled_ms)

    def advance(self) -> Said:
        """Act on what event time allows now."""
        said = Said()
        watermark = self.watermark_ms
        if watermark is None:
            return said
        for matured in self.join.advance(watermark):
            self._mature(matured)
        verdict = self._verdict()
        if verdict is not None:
            said.verdicts.append(verdict)
        if self.drift is not None:
            looks = self.drift.advance(watermark)
            self.looks += looks
            said.findings += [f for f in map(self._finding, looks) if f is not None]
        if watermark // DAY_MS > self._reported_day:
            self._reported_day = watermark // DAY_MS
            said.performance = self._performance()
        return said

    def _mature(self, matured: Matured) -> None:
        facts = self._facts.pop(matured.decision.request_id)
        for table in (self.weekly, self.monthly):
            table.mature(matured, facts.model_digest)
            table.mature(matured, ALL)
        evidence = self._evidence.get(facts.epoch)
        if evidence is not None:
            evidence.add(matured)

    def _verdict(self) -> RolloutJudged | None:
        rollout = self._rollout
        if rollout is None or rollout.state is not RolloutState.CANARY:
            return None
        identity = f"{rollout.pipeline}/{rollout.model}/{rollout.epoch}"
        if identity in self._judged:
            return None
        alpha = step_alpha(self.model.rollout.alpha_bp, self.model.rollout.steps)
        result = judge(self._evidence[rollout.epoch], self.model.rollout.dwell_decisions, alpha)
        if result.result == "inconclusive":
            return None  # waits for more evidence; no data is never a pass
        self._judged.add(identity)
        facts = {
            "reason": result.reason, "challenger_loss": result.challenger_loss, "control_loss": result.control_loss,
            "difference": result.difference, "p_value": result.p_value, "alpha": result.alpha,
        }  # fmt: skip
        return RolloutJudged(
            verdict_id=identity, pipeline=rollout.pipeline, model=rollout.model, epoch=rollout.epoch, step=rollout.step,
            verdict=Verdict(result.result.upper()), challenger_decisions=result.challenger_labelled,
            control_decisions=result.control_labelled, evidence=_json(facts), judged_ms=self._now_ms(),
        )  # fmt: skip

    def _finding(self, look: DriftLook) -> FindingRaised | None:
        if not look.drifted:
            return None
        name = f"{self.plan.pipeline}/{self.model.name}/{self._drift_digest}/{look.start_ms}"
        identity = hashlib.sha256(f"drift/{name}".encode()).hexdigest()[:32]
        if identity in self._raised:
            return None
        self._raised.add(identity)
        facts = {
            "model_digest": self._drift_digest, "from_ms": look.start_ms, "until_ms": look.end_ms, "days": look.days, "rows": look.rows,
            "psi": dict(look.psi), "worst_input": look.worst_input, "worst_psi": look.worst_psi, "p_value": look.p_value,
            "alpha": look.alpha,
        }  # fmt: skip
        return FindingRaised(
            finding_id=identity, pipeline=self.plan.pipeline, model=self.model.name, kind="drift", severity=Severity.WARNING,
            component=COMPONENT, event_time_ms=look.end_ms, evidence=_json(facts), raised_ms=self._now_ms(),
        )  # fmt: skip

    def _performance(self) -> list[PerformanceMeasured]:
        now = self._now_ms()
        return [
            PerformanceMeasured(
                pipeline=self.plan.pipeline, model=self.model.name, arm=ALL if p.group == ALL else "model",
                model_digest="" if p.group == ALL else p.group, from_ms=p.from_ms, until_ms=p.until_ms, decisions=p.decisions,
                matured=p.matured, labelled=p.labelled, precision=p.precision, recall=p.recall, auc=p.auc, rule_auc=p.rule_auc,
                brier=p.brier, measured_ms=now,
            )
            for p in self.weekly.changed()
        ]  # fmt: skip


def _json(facts: Mapping[str, object]) -> str:
    return orjson.dumps(facts, option=orjson.OPT_SORT_KEYS).decode()
