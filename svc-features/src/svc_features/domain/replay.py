"""Decisions beside what a change would have made of them: flips, what moved, for whom, and why some could not be asked.

The rung is kept: what a model decided, a model decides again; what fell to the rules (no model then, a deadline, a failed
executor) falls to the changed rules. A candidate, where one is named, answers everything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.plan.assemble import Assembled
from headrace.plan.ir import Model
from svc_features.domain.gains import Gains
from svc_features.domain.served import float32_bits

GROUPS_MAX = 200  # values of a request field that are counted apart; the rest is counted together
OTHERS = "(others)"
MODEL, PREVIOUS, RULES, DEFAULT = "MODEL", "PREVIOUS", "RULES", "DEFAULT"


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision. source: MODEL, PREVIOUS, RULES or DEFAULT. score: the model's, null for the others."""

    decision: bool
    source: str
    score: float | None
    rule_score: float | None


@dataclass(frozen=True, slots=True)
class Moved:
    """One input of the row before and after; null is missing."""

    input: str
    old: float | None
    new: float | None


@dataclass(frozen=True, slots=True)
class Replayed:
    """One decision twice. label: the mature outcome, null where there is none (yet)."""

    request_id: str
    t_ms: int
    request: Mapping[str, Any]
    old: Decided
    new: Decided
    moved: tuple[Moved, ...]
    label: bool | None
    usable_label: bool = True  # false: the candidate was fitted on it

    @property
    def flips(self) -> bool:
        return self.old.decision != self.new.decision

    def page(self) -> dict[str, Any]:
        return {
            "request_id": self.request_id, "t_ms": self.t_ms,
            "old": {"decision": self.old.decision, "source": self.old.source, "score": self.old.score},
            "new": {"decision": self.new.decision, "source": self.new.source, "score": self.new.score},
            "label": self.label, "moved": [{"input": m.input, "old": m.old, "new": m.new} for m in self.moved],
        }  # fmt: skip


def again(model: Model, row: Assembled, source: str, score: float | None) -> Decided:
    """The decision the changed declaration makes of a row, on the rung of `source`. score: needed for a model's rung."""
    if source in (MODEL, PREVIOUS):
        assert score is not None, "a model's rung has a score"
        return Decided(score >= float(model.threshold), source, score, row.rule_score)
    if row.rule_score is None:
        return Decided(model.default_decision, DEFAULT, None, None)
    return Decided(row.rule_decision, RULES, None, row.rule_score)


def moved(names: Sequence[str], old: NDArray[np.float32], new: NDArray[np.float32]) -> tuple[Moved, ...]:
    """Inputs whose bits differ; both rows in the order of `names`."""
    differing = np.flatnonzero(float32_bits(old) != float32_bits(new)).tolist()
    return tuple(Moved(names[i], _number(float(old[i])), _number(float(new[i]))) for i in differing)


@dataclass(slots=True)
class InputTally:
    """Of one input: rows in which it moved, by how much where both are numbers, and what came and went."""

    moved: int = 0
    sized: int = 0
    size: float = 0.0
    appeared: int = 0
    vanished: int = 0
    in_flips: int = 0

    def add(self, change: Moved, flips: bool) -> None:
        self.moved += 1
        self.in_flips += flips
        if change.old is None or change.new is None:
            self.appeared += change.old is None
            self.vanished += change.new is None
        else:
            self.sized += 1
            self.size += abs(change.new - change.old)

    def page(self) -> dict[str, Any]:
        mean = self.size / self.sized if self.sized else 0.0
        return {
            "moved": self.moved, "mean_difference": mean, "appeared": self.appeared, "vanished": self.vanished,
            "in_flips": self.in_flips,
        }  # fmt: skip


@dataclass(slots=True)
class Group:
    """Decisions about one value of a request field."""

    replayed: int = 0
    flips: int = 0
    to_true: int = 0
    corrected: int = 0
    broken: int = 0

    def add(self, one: Replayed) -> None:
        self.replayed += 1
        if not one.flips:
            return
        self.flips += 1
        self.to_true += one.new.decision
        if one.label is not None and one.usable_label:
            self.corrected += one.new.decision == one.label
            self.broken += one.new.decision != one.label

    def page(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in ("replayed", "flips", "to_true", "corrected", "broken")}


@dataclass(slots=True)
class Tally:
    """All decisions of one model. decisions = replayed + not_asked + those in `not_replayed`, which says why by code."""

    by: tuple[str, ...] = ()
    decisions: int = 0
    replayed: int = 0
    not_asked: int = 0
    to_true: int = 0
    to_false: int = 0
    scores: int = 0
    scores_moved: int = 0
    score_size: float = 0.0
    score_most: float = 0.0
    rows_moved: int = 0
    fitted_on: int = 0
    not_replayed: dict[str, int] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)  # of the first of each code
    rungs: dict[tuple[str, str], list[int]] = field(default_factory=dict)  # (old, new source) -> decisions, flips
    inputs: dict[str, InputTally] = field(default_factory=dict)
    groups: dict[str, dict[str, Group]] = field(default_factory=dict)
    gains: Gains = field(default_factory=Gains)

    @property
    def flips(self) -> int:
        return self.to_true + self.to_false

    def leave(self, code: str, detail: str) -> None:
        """One decision that cannot be replayed."""
        self.not_replayed[code] = self.not_replayed.get(code, 0) + 1
        self.details.setdefault(code, detail)

    def note(self, changes: Sequence[Moved], flips: bool) -> None:
        """What moved in a row, replayed or not."""
        self.rows_moved += bool(changes)
        for change in changes:
            self.inputs.setdefault(change.input, InputTally()).add(change, flips)

    def add(self, one: Replayed) -> None:
        """One decision that was replayed."""
        self.replayed += 1
        self.to_true += one.flips and one.new.decision
        self.to_false += one.flips and not one.new.decision
        rung = self.rungs.setdefault((one.old.source, one.new.source), [0, 0])
        rung[0], rung[1] = rung[0] + 1, rung[1] + one.flips
        self.note(one.moved, one.flips)
        if one.old.score is not None and one.new.score is not None:
            size = abs(one.new.score - one.old.score)
            self.scores, self.scores_moved = self.scores + 1, self.scores_moved + (size > 0)
            self.score_size, self.score_most = self.score_size + size, max(self.score_most, size)
        for name in self.by:
            self._group(name, one.request.get(name)).add(one)
        if one.label is not None:
            if one.usable_label:
                self.gains.add(one.label, (one.old.decision, one.new.decision), (one.old.score, one.new.score))
            self.fitted_on += not one.usable_label

    def _group(self, name: str, value: object) -> Group:
        groups = self.groups.setdefault(name, {})
        key = "null" if value is None else str(value)
        return groups.setdefault(key if key in groups or len(groups) < GROUPS_MAX else OTHERS, Group())

    def page(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "decisions": self.decisions, "replayed": self.replayed, "not_asked": self.not_asked,
            "not_replayed": [{"reason": r, "decisions": n, "detail": self.details[r]} for r, n in self.not_replayed.items()],
            "flips": self.flips, "to_true": self.to_true, "to_false": self.to_false,
            "rows_moved": self.rows_moved,
            "scores": {
                "compared": self.scores, "moved": self.scores_moved, "largest_difference": self.score_most,
                "mean_difference": self.score_size / self.scores if self.scores else 0.0,
            },
            "rungs": [{"old": o, "new": n, "decisions": c[0], "flips": c[1]} for (o, n), c in sorted(self.rungs.items())],
            "inputs": [{"input": name, **t.page()} for name, t in self.inputs.items()],
            "groups": {
                name: {value: g.page() for value, g in sorted(found.items(), key=lambda item: -item[1].flips)}
                for name, found in self.groups.items()
            },
            "fitted_on": self.fitted_on, "gains": self.gains.page(),
        }  # fmt: skip


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
