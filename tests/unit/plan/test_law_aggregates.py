"""The law of parity over every aggregate: random feature sets served, recomputed in SQL, and asked of the oracle."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import polars as pl
import pytest

from headrace.plan import ir, lower, offline, read, slots, tiles
from headrace.plan.oracle import Oracle
from headrace.plan.read import Status
from support.law_sets import random_set
from support.law_worlds import (
    EVENTS,
    HOUR,
    MIN,
    Passport,
    World,
    database,
    frame_of,
    hexed,
    make_world,
    register,
    serve,
    some_entity,
)

SEEDS = range(100, 130)
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
def test_every_aggregate_as_of_equals_the_oracle(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point in time, over loaded history and a live source, in portions of any size."""
    world, feature_set, rng = make_world(seed, 120), random_set(seed), random.Random(seed)
    asked = []
    for i in range(25):
        origin, t = rng.choice(("EWR", "JFK", "LGA", "never")), world.start_ms + rng.randint(-HOUR, world.span_ms + HOUR)
        entity = origin if len(feature_set.entity) == 1 else f"{origin}\x1f{rng.randint(0, 2)}"
        asked.append((i, entity, t // (5 * MIN) * (5 * MIN) if rng.random() < 0.3 else t))
    connection = database(world)
    register(connection, "requests", pl.DataFrame(asked, schema=["pid", "entity", "t"], orient="row"))
    rows = offline.as_of(connection, feature_set, EVENTS).features
    monkeypatch.setattr(offline, "CELLS_MAX", 500)  # a few records and requests at a time
    portions = offline.as_of(connection, feature_set, EVENTS).features
    assert (rows.values.tobytes(), rows.statuses.tobytes()) == (portions.values.tobytes(), portions.statuses.tobytes())
    oracle, expected = Oracle(list(EVENTS.values()), world.log), list[object]()
    for _, entity, t in asked:
        values, statuses = oracle.as_of(feature_set, entity, t)
        expected.append((hexed(values), [int(s) for s in statuses]))
    assert [(hexed(v), s) for v, s in zip(rows.rows(), rows.statuses.tolist(), strict=True)] == expected


@pytest.mark.parametrize("entity", [("plane.model",), ("origin", "plane.model"), ("gate", "origin", "plane.model")])
@pytest.mark.parametrize("seed", range(3))
def test_entities_of_several_fields_and_of_fields_in_records_hold(seed: int, entity: tuple[str, ...]) -> None:
    """One to three fields, in declared order, of which one lies in a record that may be null: then there is no entity."""
    world, feature_set, rng = make_world(seed, 240), random_set(seed, entity=entity), random.Random(seed)
    passports = serve(world, feature_set, rng, 40)
    expected = by_oracle(world, feature_set, passports)
    assert passports == expected
    assert sum(status == Status.FRESH for p in passports for status in p.statuses) > 20
    rows = offline.as_served(database(world, passports), feature_set, EVENTS, world.base_floor_ms).features
    assert [hexed(v) for v in rows.rows()] == [p.values for p in expected]
    assert rows.statuses.tolist() == [p.statuses for p in expected]
    asked = [(i, some_entity(rng, feature_set, "EWR"), world.start_ms + rng.randint(0, world.span_ms)) for i in range(25)]
    connection, oracle = database(world), Oracle(list(EVENTS.values()), world.log)
    register(connection, "requests", pl.DataFrame(asked, schema=["pid", "entity", "t"], orient="row"))
    found = offline.as_of(connection, feature_set, EVENTS).features
    answers = [oracle.as_of(feature_set, name, t) for _, name, t in asked]
    assert [hexed(v) for v in found.rows()] == [hexed(values) for values, _ in answers]
    assert found.statuses.tolist() == [[int(s) for s in statuses] for _, statuses in answers]


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
    over = Counter[str]()
    for seed in SEEDS:
        world, feature_set = make_world(seed, 120), random_set(seed)
        passports = serve(world, feature_set, random.Random(seed), 30)
        over.update(str(m.value) for m in feature_set.measures if "EACH" in (m.value or "") and "last" not in m.slots)
        over.update("item where" for m in feature_set.measures if "EACH" in (m.where or ""))
        for i, feature in enumerate(feature_set.features):
            kinds.update(t.kind for t in feature.terms)
            steps.update(s.kind for s in feature.steps)
            fresh.update({t.kind: sum(p.statuses[i] in (Status.FRESH, Status.STALE) for p in passports) for t in feature.terms})
    assert set(kinds) == set(get_args(ir.AggregateKind))
    assert set(steps) == set(get_args(ir.StepKind))
    assert min(fresh.values()) >= 5, fresh
    assert min(over[name] for name in ("EACH(bags)", "EACH(crew)", "item where")) >= 5, over


def test_lifting_in_small_steps_gives_the_same_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound on memory changes nothing."""
    records = [r for r in make_world(7, 200).log if r.event == "departures" and r.fields is not None]
    for seed in SEEDS:
        feature_set, frame = random_set(seed), frame_of(EVENTS["departures"], records)
        whole = tiles.lift(feature_set, EVENTS["departures"], frame)
        with monkeypatch.context() as patch:
            patch.setattr(tiles, "CELLS_MAX", 700)
            steps = tiles.lift(feature_set, EVENTS["departures"], frame)
        assert [p.entities for p in whole] == [p.entities for p in steps]
        assert [p.starts_ms.tolist() for p in whole] == [p.starts_ms.tolist() for p in steps]
        assert [p.slots.tolist() for p in whole] == [p.slots.tolist() for p in steps]


@pytest.mark.parametrize("seed", SEEDS)
def test_vectors_of_every_kind_merge_the_same_in_any_grouping(seed: int) -> None:
    """Row by row, by groups, by ranges, in two halves: so any batching, crash or rebalance gives the same tile."""
    feature_set, rng = random_set(seed), random.Random(seed)
    for event in feature_set.events:
        layout = slots.layout_of(feature_set, event)
        records = [r for r in make_world(seed, 60).log if r.event == event and r.fields is not None]
        frame = frame_of(EVENTS[event], records).drop_nulls(list(feature_set.entity)).sort("__time", "__partition", "__offset")
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


# ---------------------------------------------------------------- mutants of the online side

Patch = pytest.MonkeyPatch


def the_same_value_counts_twice(patch: Patch) -> None:
    def greatest(values: Any, group: Any, groups: int, size: int) -> Any:
        out = np.zeros((groups, size), np.int64)
        for g in range(groups):
            found = np.sort(values[group == g].ravel())[::-1][:size]
            out[g, : len(found)] = found
        return out

    patch.setattr(slots, "greatest_distinct", greatest)


def the_smallest_hashes_are_kept(patch: Patch) -> None:
    real = slots.greatest_distinct
    patch.setattr(slots, "greatest_distinct", lambda v, g, n, k: -real(np.where(v, 2**62 - v, 0), g, n, k) % 2**62)


def first_by_arrival(patch: Patch) -> None:
    """In the order of the batch, not of event time."""
    patch.setattr(slots, "_later", lambda a, b, slot: np.zeros(len(a), np.bool_))
    real = slots._reduce_last

    def reduce(rows: Any, out: Any, first: Any, group: Any, slot: int, pick: Any, neutral: int) -> None:
        real(rows, out, first, group, slot, np.maximum, -(2**63))

    patch.setattr(slots, "_reduce_last", reduce)


def registers_are_added(patch: Patch) -> None:
    real = slots.layout_of
    for module in (slots, tiles, read):
        patch.setattr(module, "layout_of", lambda s, e: _added(real(s, e)))


def _added(layout: slots.Layout) -> slots.Layout:
    more = [i for slot, size in layout.registers for i in range(slot, slot + size)]
    return replace(layout, added=np.array([*layout.added, *more], np.int64), registers=())


def recent_values_of_any_age(patch: Patch) -> None:
    real = read.TermSlots.columns
    patch.setattr(read.TermSlots, "columns", lambda x, v, s, t, low: real(x, v, s, t, low - 40 * HOUR))
    one = read._ordered_one
    patch.setattr(read, "_ordered_one", lambda x, rows, t, low, hop, newest: one(x, rows, t, low - 40 * HOUR, hop, newest))


def an_edge_belongs_below(patch: Patch) -> None:
    real = slots.scatter_wide

    def scatter(layout: slots.Layout, *rest: Any) -> None:
        real(replace(layout, edges={m: e + 1 for m, e in layout.edges.items()}), *rest)

    patch.setattr(tiles, "scatter_wide", scatter)


def a_quantile_by_the_rank_below(patch: Patch) -> None:
    real = lower.quantile_bucket
    patch.setattr(lower, "quantile_bucket", lambda counts, share: real(counts, max(1, share - 2_000)))


def ties_to_the_later_word(patch: Patch) -> None:
    def top(counts: list[int], place: int) -> int | None:
        order = sorted(range(len(counts)), key=lambda i: (-counts[i], -i))
        return order[place] if counts[order[place]] else None

    patch.setattr(lower, "top_bucket", top)


def since_the_newest_event_of_the_tile(patch: Patch) -> None:
    """Of any record, whether its `where` holds or not."""
    real = read._ordered_one

    def ordered(x: Any, rows: Any, t: int, low: int, hop: int, newest: int) -> Any:
        count, total, at = real(x, rows, t, low, hop, newest)
        return (count, t - newest, at) if x.term.kind == "since" and count else (count, total, at)

    patch.setattr(read, "_ordered_one", ordered)


def a_root_rounded_twice(patch: Patch) -> None:
    patch.setattr(lower, "root_of", lambda n, d: (n / d) ** 0.5)


def a_difference_of_rounded_values(patch: Patch) -> None:
    real = lower._COMBINED_ONE["difference"]

    def rounded(a: Any, b: Any) -> Any:
        return real(*(None if x is None else (x[0] / x[1]).as_integer_ratio() for x in (a, b)))

    patch.setitem(lower._COMBINED_ONE, "difference", rounded)


MUTANTS: list[tuple[Callable[[Patch], None], str]] = [
    (the_same_value_counts_twice, "distinct"),
    (the_smallest_hashes_are_kept, "distinct"),
    (registers_are_added, "distinct"),
    (first_by_arrival, "plain"),
    (a_root_rounded_twice, "plain"),
    (a_difference_of_rounded_values, "plain"),
    (recent_values_of_any_age, "recent"),
    (an_edge_belongs_below, "histogram"),
    (a_quantile_by_the_rank_below, "histogram"),
    (ties_to_the_later_word, "words"),
    (since_the_newest_event_of_the_tile, "since"),
]


@pytest.mark.parametrize(("mutate", "only"), MUTANTS, ids=lambda x: getattr(x, "__name__", ""))
def test_a_mutant_of_an_aggregate_is_caught(mutate: Callable[[Patch], None], only: str, monkeypatch: Patch) -> None:
    """Some seed serves something the oracle does not say."""
    mutate(monkeypatch)
    for seed in SEEDS:
        world, feature_set = make_world(seed, 160), random_set(seed, only=only)
        passports = serve(world, feature_set, random.Random(seed), 30)
        if passports != by_oracle(world, feature_set, passports):
            return
    pytest.fail("never caught")
