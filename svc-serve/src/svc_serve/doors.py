"""Building one model's doors, each in its own thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from headrace.chassis.app import Chassis
from headrace.chassis.bus import Producer
from headrace.chassis.records import Rejected
from headrace.chassis.transactional import TransactionalLoop
from headrace.chassis.worker import Loop
from headrace.contracts.codec import Codec
from headrace.plan.ir import Model, Plan
from headrace.plan.topics import predictions_topic
from svc_serve.awaited import Awaited
from svc_serve.deciding import Decider
from svc_serve.domain.answered import Answered
from svc_serve.event_door import EventDoor
from svc_serve.owned_rest_door import OwnedRestDoor
from svc_serve.readback import read_back
from svc_serve.requests import RequestReader
from svc_serve.rest_door import RestDoor, RestQueue, Waiting
from svc_serve.scoring_door import ScoringDoor
from svc_serve.settings import ServeSettings
from svc_serve.telemetry import ServeMetrics

CONSUME_RECORDS = 500
EVENT_WAIT_S = 0.02  # how long a poll of request events waits


class Parts(Protocol):
    """What both doors of a model share."""

    model: Model
    decider: Decider
    reader: RequestReader
    answered: Answered
    queue: RestQueue
    awaited: Awaited[Waiting]


@dataclass(frozen=True, slots=True)
class Doors:
    """The builders are called in this order: both producers are fenced before passports are read back."""

    plan: Plan
    parts: Parts
    chassis: Chassis[ServeSettings]
    codec: Codec
    metrics: ServeMetrics

    @property
    def _client(self) -> str:
        return f"svc-serve.{self.plan.pipeline}.{self.parts.model.name.replace('_', '-')}.{self.chassis.settings.instance}"

    def rest(self) -> Loop:
        """The REST door."""
        parts, chassis = self.parts, self.chassis
        common = (parts.decider, self.codec, parts.answered, parts.queue, self._rest_producer, self.metrics, chassis.clock)
        if parts.decider.owned is None:
            return RestDoor(*common)
        asking = chassis.bus.producer(f"{self._client}.asking", linger_ms=0)
        try:
            return OwnedRestDoor(
                *common, reader=parts.reader, awaited=parts.awaited, asking=asking,
                in_flight_max=chassis.settings.rest_in_flight_max,
            )  # fmt: skip
        except BaseException:
            asking.close()
            raise

    def events(self) -> Loop:
        """The event door, after passports of earlier lives are known."""
        chassis, parts, settings = self.chassis, self.parts, self.chassis.settings
        common = (
            parts.decider, parts.reader, self.codec, parts.answered, chassis.tracing, self.metrics, chassis.clock,
            settings.event_batch_max,
        )  # fmt: skip
        door = ScoringDoor(*common, awaited=parts.awaited) if parts.decider.owned else EventDoor(*common)
        loop = TransactionalLoop(
            group=door.group,
            topics=[door.topic],
            consumer=chassis.bus.consumer(door.group, self._client, instance_id=self._client),
            make_producer=self._event_producer,
            handle=door.handle,
            encode_rejected=_never,
            clock=chassis.clock,
            metrics=chassis.metrics,
            on_committed=door.committed,
            records_max=CONSUME_RECORDS,
            poll_timeout_s=EVENT_WAIT_S,
        )
        topic, client = predictions_topic(self.plan.pipeline), f"{self._client}.readback"
        try:
            read_back(chassis.bus, self.codec, topic, parts.answered, settings.answered_max, client)
        except BaseException:
            loop.close()
            raise
        return loop

    def _rest_producer(self) -> Producer:
        return self._producer("rest")

    def _event_producer(self) -> Producer:
        return self._producer("event")

    def _producer(self, door: str) -> Producer:
        name, timeout_ms = f"{self._client}.{door}", self.chassis.settings.transaction_timeout_ms
        return self.chassis.bus.producer(name, transactional_id=name, transaction_timeout_ms=timeout_ms)


def _never(rejected: Rejected) -> bytes:
    raise AssertionError(f"no request is dead-lettered here: {rejected.reason}")
