"""Watching one model: labels joined to decisions, performance, drift of the champion's inputs, verdicts on its rollout.

All of it is a function of the records read and how far event time has come, so a restart that reads everything again
comes to the same answers; what was already said is read back and not said twice. Nothing grows with the log but figures
per period and model: open decisions wait at most their maturity, rows and epochs are bounded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import orjson

from headrace.chassis.bus import Record
from headrace.contracts.records import (
    FindingRaised,
    PerformanceMeasured,
    PredictionMade,
    RolloutChanged,
    RolloutJudged,
    RolloutState,
)
from headrace.plan.expressions import parse
from headrace.plan.ir import Model, Plan
from headrace.plan.profile import DAY_MS, DayHistograms
from svc_monitor.domain.drift import DriftLook, DriftRule, DriftWatch
from svc_monitor.domain.event_time import EventTime
from svc_monitor.domain.labels import Decision, LabelJoin, Matured, Outcome
from svc_monitor.domain.performance import PerformanceTable, month_of
from svc_monitor.domain.served import Block, ServedRows
from svc_monitor.domain.verdict import Judgement, RolloutEvidence, judge, step_alpha
from svc_monitor.saying import ALL, Said, Spoken, drift_finding, figures_of, measured, verdict_id, verdict_on

EPOCHS_MAX = 32  # rollouts move step by step: evidence of older epochs can no longer be asked for
LOOKS_A_ROUND = 1  # a look costs up to a second: the loop beats in between


@dataclass(frozen=True, slots=True)
class _Facts:
    """Of one decision, what the label join does not keep."""

    epoch: int
    model_digest: str


@dataclass(slots=True)
class _Watched:
    """The champion whose inputs are compared with its reference; without a profile there is no drift watch."""

    model_digest: str = ""
    drift: DriftWatch | None = None
    looks: list[DriftLook] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Canary:
    """A step under judgement. dwell: labelled decisions of the challenger a verdict takes; waiting: its decisions without an
    outcome yet, of the newest ones."""

    epoch: int
    step: int
    dwell: int
    waiting: int
    judgement: Judgement


class ModelWatch:
    """One model of one plan. Not thread-safe."""

    def __init__(self, plan: Plan, model: Model, now_ms: Callable[[], int], served_rows_max: int) -> None:
        self.plan, self.model, self._now_ms = plan, model, now_ms
        events = {e.name: e for e in plan.events}
        self._request_event, self._label_event = events[model.request], events[model.label.event]
        fields = {f.name: f for f in self._label_event.fields}
        self._is_true = parse(model.label.where, fields).compile()
        self._is_excluded = parse(model.label.exclude, fields).compile() if model.label.exclude else lambda _: False
        self.join = LabelJoin(model.label.mature_ms)
        self.weekly, self.monthly = PerformanceTable(), PerformanceTable(month_of)
        self.refused: Counter[str] = Counter()  # records that say nothing here, by why
        self.decided_time, self.labelled_time = EventTime(), EventTime(self._label_event.lateness_ms)
        self.watermark_ms: int | None = None  # event time both decisions and outcomes have reached
        self.watched = _Watched()
        self.spoken = Spoken()
        self._facts: dict[str, _Facts] = {}
        self._columns = [[c.name for c in model.inputs].index(name) for name in model.watch.inputs]
        self._hashes = {s.name: s.hash for s in plan.feature_sets}
        self._served = ServedRows(len(self._columns), served_rows_max)
        self._rule = DriftRule.declared(model.watch)
        self._rollout: RolloutChanged | None = None
        self._evidence: dict[int, RolloutEvidence] = {}  # by epoch: passports carry the epoch they were served under
        self._to_judge = False
        self._reported_day = -1

    # -- what comes in

    def decided(self, passport: PredictionMade, record: Record) -> None:
        """A passport of this model."""
        if passport.t_ms > record.append_time_ms + self._request_event.poison_bound_ms:
            self.refused["far_future"] += 1  # one such record would carry event time away
            return
        key = self._join_key(passport)
        if key is None:
            self.refused["no_join_key"] += 1
            return
        decision = Decision(
            passport.request_id, passport.t_ms, passport.routing_key, passport.arm, passport.decision_source.value,
            passport.score, passport.rule_score, passport.decision,
        )  # fmt: skip
        self.decided_time.seen(record.partition, passport.t_ms)
        if not self.join.decide(key, decision):
            return
        digest = passport.model_digest or ""
        self._facts[passport.request_id] = _Facts(passport.epoch, digest)
        for table in (self.weekly, self.monthly):
            table.decide(decision, digest)
            table.decide(decision, ALL)
        if self._reads_as_declared(passport):
            self._observe(self._served.add(passport.t_ms, [passport.vector[i] for i in self._columns]))
        else:
            self.refused["other_features"] += 1  # a row of another plan: labels count, its inputs are not these

    def outcome(self, fields: Mapping[str, object], record: Record) -> None:
        """A record of the label's event."""
        event_time, key = fields[self._label_event.time], fields[self.model.label.join]
        assert isinstance(event_time, int), "times are decoded to int ms"
        if event_time > record.append_time_ms + self._label_event.poison_bound_ms:
            self.refused["far_future"] += 1
            return
        self.labelled_time.seen(record.partition, event_time)
        if key is None:
            self.refused["no_join_key"] += 1
            return
        label = None if self._is_excluded(fields) else bool(self._is_true(fields))
        self.join.observe(str(key), Outcome(label, event_time, record.offset, record.partition))

    def rollout(self, rollout: RolloutChanged, profile: DayHistograms | None) -> None:
        """A rollout is in force; profile: the champion's reference, None where there is no champion or it is not readable."""
        if self._rollout is not None and rollout.epoch < self._rollout.epoch:
            return
        self._rollout, self._to_judge = rollout, True
        champion = next((a for a in rollout.arms if a.name == "champion"), None)
        digest = champion.model_digest if champion else ""
        fits = profile is not None and profile.binning.inputs == self.model.watch.inputs
        if digest == self.watched.model_digest and (self.watched.drift is not None or not fits):
            return
        self.watched = _Watched(digest, DriftWatch(profile, self._rule) if profile is not None and fits else None)
        self._served.seal()
        for block in self._served.blocks():  # decided before the promotion, perhaps after the reference
            self._observe(block)

    def _join_key(self, passport: PredictionMade) -> str | None:
        if self.model.label.join == self.model.request_id:
            return passport.request_id
        try:
            return str(orjson.loads(passport.request_body)[self.model.label.join])
        except (ValueError, KeyError, TypeError):
            return None

    def _reads_as_declared(self, passport: PredictionMade) -> bool:
        """Whether the row means what the plan's inputs mean: same width, same sets."""
        return len(passport.vector) == len(self.model.inputs) and (
            passport.plan_hash == self.plan.hash or all(self._hashes.get(s.set) == s.hash for s in passport.sets)
        )

    def _observe(self, block: Block | None) -> None:
        if block is not None and self.watched.drift is not None:
            self.watched.drift.observe(*block)

    # -- what goes out

    def advance(self, idle_decided: Collection[int] = (), idle_labelled: Collection[int] = ()) -> Said:
        """Act on what event time allows now. idle: partitions of decisions and outcomes that are read to their end."""
        self._come_to(self.decided_time.watermark(idle_decided), self.labelled_time.watermark(idle_labelled))
        said = Said()
        if self.watermark_ms is None:
            return said
        for matured in self.join.advance(self.watermark_ms):
            self._mature(matured)
        said.verdicts += self._verdicts()
        said.findings += self._findings(self.watermark_ms)
        if self.watermark_ms // DAY_MS > self._reported_day:
            self._reported_day = self.watermark_ms // DAY_MS
            said.performance += self._performance()
            for table in (self.weekly, self.monthly):  # past t + mature the join takes nothing in any more
                table.close(self.watermark_ms - self.model.label.mature_ms)
        return said

    def _come_to(self, decided_ms: int | None, labelled_ms: int | None) -> None:
        if decided_ms is not None and labelled_ms is not None:
            reached = min(decided_ms, labelled_ms)
            self.watermark_ms = reached if self.watermark_ms is None else max(reached, self.watermark_ms)

    def _mature(self, matured: Matured) -> None:
        facts = self._facts.pop(matured.decision.request_id)
        for table in (self.weekly, self.monthly):
            table.mature(matured, facts.model_digest)
            table.mature(matured, ALL)
        # Kept for every epoch: a decision may mature before its rollout record is seen here.
        self._evidence.setdefault(facts.epoch, RolloutEvidence(0)).add(matured)
        if len(self._evidence) > EPOCHS_MAX:
            del self._evidence[min(self._evidence)]
        if self._rollout is not None and facts.epoch == self._rollout.epoch:
            self._to_judge = True

    def canary(self) -> Canary | None:
        """The step under judgement as it stands; None while no canary serves."""
        rollout = self._rollout
        if rollout is None or rollout.state is not RolloutState.CANARY:
            return None
        digest = next((arm.model_digest for arm in rollout.arms if arm.name == "challenger"), "")
        waiting = sum(facts == _Facts(rollout.epoch, digest) for facts in self._facts.values())
        return Canary(rollout.epoch, rollout.step, self.model.rollout.dwell_decisions, waiting, self._judged(rollout))

    def _judged(self, rollout: RolloutChanged) -> Judgement:
        evidence = self._evidence.get(rollout.epoch, RolloutEvidence(0))
        declared = self.model.rollout
        return judge(evidence, declared.dwell_decisions, step_alpha(declared.alpha_bp, declared.steps))

    def _verdicts(self) -> list[RolloutJudged]:
        rollout = self._rollout
        if not self._to_judge or rollout is None or rollout.state is not RolloutState.CANARY:
            return []
        self._to_judge = False
        if verdict_id(rollout) in self.spoken.verdicts:
            return []
        result = self._judged(rollout)
        if result.result == "inconclusive":
            return []  # waits for more evidence; no data is never a pass
        self.spoken.verdicts.add(verdict_id(rollout))
        return [verdict_on(rollout, result, self._now_ms())]

    def _findings(self, watermark_ms: int) -> list[FindingRaised]:
        watched = self.watched
        self._observe(self._served.seal())
        if watched.drift is None:
            return []
        looks = watched.drift.advance(watermark_ms, LOOKS_A_ROUND)
        watched.looks += looks
        found = [drift_finding(self.plan, self.model, watched.model_digest, x, self._now_ms()) for x in looks if x.drifted]
        new = [f for f in found if f.finding_id not in self.spoken.findings]
        self.spoken.findings.update(f.finding_id for f in new)
        return new

    def _performance(self) -> list[PerformanceMeasured]:
        said = [measured(self.plan, self.model, p, self._now_ms()) for p in self.weekly.changed()]
        new = [record for record in said if self.spoken.figures.get(figures_of(record)[0]) != figures_of(record)[1]]
        self.spoken.figures.update(map(figures_of, new))
        return new
