"""Operators of every kind of window against the naive oracle, take by take."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.plan.ir import Emit
from support.stream_windows import WINDOWS, expected, live, make_world, stream_of

EMITS = st.sampled_from(("close", "update", "both"))


@pytest.mark.parametrize("kind", WINDOWS)
@given(seed=st.integers(0, 10**9), emit=EMITS, rich=st.booleans())
def test_results_are_those_of_the_naive_oracle(kind: str, seed: int, emit: Emit, rich: bool) -> None:
    """Every take gives what the oracle says of all rows so far: rows in disorder over partitions, some of them below a watermark
    that went on without them, in random batches, over operators made anew from their changes or a sweep."""
    rng = random.Random(seed)
    stream, events = stream_of(replace(WINDOWS[kind], emit=emit), rich=rich)
    world = make_world(rng)
    wanted, refused = expected(stream, events, world)
    life = live(stream, events, world, rng, restores=0.2)
    assert life.taken == wanted
    assert sorted((p, o) for p, o, _ in life.refused) == sorted(refused)
