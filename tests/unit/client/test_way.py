"""A decision's way: every microsecond of its trace is some hop's, and the slowest hop is the slowest."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.client.way import Hop, Untold, fetch, of_passport, of_trace, slowest

PASSPORT = {"request_append_ms": 1_000, "received_ms": 1_412, "decided_ms": 1_415}


def span(ident: str, parent: str | None, service: str, name: str, start: int, end: int, **tags: str) -> dict[str, Any]:
    found = {"traceId": "t", "id": ident, "name": name, "timestamp": start, "duration": end - start, "tags": tags}
    return found | {"localEndpoint": {"serviceName": service}} | ({} if parent is None else {"parentId": parent})


TRACE = [
    span("a", "producer", "svc-ingest", "send flights.scheduled.v1", 10_000, 14_000),
    span("b", "a", "svc-serve", "process flights.scheduled.v1", 90_000, 96_000, **{"headrace.request_id": "UA-1"}),
    span("c", "a", "svc-stream", "process flights.scheduled.v1", 20_000, 21_000),
    span("d", "b", "svc-monitor", "process flights.predictions.v1", 500_000, 501_000, **{"headrace.request_id": "UA-1"}),
]


def test_the_way_of_a_decision_names_its_slowest_hop() -> None:
    hops = of_trace(TRACE, "UA-1")
    assert [(hop.what, hop.took_ms, hop.after) for hop in hops] == [
        ("svc-ingest: send flights.scheduled.v1", 4.0, False),
        ("svc-ingest to svc-stream, waiting for process flights.scheduled.v1", 6.0, True),
        ("svc-ingest to svc-serve, waiting for process flights.scheduled.v1", 76.0, False),
        ("svc-stream: process flights.scheduled.v1", 1.0, True),
        ("svc-serve: process flights.scheduled.v1", 6.0, False),
        ("svc-serve to svc-monitor, waiting for process flights.predictions.v1", 404.0, True),
        ("svc-monitor: process flights.predictions.v1", 1.0, True),
    ]
    assert of_trace(TRACE[::-1], "UA-1") == hops
    longest = slowest(hops)
    assert longest is not None
    assert longest.what == "svc-ingest to svc-serve, waiting for process flights.scheduled.v1"
    assert longest.at_ms == 4.0


def test_a_trace_that_does_not_hold_the_decision_is_told_whole() -> None:
    assert not any(hop.after for hop in of_trace(TRACE, "UA-2"))
    assert of_trace([], "UA-1") == []
    assert slowest([]) is None


def test_parents_in_a_circle_and_spans_without_times_are_no_end() -> None:
    odd = [span("a", "b", "x", "n", 1, 2, **{"headrace.request_id": "r"}), span("b", "a", "x", "n", 1, 2), {"id": "c"}]
    assert len(of_trace(odd, "r")) >= 3


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), min_size=1, max_size=8))
def test_along_a_chain_without_overlap_hops_add_up_to_the_whole(parts: list[tuple[int, int]]) -> None:
    """Oracle: the end of the last span. Method: spans one after another, each the child of the one before, gaps between."""
    spans, now, parent = [], 0, None
    for number, (gap, took) in enumerate(parts):
        begin = now + (gap if parent else 0)
        spans.append(span(str(number), parent, f"s{number}", "n", begin, begin + took))
        now, parent = begin + took, str(number)
    assert sum(hop.took_ms for hop in of_trace(spans, "r")) == pytest.approx(now / 1000)


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), max_size=6))
def test_the_work_of_a_span_is_what_no_child_covers(inner: list[tuple[int, int]]) -> None:
    """Oracle: microseconds counted one by one."""
    children = [span(str(n), "p", "s", "n", 50 + min(a, b), 50 + max(a, b)) for n, (a, b) in enumerate(inner)]
    hops = of_trace([span("p", None, "whole", "n", 60, 130), *children], "r")
    own = sum(all(not c["timestamp"] <= at < c["timestamp"] + c["duration"] for c in children) for at in range(60, 130))
    assert next(hop for hop in hops if hop.what == "whole: n").took_ms == pytest.approx(own / 1000)


def test_a_passport_alone_tells_three_hops_and_without_a_request_topic_two() -> None:
    assert of_passport(PASSPORT, 1_460) == [
        Hop("request in its topic, until svc-serve took it", 412.0, 0.0),
        Hop("svc-serve read features and decided", 3.0, 412.0),
        Hop("decided, until the passport was durable", 45.0, 415.0),
    ]
    rest = of_passport({**PASSPORT, "request_append_ms": None}, 1_460)
    assert [(hop.took_ms, hop.at_ms) for hop in rest] == [(3.0, 0.0), (45.0, 3.0)]


def test_clocks_that_disagree_give_no_hop_below_nothing() -> None:
    assert all(hop.took_ms >= 0 and hop.at_ms >= 0 for hop in of_passport({**PASSPORT, "received_ms": 900}, 800))


@pytest.mark.parametrize(
    ("status", "body", "words"), [(404, "", "does not know it"), (500, "", "no trace store"), (200, "{", "no trace")]
)
def test_a_store_that_does_not_tell_says_so(status: int, body: str, words: str) -> None:
    with pytest.raises(Untold, match=words):
        fetch("http://z", "t", httpx.MockTransport(lambda _: httpx.Response(status, text=body)))


def test_spans_come_by_start() -> None:
    transport = httpx.MockTransport(
        lambda request: httpx.Response(200, json=TRACE[::-1] if "/api/v2/trace/t" in str(request.url) else [])
    )
    assert [one["id"] for one in fetch("http://z/", "t", transport)] == ["a", "c", "b", "d"]
