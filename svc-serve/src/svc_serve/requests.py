"""From a request event's fields to a request the model decides: one meaning for both doors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from headrace.chassis.bus import Header, Record
from headrace.chassis.clock import Clock
from headrace.contracts.codec import Codec
from headrace.contracts.event_shapes import flattened
from headrace.contracts.records import Door
from headrace.plan.avro import event_schema
from headrace.plan.expressions import parse
from headrace.plan.ir import Model, Plan
from headrace.plan.routing import DECISIONS_SALT, sampled
from svc_serve.domain.request import Request


class RequestReader:
    """What a model's requests look like, compiled once per plan. Any thread may read."""

    def __init__(self, plan: Plan, model: Model, codec: Codec, clock: Clock) -> None:
        self.event = next(e for e in plan.events if e.name == model.request)
        self._schema = event_schema(plan, self.event)  # equal by identity only: the codec keeps what it compiled for this one
        self._names = frozenset(f.name for f in self.event.fields)
        self._records = {record.path: record.nullable for record in self.event.records}
        self._model, self._codec, self._clock = model, codec, clock
        fields = {f.name: f for f in self.event.fields}
        self._when: Callable[[Mapping[str, object]], object] | None = (
            parse(model.when, fields, allow_float=True).compile() if model.when else None
        )

    def unknown(self, fields: Mapping[str, object]) -> list[str]:
        """Names the request event does not have, sorted."""
        return sorted(flattened(fields, self._records).keys() - self._names)

    def of_event(self, record: Record, called: Callable[[str], bool] = lambda _: False) -> Request | None:
        """None if the model does not decide it: not in the sample, or its predicate does not hold. Raises Poison.

        called: whether a request id is waited for here: such a one is decided whether in the sample or not, as calls are.
        """
        fields = self._codec.decode_event(self._schema, record.value)
        in_sample = sampled(DECISIONS_SALT, self._routing_key(fields), self._model.sample_bp)
        if not self.asked(fields) or not (in_sample or called(str(fields[self._model.request_id]))):
            return None
        traceparent = next((v.decode("ascii", "replace") for n, v in record.headers if n == "traceparent"), None)
        origin = f"{record.topic}-{record.partition}-{record.offset}"
        return self._request(fields, Door.EVENT, traceparent, origin, record.append_time_ms)

    def of_call(self, fields: Mapping[str, Any], traceparent: str | None) -> Request | None:
        """The same bytes an event would have had are decoded, so that both doors mean the same.

        Raises: Poison if it cannot be read.
        """
        known = self._codec.decode_event(self._schema, self._codec.encode_event(self._schema, fields))
        return self._request(known, Door.REST, traceparent, None, None) if self.asked(known) else None

    def as_event(self, request: Request) -> tuple[bytes, bytes, tuple[Header, ...]]:
        """Key, value and headers of the event that asks the same."""
        key = str(request.fields[self.event.key]).encode()
        headers: tuple[Header, ...] = (("event-id", request.request_id.encode()),)
        if request.traceparent is not None:
            headers = (*headers, ("traceparent", request.traceparent.encode("ascii", "replace")))
        return key, self._codec.encode_event(self._schema, request.fields), headers

    def asked(self, fields: Mapping[str, object]) -> bool:
        """Whether the model decides such requests; a null predicate counts as false."""
        return self._when is None or self._when(fields) is True

    def _routing_key(self, fields: Mapping[str, object]) -> str:
        return str(fields[self._model.routing_key])

    def _request(
        self, fields: Mapping[str, object], door: Door, traceparent: str | None, event_id: str | None, append_ms: int | None
    ) -> Request:
        t_ms = fields[self.event.time]
        assert isinstance(t_ms, int), "an event time is a timestamp"
        return Request(
            request_id=str(fields[self._model.request_id]),
            t_ms=t_ms,
            routing_key=self._routing_key(fields),
            fields=fields,
            door=door,
            received_ms=self._clock.now_ms(),
            event_id=event_id,
            append_ms=append_ms,
            traceparent=traceparent,
            deadline_s=self._clock.monotonic_s() + self._model.deadline_ms / 1000,
        )
