"""Verdicts: a fold over the log prefix, whatever the batches."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.plan.oracle import Oracle, RawRecord
from headrace.plan.verdicts import SourceState, Verdict, judge, judge_each, prune_ids, rewind_point
from support.law_worlds import DEPARTURES, EVENTS, HOUR, MIN, World, frame_of, judge_frame, make_world


def judged_in_batches(world: World, event: str, partition: int, sizes: list[int]) -> tuple[list[int], SourceState]:
    state, found, rest = SourceState(), [], world.records(event, partition)
    while rest:
        n = sizes[len(found) % len(sizes)]
        batch, rest = rest[:n], rest[n:]
        found += judge_frame(state, EVENTS[event], frame_of(EVENTS[event], batch)).verdicts.tolist()
    return found, state


@given(st.integers(0, 10_000), st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_any_batching_gives_the_verdicts_of_the_oracle(seed: int, sizes: list[int]) -> None:
    """The oracle compares each record with all earlier ones of its partition, word for word."""
    world = make_world(seed, 60)
    oracle = Oracle(list(EVENTS.values()), world.log).verdicts()
    for event, partition in world.partitions():
        found, _ = judged_in_batches(world, event, partition, sizes)
        assert found == [int(oracle[event, partition, r.offset]) for r in world.records(event, partition)]


@given(st.integers(0, 10_000), st.integers(0, 60))
def test_reading_again_from_the_rewind_point_rebuilds_the_ids(seed: int, stop: int) -> None:
    """Maximum and, within the horizon, ids are equal to those of the state that never stopped."""
    world = make_world(seed)
    log = world.records("departures", 0)[:stop]
    state = SourceState()
    judge_frame(state, DEPARTURES, frame_of(DEPARTURES, log))
    point = rewind_point(state)
    if point is None:
        assert not state.ids
        return
    again = SourceState(maximum_ms=point[1])
    judge_frame(again, DEPARTURES, frame_of(DEPARTURES, [r for r in log if r.offset >= point[0]]))
    assert again.maximum_ms == state.maximum_ms
    for s in (again, state):
        prune_ids(s, DEPARTURES.dedup_horizon_ms)
    assert again.ids == state.ids


@given(st.integers(0, 10_000), st.lists(st.tuples(st.integers(1, 40), st.booleans()), min_size=1, max_size=6))
def test_record_by_record_says_and_remembers_what_arrays_do(seed: int, batches: list[tuple[int, bool]]) -> None:
    """Any mixture of the two over one log: verdicts, maxima, ids and raises."""
    world = make_world(seed, 60)
    for event, partition in world.partitions():
        law, arrays, mixed, rest, turn = EVENTS[event], SourceState(), SourceState(), world.records(event, partition), 0
        while rest:
            (size, each), turn = batches[turn % len(batches)], turn + 1
            batch, rest = rest[:size], rest[size:]
            frame = frame_of(law, batch)
            expected = judge_frame(arrays, law, frame)
            if each:
                ids = None if law.dedup_id is None else frame[law.dedup_id].to_list()
                offsets, times, appended, decodable = (
                    frame[n].to_list() for n in ("__offset", "__time", "__append", "__decodable")
                )
                verdicts, maxima = judge_each(mixed, law, offsets, times, appended, ids, decodable)
            else:
                judged = judge_frame(mixed, law, frame)
                verdicts, maxima = judged.verdicts.tolist(), judged.maximum_after_ms.tolist()
            assert (verdicts, maxima) == (expected.verdicts.tolist(), expected.maximum_after_ms.tolist())
            assert mixed == arrays


def test_ids_are_forgotten_record_by_record_too() -> None:
    """As many as arrays forget, at the same records."""
    event, arrays, each = replace(DEPARTURES, dedup_horizon_ms=HOUR), SourceState(), SourceState()
    for a in range(0, 5_000, 50):
        offsets = list(range(a, a + 50))
        times, ids = [offset * MIN for offset in offsets], [f"F{offset}" for offset in offsets]
        at = np.array(times, np.int64)
        judge(arrays, event, np.array(offsets), at, at, ids, np.ones(50, np.bool_))
        judge_each(each, event, offsets, times, times, ids, [True] * 50)
        assert each == arrays
    assert len(each.ids) < 2_000 and len(each.raises) < 140


def test_the_rewind_point_lies_within_two_horizons() -> None:
    """It follows M: a restore must not read a year because the partition is a year old."""
    event = replace(DEPARTURES, dedup_horizon_ms=HOUR)
    state, n = SourceState(), 5_000
    times = np.arange(n, dtype=np.int64) * MIN
    ids = [f"F{i}" for i in range(n)]
    for a in range(0, n, 700):
        part = slice(a, a + 700)
        judge(state, event, np.arange(n)[part], times[part], times[part], ids[part], np.ones(len(ids[part]), np.bool_))
    point = rewind_point(state)
    assert point is not None
    assert n - 120 < point[0] <= n - 60
    assert len(state.raises) < 140
    assert len(state.ids) < 2_000


def one(offset: int, minute: int, identity: str | None, append_minute: int | None = None) -> RawRecord:
    append = minute if append_minute is None else append_minute
    fields = {"flight_id": identity, "origin": "EWR", "gate": 0, "departed_at": minute * MIN, "delay": 0, "fare": 0}
    return RawRecord("departures", 0, offset, append * MIN, fields)


@pytest.mark.parametrize(
    ("records", "last"),
    [
        ([one(0, 600, "a"), one(1, 480, "b")], Verdict.OK),  # exactly at M - lateness
        ([one(0, 601, "a"), one(1, 480, "b")], Verdict.LATE),
        ([one(0, 30, "a", 0)], Verdict.OK),  # exactly at append + bound
        ([one(0, 31, "a", 0)], Verdict.POISON),
        ([one(0, 0, "a"), one(1, 360, "b"), one(2, 360, "a")], Verdict.DUPLICATE),  # exactly at the horizon
        ([one(0, 0, "a"), one(1, 361, "b"), one(2, 361, "a")], Verdict.OK),
        ([one(0, 0, "a"), one(1, 300, "a"), one(2, 600, "a")], Verdict.DUPLICATE),  # M before this one, after a duplicate
        ([one(0, 0, None), one(1, 0, None)], Verdict.OK),
    ],
)
def test_the_edges_belong_to_the_record_that_stands_on_them(records: list[RawRecord], last: Verdict) -> None:
    """Late is strictly below, poison strictly above, duplicate up to and including the horizon."""
    judged = judge_frame(SourceState(), DEPARTURES, frame_of(DEPARTURES, records))
    assert judged.verdicts[-1] == last
    assert Oracle([DEPARTURES], records).verdicts()["departures", 0, len(records) - 1] == last


def test_an_undecodable_record_is_invisible_to_the_maximum() -> None:
    """Whatever its time field seems to hold."""
    state = SourceState()
    offsets, times = np.array([0, 1]), np.array([10**15, 5])
    judged = judge(state, DEPARTURES, offsets, times, times, ["a", "b"], np.array([False, True]))
    assert judged.verdicts.tolist() == [Verdict.UNDECODABLE, Verdict.OK]
    assert state.maximum_ms == 5


def test_an_empty_batch_changes_nothing() -> None:
    """Commit deadlines come without records too."""
    state, none = SourceState(maximum_ms=7, ids={"a": 7}), np.empty(0, np.int64)
    assert len(judge(state, DEPARTURES, none, none, none, [], np.empty(0, np.bool_)).verdicts) == 0
    assert (state.maximum_ms, state.ids) == (7, {"a": 7})


def test_pruning_never_changes_a_verdict() -> None:
    """Pruned after every record against never pruned."""
    for seed in range(5):
        world, rng = make_world(seed), random.Random(seed)
        a, b = SourceState(), SourceState()
        for r in world.records("departures", 1):
            frame = frame_of(DEPARTURES, [r])
            assert judge_frame(a, DEPARTURES, frame).verdicts.tolist() == judge_frame(b, DEPARTURES, frame).verdicts.tolist()
            if rng.random() < 0.9:
                prune_ids(a, DEPARTURES.dedup_horizon_ms)
