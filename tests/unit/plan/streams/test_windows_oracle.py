"""Operators of every kind of window against the naive oracle, take by take."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.chassis.state import MemoryStore
from headrace.plan.ir import Emit
from headrace.plan.streams.oracle_windows import WindowOracle
from headrace.plan.streams.vectors import Tables
from support.stream_windows import WINDOWS, World, expected, in_memory, live, make_world, shuffled, stream_of
from svc_stream.streams.tables import TaskTables

EMITS = st.sampled_from(("close", "update", "both"))
INPUTS: tuple[dict[str, Any], ...] = (
    {},
    {"key": ()},
    {"key": ("card", "shop")},
    {"where": "amount > 0 OR amount IS NULL"},
    {"each": "prices"},
    {"each": "prices", "where": "EACH(prices) > 0", "key": ("shop",)},
)


def on_a_store(store: MemoryStore) -> Tables:
    return TaskTables(store, 64 << 20)


def hardly_cached(store: MemoryStore) -> Tables:
    return TaskTables(store, 0)


@pytest.mark.parametrize("kind", WINDOWS)
@settings(max_examples=40)
@given(seed=st.integers(0, 10**9), emit=EMITS, rich=st.booleans(), given_=st.sampled_from(INPUTS))
def test_results_are_those_of_the_naive_oracle(kind: str, seed: int, emit: Emit, rich: bool, given_: dict[str, Any]) -> None:
    """Every take gives what the oracle says of all rows so far: rows in disorder over partitions, some below a watermark
    that went on without them, in random batches, over operators made anew from their changes or a sweep."""
    rng = random.Random(seed)
    stream, events = stream_of(replace(WINDOWS[kind], emit=emit), rich=rich, **given_)
    world = make_world(rng)
    wanted, refused = expected(stream, events, world)
    life = live(stream, events, world, rng, rng.choice((in_memory, on_a_store, hardly_cached)), restores=0.2)
    if kind == "count":  # nothing orders windows of tied rows, which have one place
        assert [sorted(taken, key=whole) for taken in life.taken] == [sorted(take, key=whole) for take in wanted]
    else:
        assert life.taken == wanted
    assert {(p, o) for p, o, _ in life.refused} == set(refused)
    assert len(set(life.refused)) == len(life.refused), "each row, or item of one, once"


@pytest.mark.parametrize("kind", WINDOWS)
@settings(max_examples=40)
@given(seed=st.integers(0, 10**9), rich=st.booleans())
def test_final_results_do_not_depend_on_how_partitions_and_batches_came(kind: str, seed: int, rich: bool) -> None:
    """The same partitions, interleaved and batched in two ways: the same finals, none twice, each the last thing said."""
    rng = random.Random(seed)
    stream, events = stream_of(replace(WINDOWS[kind], emit="both"), rich=rich)
    first, oracle = make_world(rng, advances=False), WindowOracle(stream, events)
    end = max(r.fields["paid_at"] for step in first.steps for r in step.rows if r.fields) + 1000
    wanted = oracle.finals([r for step in first.steps for r in step.rows], end)
    for world in (first, shuffled(first, rng)):
        world = World([*world.steps, replace(world.steps[-1], rows=[], watermark_ms=end)])
        said = [row for taken in live(stream, events, world, rng, restores=0.1).taken for row in taken]
        finals = [row for row in said if row["w_final"]]
        assert sorted(finals, key=whole) == sorted(wanted, key=whole)
        if kind == "count":
            continue  # windows of tied rows have one place: neither it nor an update tells them apart
        assert len({identity(row) for row in finals}) == len(finals)
        last: dict[Any, dict[str, Any]] = {identity(row): row for row in said if not row["w_final"]}
        for row in finals:  # `since` and the event time are as of the moment of saying
            moving = dict.fromkeys(("w_at", "w_final", "age"))
            assert last[identity(row)] | moving == row | moving


def identity(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["text"], row["w_start"], row["w_end"]


def whole(row: dict[str, Any]) -> str:
    return repr(sorted(row.items()))
