"""The interval join is its definition, however rows come: by batch, by partition, by side, and across restarts."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from headrace.plan.ir import Join, JoinHow
from headrace.plan.streams.sorted_rows import MemoryTables
from support.join_worlds import Player, make_logs, stream

HOWS = st.sampled_from(("inner", "left", "outer"))
SPANS = st.sampled_from(((0, 0), (3, 0), (0, 3), (2, 5), (40, 40), (-1, 4), (5, -2)))


@given(st.randoms(use_true_random=False), HOWS, SPANS)
def test_results_are_those_of_the_oracle_after_every_batch(rng: Random, how: JoinHow, span: tuple[int, int]) -> None:
    made, events = stream(Join("interval", how, *span))
    player = Player(made, events, make_logs(rng, 2), MemoryTables())
    while player.left():
        player.step(rng)
    player.end()
