"""Reading wide is reading: the same bits and statuses as `read_features` on any state, cut, time and size of numbers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from headrace.plan import tiles, verdicts, wide
from headrace.plan.ir import AggregateKind, Feature, FeatureSet, Term
from headrace.plan.lower import FeatureRows
from headrace.plan.read import read_features
from headrace.plan.wide import held_of, keys_of, lower_held, marks_of, read_quick, wide_plan
from support.law_worlds import EVENTS, GATE_LOAD, HOUR, MIN, ORIGIN_LOAD, World, frame_of, judge_frame, make_world

_KINDS: tuple[tuple[str, tuple[AggregateKind, ...]], ...] = (
    ("m0", ("count",)), ("m1", ("count", "sum", "mean", "min", "max")), ("m2", ("count",)), ("m3", ("sum", "mean")),
    ("m5", ("min", "max", "sum")),
)  # fmt: skip
_RATIOS: tuple[tuple[tuple[str, AggregateKind], tuple[str, AggregateKind], str | None], ...] = (
    (("m2", "count"), ("m0", "count"), None), (("m5", "sum"), ("m5", "min"), None), (("m3", "mean"), ("m1", "max"), "0"),
    (("m1", "min"), ("m3", "sum"), None),
)  # fmt: skip
MANY = replace(  # every kind of a measure over several windows of one hop, ratios, imputed or not, scaled
    ORIGIN_LOAD,
    features=(
        *(
            Feature(f"{m}_{kind}_{w}_{hop}", (Term(m, kind, w * HOUR, hop * MIN),), impute="-1.5" if w == 3 else None)
            for m, kinds in _KINDS
            for kind in kinds
            for w, hop in ((1, 5), (3, 5), (3, 15), (24, 60))
        ),
        *(
            Feature(f"ratio_{i}", (Term(*a, 3 * HOUR, 15 * MIN), Term(*b, 24 * HOUR, HOUR)), "ratio", impute)
            for i, (a, b, impute) in enumerate(_RATIOS)
        ),
    ),
)

MIXED = replace(MANY, features=(*ORIGIN_LOAD.features, *MANY.features))  # some of which only the law itself reads


def state(
    world: World, feature_set: FeatureSet, share: float
) -> tuple[dict[tiles.BlockKey, tiles.Block], dict[str, int | None]]:
    """Blocks and maxima after this share of each partition."""
    blocks: dict[tiles.BlockKey, tiles.Block] = {}
    tops: dict[str, int | None] = {}
    for name in feature_set.events:
        event = EVENTS[name]
        for partition in range(event.partitions):
            records = world.records(name, partition)
            records = records[: round(len(records) * share)]
            if not records:
                continue
            source = verdicts.SourceState()
            frame = frame_of(event, records)
            for partial in tiles.lift(feature_set, event, frame.filter(judge_frame(source, event, frame).accepted)):
                tiles.apply(feature_set, partial, blocks)
            known = [m for m in (tops.get(name), source.maximum_ms) if m is not None]
            tops[name] = max(known, default=None)
    return blocks, tops


def bits(rows: FeatureRows) -> tuple[list[list[str]], list[list[int]]]:
    return [[float(v).hex() for v in row] for row in rows.values.tolist()], rows.statuses.tolist()


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("feature_set", [MANY, ORIGIN_LOAD, GATE_LOAD], ids=lambda s: f"{s.name}-{len(s.features)}")
def test_reading_wide_equals_reading(feature_set: FeatureSet, seed: int) -> None:
    """Goal: equal bits, one request and many, small numbers and those beyond 2**53, with and without floors and maxima."""
    rng = random.Random(seed)
    world = make_world(seed)
    blocks, tops = state(world, feature_set, rng.choice((0.0, 0.3, 1.0)))
    names = sorted({key.entity for key in blocks})
    asked = [rng.choice([*names, "nobody"]) for _ in range(rng.choice((1, 7, 30)))]
    times = [world.start_ms + rng.randint(-3 * HOUR, world.span_ms + 3 * HOUR) for _ in asked]
    maxima = tops if rng.random() < 0.8 else {}
    floor = rng.choice((None, world.start_ms + rng.randint(0, world.span_ms)))
    law = read_features(feature_set, asked, times, lambda keys: [blocks.get(k) for k in keys], maxima, floor)
    plan = wide_plan(feature_set)
    marks = [marks_of(plan, t) for t in times]
    held = [
        held_of(plan, mark, [[blocks.get(k) for k in keys] for keys in keys_of(plan, entity, mark)])
        for entity, mark in zip(asked, marks, strict=True)
    ]
    if len(plan.wide):
        found = lower_held(plan, held, marks, times, maxima, floor)
        picked = FeatureRows(law.values[:, plan.wide], law.statuses[:, plan.wide])
        assert bits(found) == bits(picked)
    others = set(range(len(feature_set.features))) - set(plan.wide.tolist())
    assert sorted(others) == plan.rest_at.tolist()
    left = [f.name for f in plan.rest.features] if plan.rest else []
    assert left == [feature_set.features[i].name for i in sorted(others)]


def test_the_worlds_reach_every_status_and_the_exact_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison above would prove little otherwise."""
    seen: set[int] = set()
    plan, exactly, went = wide_plan(MANY), wide._exactly, 0

    def counted(*arguments: Any) -> FeatureRows:
        nonlocal went
        went += 1
        return exactly(*arguments)

    monkeypatch.setattr(wide, "_exactly", counted)
    for seed in range(10):
        world = make_world(seed)
        blocks, tops = state(world, MANY, 1.0)
        for hour in range(0, 50, 3):
            t = world.start_ms + hour * HOUR
            mark = marks_of(plan, t)
            held = held_of(plan, mark, [[blocks.get(k) for k in keys] for keys in keys_of(plan, "EWR", mark)])
            seen |= set(lower_held(plan, [held], [mark], [t], tops, None).statuses.ravel().tolist())
    assert seen == {0, 1, 2, 3, 4} and 0 < went < 170
    assert len(plan.wide) == len(MANY.features)
    assert 0 < len(wide_plan(ORIGIN_LOAD).wide) < len(ORIGIN_LOAD.features)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("feature_set", [MANY, MIXED, ORIGIN_LOAD], ids=lambda s: f"{s.name}-{len(s.features)}")
def test_a_quick_read_is_a_read_for_any_number_of_requests(feature_set: FeatureSet, seed: int) -> None:
    rng, world = random.Random(seed), make_world(seed)
    blocks, tops = state(world, feature_set, 1.0)
    names = [*sorted({key.entity for key in blocks}), "nobody"]
    asked = [rng.choice(names) for _ in range(seed % 6 + 1)]
    times = [world.start_ms + rng.randint(-3 * HOUR, world.span_ms + 3 * HOUR) for _ in asked]
    floor = rng.choice((None, world.start_ms + rng.randint(0, world.span_ms)))

    def find(keys: Sequence[tiles.BlockKey]) -> list[tiles.Block | None]:
        return [blocks.get(key) for key in keys]

    law = read_features(feature_set, asked, times, find, tops, floor)
    assert bits(read_quick(feature_set, asked, times, find, tops, floor)) == bits(law)
