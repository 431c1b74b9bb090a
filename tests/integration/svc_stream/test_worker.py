"""The worker on a real broker: what it does on the bus in memory it does there too."""

from __future__ import annotations

import random
import time
import uuid
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from headrace.chassis.bus import TopicPartition, TopicSpec
from headrace.chassis.bus_confluent import ConfluentBus
from headrace.chassis.clock import SystemClock
from headrace.contracts import catalogue
from headrace.contracts.codec import Codec, MemoryRegistry
from headrace.contracts.errors import Poison
from headrace.contracts.records import Progress
from headrace.plan.avro import event_schema
from headrace.plan.ir import Plan
from headrace.plan.oracle import RawRecord
from headrace.plan.topics import late_topic, partials_topic, state_topic
from svc_stream.engine import SetWorker
from svc_stream.handlers import GROUP
from unit.svc_stream.rig import ORIGIN, PLAN, UNDECODABLE, Rig, by_append, world

DONE_S = 45.0


def plan_of_its_own() -> Plan:
    name = f"it{uuid.uuid4().hex[:10]}"
    events = tuple(replace(e, topic=f"{name}.{e.name}.v1") for e in PLAN.events)
    return replace(PLAN, pipeline=name, events=events)


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
        specs = [TopicSpec(e.topic, e.partitions) for e in self.plan.events]
        specs += [TopicSpec(catalogue.dlq_topic(e.topic, GROUP), 1) for e in self.plan.events]
        specs += [TopicSpec(late_topic(self.plan.pipeline), 1), TopicSpec(partials_topic(self.plan, ORIGIN), ORIGIN.partitions)]
        specs += [TopicSpec(state_topic(self.plan, ORIGIN), ORIGIN.partitions, compacted=True)]
        self.bus.admin().ensure_topics(specs)

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


@pytest.mark.timeout(240)
def test_state_is_what_the_oracle_says_after_workers_came_and_went(kafka: str) -> None:
    """One worker, then a second one joins, the first is stopped and comes back with an empty disk."""
    rig, rng = RealRig(bootstrap=kafka), random.Random(4)
    log = by_append(world(4, 90))
    rig.write(log[:60])
    first = rig.worker(ORIGIN, "a")
    rig.go(first, seconds=3)
    second = rig.worker(ORIGIN, "b")
    rig.go(first, second, seconds=2)
    rig.write(log[60:])
    first.close()
    again = rig.worker(ORIGIN, "a", lose_disk=True)
    rig.read_log()
    rig.finish(again, second)
    assert len(rig.log) == len(log)
    rig.compare(ORIGIN, rng, questions=30)
    again.close()
    second.close()
