"""Many block values at once are what the codec reads one by one; damaged ones are left to the codec."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from headrace.contracts.codec import Codec, MemoryRegistry
from headrace.contracts.records import TileBlock
from headrace.plan.block_bytes import HEAD, decode_blocks, encode_blocks
from headrace.plan.blocks import block_of, record_of
from headrace.plan.tiles import Block, BlockKey

TOPIC = "flights.origin-load-state.00000000"
INT64 = st.integers(-(2**63), 2**63 - 1)
CODEC = Codec(MemoryRegistry())


@st.composite
def blocks(draw: st.DrawFn) -> tuple[BlockKey, Block]:
    key = BlockKey(
        draw(st.text(max_size=90)), draw(st.sampled_from(("departures", "w"))), draw(st.integers(0, 2**40)), draw(INT64)
    )
    tiles, width = draw(st.integers(1, 16)), draw(st.integers(1, 5))
    numbers = draw(st.lists(st.one_of(INT64, st.integers(-70, 70)), min_size=tiles * (width + 1), max_size=tiles * (width + 1)))
    return key, Block(np.array(numbers[:tiles], np.int64), np.array(numbers[tiles:], np.int64).reshape(tiles, width))


@given(st.lists(blocks(), min_size=1, max_size=6))
def test_blocks_decoded_at_once_equal_those_the_codec_reads(given_: list[tuple[BlockKey, Block]]) -> None:
    """Goal: the same numbers at every size of varint, names of one and two length bytes. Method: the codec as oracle."""
    values = [CODEC.encode(TOPIC, record_of(key, block)) for key, block in given_]
    found = decode_blocks([key for key, _ in given_], values)
    for value, mine in zip(values, found, strict=True):
        other = block_of(CODEC.decode(value, TileBlock))
        assert mine is not None
        assert np.array_equal(mine.starts_ms, other.starts_ms)
        assert mine.slots.shape == other.slots.shape and np.array_equal(mine.slots, other.slots)


@given(st.lists(blocks(), min_size=1, max_size=6))
def test_blocks_encoded_at_once_are_the_bytes_the_codec_writes(given_: list[tuple[BlockKey, Block]]) -> None:
    """Goal: a state topic does not show which way was gone. Method: the codec as oracle, byte by byte."""
    values = [CODEC.encode(TOPIC, record_of(key, block)) for key, block in given_]
    assert encode_blocks(values[0][:HEAD], [key for key, _ in given_], [block for _, block in given_]) == values


def test_nothing_encodes_to_nothing() -> None:
    assert encode_blocks(b"head", [], []) == []


@given(st.lists(blocks(), min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_a_damaged_value_is_refused_or_what_the_codec_reads_and_harms_no_other(
    given_: list[tuple[BlockKey, Block]], rng: random.Random
) -> None:
    """One byte changed, cut off or added anywhere: never a block the codec would not read from those bytes."""
    values = [CODEC.encode(TOPIC, record_of(key, block)) for key, block in given_]
    at = rng.randrange(5, len(values[0]))
    damage = rng.choice(("change", "cut", "add"))
    raw = bytearray(values[0])
    if damage == "change":
        raw[at] = (raw[at] + rng.randint(1, 255)) % 256
    elif damage == "cut":
        del raw[at:]
    else:
        raw += bytes((rng.randrange(256),))
    found = decode_blocks([key for key, _ in given_], [bytes(raw), *values[1:]])
    for value, mine in zip(values[1:], found[1:], strict=True):
        other = block_of(CODEC.decode(value, TileBlock))
        assert mine is not None and np.array_equal(mine.slots, other.slots)
    if found[0] is not None:
        other = block_of(CODEC.decode(bytes(raw), TileBlock))
        assert np.array_equal(found[0].slots, other.slots) and np.array_equal(found[0].starts_ms, other.starts_ms)


def test_a_block_of_another_key_is_left_to_the_codec() -> None:
    key = BlockKey("EWR", "departures", 300_000, 7)
    value = CODEC.encode(TOPIC, record_of(key, Block(np.array([1], np.int64), np.array([[2]], np.int64))))
    others = [key._replace(entity="JFK"), key._replace(event="w"), key._replace(hop_ms=1), key._replace(index=8)]
    assert decode_blocks(others, [value] * 4) == [None] * 4
    assert decode_blocks([], []) == []
