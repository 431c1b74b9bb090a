"""svc-serve without its process: one model over one feature set, on the bus in memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl
from prometheus_client import CollectorRegistry

from headrace.chassis.bus import Record, TopicPartition, TopicSpec
from headrace.chassis.bus_memory import MemoryBus
from headrace.chassis.clock import ManualClock
from headrace.chassis.memory_broker import MemoryBroker
from headrace.chassis.metrics import ChassisMetrics
from headrace.chassis.objects import FolderObjectStore
from headrace.chassis.records import Rejected
from headrace.chassis.state import MemoryStore
from headrace.chassis.tracing import Tracing
from headrace.chassis.transactional import TransactionalLoop
from headrace.chassis.view import StateView
from headrace.contracts.codec import Codec, MemoryRegistry
from headrace.contracts.partition import partition_for
from headrace.contracts.records import ArmServed, Door, PredictionMade, Progress, RolloutChanged, RolloutState, SourceCut
from headrace.contracts.signing import TrustedKeys, load_private, write_key_pair
from headrace.plan.avro import event_schema
from headrace.plan.blocks import record_of
from headrace.plan.ir import Input, Label, Model, Plan, Rollout, Watch
from headrace.plan.oracle import RawRecord
from headrace.plan.tiles import Block, BlockKey, apply, encode_key, lift
from headrace.plan.topics import predictions_topic, state_topic
from support.law_worlds import DEPARTURES, HOUR, MIN, ORIGIN_LOAD, frame_of
from support.models import stored, trained
from svc_serve.deciding import Decider
from svc_serve.domain.answered import Answered
from svc_serve.domain.request import Request
from svc_serve.event_door import EventDoor
from svc_serve.features import SetReader
from svc_serve.requests import RequestReader
from svc_serve.rest_door import RestDoor, RestQueue
from svc_serve.rollouts import RolloutLoader
from svc_serve.telemetry import ServeMetrics

NOW = 1_000 * HOUR
SET = replace(ORIGIN_LOAD, hash="1" * 64)
EVENT = replace(DEPARTURES, name="departures")
MODEL = Model(
    name="late_arrival", request="departures", sample_bp=10_000, routing_key="flight_id", request_id="flight_id", when=None,
    label=Label("departures", "delay > 15", "flight_id", HOUR),
    inputs=(
        Input("departures_1h", "feature", "origin_load", "departures_1h"),
        Input("delay_mean_1h", "feature", "origin_load", "delay_mean_1h"),
        Input("gate", "request", expression="gate"),
        Input("pressure", "on_demand", expression="departures_1h * delay_mean_1h"),
    ),
    trainer="gradient_boosting", trainer_parameters=(), threshold="0.5", gate=(), deadline_ms=50,
    rules="delay_mean_1h > 30", rules_score="delay_mean_1h", default_decision=True, explain_top=2,
    rollout=Rollout((100,), 10), watch=Watch((), HOUR, 200, 500), owner="ops", team="network",
)  # fmt: skip
PLAN = Plan("flights", "ops", (EVENT,), (), (SET,), (MODEL,), hash="3" * 64)
PREDICTIONS = predictions_topic("flights")


def departure(number: int, **fields: Any) -> dict[str, Any]:
    row = {"flight_id": f"F{number}", "origin": "EWR", "gate": 1, "departed_at": NOW, "delay": number, "fare": 100}
    return row | fields


@dataclass
class Rig:
    """`folder` holds keys and objects. EWR had three departures with a mean delay of 40; nowhere else had any."""

    folder: Path
    plan: Plan = PLAN
    bus: MemoryBus = field(default_factory=lambda: MemoryBus(MemoryBroker(ManualClock(NOW))))
    codec: Codec = field(default_factory=lambda: Codec(MemoryRegistry()))
    answered: Answered = field(default_factory=lambda: Answered(1_000, wait_s=0.0))

    def __post_init__(self) -> None:
        clock = self.bus.broker.clock
        assert isinstance(clock, ManualClock)
        self.clock, self.model = clock, self.plan.models[0]
        if self.bus.broker.find(PREDICTIONS) is None:
            self.bus.broker.create(TopicSpec(EVENT.topic, 2))
            self.bus.broker.create(TopicSpec(PREDICTIONS, 2))
        self.objects = FolderObjectStore(self.folder / "objects")
        for name in ("svc-train", "mallory"):
            if not (self.folder / f"{name}.pem").exists():
                trusted = self.folder / ("keys" if name == "svc-train" else "elsewhere")
                trusted.mkdir(exist_ok=True)
                write_key_pair(self.folder / f"{name}.pem", trusted / f"{name}.pub")
        self.trusted = TrustedKeys(self.folder / "keys")
        self.decider = Decider(self.plan, self.model, [SetReader(SET, self.views(), self.codec)], self.clock)
        self.loader = RolloutLoader(self.decider, self.objects, self.trusted, "0", {})
        self.reader = RequestReader(self.plan, self.model, self.codec, self.clock)
        self.metrics, self.queue = ServeMetrics(CollectorRegistry()), RestQueue(4)
        self.schema = event_schema(self.plan, EVENT)

    def views(self) -> list[StateView]:
        """State after three departures from EWR."""
        rows = [departure(n, delay=30 + 10 * n, departed_at=NOW - 10 * MIN) for n in range(3)]
        log = [RawRecord("departures", 0, n, NOW, row) for n, row in enumerate(rows)]
        blocks: dict[BlockKey, Block] = {}
        for partial in lift(SET, EVENT, frame_of(EVENT, log).with_columns(pl.col("__time").cast(pl.Int64))):
            apply(SET, partial, blocks)
        topic, views = state_topic(self.plan, SET), []
        cut = SourceCut(event="departures", topic_id="t", partition=0, next_offset=3, maximum_ms=NOW, watermark_ms=NOW - HOUR)
        for number in range(SET.partitions):
            view = StateView(TopicPartition(topic, number), MemoryStore(), lambda raw: self.codec.decode(raw, Progress))
            mine = {k: b for k, b in blocks.items() if partition_for(k.entity, SET.partitions) == number}
            puts = {encode_key(SET, k): self.codec.encode(topic, record_of(k, b)) for k, b in mine.items()}
            progress = Progress(
                set_hash=SET.hash, partition=number, cut=(cut,), commit_sequence=7, partials_offset=3, base_digest="empty",
                base_floor_ms=None, traceparents=(),
            )  # fmt: skip
            view.write(puts, [], self.codec.encode(topic, progress), 1)
            view.live = True
            views.append(view)
        return views

    # -- models

    def key(self, name: str = "svc-train"):
        return load_private(self.folder / f"{name}.pem")

    def arm(self, seed: int = 0, **changes: Any) -> ArmServed:
        return stored(self.objects, self.key(), self.plan, self.model, trained(len(self.model.inputs), seed), **changes)

    def rollout(self, epoch: int, *arms: ArmServed, salt: str = "s") -> RolloutChanged:
        return RolloutChanged(
            pipeline="flights", model=self.model.name, epoch=epoch, plan_hash=self.plan.hash, salt=salt, arms=arms, step=100,
            state=RolloutState.PROMOTED, hold_ms=1000, reason="test", approved_by="ops", changed_ms=0,
        )  # fmt: skip

    def serve(self, epoch: int, *arms: ArmServed) -> None:
        ack = self.loader.take_up(self.rollout(epoch, *arms), 0)
        assert ack.status.value == "APPLIED", ack.detail

    # -- doors

    def request(self, number: int, door: Door = Door.REST, **fields: Any) -> Request:
        request = self.reader.of_call(departure(number, **fields), None)
        assert request is not None
        return replace(request, door=door)

    def decide(self, number: int = 1, **fields: Any) -> PredictionMade:
        return self.decider.decide([self.request(number, **fields)])[0]

    def producer(self, name: str):
        return lambda: self.bus.producer(name, transactional_id=name)

    def rest(self) -> RestDoor:
        return RestDoor(
            self.decider, self.codec, self.answered, self.queue, self.producer("rest"), self.metrics, self.clock, wait_s=0.001
        )

    def events(self) -> TransactionalLoop:
        door = EventDoor(
            self.decider, self.reader, self.codec, self.answered, Tracing("svc-serve", "0", None), self.metrics, self.clock,
            batch_max=3,
        )  # fmt: skip
        return TransactionalLoop(
            group=door.group, topics=[EVENT.topic], consumer=self.bus.consumer(door.group, "c", instance_id="c"),
            make_producer=self.producer("event"), handle=door.handle, encode_rejected=never, clock=self.clock,
            metrics=ChassisMetrics(CollectorRegistry()), on_committed=door.committed, records_max=500, poll_timeout_s=0,
        )  # fmt: skip

    def ask_by_event(self, *numbers: int, **fields: Any) -> None:
        producer = self.bus.producer("source")
        for number in numbers:
            value = self.codec.encode_event(self.schema, departure(number, **fields))
            producer.produce(EVENT.topic, value, f"F{number}".encode())

    def drain(self, loop: TransactionalLoop) -> None:
        for _ in range(5):
            self.clock.advance(10_000)
            loop.step()

    def passports(self) -> list[PredictionMade]:
        return [self.codec.decode(r.value, PredictionMade) for r in self.bus.broker.records(PREDICTIONS)]


def never(rejected: Rejected) -> bytes:
    raise AssertionError(rejected.reason)


def event_record(rig: Rig, number: int, **fields: Any) -> Record:
    return Record(EVENT.topic, 0, number, NOW, b"k", rig.codec.encode_event(rig.schema, departure(number, **fields)))
