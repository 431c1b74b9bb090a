"""The REST door of a model with an owned set: a call becomes the event it stands for, and waits for its owner's answer.

call --known--> the reply it had
     --new--> event to the request topic --> owner --> scoring door --> reply
                    \\-- deadline passed --> rules or default, passport without a read of the owned set --> reply

The event is one like any other: it is archived, and what comes after it counts it. Asked again with the same id it is
a duplicate there, and here a repeat.
"""

from __future__ import annotations

from typing import Any

from headrace.chassis.bus import Producer
from headrace.chassis.errors import Retryable
from headrace.chassis.logs import logger
from svc_serve.awaited import Awaited
from svc_serve.requests import RequestReader
from svc_serve.rest_door import BATCH_MAX, NotDurable, RestDoor, Waiting

FULL_WAIT_S = 0.005  # how soon one who left makes room
_log = logger(__name__)


class OwnedRestDoor(RestDoor):
    """Decides itself only what the owner did not answer in time."""

    def __init__(
        self, *of_every_door: Any, reader: RequestReader, awaited: Awaited[Waiting], asking: Producer, in_flight_max: int,
        **more: Any,
    ) -> None:  # fmt: skip
        """asking: idempotent, of request events."""
        super().__init__(*of_every_door, **more)
        self._reader, self._awaited, self._asking, self._in_flight_max = reader, awaited, asking, in_flight_max

    def step(self) -> int:
        self.heartbeat.beat()
        left_s = self._awaited.next_deadline_s() - self._clock.monotonic_s()
        wait_s = min(self._wait_s, max(left_s, 0.0))
        room = self._in_flight_max - len(self._awaited)  # without, callers wait in the queue; who finds that full gets 429
        for waiting in self._source.take(wait_s, min(room, BATCH_MAX)) if room > 0 else ():
            self._ask(waiting)
        self._asking.poll(0 if room > 0 else min(wait_s, FULL_WAIT_S))
        overdue = self._awaited.overdue(self._clock.monotonic_s())
        return self._answer(overdue) if overdue else 0

    def _ask(self, waiting: Waiting) -> None:
        request = waiting.request
        only = self._awaited.add(waiting)  # first, so that an answer that comes now finds it
        known = self._answered.reply(request.request_id)
        if known is not None:
            self._metrics.repeated(1)
            self._awaited.settled({request.request_id: known})
            return
        if not only:
            return
        key, value, headers = self._reader.as_event(request)
        try:
            self._asking.produce(self._reader.event.topic, value, key, None, headers)
        except Retryable as error:  # the deadline comes, and the rules answer
            _log.warning("owner_not_asked", request_id=request.request_id, error=str(error))

    def close(self) -> None:
        for waiting in self._awaited.all():
            waiting.refuse(NotDurable("the service stops: ask again with the same id"))
        super().close()
        self._asking.close()
