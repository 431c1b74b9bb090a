"""Follow one flight by its trace through the composed platform."""

from __future__ import annotations

from typing import Any

from headrace_demo import evidence
from headrace_demo.board import Board, Decision
from headrace_demo.waiting import until
from headrace_local import Stack

TRACE_S_MAX = 60.0  # the services send their spans in batches


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
