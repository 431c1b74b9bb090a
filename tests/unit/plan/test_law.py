"""The law of parity: what was served online is what the raw log says, bit for bit, twice recomputed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import polars as pl
import pytest

from headrace.plan import offline, read, verdicts
from headrace.plan.ir import FeatureSet
from headrace.plan.oracle import Oracle
from support import law_mutants as m
from support.law_worlds import (
    EVENTS,
    GATE_LOAD,
    HOUR,
    MIN,
    ORIGIN_LOAD,
    Passport,
    World,
    database,
    hexed,
    make_world,
    register,
    serve,
)

SEEDS = range(1, 13)
MUTANT_SEEDS = range(1, 25)


def set_of(seed: int) -> FeatureSet:
    return ORIGIN_LOAD if seed % 3 else GATE_LOAD


def wanted(oracle: Oracle, world: World, feature_set: FeatureSet, passport: Passport) -> Passport:
    values, statuses = oracle.answer(feature_set, passport.entity, passport.t, passport.cut, world.base_floor_ms)
    return replace(passport, values=hexed(values), statuses=[int(s) for s in statuses])


@pytest.mark.parametrize("seed", SEEDS)
def test_every_served_vector_is_recomputed_bit_for_bit_by_oracle_and_sql(seed: int) -> None:
    """Random log, random batches, random cuts: tiles and read, the naive oracle, and DuckDB over records agree."""
    world, feature_set = make_world(seed), set_of(seed)
    passports = serve(world, feature_set, random.Random(seed))
    oracle = Oracle(list(EVENTS.values()), world.log)
    expected = [wanted(oracle, world, feature_set, p) for p in passports]
    assert passports == expected
    rows = offline.as_served(database(world, passports), feature_set, EVENTS, world.base_floor_ms)
    served_by_sql = [
        replace(p, values=hexed(v), statuses=s)
        for p, v, s in zip(passports, rows.features.rows(), rows.features.statuses.tolist(), strict=True)
    ]
    assert served_by_sql == expected


@pytest.mark.parametrize("seed", SEEDS)
def test_sql_pronounces_the_verdicts_of_the_oracle(seed: int) -> None:
    """One verdict per record, none missing."""
    world = make_world(seed)
    connection, found = database(world), {}
    for event in EVENTS:
        for part, off, verdict in connection.execute(f'select part, off, verdict from "verdict_{event}"').fetchall():
            found[event, part, off] = verdict
    assert found == {k: v.name.lower() for k, v in Oracle(list(EVENTS.values()), world.log).verdicts().items()}


def test_the_worlds_hold_every_verdict_and_every_status() -> None:
    """Else the tests above could pass without having looked."""
    statuses, judged = Counter[int](), Counter[verdicts.Verdict]()
    for seed in SEEDS:
        world = make_world(seed)
        statuses.update(s for p in serve(world, set_of(seed), random.Random(seed)) for s in p.statuses)
        judged.update(Oracle(list(EVENTS.values()), world.log).verdicts().values())
    assert set(judged) == set(verdicts.Verdict)
    assert set(statuses) == {int(s) for s in read.Status}
    assert min(judged.values()) > 20
    assert min(statuses.values()) > 20


# ---------------------------------------------------------------- as of


def requests_of(world: World, feature_set: FeatureSet, count: int = 40) -> list[tuple[int, str, int]]:
    rng, out = random.Random(world.seed), []
    for i in range(count):
        origin = rng.choice(("EWR", "JFK", "LGA", "never"))
        t = world.start_ms + rng.randint(-HOUR, world.span_ms + HOUR)
        entity = origin if len(feature_set.entity) == 1 else f"{origin}\x1f{rng.randint(0, 2)}"
        out.append((i, entity, t // (5 * MIN) * (5 * MIN) if rng.random() < 0.3 else t))
    return out


def as_of(world: World, feature_set: FeatureSet, asked: list[tuple[int, str, int]]) -> list[tuple[list[str | None], list[int]]]:
    connection = database(world)
    register(connection, "requests", pl.DataFrame(asked, schema=["pid", "entity", "t"], orient="row"))
    rows = offline.as_of(connection, feature_set, EVENTS).features
    return [(hexed(v), s) for v, s in zip(rows.rows(), rows.statuses.tolist(), strict=True)]


def as_of_by_oracle(
    world: World, feature_set: FeatureSet, asked: list[tuple[int, str, int]]
) -> list[tuple[list[str | None], list[int]]]:
    oracle = Oracle(list(EVENTS.values()), world.log)
    answers = [oracle.as_of(feature_set, entity, t) for _, entity, t in asked]
    return [(hexed(values), [int(s) for s in statuses]) for values, statuses in answers]


@pytest.mark.parametrize("seed", SEEDS)
def test_as_of_equals_the_oracle_bit_for_bit(seed: int) -> None:
    """Loaded history (departures) and a live source out of order (weather) in one set."""
    world, feature_set = make_world(seed), set_of(seed)
    asked = requests_of(world, feature_set)
    assert as_of(world, feature_set, asked) == as_of_by_oracle(world, feature_set, asked)


@pytest.mark.parametrize("seed", SEEDS)
def test_deleting_every_event_after_t_leaves_the_vector_of_t_unchanged(seed: int) -> None:
    """Loaded records go by event time; live ones by event time or arrival, whichever is later."""
    world, feature_set = make_world(seed), set_of(seed)
    asked = requests_of(world, feature_set, 5)
    for request, whole in zip(asked, as_of(world, feature_set, asked), strict=True):
        t = request[2]
        kept = []
        for r in world.log:
            event = EVENTS[r.event]
            time = r.append_ms if r.fields is None else r.fields[event.time]
            if time < t and (event.available_after_ms is not None or r.append_ms <= t):
                kept.append(r)
        assert as_of(replace(world, log=tuple(kept)), feature_set, [request]) == [whole]


# ---------------------------------------------------------------- mutants of the online side


Patch = pytest.MonkeyPatch


ONLINE_MUTANTS: list[Callable[[Patch], None]] = [
    m.edge_low, m.edge_high, m.float_sum, m.division_before_sum, m.maximum_per_batch, m.poison_raises_maximum,
    m.dedup_by_event_time, m.dedup_forgets_between_batches, m.one_limb, m.floor_by_clock, m.tiles_gone_too_early,
    m.truncated_division, m.last_by_arrival, m.late_is_accepted, m.cut_one_too_far,
]  # fmt: skip


@pytest.mark.parametrize("mutate", ONLINE_MUTANTS, ids=lambda mutate: mutate.__name__)
def test_a_mutant_of_the_online_side_is_caught(mutate: Callable[[Patch], None], monkeypatch: Patch) -> None:
    """Some seed serves something the oracle does not say."""
    mutate(monkeypatch)
    for seed in MUTANT_SEEDS:
        world, feature_set = make_world(seed), ORIGIN_LOAD
        oracle = Oracle(list(EVENTS.values()), world.log)
        if any(p != wanted(oracle, world, feature_set, p) for p in serve(world, feature_set, random.Random(seed))):
            return
    pytest.fail("never caught")


def ignores_availability(patch: Patch) -> None:
    real = offline.as_of_sql
    patch.setattr(
        offline, "as_of_sql", lambda s, e: real(s, e).replace("greatest(et + 1, available_at) as known_at", "et as known_at")
    )


def head_tile_from_the_future(patch: Patch) -> None:
    ignores_availability(patch)
    ranges, filtered = offline.ranges, offline._Portion._filtered
    patch.setattr(
        offline, "ranges", lambda o, p, a, low, high: ranges(o, p, a, low, high // (5 * MIN) * (5 * MIN) + 5 * MIN - 1)
    )
    patch.setattr(offline._Portion, "_filtered", lambda self, start, end, t: filtered(self, start, end, t + 5 * MIN))


def as_of_counts_duplicates(patch: Patch) -> None:
    real = offline.as_of_sql
    patch.setattr(offline, "as_of_sql", lambda s, e: real(s, replace(e, dedup_id=None)))


@pytest.mark.parametrize(
    "mutate", [ignores_availability, head_tile_from_the_future, as_of_counts_duplicates], ids=lambda mutate: mutate.__name__
)
def test_a_mutant_of_as_of_is_caught(mutate: Callable[[Patch], None], monkeypatch: Patch) -> None:
    """Some seed answers with what was not known at t, or twice."""
    mutate(monkeypatch)
    for seed in MUTANT_SEEDS:
        world = make_world(seed)
        asked = requests_of(world, ORIGIN_LOAD)
        if as_of(world, ORIGIN_LOAD, asked) != as_of_by_oracle(world, ORIGIN_LOAD, asked):
            return
    pytest.fail("never caught")


def test_availability_out_of_order_is_answered_in_steps_of_bounded_size(monkeypatch: Patch) -> None:
    """Live sources expand pairs of request and record; a tiny bound must change nothing."""
    world = make_world(4)
    asked = requests_of(world, ORIGIN_LOAD)
    whole = as_of(world, ORIGIN_LOAD, asked)
    monkeypatch.setattr(offline, "PAIRS_MAX", 3)
    assert as_of(world, ORIGIN_LOAD, asked) == whole
