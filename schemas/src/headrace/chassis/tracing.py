"""Traces by the OpenTelemetry messaging conventions, in one place. What is not sampled costs one header look-up.

A span is recorded only if its parent, local or in a record's traceparent, is sampled; a root only where the caller says so.
Trouble in here never stops the work: exporters run in their own thread, drop when full, and log.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, format_span_id, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from headrace.chassis.bus import Header, Record
from headrace.chassis.logs import logger

TRACEPARENT = "traceparent"
EXPORT_TIMEOUT_S = 3
EXPORT_INTERVAL_MS = 1_000
SPANS_QUEUED_MAX = 4_096  # more are dropped by the processor
STOP_TIMEOUT_MS = 3_000

_log = logger("headrace.tracing")
_NOT_SAMPLED = (b"00", b"")
_propagator = TraceContextTextMapPropagator()


def extract(headers: Sequence[Header]) -> Context | None:
    """The sampled remote parent a record carries; None if it has none, is not sampled, or the header is not to be read."""
    for name, value in headers:
        if name == TRACEPARENT:
            if value[53:55] in _NOT_SAMPLED:
                return None  # the common case, before any parsing
            context = _propagator.extract({TRACEPARENT: value.decode("ascii", "replace")}, context=Context())
            return context if _sampled(trace.get_current_span(context)) else None
    return None


def inject(headers: Sequence[Header], span: Span | None = None) -> tuple[Header, ...]:
    """Headers with the traceparent of the span (default: the one under way) if it is sampled; else unchanged."""
    context = (span or trace.get_current_span()).get_span_context()
    if not context.is_valid or not context.trace_flags.sampled:
        return tuple(headers)
    traceparent = f"00-{format_trace_id(context.trace_id)}-{format_span_id(context.span_id)}-01".encode()
    return (*(h for h in headers if h[0] != TRACEPARENT), (TRACEPARENT, traceparent))


def trace_id(headers: Sequence[Header]) -> str:
    """Trace id of the sampled traceparent in these headers, 32 hex digits; empty if there is none."""
    context = extract(headers)
    return format_trace_id(trace.get_current_span(context).get_span_context().trace_id) if context is not None else ""


class Tracing:
    """One service's tracer. Give it to whoever makes spans; nothing here is global."""

    def __init__(self, service: str, instance: str, exporter: SpanExporter | None) -> None:
        resource = Resource.create({"service.name": service, "service.instance.id": instance})
        self._children = _provider(resource, ParentBased(root=ALWAYS_OFF))
        self._roots = _provider(resource, ALWAYS_ON)  # only root_span uses it, after its caller decided
        if exporter is not None:
            processor = BatchSpanProcessor(
                exporter,
                max_queue_size=SPANS_QUEUED_MAX,
                schedule_delay_millis=EXPORT_INTERVAL_MS,
                export_timeout_millis=EXPORT_TIMEOUT_S * 1000,
            )
            self._children.add_span_processor(processor)
            self._roots.add_span_processor(processor)
        self.tracer = self._children.get_tracer("headrace")
        self._root_tracer = self._roots.get_tracer("headrace")

    @contextmanager
    def process_span(self, record: Record, group: str) -> Iterator[Span | None]:
        """`process <topic>` as a child of the record's traceparent, current inside the block; None where not sampled."""
        parent = extract(record.headers) if record.headers else None
        if parent is None:
            yield None
            return
        attributes = {
            "messaging.system": "kafka",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": record.topic,
            "messaging.destination.partition.id": str(record.partition),
            "messaging.kafka.offset": record.offset,
            "messaging.consumer.group.name": group,
        }
        started = self.tracer.start_span(f"process {record.topic}", parent, SpanKind.CONSUMER, attributes)
        with _running(started) as span:
            yield span

    @contextmanager
    def send_span(self, topic: str, headers: Sequence[Header] = ()) -> Iterator[Span | None]:
        """`send <topic>` as a child of the span under way, else of the headers' traceparent; None where neither is sampled."""
        parent = otel_context.get_current() if _sampled(trace.get_current_span()) else extract(headers)
        if parent is None:
            yield None
            return
        attributes = {
            "messaging.system": "kafka",
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": topic,
        }
        with _running(self.tracer.start_span(f"send {topic}", parent, SpanKind.PRODUCER, attributes)) as span:
            yield span

    @contextmanager
    def inner_span(
        self, name: str, headers: Sequence[Header] = (), **attributes: str | int | float | bool
    ) -> Iterator[Span | None]:
        """A step of the work, same parents as send_span."""
        parent = otel_context.get_current() if _sampled(trace.get_current_span()) else extract(headers)
        if parent is None:
            yield None
            return
        with _running(self.tracer.start_span(name, parent, SpanKind.INTERNAL, attributes)) as span:
            yield span

    @contextmanager
    def root_span(
        self, name: str, *, sampled: bool, kind: SpanKind = SpanKind.SERVER, **attributes: str | int | float | bool
    ) -> Iterator[Span | None]:
        """Begin a trace, where the caller decided to sample it; None else."""
        if not sampled:
            yield None
            return
        with _running(self._root_tracer.start_span(name, context=Context(), kind=kind, attributes=attributes)) as span:
            yield span

    def stop(self) -> None:
        """Send what is left, bounded in time. Never raises."""
        try:
            self._children.force_flush(STOP_TIMEOUT_MS)
            self._children.shutdown()
        except Exception as error:
            _log.warning("tracing_not_stopped", detail=str(error))


def _provider(resource: Resource, sampler: Sampler) -> TracerProvider:
    limits = SpanLimits(max_span_attributes=64, max_events=16)
    return TracerProvider(sampler=sampler, resource=resource, span_limits=limits, shutdown_on_exit=False)


@contextmanager
def _running(span: Span) -> Iterator[Span]:
    """The span current inside the block; an exception marks it and passes."""
    with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield span
        except BaseException as error:
            span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
            span.set_attribute("error.type", type(error).__name__)
            raise


def exporter(zipkin_url: str, otlp_url: str) -> SpanExporter | None:
    """Where spans go: OTLP/HTTP if set, else Zipkin JSON if set, else nowhere."""
    if otlp_url:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter(endpoint=otlp_url, timeout=EXPORT_TIMEOUT_S)
    if zipkin_url:
        from opentelemetry.exporter.zipkin.json import ZipkinExporter
        from requests import Session

        session = Session()
        session.trust_env = False  # the store is near; a proxy of the environment is not for it
        return ZipkinExporter(endpoint=f"{zipkin_url.rstrip('/')}/api/v2/spans", timeout=EXPORT_TIMEOUT_S, session=session)
    return None


def _sampled(span: Span) -> bool:
    context = span.get_span_context()
    return context.is_valid and context.trace_flags.sampled
