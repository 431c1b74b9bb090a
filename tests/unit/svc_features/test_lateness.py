"""Lateness skew of small lakes is what the naive oracle says: served values from passports, as of t from the raw log."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from headrace.plan.oracle import Oracle
from support.law_worlds import make_world
from svc_features.adapters.lake import LakeReader
from svc_features.lateness import lateness_skew
from svc_features.warehouse import connect
from unit.svc_features.worlds import EVENTS, MODEL, PLAN, PREDICTIONS_TOPIC, SETS, played

EVERYTHING = {topic: dict.fromkeys(range(4), 10**9) for topic in (PREDICTIONS_TOPIC, *(e.topic for e in PLAN.events))}


@pytest.mark.parametrize("seed", (2, 5))
def test_counts_and_largest_differences_are_the_oracles(tmp_path: Path, seed: int) -> None:
    rig = played(make_world(seed, 200), random.Random(seed), asks=60)
    rig.archived(tmp_path)
    oracle = Oracle(list(EVENTS.values()), rig.log)
    counts: dict[tuple[str, str], Counter[str]] = {(s.name, f.name): Counter() for s in SETS for f in s.features}
    sizes: dict[tuple[str, str], list[float]] = {key: [] for key in counts}
    for passport in rig.passports:
        for read, feature_set in zip(passport.sets, SETS, strict=True):
            known, _ = oracle.as_of(feature_set, "\x00" if read.entity is None else read.entity, passport.t_ms)
            for feature, status, was, knew in zip(feature_set.features, read.statuses, read.values, known, strict=True):
                key = (feature_set.name, feature.name)
                if status in (3, 4):
                    counts[key]["unusable"] += 1
                    continue
                counts[key]["reads"] += 1
                if was is None or knew is None:
                    counts[key]["equal" if was is knew else "only_served" if knew is None else "only_as_of"] += 1
                    continue
                counts[key]["equal" if was.hex() == knew.hex() else "differing"] += 1
                sizes[key].append(abs(was - knew))
    found = lateness_skew(connect(1, 500, tmp_path / "spill"), LakeReader(tmp_path), PLAN, MODEL.name, EVERYTHING)
    assert {(s.feature_set, s.feature) for s in found} == counts.keys()
    for skew in found:
        key = (skew.feature_set, skew.feature)
        page = {n: getattr(skew, n) for n in ("reads", "equal", "differing", "only_served", "only_as_of", "unusable")}
        assert page == {name: counts[key][name] for name in page}
        assert (max(sizes[key]) if sizes[key] else None) == (skew.quantiles[-1] if skew.quantiles else None)
    assert sum(s.differing for s in found) > 0
    assert sum(s.equal for s in found) > 0
