"""What a reader of the state topic reads is what the naive oracle says at its cut, bit for bit, whatever went on between."""

from __future__ import annotations

import random

import pytest

from headrace.plan.ir import FeatureSet
from unit.svc_stream.rig import GATE, ORIGIN, Rig, by_append, world


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("feature_set", [ORIGIN, GATE], ids=lambda s: s.name)
def test_random_batches_of_a_generated_log_read_as_the_oracle_says(seed: int, feature_set: FeatureSet) -> None:
    """Late, duplicate, tied, null, poison and undecodable records over five partitions; asked at several cuts on the way."""
    rng, rig = random.Random(seed), Rig()
    waiting = by_append(world(seed))
    worker = rig.worker(feature_set)
    while waiting:
        size = rng.choice((1, 3, 20, 60))
        batch, waiting = waiting[:size], waiting[size:]
        rig.send(batch)
        if rng.random() < 0.2:
            rig.hole("departures", rng.randrange(3), rng.randint(0, 4))
        for _ in range(rng.choice((0, 1, 2, 5))):
            rig.round(worker, rng.choice((1, 2, 7, 1_000)))
        rig.compare(feature_set, rng, questions=3)
    rig.drain(worker, rng=rng)
    rig.compare(feature_set, rng, questions=20)
    view_cut = rig.cut(rig.view(feature_set, 0))
    judged = {(r.event, r.partition): r.offset + 1 for r in rig.log if r.event in feature_set.events}
    assert view_cut == judged, "the last cut holds every record"


@pytest.mark.parametrize("seed", range(3))
def test_any_batching_gives_the_same_state_and_dead_letters(seed: int) -> None:
    found = []
    for rng in (None, random.Random(seed)):
        rig = Rig()
        rig.send(by_append(world(seed, 80)))
        worker = rig.worker(ORIGIN)
        rig.drain(worker, rng=rng)
        found.append((rig.state(ORIGIN), rig.letters()))
    assert found[0] == found[1]


def test_rejected_records_are_written_once_and_by_the_reporter_only() -> None:
    rig = Rig()
    rig.send(by_append(world(11, 120)))
    rig.drain(rig.worker(ORIGIN), rig.worker(GATE, reports=False))
    letters, expected = rig.letters(), rig.expected_letters()
    assert {k: len(v) for k, v in letters.items()} == dict.fromkeys(expected, 1)
    names = {"late": "LATE", "far_future": "POISON"}
    assert {k: names.get(v[0], "UNDECODABLE") for k, v in letters.items()} == {k: v.name for k, v in expected.items()}
    assert {"LATE", "POISON", "UNDECODABLE"} <= {v.name for v in expected.values()}
