"""The law of parity: what was served online is what the raw log says, bit for bit, twice recomputed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
import pytest

from headrace.plan import lower, offline, read, slots, tiles, verdicts
from headrace.plan.ir import FeatureSet
from headrace.plan.oracle import Oracle
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


def edge_low(patch: Patch) -> None:
    patch.setattr(read, "window_start", lambda t, w, hop: (t - w) // hop * hop + hop if hop else t - w)


def edge_high(patch: Patch) -> None:
    real = slots.ranges
    patch.setattr(read, "ranges", lambda owner, position, asked, low, high: real(owner, position, asked, low, high - 1))


def float_sum(patch: Patch) -> None:
    real = slots.reduce_by

    def reduce_by(layout: slots.Layout, groups: Any, rows: Any) -> Any:
        ids, out = real(layout, groups, rows)
        sums = [s["sum"] for s in layout.of.values() if "sum" in s]
        for at in sums:
            out[:, at] = np.bincount(np.searchsorted(ids, groups), rows[:, at].astype(np.float64)).astype(np.int64)
        return ids, out

    patch.setattr(tiles, "reduce_by", reduce_by)


def two_roundings(patch: Patch) -> None:
    real = lower._exact_one

    def exact(kind: Any, unit: int, term: lower.TermIntegers) -> Any:
        if kind != "mean" or not term.n:
            return real(kind, unit, term)
        rounded = Fraction(term.total / unit)
        return rounded.numerator, rounded.denominator * term.n

    patch.setattr(lower, "_exact_one", exact)


def late_by_batch_maximum(patch: Patch) -> None:
    real = verdicts.running_maximum

    def running(maximum_ms: Any, times: Any, valid: Any) -> Any:
        before, after = real(maximum_ms, times, valid)
        return np.full_like(before, verdicts.NO_MAXIMUM if maximum_ms is None else maximum_ms), after

    patch.setattr(verdicts, "running_maximum", running)


def poison_raises_maximum(patch: Patch) -> None:
    real = verdicts.running_maximum
    patch.setattr(verdicts, "running_maximum", lambda m, times, valid: real(m, times, np.ones_like(valid)))


def duplicates_by_event_time(patch: Patch) -> None:
    judge, duplicates, box = verdicts.judge, verdicts.duplicates, {}

    def judging(state: Any, event: Any, offsets: Any, times: Any, *rest: Any) -> Any:
        box["times"] = times
        return judge(state, event, offsets, times, *rest)

    patch.setattr(verdicts, "judge", judging)
    patch.setattr(verdicts, "duplicates", lambda s, h, at, ids, _b, _a: duplicates(s, h, at, ids, box["times"], box["times"]))


def duplicates_forgotten_between_batches(patch: Patch) -> None:
    real = verdicts.duplicates

    def duplicates(state: Any, *rest: Any) -> Any:
        state.ids.clear()
        return real(state, *rest)

    patch.setattr(verdicts, "duplicates", duplicates)


def one_limb(patch: Patch) -> None:
    patch.setattr(slots, "square_limbs", lambda v: (v * v, np.zeros_like(v)))


def floor_by_clock(patch: Patch) -> None:
    def floor(feature_set: FeatureSet, _event: str, maxima: Any, base: Any) -> Any:
        now = max((m for m in maxima.values() if m is not None), default=None)
        return base if now is None else now + 10 * MIN - feature_set.ttl_ms

    patch.setattr(read, "floor_ms", floor)


def expires_what_is_still_read(patch: Patch) -> None:
    real = tiles.floor_ms
    patch.setattr(tiles, "floor_ms", lambda *a: None if (f := real(*a)) is None else f + 6 * HOUR)


def truncated_division(patch: Patch) -> None:
    def start(t: Any, hop: int) -> Any:
        return np.trunc(t / hop).astype(np.int64) * hop if hop else np.zeros_like(t)

    patch.setattr(tiles, "tile_start", start)
    patch.setattr(read, "tile_start", start)


def last_by_offset(patch: Patch) -> None:
    real = slots.row_vectors

    def vectors(layout: slots.Layout, times: Any, *rest: Any) -> Any:
        rows = real(layout, times, *rest)
        for at in layout.lasts:
            rows[:, at] = np.where(rows[:, at + 1] > 0, rows[:, at + 3], 0)
        return rows

    patch.setattr(tiles, "row_vectors", vectors)


def late_is_accepted(patch: Patch) -> None:
    patch.setattr(verdicts.Judged, "accepted", property(lambda j: (j.verdicts == 0) | (j.verdicts == verdicts.Verdict.LATE)))


def cut_one_too_far(patch: Patch) -> None:
    """The state holds what it should, the passport claims one record more."""
    module = Passport.__module__
    real = Passport
    patch.setattr(f"{module}.Passport", lambda e, t, cut, v, s: real(e, t, {k: o + 1 for k, o in cut.items()}, v, s))


ONLINE_MUTANTS: list[Callable[[Patch], None]] = [
    edge_low, edge_high, float_sum, two_roundings, late_by_batch_maximum, poison_raises_maximum, duplicates_by_event_time,
    duplicates_forgotten_between_batches, one_limb, floor_by_clock, expires_what_is_still_read, truncated_division,
    last_by_offset, late_is_accepted, cut_one_too_far,
]  # fmt: skip


@pytest.mark.parametrize("mutate", ONLINE_MUTANTS, ids=lambda m: m.__name__)
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
    "mutate", [ignores_availability, head_tile_from_the_future, as_of_counts_duplicates], ids=lambda m: m.__name__
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
