"""Spans reach a real trace store with names, tags, kinds and errors."""

from __future__ import annotations

import contextlib
import time

import httpx
import pytest

from headrace.chassis.bus import Record
from headrace.chassis.tracing import Tracing, exporter, inject, trace_id

PATIENCE_S = 20.0


def test_a_trace_over_two_services_is_found_by_its_id(zipkin: str) -> None:
    """One service sends, another processes and fails: one trace, three spans, the error told."""
    edge = Tracing("svc-ingest", "0", exporter(zipkin, ""))
    worker = Tracing("svc-stream", "0", exporter(zipkin, ""))
    with edge.root_span("POST /events", sampled=True), edge.send_span("flights.departures.v1"):
        headers = inject(())
    record = Record("flights.departures.v1", 1, 42, 0, b"k", b"v", headers)
    with contextlib.suppress(KeyError), worker.process_span(record, "svc-stream"):
        raise KeyError("x")
    edge.stop()
    worker.stop()
    spans = {s["name"]: s for s in trace(zipkin, trace_id(headers), 3)}
    assert set(spans) == {"post /events", "send flights.departures.v1", "process flights.departures.v1"}
    process = spans["process flights.departures.v1"]
    assert process["kind"] == "CONSUMER"
    assert process["parentId"] == spans["send flights.departures.v1"]["id"]
    assert process["localEndpoint"]["serviceName"] == "svc-stream"
    assert process["tags"]["messaging.kafka.offset"] == "42"
    assert process["tags"]["error.type"] == "KeyError"
    assert "error" in process["tags"]


def trace(zipkin: str, wanted: str, count: int) -> list[dict]:
    """The spans of a trace, once the store has indexed them."""
    deadline = time.monotonic() + PATIENCE_S
    with httpx.Client(base_url=zipkin, trust_env=False) as client:
        while time.monotonic() < deadline:
            answer = client.get(f"/api/v2/trace/{wanted}")
            if answer.status_code == 200 and len(answer.json()) >= count:
                return answer.json()
            time.sleep(0.1)
    pytest.fail(f"trace {wanted} not found")
