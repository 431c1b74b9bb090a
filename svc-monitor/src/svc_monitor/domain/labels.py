"""Joining outcomes to decisions: what became of each request, known once its time has come.

    decided --outcome, t + mature passed-->  labelled    (a truth to measure against)
            --excluded outcome, passed---->  excluded    (cancelled, diverted: no truth, never "not late")
            --no outcome, passed---------->  unlabelled  (dropped, but counted)

Nothing is handed out before its maturity even if its outcome is known: punctual flights land first, so early
labels alone would flatter every model.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Decision:
    """What was served for one request. score is None where no model scored (rules, default)."""

    request_id: str
    t_ms: int  # request time, event time
    routing_key: str
    arm: str  # of the passport: champion, challenger or rules
    source: str  # decision_source of the passport
    score: float | None
    rule_score: float | None  # the value that ranks requests under the rule; None ranks lowest
    decision: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """One outcome event. label None: an excluded outcome. Order of outcomes of one id: offset, then partition."""

    label: bool | None
    event_time_ms: int
    offset: int
    partition: int


@dataclass(frozen=True, slots=True)
class Matured:
    """A decision whose time has come. label None: excluded or unlabelled, told apart by `excluded`."""

    decision: Decision
    label: bool | None
    excluded: bool


@dataclass(slots=True)
class LabelJoin:
    """Joins by one key, the declared join field, which names one decision and its outcomes.

    The result is a function of the records seen before each decision's maturity, whatever their order: the first
    decision of a request id is kept, and of several outcomes the one with the lowest (offset, partition).
    """

    mature_ms: int
    watermark_ms: int | None = None
    counts: Counter[str] = field(default_factory=Counter)  # decisions, duplicates, labelled, excluded, unlabelled, late_*
    _decisions: dict[str, Decision] = field(default_factory=dict)
    _outcomes: dict[str, Outcome] = field(default_factory=dict)
    _due: list[tuple[int, str]] = field(default_factory=list)  # heap of (t + mature, key)
    _forget: list[tuple[int, str]] = field(default_factory=list)  # heap of (event time + mature, key) of outcomes

    def decide(self, key: str, decision: Decision) -> bool:
        """Take a decision in; False if it is a repeat, or older than the watermark allows (counted, not joined)."""
        due = decision.t_ms + self.mature_ms
        if key in self._decisions:
            self.counts["duplicates"] += 1
            return False
        if self._passed(due):
            self.counts["late_decisions"] += 1
            return False
        self._decisions[key] = decision
        heapq.heappush(self._due, (due, key))
        self.counts["decisions"] += 1
        return True

    def observe(self, key: str, outcome: Outcome) -> bool:
        """Take an outcome in; False if it came too late for any decision still open (counted)."""
        held = self._outcomes.get(key)
        # A request precedes its outcome, so once event time + mature has passed no open decision can want it.
        if self._passed(outcome.event_time_ms + self.mature_ms):
            self.counts["late_outcomes"] += 1
            return False
        if held is not None and (held.offset, held.partition) <= (outcome.offset, outcome.partition):
            return True
        self._outcomes[key] = outcome
        heapq.heappush(self._forget, (outcome.event_time_ms + self.mature_ms, key))
        return True

    def advance(self, watermark_ms: int) -> list[Matured]:
        """Hand out every decision with t + mature <= watermark (event time of the outcomes' topic), oldest first.

        An outcome counts if its event time lies at or before t + mature. A lower watermark than before does nothing.
        """
        if self.watermark_ms is None or watermark_ms > self.watermark_ms:
            self.watermark_ms = watermark_ms
        matured: list[Matured] = []
        while self._due and self._passed(self._due[0][0]):
            due, key = heapq.heappop(self._due)
            matured.append(self._mature(self._decisions.pop(key), self._outcomes.get(key), due))
        while self._forget and self._passed(self._forget[0][0]):
            key = heapq.heappop(self._forget)[1]
            held = self._outcomes.get(key)
            if held is not None and self._passed(held.event_time_ms + self.mature_ms):  # else replaced by a younger one
                del self._outcomes[key]
        return matured

    @property
    def open_decisions(self) -> int:
        return len(self._decisions)

    @property
    def oldest_due_ms(self) -> int | None:
        """When the oldest open decision becomes mature, event time; None where none is open."""
        return self._due[0][0] if self._due else None

    def _mature(self, decision: Decision, outcome: Outcome | None, due: int) -> Matured:
        if outcome is None or outcome.event_time_ms > due:
            self.counts["unlabelled"] += 1
            return Matured(decision, None, excluded=False)
        self.counts["excluded" if outcome.label is None else "labelled"] += 1
        return Matured(decision, outcome.label, excluded=outcome.label is None)

    def _passed(self, at_ms: int) -> bool:
        return self.watermark_ms is not None and at_ms <= self.watermark_ms
