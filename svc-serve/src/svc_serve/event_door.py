"""The event door: request events are decided as they arrive, exactly once, passport and offset in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from opentelemetry.trace import Span

from headrace.chassis.bus import Committed, Record, TopicPartition
from headrace.chassis.clock import Clock
from headrace.chassis.errors import Poison, Retryable
from headrace.chassis.following import rejected_encoder
from headrace.chassis.logs import logger
from headrace.chassis.records import Outgoing, dead_letter
from headrace.chassis.tracing import Tracing, inject
from headrace.chassis.transactional import BatchResult
from headrace.contracts.codec import Codec
from headrace.contracts.records import PredictionMade
from headrace.plan.topics import predictions_topic
from svc_serve.deciding import Decider
from svc_serve.domain.answered import Answered
from svc_serve.domain.reply import reply_of
from svc_serve.domain.request import Request
from svc_serve.requests import RequestReader
from svc_serve.telemetry import ServeMetrics

SERVICE = "svc-serve"  # dead letters are named by service, not by plan
_log = logger(__name__)


class EventDoor:
    """Handler of one model's request events. Lives in the thread of its TransactionalLoop."""

    def __init__(
        self, decider: Decider, reader: RequestReader, codec: Codec, answered: Answered, tracing: Tracing,
        metrics: ServeMetrics, clock: Clock, batch_max: int,
    ) -> None:  # fmt: skip
        self._decider, self._reader, self._codec, self._answered = decider, reader, codec, answered
        self._tracing, self._metrics, self._batch_max = tracing, metrics, batch_max
        self._topic = predictions_topic(decider.plan.pipeline)
        plan, model = decider.plan, decider.model
        read = any(model.request in s.events for s in plan.feature_sets)  # then svc-stream reports what it cannot read
        self._reports = not read and model.name == next(m.name for m in plan.models if m.request == model.request)
        self._encode_rejected, self._clock = rejected_encoder(codec), clock
        self._pending: dict[str, bytes] = {}  # replies of the transaction under way
        self._decided: list[PredictionMade] = []
        self.group = f"svc-serve.{decider.plan.pipeline}.{decider.model.name.replace('_', '-')}"

    @property
    def topic(self) -> str:
        """What the group reads."""
        return self._reader.event.topic

    def handle(self, records: Sequence[Record]) -> BatchResult:
        """Decide what is asked and not answered yet; what cannot be read is a dead letter, here or in svc-stream.

        Raises: Retryable if an id stays in flight at another door.
        """
        self.forget()  # an aborted transaction comes again with the same records
        asked: dict[str, tuple[Request, Record]] = {}
        outgoing: list[Outgoing] = []
        repeated = 0
        for record in records:
            request = self._request(record, outgoing)
            if request is not None:
                repeated += request.request_id in asked
                asked.setdefault(request.request_id, (request, record))
        try:
            claimed = self._answered.claim(list(asked))
        except TimeoutError as error:
            raise Retryable(str(error)) from error
        self._pending = dict.fromkeys(claimed.new, b"")
        self._metrics.repeated(repeated + len(claimed.known))
        fresh = [found for request_id, found in asked.items() if request_id in claimed.new]
        for start in range(0, len(fresh), self._batch_max):
            outgoing += self._decide(fresh[start : start + self._batch_max])
        return BatchResult(outgoing)

    def committed(self, _: Mapping[TopicPartition, Committed]) -> None:
        """The transaction holds: these ids are answered for good."""
        self._answered.settle(self._pending)
        self._metrics.durable(self._pending.keys())
        for passport in self._decided:
            self._metrics.decided(passport)
        self._pending, self._decided = {}, []

    def forget(self) -> None:
        """What was decided last does not hold: its ids are free again."""
        self._answered.release(self._pending)
        self._pending, self._decided = {}, []

    def _decide(self, batch: Sequence[tuple[Request, Record]]) -> list[Outgoing]:
        with ExitStack() as open_spans:
            spans = [open_spans.enter_context(self._tracing.process_span(record, self.group)) for _, record in batch]
            passports = self._decider.decide([request for request, _ in batch])
            outgoing = [self._outgoing(passport, span) for passport, span in zip(passports, spans, strict=True)]
        self._decided += passports
        self._pending |= {passport.request_id: reply_of(passport) for passport in passports}
        return outgoing

    def _request(self, record: Record, outgoing: list[Outgoing]) -> Request | None:
        try:
            return self._reader.of_event(record, self._called)
        except Poison as poison:
            self._metrics.undecodable.inc()
            _log.debug("request_undecodable", topic=record.topic, offset=record.offset, reason=poison.reason.value)
            if self._reports:
                outgoing.append(dead_letter(record, SERVICE, poison, self._clock.now_ms(), self._encode_rejected))
            return None

    def _called(self, request_id: str) -> bool:
        """Whether a caller waits for this door's answer."""
        return False

    def _outgoing(self, passport: PredictionMade, span: Span | None) -> Outgoing:
        headers: tuple[tuple[str, bytes], ...] = (("event-id", (passport.event_id or passport.request_id).encode()),)
        if span is not None:
            span.set_attribute("headrace.request_id", passport.request_id)
            span.set_attribute("headrace.decision_source", passport.decision_source.value)
            headers = inject(headers, span)
        return Outgoing(self._topic, self._codec.encode(self._topic, passport), passport.request_id.encode(), None, headers)
