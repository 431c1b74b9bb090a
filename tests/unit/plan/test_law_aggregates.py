"""The law of parity over every aggregate: random feature sets served, recomputed in SQL, and asked of the oracle."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import numpy as np
import polars as pl
import pytest

from headrace.plan import ir, offline, read, slots, tiles
from headrace.plan.oracle import Oracle
from headrace.plan.read import Status
from support.law_sets import random_set
from support.law_worlds import EVENTS, HOUR, MIN, Passport, World, database, frame_of, hexed, make_world, register, serve

SEEDS = range(100, 124)
Answers = list[tuple[list[str | None], list[int]]]


def by_oracle(world: World, feature_set: ir.FeatureSet, passports: Sequence[Passport]) -> list[Passport]:
    oracle, out = Oracle(list(EVENTS.values()), world.log), []
    for p in passports:
        values, statuses = oracle.answer(feature_set, p.entity, p.t, p.cut, world.base_floor_ms)
        out.append(replace(p, values=hexed(values), statuses=[int(s) for s in statuses]))
    return out


@pytest.mark.parametrize("seed", SEEDS)
def test_every_aggregate_is_served_as_oracle_and_sql_recompute_it(seed: int) -> None:
    """Random log, random set of features, random batches and cuts: no bit differs."""
    world, feature_set = make_world(seed, 120), random_set(seed)
    passports = serve(world, feature_set, random.Random(seed), 30)
    expected = by_oracle(world, feature_set, passports)
    assert passports == expected
    rows = offline.as_served(database(world, passports), feature_set, EVENTS, world.base_floor_ms).features
    found = zip(passports, rows.rows(), rows.statuses.tolist(), strict=True)
    assert [replace(p, values=hexed(v), statuses=s) for p, v, s in found] == expected


@pytest.mark.parametrize("seed", SEEDS)
def test_every_aggregate_as_of_equals_the_oracle(seed: int) -> None:
    """Point in time, over loaded history and a live source."""
    world, feature_set, rng = make_world(seed, 120), random_set(seed), random.Random(seed)
    asked = []
    for i in range(25):
        origin, t = rng.choice(("EWR", "JFK", "LGA", "never")), world.start_ms + rng.randint(-HOUR, world.span_ms + HOUR)
        entity = origin if len(feature_set.entity) == 1 else f"{origin}\x1f{rng.randint(0, 2)}"
        asked.append((i, entity, t // (5 * MIN) * (5 * MIN) if rng.random() < 0.3 else t))
    connection = database(world)
    register(connection, "requests", pl.DataFrame(asked, schema=["pid", "entity", "t"], orient="row"))
    rows = offline.as_of(connection, feature_set, EVENTS).features
    oracle, expected = Oracle(list(EVENTS.values()), world.log), list[object]()
    for _, entity, t in asked:
        values, statuses = oracle.as_of(feature_set, entity, t)
        expected.append((hexed(values), [int(s) for s in statuses]))
    assert [(hexed(v), s) for v, s in zip(rows.rows(), rows.statuses.tolist(), strict=True)] == expected


@pytest.mark.parametrize("seed", SEEDS)
def test_one_request_alone_equals_many_together_for_every_aggregate(seed: int) -> None:
    """The path without arrays against the path with them."""
    world, feature_set, rng = make_world(seed, 120), random_set(seed), random.Random(seed)
    blocks: dict[tiles.BlockKey, tiles.Block] = {}
    for event in EVENTS.values():
        records = [r for r in world.log if r.event == event.name and r.fields is not None]
        for partial in tiles.lift(feature_set, event, frame_of(event, records)):
            tiles.apply(feature_set, partial, blocks)
    origins = [rng.choice(("EWR", "JFK", "never")) for _ in range(40)]
    entities = [o if len(feature_set.entity) == 1 else f"{o}\x1f1" for o in origins]
    times = [world.start_ms + rng.randint(0, world.span_ms) for _ in entities]
    maxima = dict.fromkeys(EVENTS, world.start_ms + world.span_ms)

    def load(keys: Sequence[tiles.BlockKey]) -> list[tiles.Block | None]:
        return [blocks.get(k) for k in keys]

    together = read.read_features(feature_set, entities, times, load, maxima, world.start_ms)
    for i, (entity, t) in enumerate(zip(entities, times, strict=True)):
        alone = read.read_features(feature_set, [entity], [t], load, maxima, world.start_ms)
        assert [v.hex() for v in alone.values[0].tolist()] == [v.hex() for v in together.values[i].tolist()]
        assert alone.statuses[0].tolist() == together.statuses[i].tolist()


def test_the_random_sets_hold_every_kind_and_every_status_of_each() -> None:
    """Else the tests above could pass without having looked."""
    kinds, fresh, steps = Counter[str](), Counter[str](), Counter[str]()
    for seed in SEEDS:
        world, feature_set = make_world(seed, 120), random_set(seed)
        passports = serve(world, feature_set, random.Random(seed), 30)
        for i, feature in enumerate(feature_set.features):
            kinds.update(t.kind for t in feature.terms)
            steps.update(s.kind for s in feature.steps)
            fresh.update({t.kind: sum(p.statuses[i] in (Status.FRESH, Status.STALE) for p in passports) for t in feature.terms})
    assert set(kinds) == set(get_args(ir.AggregateKind))
    assert set(steps) == set(get_args(ir.StepKind))
    assert min(fresh.values()) >= 5, fresh


@pytest.mark.parametrize("seed", SEEDS)
def test_vectors_of_every_kind_merge_the_same_in_any_grouping(seed: int) -> None:
    """Row by row, by groups, by ranges, in two halves: so any batching, crash or rebalance gives the same tile."""
    feature_set, rng = random_set(seed), random.Random(seed)
    for event in feature_set.events:
        layout = slots.layout_of(feature_set, event)
        records = [r for r in make_world(seed, 60).log if r.event == event and r.fields is not None]
        frame = (
            frame_of(EVENTS[event], records).filter(pl.col("origin").is_not_null()).sort("__time", "__partition", "__offset")
        )
        rows = np.concatenate([tiles.lift(feature_set, EVENTS[event], frame[i : i + 1])[0].slots for i in range(len(frame))])
        folded = rows[:1]
        for row in rng.sample(range(1, len(rows)), len(rows) - 1):
            folded = slots.merge_rows(layout, folded, rows[row : row + 1])
        whole = slots.reduce_by(layout, np.zeros(len(rows), np.int64), rows)[1]
        half = slots.reduce_by(layout, np.arange(len(rows)) % 2, rows)[1]
        ranged = slots.reduce_ranges(layout, rows, np.array([3, 0, 5]), np.array([3, len(rows), 9]))
        assert folded.tolist() == whole.tolist() == slots.merge_rows(layout, half[:1], half[1:]).tolist()
        assert [ranged[1].tolist()] == whole.tolist()
        assert not ranged[0].any()
        assert ranged[2].tolist() == slots.reduce_by(layout, np.zeros(4, np.int64), rows[5:9])[1][0].tolist()
