"""The rig of the unit tests over a real broker; time is the system's."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field, replace
from typing import Any

from headrace.chassis.bus import TopicPartition
from headrace.chassis.bus_confluent import ConfluentBus
from headrace.chassis.clock import SystemClock
from headrace.contracts.codec import Codec, MemoryRegistry
from headrace.contracts.errors import Poison
from headrace.contracts.records import Progress
from headrace.plan.avro import event_schema
from headrace.plan.ir import Plan
from headrace.plan.oracle import RawRecord
from headrace.plan.topics import plan_topics
from svc_stream.engine import SetWorker
from unit.svc_stream.rig import PLAN, UNDECODABLE, Rig

DONE_S = 45.0


def plan_of_its_own(plan: Plan = PLAN) -> Plan:
    """The plan under topics nobody else has."""
    name = f"it{uuid.uuid4().hex[:10]}"
    events = tuple(replace(e, topic=f"{name}.{e.name}.v1") for e in plan.events)
    return replace(plan, pipeline=name, events=events)


@dataclass
class RealRig(Rig):
    """The same rig over a real broker; time is the system's."""

    bootstrap: str = ""
    plan: Plan = field(default_factory=plan_of_its_own)

    def __post_init__(self) -> None:
        self.bus: Any = ConfluentBus(self.bootstrap)
        self.clock: Any = SystemClock()
        self.codec = Codec(MemoryRegistry())
        self.schemas = {e.name: event_schema(self.plan, e) for e in self.plan.events}
        self.bus.admin().ensure_topics(plan_topics(self.plan))

    def write(self, records: list[RawRecord]) -> None:
        producer = self.bus.producer("source")
        events = {e.name: e for e in self.plan.events}
        for raw in records:
            event, value = events[raw.event], UNDECODABLE
            if raw.fields is not None:
                row = {f.name: raw.fields.get(f.name) for f in event.fields}
                value = self.codec.encode_event(self.schemas[event.name], row)
            producer.produce(event.topic, value, b"", raw.partition)
        producer.flush(30)
        producer.close()

    def read_log(self) -> None:
        """The log as it lies there, offsets and append times included."""
        consumer = self.bus.consumer(None, "reader")
        names = {e.topic: e.name for e in self.plan.events}
        places = [TopicPartition(e.topic, p) for e in self.plan.events for p in range(e.partitions)]
        consumer.assign(dict.fromkeys(places, 0))
        ends = {tp: consumer.watermarks(tp)[1] for tp in places}
        self.log.clear()
        while any((consumer.position(tp) or 0) < end for tp, end in ends.items()):
            for r in consumer.consume(500, 0.5):
                try:
                    fields = self.codec.decode_event(self.schemas[names[r.topic]], r.value)
                except Poison:
                    fields = None
                self.log.append(RawRecord(names[r.topic], r.partition, r.offset, r.append_time_ms, fields))
        consumer.close()

    def go(self, *workers: SetWorker, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for worker in workers:
                worker.step()

    def finish(self, *workers: SetWorker) -> None:
        """Until the state holds everything that was written."""
        ends = {(r.event, r.partition): r.offset + 1 for r in self.log}
        until = time.monotonic() + DONE_S
        reached: dict[tuple[str, int], int] = {}
        while time.monotonic() < until:
            self.go(*workers, seconds=0.3)
            reached = {}
            for worker in workers:
                for view in worker.tasks._views.values():
                    assert view.progress is None or isinstance(view.progress, Progress)
                    mine = self.cut(view)
                    reached = {k: min(v, reached.get(k, v)) for k, v in mine.items()}
            if reached == ends:
                return
        raise AssertionError(f"the state never holds all: {reached} of {ends}")
