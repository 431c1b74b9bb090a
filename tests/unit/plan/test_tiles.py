"""Tiles and blocks: what is shipped, merged, kept and named."""

from __future__ import annotations

import random

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.contracts.errors import Fatal
from headrace.plan.slots import NEWEST
from headrace.plan.tiles import (
    BLOCK_TILES,
    Block,
    BlockKey,
    PartialColumns,
    apply,
    blocks_touched,
    decode_key,
    encode_key,
    entity_of,
    expire,
    finest_hop,
    floor_ms,
    levels,
    lift,
    roll_up,
    tile_start,
)
from support.law_worlds import DEPARTURES, GATE_LOAD, HOUR, MIN, ORIGIN_LOAD, WEATHER, frame_of, make_world


def decodable(seed: int) -> pl.DataFrame:
    return frame_of(DEPARTURES, [r for r in make_world(seed).log if r.event == "departures" and r.fields is not None])


def content(blocks: dict[BlockKey, Block]) -> dict[BlockKey, tuple[list[int], list[list[int]]]]:
    return {k: (b.starts_ms.tolist(), b.slots.tolist()) for k, b in blocks.items()}


@given(st.integers(0, 500), st.randoms(use_true_random=False))
def test_blocks_do_not_depend_on_batches_or_their_order(seed: int, rng: random.Random) -> None:
    """One lift of everything against lifts of a shuffled split."""
    frame = decodable(seed).head(60)
    whole: dict[BlockKey, Block] = {}
    apply(ORIGIN_LOAD, lift(ORIGIN_LOAD, DEPARTURES, frame)[0], whole)
    order, pieces = list(range(len(frame))), dict[BlockKey, Block]()
    rng.shuffle(order)
    while order:
        n = rng.randint(1, 20)
        for partial in lift(ORIGIN_LOAD, DEPARTURES, frame[order[:n]]):
            assert apply(ORIGIN_LOAD, partial, pieces) == blocks_touched(ORIGIN_LOAD, partial)
        order = order[n:]
    assert content(pieces) == content(whole)


def test_a_block_holds_at_most_sixteen_neighbours_in_order() -> None:
    """Its index says which, also before 1970."""
    blocks: dict[BlockKey, Block] = {}
    for seed in range(8):
        apply(ORIGIN_LOAD, lift(ORIGIN_LOAD, DEPARTURES, decodable(seed))[0], blocks)
    assert {k.hop_ms for k in blocks} == {5 * MIN, 15 * MIN, HOUR}
    assert any(k.index < 0 for k in blocks)
    for key, block in blocks.items():
        assert 0 < len(block.starts_ms) <= BLOCK_TILES
        assert (np.diff(block.starts_ms) > 0).all()
        assert set((block.starts_ms // (key.hop_ms * BLOCK_TILES)).tolist()) == {key.index}


def test_apply_replaces_blocks_and_never_writes_into_one() -> None:
    """A reader may keep the block it holds."""
    blocks: dict[BlockKey, Block] = {}
    partial = lift(ORIGIN_LOAD, DEPARTURES, decodable(1))[0]
    apply(ORIGIN_LOAD, partial, blocks)
    held, before = dict(blocks), content(blocks)
    apply(ORIGIN_LOAD, partial, blocks)
    assert content(held) == before
    assert content(blocks) != before


def test_rows_without_an_entity_are_not_lifted() -> None:
    """Also when only one of several entity fields is null."""
    frame = decodable(1)
    assert lift(GATE_LOAD, DEPARTURES, frame.with_columns(origin=pl.lit(None, pl.String))) == []
    known = {e for p in lift(GATE_LOAD, DEPARTURES, frame) for e in p.entities}
    assert known == {f"{o}\x1f{g}" for o, g in frame.drop_nulls("origin").select("origin", "gate").iter_rows()}


def test_an_entity_is_written_alike_by_lift_and_for_requests() -> None:
    """Else a request would never find its tiles."""
    frame = decodable(2).filter(pl.col("origin").is_not_null())
    partials = lift(GATE_LOAD, DEPARTURES, frame)
    assert {entity_of(GATE_LOAD, row) for row in frame.iter_rows(named=True)} == set(partials[0].entities)
    assert entity_of(GATE_LOAD, {"origin": None, "gate": 1}) is None


def test_another_sets_event_gives_no_tiles() -> None:
    """A set reads only the events it names."""
    frame = frame_of(WEATHER, [r for r in make_world(1).log if r.event == "weather" and r.fields is not None])
    assert lift(GATE_LOAD, WEATHER, frame) == []


def test_levels_are_the_hops_the_terms_read() -> None:
    """Lifted at one hop that divides them all; the endless tile beside."""
    assert levels(ORIGIN_LOAD, "departures") == (5 * MIN, 15 * MIN, HOUR)
    assert levels(ORIGIN_LOAD, "weather") == (0, 15 * MIN, HOUR)
    assert finest_hop(ORIGIN_LOAD, "departures") == 5 * MIN
    assert finest_hop(ORIGIN_LOAD, "weather") == 15 * MIN


def test_the_endless_tile_keeps_last_values_only() -> None:
    """Sums there would grow until they wrap."""
    frame = frame_of(WEATHER, [r for r in make_world(3).log if r.event == "weather" and r.fields is not None])
    endless = roll_up(ORIGIN_LOAD, lift(ORIGIN_LOAD, WEATHER, frame)[0], 0)
    assert endless.starts_ms.tolist() == [0] * len(set(endless.entities))
    assert (endless.slots[:, 1 + 1] > 0).any()
    assert not endless.slots[:, 6:].any()
    assert (endless.slots[:, NEWEST] != 0).all()


@given(st.integers(-(2**45), 2**45), st.sampled_from([1, 5 * MIN, HOUR]))
def test_tiles_start_at_the_multiple_not_above_the_time(t: int, hop: int) -> None:
    """Below zero too."""
    start = int(tile_start(np.array([t]), hop)[0])
    assert start % hop == 0
    assert start <= t < start + hop


def test_expiry_drops_tiles_below_the_floor_and_leaves_the_rest() -> None:
    """The endless tile is as old as its newest event."""
    block = Block(np.array([0, 10, 20]), np.array([[5], [15], [25]]))
    assert expire(block, None) is block
    assert expire(block, 0) is block
    assert expire(block, 10).starts_ms.tolist() == [10, 20]
    assert len(expire(block, 21).starts_ms) == 0
    endless = Block(np.array([0]), np.array([[50]]))
    assert expire(endless, 50, endless=True) is endless
    assert len(expire(endless, 51, endless=True).starts_ms) == 0


def test_the_floor_is_a_function_of_the_cut() -> None:
    """Its own topic's maximum, and the base; never another topic's."""
    maxima = {"departures": 100 * HOUR, "weather": None}
    assert floor_ms(ORIGIN_LOAD, "departures", maxima, None) == 70 * HOUR
    assert floor_ms(ORIGIN_LOAD, "departures", maxima, 80 * HOUR) == 80 * HOUR
    assert floor_ms(ORIGIN_LOAD, "weather", maxima, None) is None
    assert floor_ms(ORIGIN_LOAD, "weather", maxima, 5) == 5


KEY = BlockKey("JFK é", "weather", HOUR, -3)


def test_the_state_key_has_the_bytes_of_format_one() -> None:
    """Golden: keys on disk and in compacted topics must never change under their format byte."""
    wanted = "01" + "00000006" + "4a464b20c3a9" + "01" + "000000000036ee80" + "7ffffffffffffffd"
    assert encode_key(ORIGIN_LOAD, KEY).hex() == wanted
    assert decode_key(ORIGIN_LOAD, bytes.fromhex(wanted)) == KEY


@given(st.lists(st.integers(-(2**60), 2**60), min_size=2, max_size=8))
def test_keys_of_one_entity_and_level_sort_by_block(indices: list[int]) -> None:
    """Bytes in the order of event time: a range scan reads a window."""
    keys = [BlockKey("JFK", "weather", HOUR, i) for i in indices]
    assert sorted(keys, key=lambda k: encode_key(ORIGIN_LOAD, k)) == sorted(keys)
    assert [decode_key(ORIGIN_LOAD, encode_key(ORIGIN_LOAD, k)) for k in keys] == keys


@pytest.mark.parametrize(
    "broken", [b"", b"\x02" + b"\0" * 30, encode_key(ORIGIN_LOAD, KEY)[:-1], encode_key(ORIGIN_LOAD, KEY) + b"x"]
)
def test_a_key_of_another_format_is_refused(broken: bytes) -> None:
    """Never read as something else."""
    with pytest.raises(Fatal):
        decode_key(ORIGIN_LOAD, broken)


def test_an_empty_partial_touches_nothing() -> None:
    """Destinations without tiles get empty records."""
    width = 1 + 1 + 12 + 1 + 2
    empty = PartialColumns("departures", 5 * MIN, [], np.empty(0, np.int64), np.empty((0, width), np.int64))
    assert apply(ORIGIN_LOAD, empty, {}) == blocks_touched(ORIGIN_LOAD, empty) == set()
