"""The event door: request events are decided as they arrive, exactly once, passport and offset in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from opentelemetry.trace import Span

from headrace.chassis.bus import Committed, Record, TopicPartition
from headrace.chassis.clock import Clock
from headrace.chassis.following import rejected_encoder
from headrace.chassis.logs import logger
from headrace.chassis.records import Outgoing, dead_letter
from headrace.chassis.tracing import Tracing, inject
from headrace.chassis.transactional import BatchResult
from headrace.contracts.codec import Codec, EventSchema
from headrace.contracts.errors import Poison
from headrace.contracts.records import Door, PredictionMade
from headrace.plan.expressions import parse
from headrace.plan.ir import Plan
from headrace.plan.routing import sampled
from headrace.plan.topics import predictions_topic
from svc_serve.deciding import Decider
from svc_serve.domain.answered import Answered
from svc_serve.domain.reply import reply_of
from svc_serve.domain.request import Request
from svc_serve.telemetry import ServeMetrics

SAMPLE_SALT = "decisions"  # another salt than a rollout's: the sample must not be the first canary's keys
SERVICE = "svc-serve"  # dead letters are named by service, not by plan
_log = logger(__name__)


class EventDoor:
    """Handler of one model's request events. Lives in the thread of its TransactionalLoop."""

    def __init__(
        self, plan: Plan, decider: Decider, schema: EventSchema, codec: Codec, answered: Answered, tracing: Tracing, metrics: ServeMetrics,
        clock: Clock, batch_max: int,
    ) -> None:  # fmt: skip
        self._plan, self._model, self._decider, self._schema, self._codec = plan, decider.model, decider, schema, codec
        self._answered, self._tracing, self._metrics, self._clock, self._batch_max = (
            answered,
            tracing,
            metrics,
            clock,
            batch_max,
        )
        self._event = next(e for e in plan.events if e.name == self._model.request)
        self._topic = predictions_topic(plan.pipeline)
        fields = {f.name: f for f in self._event.fields}
        self._when: Callable[[Mapping[str, object]], object] | None = (
            parse(self._model.when, fields, allow_float=True).compile() if self._model.when else None
        )
        read = any(self._event.name in s.events for s in plan.feature_sets)  # then svc-stream reports what it cannot read
        first = next(m.name for m in plan.models if m.request == self._event.name)
        self._reports = not read and first == self._model.name
        self._encode_rejected = rejected_encoder(codec)
        self._pending: dict[str, bytes] = {}  # replies of the transaction under way
        self.group = f"svc-serve.{plan.pipeline}.{self._model.name.replace('_', '-')}"

    def handle(self, records: Sequence[Record]) -> BatchResult:
        """Decide what is asked and not answered yet; what cannot be read is a dead letter, here or in svc-stream."""
        self._answered.release(self._pending)  # an aborted transaction comes again with the same records
        self._pending = {}
        outgoing: list[Outgoing] = []
        found = [(self._request(record, outgoing), record) for record in records]
        requests = [request for request, _ in found if request is not None]
        origins = {request.request_id: record for request, record in found if request is not None}
        claimed = self._answered.claim([r.request_id for r in requests])
        fresh: dict[str, Request] = {}
        for request in requests:
            if request.request_id in claimed.new:
                fresh.setdefault(request.request_id, request)
        self._metrics.repeated(len(requests) - len(fresh))
        self._pending = dict.fromkeys(claimed.new, b"")
        asked = list(fresh.values())
        for start in range(0, len(asked), self._batch_max):
            batch = asked[start : start + self._batch_max]
            with ExitStack() as open_spans:
                spans = [open_spans.enter_context(self._tracing.process_span(origins[r.request_id], self.group)) for r in batch]
                passports = self._decider.decide(batch)
                outgoing += [self._outgoing(passport, span) for passport, span in zip(passports, spans, strict=True)]
            for passport in passports:
                self._pending[passport.request_id] = reply_of(passport)
                self._metrics.decided(passport)
        return BatchResult(outgoing)

    def committed(self, _: Mapping[TopicPartition, Committed]) -> None:
        """The transaction holds: these ids are answered for good."""
        self._answered.settle(self._pending)
        self._metrics.durable(self._pending.keys())
        self._pending = {}

    def _request(self, record: Record, outgoing: list[Outgoing]) -> Request | None:
        try:
            fields = self._codec.decode_event(self._schema, record.value)
        except Poison as poison:
            self._metrics.undecodable.inc()
            _log.debug("request_undecodable", topic=record.topic, offset=record.offset, reason=poison.reason.value)
            if self._reports:
                outgoing.append(dead_letter(record, SERVICE, poison, self._clock.now_ms(), self._encode_rejected))
            return None
        return request_of(self._plan, self._decider, fields, Door.EVENT, self._clock, record=record, when=self._when)

    def _outgoing(self, passport: PredictionMade, span: Span | None) -> Outgoing:
        headers: tuple[tuple[str, bytes], ...] = (("event-id", (passport.event_id or passport.request_id).encode()),)
        if span is not None:
            span.set_attribute("headrace.request_id", passport.request_id)
            span.set_attribute("headrace.decision_source", passport.decision_source.value)
            headers = inject(headers, span)
        return Outgoing(self._topic, self._codec.encode(self._topic, passport), passport.request_id.encode(), None, headers)


def request_of(
    plan: Plan, decider: Decider, fields: Mapping[str, object], door: Door, clock: Clock, *,
    record: Record | None = None, when: Callable[[Mapping[str, object]], object] | None = None, traceparent: str | None = None,
) -> Request | None:  # fmt: skip
    """A request from an event's fields; None if the model does not decide it."""
    model = decider.model
    event = next(e for e in plan.events if e.name == model.request)
    routing_key = str(fields[model.routing_key])
    if when is not None and not when(fields):
        return None
    if door is Door.EVENT and not sampled(SAMPLE_SALT, routing_key, model.sample_bp):
        return None
    if record is not None:
        traceparent = next((v.decode(errors="replace") for n, v in record.headers if n == "traceparent"), None)
    t_ms = fields[event.time]
    assert isinstance(t_ms, int)
    return Request(
        request_id=str(fields[model.request_id]),
        t_ms=t_ms,
        routing_key=routing_key,
        fields=fields,
        door=door,
        received_ms=clock.now_ms(),
        event_id=f"{record.topic}-{record.partition}-{record.offset}" if record else None,
        append_ms=record.append_time_ms if record else None,
        traceparent=traceparent,
        deadline_s=clock.monotonic_s() + model.deadline_ms / 1000,
    )
