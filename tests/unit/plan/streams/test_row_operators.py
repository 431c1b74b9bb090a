"""Joins and distinct are their definitions, however rows come: by batch, by partition, by side, and across restarts."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.plan.ir import Distinct, Join
from support.join_worlds import Player, make_logs, stream
from support.rows_worlds import TABLES, Held

SPANS = st.sampled_from(((0, 0), (3, 0), (0, 3), (2, 5), (40, 40), (-1, 4), (5, -2)))
HOW = st.sampled_from(("inner", "left"))
INTERVALS = st.builds(lambda how, span: Join("interval", how, *span), st.sampled_from(("inner", "left", "outer")), SPANS)
AS_OF = st.builds(lambda how, age: Join("as_of", how, max_age_ms=age), HOW, st.sampled_from((None, 0, 2, 10)))
TABLE = st.builds(lambda how: Join("table", how), HOW)
KINDS = {"interval": INTERVALS, "as_of": AS_OF, "table": TABLE, "distinct": st.sampled_from((0, 1, 4, 20)).map(Distinct)}
each_kind = pytest.mark.parametrize("kind", KINDS)
each_table = pytest.mark.parametrize("held", TABLES, ids=lambda held: held.__name__)


def _player(rng: Random, made: Join | Distinct, held: Held) -> Player:
    join, distinct = (made, None) if isinstance(made, Join) else (None, made)
    built, events = stream(join, distinct)
    logs = make_logs(rng, len(built.inputs), table=join is not None and join.kind == "table")
    return Player(built, events, logs, held)


@each_kind
@each_table
@settings(max_examples=30)
@given(data=st.data())
def test_results_are_those_of_the_oracle_after_every_batch_and_restart(
    kind: str, held: Callable[[], Held], data: st.DataObject
) -> None:
    """Goal: results are a function of the accepted rows. Method: random logs played in random batches, now and then to a
    new operator over what the changelog or the disk gives back; all results so far against the naive oracle."""
    rng, home = data.draw(st.integers(0, 1 << 32).map(Random)), held()
    player = _player(rng, data.draw(KINDS[kind]), home)
    while player.left():
        player.step(rng)
        home.commit(rng)
        if rng.random() < 0.3:
            home = home.reopened(rng)
            player.restart(home)
    player.end()
