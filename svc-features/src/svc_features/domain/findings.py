"""What parity found: counts of what agreed, and evidence of what did not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np

from headrace.plan.ir import FeatureSet
from headrace.plan.lower import FeatureRows, Status
from svc_features.domain.served import Served, float64_bits


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One disagreement. kind: value, status, vector, request, entity, shape, oracle, topic. Values as hex floats, exact."""

    kind: str
    request_id: str
    t_ms: int
    feature_set: str = ""
    entity: str | None = None
    feature: str = ""
    served: str = ""
    recomputed: str = ""
    cut: tuple[tuple[str, int, int], ...] = ()


@dataclass(slots=True)
class FeatureCounts:
    """Of one feature: values compared, fresh ones, values and statuses that differ."""

    values: int = 0
    fresh: int = 0
    values_differing: int = 0
    statuses_differing: int = 0


@dataclass(slots=True)
class Findings:
    """Counts over all passports. `checked`: passports recomputed; `values`: feature values compared, `fresh` of them fresh."""

    checked: int = 0
    values: int = 0
    fresh: int = 0
    values_differing: int = 0
    statuses_differing: int = 0
    vector_differing: int = 0  # float32 elements of assembled rows
    requests_differing: int = 0
    entities_differing: int = 0
    shapes_differing: int = 0
    topics_differing: int = 0  # passports of a topic that was made anew since: not recomputed
    oracle_checked: int = 0  # answers about one set
    oracle_differing: int = 0
    mismatches: list[Mismatch] = field(default_factory=list)
    mismatches_max: int = 20
    by_feature: dict[tuple[str, str], FeatureCounts] = field(default_factory=dict)

    _COUNTERS: ClassVar[dict[str, str]] = {
        "value": "values_differing", "status": "statuses_differing", "vector": "vector_differing",
        "request": "requests_differing", "entity": "entities_differing", "shape": "shapes_differing",
        "oracle": "oracle_differing", "topic": "topics_differing",
    }  # fmt: skip

    @property
    def differing(self) -> int:
        return sum(getattr(self, name) for name in self._COUNTERS.values())

    def kinds(self) -> dict[str, int]:
        """What differs, by kind; kinds without any are left out."""
        return {kind: n for kind, name in self._COUNTERS.items() if (n := getattr(self, name))}

    def add(self, mismatch: Mismatch) -> None:
        name = self._COUNTERS[mismatch.kind]
        setattr(self, name, getattr(self, name) + 1)
        if len(self.mismatches) < self.mismatches_max:
            self.mismatches.append(mismatch)

    def page(self) -> dict[str, Any]:
        """JSON-able. bits_differing: feature values and row elements together."""
        counts = {name: getattr(self, name) for name in self._COUNTERS.values()}
        return {
            "checked": self.checked,
            "values": self.values,
            "fresh": self.fresh,
            "bits_differing": self.values_differing + self.vector_differing,
            **counts,
            "oracle_checked": self.oracle_checked,
            "mismatches": [asdict(m) for m in self.mismatches],
            "by_feature": [{"set": s, "feature": f, **asdict(c)} for (s, f), c in self.by_feature.items()],
        }


def compare_set(
    findings: Findings, feature_set: FeatureSet, served: Served, recomputed: FeatureRows, request_ids: Mapping[int, str]
) -> None:
    """Values bit by bit and statuses of one set; rows of both in the order of `served.asked`."""
    findings.values += served.values.size
    findings.fresh += int((served.statuses == Status.FRESH).sum())
    values = float64_bits(served.values) != float64_bits(recomputed.values)
    statuses = served.statuses != recomputed.statuses
    _count(findings, feature_set, served, values, statuses)
    cuts: dict[int, tuple[tuple[str, int, int], ...]] = {}
    for row, column in zip(*np.nonzero(values | statuses), strict=True):
        pid, entity, t, _ = served.asked.row(int(row))
        if pid not in cuts:
            of = served.cuts.filter(served.cuts["pid"] == pid)
            cuts[pid] = tuple((e, p, n) for _, e, p, n in of.rows())
        where = (request_ids[pid], t, feature_set.name, entity, feature_set.features[column].name)
        if values[row, column]:
            pair = hexed(float(served.values[row, column])), hexed(float(recomputed.values[row, column]))
            findings.add(Mismatch("value", *where, *pair, cuts[pid]))
        if statuses[row, column]:
            pair = named(int(served.statuses[row, column])), named(int(recomputed.statuses[row, column]))
            findings.add(Mismatch("status", *where, *pair, cuts[pid]))


def _count(findings: Findings, feature_set: FeatureSet, served: Served, values: np.ndarray, statuses: np.ndarray) -> None:
    fresh = (served.statuses == Status.FRESH).sum(axis=0).tolist()
    differing = values.sum(axis=0).tolist(), statuses.sum(axis=0).tolist()
    for at, feature in enumerate(feature_set.features):
        counts = findings.by_feature.setdefault((feature_set.name, feature.name), FeatureCounts())
        counts.values += len(served.asked)
        counts.fresh += fresh[at]
        counts.values_differing += differing[0][at]
        counts.statuses_differing += differing[1][at]


def compare_rows(
    findings: Findings, inputs: Sequence[str], request_id: str, t_ms: int, served: np.ndarray, recomputed: np.ndarray
) -> None:
    """The model's row, float32: both (inputs,), NaNs equal."""
    if served.shape != recomputed.shape:
        findings.add(
            Mismatch("shape", request_id, t_ms, feature="vector", served=str(served.size), recomputed=str(recomputed.size))
        )
        return
    same = (served.view(np.int32) == recomputed.view(np.int32)) | (np.isnan(served) & np.isnan(recomputed))
    for column in np.flatnonzero(~same).tolist():
        pair = hexed(float(served[column])), hexed(float(recomputed[column]))
        findings.add(Mismatch("vector", request_id, t_ms, feature=inputs[column], served=pair[0], recomputed=pair[1]))


def hexed(value: float) -> str:
    """Exact text of a float; nothing for NaN."""
    return "missing" if math.isnan(value) else value.hex()


def named(status: int) -> str:
    return Status(status).name.lower()
