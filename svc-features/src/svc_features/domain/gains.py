"""What a change would have gained on decisions whose outcome is known: the two decisions and scores of each, side by side."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class Confusion:
    """Counts of decisions by outcome."""

    true_positives: int = 0
    false_alarms: int = 0
    misses: int = 0
    true_negatives: int = 0

    def add(self, decision: bool, label: bool) -> None:
        if decision:
            self.true_positives, self.false_alarms = self.true_positives + label, self.false_alarms + (not label)
        else:
            self.misses, self.true_negatives = self.misses + label, self.true_negatives + (not label)

    def page(self) -> dict[str, Any]:
        """Counts and rates; a rate over nothing is null."""
        correct = self.true_positives + self.true_negatives
        labelled = correct + self.false_alarms + self.misses
        return {
            "true_positives": self.true_positives, "false_alarms": self.false_alarms, "misses": self.misses,
            "true_negatives": self.true_negatives, "correct": correct, "accuracy": _share(correct, labelled),
            "precision": _share(self.true_positives, self.true_positives + self.false_alarms),
            "recall": _share(self.true_positives, self.true_positives + self.misses),
        }  # fmt: skip


@dataclass(slots=True)
class Gains:
    """Of decisions with a mature outcome. corrected: wrong before, right now; broken: the other way round.

    Scores are kept as float32, which is what models give: nine bytes per labelled decision.
    """

    labelled: int = 0
    old: Confusion = field(default_factory=Confusion)
    new: Confusion = field(default_factory=Confusion)
    corrected: int = 0
    broken: int = 0
    _labels: bytearray = field(default_factory=bytearray)
    _scores: tuple[array[float], array[float]] = field(default_factory=lambda: (array("f"), array("f")))

    def add(self, label: bool, decisions: tuple[bool, bool], scores: tuple[float | None, float | None]) -> None:
        """One decision: (old, new) decisions, (old, new) scores where a model gave one."""
        before, after = decisions
        self.labelled += 1
        self.old.add(before, label)
        self.new.add(after, label)
        self.corrected += before != label and after == label
        self.broken += before == label and after != label
        if scores[0] is not None and scores[1] is not None:
            self._labels.append(label)
            for kept, score in zip(self._scores, scores, strict=True):
                kept.append(score if score is not None else math.nan)

    def page(self) -> dict[str, Any]:
        """JSON-able. auc: over decisions that have a score on both sides. p_value: see `sign_test`."""
        labels = np.frombuffer(bytes(self._labels), np.int8).astype(np.bool_)
        before, after = (np.array(kept, np.float32) for kept in self._scores)
        return {
            "labelled": self.labelled, "old": self.old.page(), "new": self.new.page(),
            "corrected": self.corrected, "broken": self.broken, "p_value": sign_test(self.corrected, self.broken),
            "auc": {"scored": len(labels), "old": auc(labels, before), "new": auc(labels, after)},
        }  # fmt: skip


def auc(labels: NDArray[np.bool_], scores: NDArray[np.float32]) -> float | None:
    """Area under the ROC curve, ties counted half; null with one class only.

    Source: Mann and Whitney 1947, the U statistic over n1 * n0.
    """
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (2 * ends - counts + 1)[inverse]  # twice the mean rank of each tie: exact integers
    twice = int(ranks[labels].sum()) - positives * (positives + 1)
    return twice / (2 * positives * negatives)


def sign_test(corrected: int, broken: int) -> float | None:
    """How likely at least such a difference is if the change corrects as often as it breaks; null without either.

    Source: McNemar 1947 in its exact, two-sided form.
    """
    n, k = corrected + broken, min(corrected, broken)
    if not n:
        return None
    logs = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2) for i in range(k + 1)]
    return min(1.0, 2 * math.fsum(math.exp(x) for x in logs))


def sums(pages: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Counts added by name."""
    out: dict[str, int] = {}
    for page in pages:
        for name, n in page.items():
            out[name] = out.get(name, 0) + n
    return out


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
