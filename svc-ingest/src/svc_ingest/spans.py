"""The spans of one round: for a sampled traceparent `process <pipeline>.<source>` and under it `send <topic>`.

Both run from the round's start to the acknowledgement, so a trace shows how long an event took to become durable. What is
not sampled costs one comparison and sends no header.
"""

from __future__ import annotations

from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context

from headrace.chassis.tracing import TRACEPARENT, Tracing, extract, inject
from svc_ingest.ports import Route

SPANS_PER_ROUND_MAX = 500  # of each kind; beyond it the context is passed on as it came
SAMPLED = "01"
_TRACEPARENT_CHARACTERS = 55


class RoundSpans:
    """Opened while a round is produced, ended together when it is durable or failed. One traceparent, one pair of spans."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._open: list[Span] = []
        self._headers: dict[str, bytes | None] = {}

    def header(self, traceparent: str, route: Route) -> bytes | None:
        """The traceparent to send with an event that came with this one; None if it is not sampled or not to be read."""
        if traceparent in self._headers:
            return self._headers[traceparent]
        self._headers[traceparent] = found = self._begin(traceparent, route)
        return found

    def _begin(self, traceparent: str, route: Route) -> bytes | None:
        if len(traceparent) != _TRACEPARENT_CHARACTERS or not traceparent.endswith(SAMPLED):
            return None
        came = traceparent.encode(errors="replace")
        parent = extract([(TRACEPARENT, came)])
        if parent is None:
            return None
        if len(self._open) >= 2 * SPANS_PER_ROUND_MAX:
            return came
        start, topic = self._tracing.tracer.start_span, route.event.topic
        source = f"{route.pipeline}.{route.source.name}"
        process = start(f"process {source}", parent, SpanKind.CONSUMER, _attributes("process", source))
        send = start(f"send {topic}", set_span_in_context(process), SpanKind.PRODUCER, _attributes("send", topic))
        self._open += [process, send]
        return dict(inject((), send)).get(TRACEPARENT, came)

    def end(self, failure: BaseException | None = None) -> None:
        for span in reversed(self._open):
            if failure is not None:
                span.set_status(Status(StatusCode.ERROR, str(failure)))
            span.end()
        self._open, self._headers = [], {}


def _attributes(operation: str, destination: str) -> dict[str, str]:
    system = "kafka" if operation == "send" else "headrace-ingest"
    return {
        "messaging.system": system,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": destination,
    }
