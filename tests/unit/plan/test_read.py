"""Read: one request alone and many together, the same bits."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from headrace.contracts.errors import Fatal
from headrace.plan.ir import Feature, FeatureSet, Measure, Term
from headrace.plan.read import Status, read_features, read_keys
from headrace.plan.tiles import Block, BlockKey, apply, lift
from support.law_worlds import DEPARTURES, HOUR, MIN, ORIGIN_LOAD, WEATHER, frame_of, make_world


def state_of(seed: int) -> dict[BlockKey, Block]:
    blocks: dict[BlockKey, Block] = {}
    for event in (DEPARTURES, WEATHER):
        records = [r for r in make_world(seed).log if r.event == event.name and r.fields is not None]
        for partial in lift(ORIGIN_LOAD, event, frame_of(event, records)):
            apply(ORIGIN_LOAD, partial, blocks)
    return blocks


@pytest.mark.parametrize("seed", range(6))
def test_many_requests_together_equal_each_alone(seed: int) -> None:
    """The array path against the path without arrays, with duplicates and entities that do not exist."""
    world, blocks, rng = make_world(seed), state_of(seed), random.Random(seed)
    entities = [rng.choice(("EWR", "JFK", "LGA", "never")) for _ in range(80)]
    times = [world.start_ms + rng.randint(-HOUR, world.span_ms + HOUR) // MIN * MIN for _ in entities]
    maxima = {"departures": world.start_ms + world.span_ms, "weather": world.start_ms + rng.randint(0, world.span_ms)}

    def load(keys: Sequence[BlockKey]) -> list[Block | None]:
        return [blocks.get(k) for k in keys]

    together = read_features(ORIGIN_LOAD, entities, times, load, maxima, world.start_ms)
    for i, (entity, t) in enumerate(zip(entities, times, strict=True)):
        alone = read_features(ORIGIN_LOAD, [entity], [t], load, maxima, world.start_ms)
        assert [v.hex() for v in alone.values[0].tolist()] == [v.hex() for v in together.values[i].tolist()]
        assert alone.statuses[0].tolist() == together.statuses[i].tolist()


def test_blocks_are_asked_for_once_and_only_those_named_before() -> None:
    """A view answers a read with one multi-get; callers may fetch ahead."""
    asked: list[list[BlockKey]] = []

    def load(keys: Sequence[BlockKey]) -> list[Block | None]:
        asked.append(list(keys))
        return [None] * len(keys)

    read_features(ORIGIN_LOAD, ["EWR", "JFK"], [10 * HOUR, 11 * HOUR], load, {}, None)
    assert asked == [read_keys(ORIGIN_LOAD, ["EWR", "JFK"], [10 * HOUR, 11 * HOUR])]
    assert len(set(asked[0])) == len(asked[0])


def test_no_requests_give_no_rows() -> None:
    """An empty batch is not an error."""
    rows = read_features(ORIGIN_LOAD, [], [], lambda keys: [None] * len(keys), {}, None)
    assert rows.values.shape == (0, len(ORIGIN_LOAD.features))


def test_a_topic_that_never_spoke_makes_counts_stale() -> None:
    """Zero is known only as far as the topic is."""
    rows = read_features(ORIGIN_LOAD, ["EWR"], [0], lambda keys: [None] * len(keys), {}, None)
    assert rows.rows()[0][0] == 0.0
    assert rows.statuses[0, 0] == Status.STALE


def test_a_sum_without_a_hop_is_refused() -> None:
    """The endless tile keeps last values only."""
    measures = (Measure("m0", "departures", "delay", None, ("nonnull", "sum")),)
    broken = FeatureSet("s", ("origin",), ("departures",), measures, (Feature("f", (Term("m0", "sum", HOUR, 0),)),), HOUR, HOUR)
    with pytest.raises(Fatal, match="needs a hop"):
        read_features(broken, ["EWR"], [0], lambda keys: [None] * len(keys), {}, None)
