"""How good a model is, and whether its export says the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

TOLERANCE = 1e-5  # between executors, as the law of parity states
PARITY_ROWS = 2_000  # at least 1,000 are compared wherever there are that many

Floats = NDArray[np.float64]


def auc(label: NDArray[np.bool_], score: Floats) -> float:
    """Area under the ROC curve, ties counted half; a missing score ranks lowest. NaN with one class only.

    Every scorer is so judged on the same rows, as svc-monitor judges them later: a rule that cannot speak has not won.
    """
    positives = int(label.sum())
    negatives = len(label) - positives
    if not positives or not negatives:
        return float("nan")
    ranks = rankdata(np.where(np.isnan(score), -np.inf, score))
    return float((ranks[label].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def log_loss(label: NDArray[np.bool_], score: Floats) -> float:
    """Mean negative log-likelihood in nats; probabilities clipped at 1e-7."""
    p = np.clip(score, 1e-7, 1 - 1e-7)
    return float(-np.mean(np.where(label, np.log(p), np.log1p(-p))))


@dataclass(frozen=True, slots=True)
class ExportParity:
    """Native model against its export on the same rows."""

    rows: int
    max_difference: float
    decisions_differing: int

    @property
    def ok(self) -> bool:
        return self.max_difference <= TOLERANCE and self.decisions_differing == 0


def export_parity(native: Floats, exported: Floats, threshold: float) -> ExportParity:
    """Compare scores (n,) and the decisions they give."""
    difference = float(np.max(np.abs(native - exported))) if len(native) else 0.0
    differing = int(np.sum((native >= threshold) != (exported >= threshold)))
    return ExportParity(len(native), difference, differing)
