"""One trace runs from record to record; what is not sampled leaves no span and no header."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from headrace.chassis.bus import Header, Record
from headrace.chassis.tracing import Tracing, extract, inject, trace_id
from support.bus_loops import GROUP, IN, OUT

TRACE = "0af7651916cd43dd8448eb211c80319c"
SAMPLED: Header = ("traceparent", f"00-{TRACE}-b7ad6b7169203331-01".encode())
UNSAMPLED: Header = ("traceparent", f"00-{TRACE}-b7ad6b7169203331-00".encode())


def record(*headers: Header) -> Record:
    return Record(IN, 3, 17, 0, b"k", b"v", headers)


def traced() -> tuple[Tracing, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    return Tracing("svc-test", "0", exporter), exporter


def test_a_sampled_record_gives_a_process_span_in_its_trace() -> None:
    """Names and attributes by the messaging conventions; outputs carry the span onward."""
    tracing, exporter = traced()
    with tracing.process_span(record(SAMPLED), GROUP) as span:
        headers = inject((("event-id", b"1"), UNSAMPLED), span)
    tracing.stop()
    (made,) = exporter.get_finished_spans()
    assert (made.name, made.kind) == (f"process {IN}", SpanKind.CONSUMER)
    assert made.attributes is not None
    assert made.attributes["messaging.system"] == "kafka"
    assert made.attributes["messaging.destination.partition.id"] == "3"
    assert made.attributes["messaging.kafka.offset"] == 17
    assert made.attributes["messaging.consumer.group.name"] == GROUP
    assert made.context is not None
    assert made.parent is not None
    assert (f"{made.context.trace_id:032x}", f"{made.parent.span_id:016x}") == (TRACE, "b7ad6b7169203331")
    assert headers == (("event-id", b"1"), ("traceparent", f"00-{TRACE}-{made.context.span_id:016x}-01".encode()))
    assert trace_id(headers) == TRACE


@pytest.mark.parametrize("headers", [(), (UNSAMPLED,), (("traceparent", b"rubbish"),), (("traceparent", b"00-0-0-01"),)])
def test_what_is_not_sampled_gives_no_span_and_no_header(headers: tuple[Header, ...]) -> None:
    """Also a damaged traceparent: telemetry never stops the work."""
    tracing, exporter = traced()
    with tracing.process_span(record(*headers), GROUP) as span:
        assert span is None
        assert inject((("event-id", b"1"),)) == (("event-id", b"1"),)
        with tracing.send_span(OUT) as inner:
            assert inner is None
    with tracing.root_span("POST /events", sampled=False) as root:
        assert root is None
    tracing.stop()
    assert exporter.get_finished_spans() == ()


@given(value=st.binary(max_size=70))
def test_no_header_value_makes_extraction_fail(value: bytes) -> None:
    """Bytes of strangers."""
    extract([("traceparent", value)])


def test_a_root_is_sampled_where_its_caller_says_so_and_children_follow() -> None:
    """The edge decides; everything below is in the same trace."""
    tracing, exporter = traced()
    with tracing.root_span("POST /events", sampled=True), tracing.send_span(OUT), tracing.inner_span("validate", rows=3):
        pass
    tracing.stop()
    inner, send, root = exporter.get_finished_spans()
    assert [s.name for s in (root, send, inner)] == ["POST /events", f"send {OUT}", "validate"]
    assert len({s.context.trace_id for s in (root, send, inner) if s.context}) == 1
    assert root.parent is None


def test_an_error_marks_the_span_and_passes() -> None:
    """The span says what ended it; the caller still sees the exception."""
    tracing, exporter = traced()
    with pytest.raises(KeyError), tracing.process_span(record(SAMPLED), GROUP):
        raise KeyError("x")
    tracing.stop()
    (made,) = exporter.get_finished_spans()
    assert made.status.status_code is StatusCode.ERROR
    assert (made.attributes or {})["error.type"] == "KeyError"


def test_a_store_that_fails_costs_spans_and_nothing_else() -> None:
    """Exports that raise are logged in their own thread; the end stays bounded."""

    class Broken(SpanExporter):
        def export(self, spans: object) -> SpanExportResult:
            raise OSError("trace store away")

    tracing = Tracing("svc-test", "0", Broken())
    began = time.monotonic()
    with tracing.process_span(record(SAMPLED), GROUP) as span:
        assert span is not None
    tracing.stop()
    assert time.monotonic() - began < 10
