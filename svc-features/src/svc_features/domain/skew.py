"""Lateness skew: what a value would have been had everything available at t been in the state, against what was served."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headrace.plan.ir import FeatureSet
from headrace.plan.lower import FeatureRows
from svc_features.domain.served import Served, float64_bits


@dataclass(frozen=True, slots=True)
class Skew:
    """Of one feature: reads compared, those that differ, and the mean size of the difference where both are numbers."""

    feature_set: str
    feature: str
    compared: int
    differing: int
    mean_difference: float


def skew_of(feature_set: FeatureSet, served: Served, as_of: FeatureRows) -> list[Skew]:
    """Per feature, over N reads; rows of both in the order of `served.asked`."""
    differing = float64_bits(served.values) != float64_bits(as_of.values)
    sizes = np.abs(served.values - as_of.values)
    out: list[Skew] = []
    for at, feature in enumerate(feature_set.features):
        both = differing[:, at] & np.isfinite(sizes[:, at])
        mean = float(sizes[both, at].mean()) if both.any() else 0.0
        out.append(Skew(feature_set.name, feature.name, len(differing), int(differing[:, at].sum()), mean))
    return out
