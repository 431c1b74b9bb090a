"""What windows hold, read from bytes at once, is what blocks hold; what is not as it must be is left to the codec."""

from __future__ import annotations

import random

import numpy as np
import pytest

from headrace.contracts.codec import Codec, MemoryRegistry
from headrace.contracts.records import TileBlock
from headrace.plan.block_bytes import HEAD
from headrace.plan.blocks import block_of, record_of
from headrace.plan.ir import FeatureSet
from headrace.plan.tiles import Block, BlockKey, encode_key
from headrace.plan.wide import Held, Marks, held_of, keys_of, marks_of, wide_plan
from headrace.plan.wide_bytes import Wide
from support.law_worlds import GATE_LOAD, HOUR, ORIGIN_LOAD, make_world
from unit.plan.test_wide import MANY, state

TOPIC = "flights.origin-load-state.00000000"
CODEC = Codec(MemoryRegistry())
SETS = [s for s in (MANY, ORIGIN_LOAD, GATE_LOAD) if len(wide_plan(s).wide)]


def encoded(blocks: dict[BlockKey, Block], feature_set: FeatureSet) -> dict[bytes, bytes]:
    return {encode_key(feature_set, key): CODEC.encode(TOPIC, record_of(key, block)) for key, block in blocks.items()}


def frame() -> bytes:
    empty = Block(np.empty(0, np.int64), np.empty((0, 1), np.int64))
    return CODEC.encode(TOPIC, record_of(BlockKey("", "departures", 1, 0), empty))[:HEAD]


def by_blocks(feature_set: FeatureSet, blocks: dict[BlockKey, Block], asked: list[str], marks: list[Marks]) -> list[Held]:
    plan = wide_plan(feature_set)
    return [
        held_of(plan, mark, [[blocks.get(k) for k in keys] for keys in keys_of(plan, entity, mark)])
        for entity, mark in zip(asked, marks, strict=True)
    ]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("feature_set", SETS, ids=lambda s: f"{s.name}-{len(s.features)}")
def test_windows_merged_from_bytes_hold_what_windows_merged_from_blocks_hold(feature_set: FeatureSet, seed: int) -> None:
    """Goal: any entities, known or not, at any times, small numbers and large. Method: the way of blocks as oracle."""
    rng = random.Random(seed)
    world = make_world(seed)
    blocks, _ = state(world, feature_set, rng.choice((0.0, 0.3, 1.0)))
    stored = encoded(blocks, feature_set)
    names = sorted({key.entity for key in blocks})
    asked = [rng.choice([*names, "nobody"]) for _ in range(rng.choice((1, 2, 30)))]
    plan = wide_plan(feature_set)
    marks = [marks_of(plan, world.start_ms + rng.randint(-3 * HOUR, world.span_ms + 3 * HOUR)) for _ in asked]
    wide = Wide(plan, frame())
    wanted = [wide.wanted(m) for m in marks]
    keys = wide.keys(asked, wanted)
    assert keys == [
        encode_key(feature_set, k) for e, m in zip(asked, marks, strict=True) for level in keys_of(plan, e, m) for k in level
    ]
    found = wide.held(asked, marks, wanted, [stored.get(key) for key in keys])
    assert found is not None
    for mine, other in zip(found, by_blocks(feature_set, blocks, asked, marks), strict=True):
        assert np.array_equal(mine.numbers, other.numbers) and np.array_equal(mine.newest, other.newest)


def test_damaged_bytes_are_refused_or_what_the_codec_reads() -> None:
    """One byte of one value changed, cut off or added: never anything but what the blocks of those bytes hold."""
    rng, refused = random.Random(5), 0
    blocks, _ = state(make_world(3), MANY, 1.0)
    stored, plan = encoded(blocks, MANY), wide_plan(MANY)
    wide, mark = Wide(plan, frame()), marks_of(plan, make_world(3).start_ms + 20 * HOUR)
    wanted = [wide.wanted(mark)]
    keys = wide.keys(["EWR"], wanted)
    whole = wide.held(["EWR"], [mark], wanted, [stored.get(key) for key in keys])
    for _ in range(300):
        values = [stored.get(key) for key in keys]
        hit = rng.choice([i for i, v in enumerate(values) if v is not None])
        raw = bytearray(values[hit] or b"")
        at = rng.randrange(len(raw))
        damage = rng.choice(("change", "cut", "add"))
        if damage == "change":
            raw[at] ^= rng.randint(1, 255)
        elif damage == "cut":
            del raw[at:]
        else:
            raw += bytes((rng.randrange(256),))
        values[hit] = bytes(raw)
        found = wide.held(["EWR"], [mark], wanted, values)
        refused += found is None
        if found is not None:
            assert damage == "change"
            read = [None if v is None else block_of(CODEC.decode(v, TileBlock)) for v in values]
            blocks_read = iter(read)
            other = held_of(plan, mark, [[next(blocks_read) for _ in level] for level in keys_of(plan, "EWR", mark)])
            assert np.array_equal(found[0].numbers, other.numbers) and np.array_equal(found[0].newest, other.newest)
    assert whole is not None and refused > 200


def test_a_value_under_another_key_and_one_of_another_schema_are_refused() -> None:
    blocks, _ = state(make_world(3), MANY, 1.0)
    stored, plan = encoded(blocks, MANY), wide_plan(MANY)
    wide, mark = Wide(plan, frame()), marks_of(plan, make_world(3).start_ms + 20 * HOUR)
    wanted = [wide.wanted(mark)]
    values = [stored.get(key) for key in wide.keys(["EWR"], wanted)]
    assert wide.held(["EWR"], [mark], wanted, values) is not None
    assert wide.held(["JFK"], [mark], wanted, values) is None
    first = next(i for i, v in enumerate(values) if v is not None)
    other = [*values[:first], b"\x00\x00\x00\x00\x7f" + (values[first] or b"")[HEAD:], *values[first + 1 :]]
    assert wide.held(["EWR"], [mark], wanted, other) is None
    moved = [*values[1:], values[0]]
    assert wide.held(["EWR"], [mark], wanted, moved) is None
