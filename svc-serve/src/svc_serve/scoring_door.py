"""The scoring door: what the owner of an entity read at the request's own row is decided here, exactly once.

    ScoringInput --request and SetRead--> the event door's way: claim, decide, passport and offset in one transaction

The owner may answer a request more than once, with other cuts: the first answer read is decided, the others repeat its
id. After a restart passports read back say which ids are answered, so the first stays the first. A call over REST waits
for the answer to the event it was made; see owned_rest_door.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from headrace.chassis.bus import Committed, Record, TopicPartition
from headrace.chassis.errors import Poison
from headrace.chassis.records import Outgoing, dead_letter
from headrace.chassis.transactional import BatchResult
from headrace.contracts.records import ScoringInput
from headrace.plan.topics import scoring_inputs_topic
from svc_serve.awaited import Awaited
from svc_serve.domain.request import Request
from svc_serve.event_door import SERVICE, EventDoor
from svc_serve.owned_reads import OwnedReads, read_of
from svc_serve.rest_door import Waiting


class ScoringDoor(EventDoor):
    """The event door of a model with an owned set: same group, same passports; it reads the owner's topic instead."""

    def __init__(self, *of_every_door: Any, awaited: Awaited[Waiting] | None = None, **more: Any) -> None:
        super().__init__(*of_every_door, **more)
        self._awaited = Awaited[Waiting]() if awaited is None else awaited

    @property
    def topic(self) -> str:
        return scoring_inputs_topic(self._decider.plan.pipeline)

    @property
    def _reads(self) -> OwnedReads:
        found = self._decider.owned
        assert found is not None, "a model without an owned set has an event door"
        return found

    def handle(self, records: Sequence[Record]) -> BatchResult:
        self._reads.clear()
        return super().handle(records)

    def committed(self, _: Mapping[TopicPartition, Committed]) -> None:
        replies = dict(self._pending)
        super().committed(_)
        self._awaited.settled(replies)

    def _request(self, record: Record, outgoing: list[Outgoing]) -> Request | None:
        """None for an answer of another set or model, and for a request this model does not decide."""
        try:
            found = self._codec.decode(record.value, ScoringInput)
        except Poison as poison:
            self._metrics.undecodable.inc()
            outgoing.append(dead_letter(record, SERVICE, poison, self._clock.now_ms(), self._encode_rejected))
            return None
        reader, mine = self._reader, self._reads.feature_set
        if (found.set, found.set_hash, found.topic) != (mine.name, mine.hash, reader.event.topic):
            return None
        headers = () if found.traceparent is None else (("traceparent", found.traceparent.encode()),)
        origin = Record(found.topic, found.partition, found.offset, found.append_time_ms, None, found.request, headers)
        request = super()._request(origin, outgoing)
        if request is None:
            return None
        self._reads.give(request.request_id, read_of(found))
        call = self._awaited.first(request.request_id)
        if call is not None:  # the clock of its deadline began when it was called
            request = replace(request, door=call.door, received_ms=call.received_ms, deadline_s=call.deadline_s)
        return request

    def _called(self, request_id: str) -> bool:
        return self._awaited.first(request_id) is not None
