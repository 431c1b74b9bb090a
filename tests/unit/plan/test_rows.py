"""Lifting and merging one record at a time: what `lift` and `apply` make of the same records, to the last slot."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from headrace.plan.ir import FeatureSet
from headrace.plan.oracle import RawRecord
from headrace.plan.rows import Row, add_row, add_tiles, keys_of, lifter_of, tiles_of
from headrace.plan.tiles import Block, BlockKey, PartialColumns, apply, blocks_touched, lift
from support.law_sets import random_set
from support.law_worlds import EVENTS, GATE_LOAD, ORIGIN_LOAD, frame_of, make_world

Tiles = dict[BlockKey, tuple[list[int], list[list[int]]]]


def plain(blocks: dict[BlockKey, Block]) -> Tiles:
    return {key: (b.starts_ms.tolist(), b.slots.tolist()) for key, b in blocks.items()}


def both(feature_set: FeatureSet, seed: int) -> tuple[Tiles, Tiles, int]:
    """The blocks of a random log, in random batches: by frames, and row by row over the same blocks."""
    rng, by_frame, by_row, counted = random.Random(seed), dict[BlockKey, Block](), dict[BlockKey, Block](), 0
    for event in feature_set.events:
        log = [r for r in make_world(seed, 120).log if r.event == event and r.fields is not None]
        while log:
            size = rng.choice((1, 1, 3, 20))
            batch, log = log[:size], log[size:]
            for piece in lift(feature_set, EVENTS[event], frame_of(EVENTS[event], batch)):
                touched = {k: by_frame[k] for k in blocks_touched(feature_set, piece) if k in by_frame}
                apply(feature_set, piece, touched)
                by_frame |= touched
            for record in batch:
                assert record.fields is not None
                time_ms = record.fields[EVENTS[event].time]
                row = lifter_of(feature_set, EVENTS[event]).row(record.fields, record.partition, record.offset, time_ms)
                if row is not None:
                    there = {k: by_row[k] for k in keys_of(feature_set, row) if k in by_row}
                    assert add_row(feature_set, row, there) == keys_of(feature_set, row) == set(there)
                    by_row |= there
                    counted += 1
    return plain(by_frame), plain(by_row), counted


@pytest.mark.parametrize("seed", range(40))
def test_every_kind_of_slot_row_by_row_is_what_frames_give(seed: int) -> None:
    """Random sets hold every aggregate, over records and over items; logs hold nulls, ties, odd texts and numbers."""
    by_frame, by_row, counted = both(random_set(seed), seed)
    assert by_row == by_frame and counted


@pytest.mark.parametrize("feature_set", [ORIGIN_LOAD, GATE_LOAD], ids=lambda s: s.name)
@pytest.mark.parametrize("seed", range(10))
def test_sets_written_by_hand_too(feature_set: FeatureSet, seed: int) -> None:
    by_frame, by_row, counted = both(feature_set, seed + 100)
    assert by_row == by_frame and counted > 20


def test_sums_beyond_sixty_four_bits_wrap_as_arrays_do() -> None:
    """Declared ranges forbid it in a compiled plan; here the range is given by hand."""
    huge = replace(GATE_LOAD, measures=(replace(GATE_LOAD.measures[0], value="fare"),))
    event = EVENTS["departures"]
    fields = {"origin": "EWR", "gate": 1, "fare": 2**62, "delay": 1, "flight_id": "F", "carrier": "UA", "departed_at": 5}
    by_row: dict[BlockKey, Block] = {}
    for offset in range(3):
        row = lifter_of(huge, event).row(fields, 0, offset, 5)
        assert row is not None
        add_row(huge, row, by_row)
    by_frame: dict[BlockKey, Block] = {}
    batch = [RawRecord("departures", 0, o, 5, fields) for o in range(3)]
    (piece,) = lift(huge, event, frame_of(event, batch))
    assert columns(tiles_of(huge, "departures", alone(huge, batch))) == columns([piece])
    apply(huge, piece, by_frame)
    assert plain(by_row) == plain(by_frame)


def alone(feature_set: FeatureSet, batch: list[RawRecord]) -> list[Row]:
    """The records lifted one by one."""
    found: list[Row] = []
    for record in batch:
        event = EVENTS[record.event]
        assert record.fields is not None
        row = lifter_of(feature_set, event).row(record.fields, record.partition, record.offset, record.fields[event.time])
        found += [] if row is None else [row]
    return found


def columns(pieces: list[PartialColumns]) -> list[tuple[str, int, list[str], list[int], list[list[int]]]]:
    return [(p.event, p.hop_ms, p.entities, p.starts_ms.tolist(), p.slots.tolist()) for p in pieces]


@pytest.mark.parametrize("seed", range(40))
def test_tiles_of_a_few_rows_are_those_of_their_frame_in_its_order_and_merge_alike(seed: int) -> None:
    """The order counts: partial tiles are written as they stand."""
    rng, feature_set = random.Random(seed), random_set(seed) if seed % 5 else (ORIGIN_LOAD, GATE_LOAD)[seed % 2]
    counted = 0
    for event in feature_set.events:
        by_arrays, by_tiles = dict[BlockKey, Block](), dict[BlockKey, Block]()
        log = [r for r in make_world(seed, 120).log if r.event == event and r.fields is not None]
        while log:
            size = rng.choice((1, 2, 7, 40))
            batch, log = log[:size], log[size:]
            pieces = lift(feature_set, EVENTS[event], frame_of(EVENTS[event], batch))
            assert columns(tiles_of(feature_set, event, alone(feature_set, batch))) == columns(pieces)
            for piece in pieces:
                assert add_tiles(feature_set, piece, by_tiles) == apply(feature_set, piece, by_arrays)
                counted += 1
        assert plain(by_tiles) == plain(by_arrays)
    assert counted
