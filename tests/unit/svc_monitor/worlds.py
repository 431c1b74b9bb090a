"""A small pipeline to watch: orders are decided, deliveries tell after a day whether they came late."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from headrace.chassis.app import Chassis
from headrace.chassis.bus import Record, TopicPartition
from headrace.chassis.bus_memory import MemoryBus
from headrace.chassis.clock import ManualClock
from headrace.chassis.health import Health
from headrace.chassis.http import create_app
from headrace.chassis.memory_broker import MemoryBroker
from headrace.chassis.metrics import ChassisMetrics
from headrace.chassis.tracing import Tracing
from headrace.contracts.catalogue import FINDINGS, PERFORMANCE, ROLLOUT_VERDICTS, plan_topics, platform_topics
from headrace.contracts.codec import AvroRecord, Codec
from headrace.contracts.records import (
    ArmServed,
    DecisionSource,
    Door,
    FindingRaised,
    PerformanceMeasured,
    PredictionMade,
    RolloutChanged,
    RolloutJudged,
    RolloutState,
)
from headrace.contracts.registry import MemoryRegistry
from headrace.plan.avro import event_schema
from headrace.plan.hashes import sealed
from headrace.plan.ir import EventType, Field, Input, Label, Model, Plan, Rollout, Watch
from headrace.plan.profile import DAY_MS, DayHistograms, reference_profile
from headrace.plan.topics import predictions_topic
from svc_monitor.loop import MonitorLoop
from svc_monitor.settings import MonitorSettings
from svc_monitor.telemetry import MonitorMetrics
from svc_monitor.watching import ModelWatch

HOUR = 3_600_000
DAY0 = 16_000  # days since 1970; the world begins there
NOW = (DAY0 + 10_000) * DAY_MS  # wall clock: history is loaded long after it happened
PIPELINE, MODEL = "shop", "late"


def a_plan(dwell: int = 5, window_days: int = 7) -> Plan:
    text = Field("order_id", "string")
    orders = EventType(
        name="orders", record="Ordered", topic="shop.orders.v1", key="order_id", time="ordered_at",
        fields=(text, Field("ordered_at", "timestamp"), Field("amount", "long")), lateness_ms=HOUR, poison_bound_ms=HOUR,
    )  # fmt: skip
    deliveries = EventType(
        name="deliveries", record="Delivered", topic="shop.deliveries.v1", key="order_id", time="delivered_at",
        fields=(text, Field("delivered_at", "timestamp"), Field("delay", "long", nullable=True), Field("outcome", "string")),
        lateness_ms=HOUR, poison_bound_ms=HOUR,
    )  # fmt: skip
    model = Model(
        name=MODEL, request="orders", sample_bp=10_000, routing_key="order_id", request_id="order_id", when=None,
        label=Label("deliveries", "delay > 15", "order_id", DAY_MS, "outcome <> 'delivered'"),
        inputs=(Input("other", "request", expression="amount"), Input("amount", "request", expression="amount")),
        trainer="gradient_boosting", trainer_parameters=(), threshold="0.5", gate=(), deadline_ms=50, rules="amount > 30",
        rules_score="amount", default_decision=False, explain_top=2, rollout=Rollout((10, 50, 100), dwell),
        watch=Watch(("amount",), window_days * DAY_MS, 200, 500), owner="ops",
    )  # fmt: skip
    return sealed(Plan(PIPELINE, "ops", (orders, deliveries), (), (), (model,)))


def passport(
    number: int, t_ms: int, *, arm: str = "champion", epoch: int = 1, score: float | None = 0.5, amount: float = 1.0
) -> PredictionMade:
    """The decision on order NUMBER."""
    return PredictionMade(
        request_id=f"o{number}", pipeline=PIPELINE, model=MODEL, plan_hash=a_plan().hash, semantics_version=1,
        request_body="{}", t_ms=t_ms, routing_key=f"o{number}", sets=(), vector=(math.nan, amount),
        model_digest=None if score is None else arm, arm=arm, epoch=epoch, score=score, decision=(score or 0) >= 0.5,
        decision_source=DecisionSource.RULES if score is None else DecisionSource.MODEL, rule_score=amount,
        received_ms=t_ms, decided_ms=t_ms, door=next(iter(Door)), owner="ops",
    )  # fmt: skip


def delivery(number: int, at_ms: int, delay: int | None, outcome: str = "delivered") -> dict[str, object]:
    """The outcome of order NUMBER; late above 15."""
    return {"order_id": f"o{number}", "delivered_at": at_ms, "delay": delay, "outcome": outcome}


def at(topic: str, offset: int, partition: int = 0, append_ms: int = NOW) -> Record:
    """Where a record lay."""
    return Record(topic, partition, offset, append_ms, b"k", b"v", ())


def rollout(
    epoch: int, step: int = 10, state: RolloutState = RolloutState.CANARY, champion: str = "champion"
) -> RolloutChanged:
    """CHAMPION is a model digest, empty for rules."""
    control = ArmServed(name="champion" if champion else "rules", weight=10_000 - step * 100, model_digest=champion)
    arms = (control, ArmServed(name="challenger", weight=step * 100, model_digest="challenger"))
    return RolloutChanged(
        pipeline=PIPELINE, model=MODEL, epoch=epoch, plan_hash=a_plan().hash, salt="s", arms=arms if step < 100 else arms[:1],
        step=step, state=state, hold_ms=0, reason="", approved_by="grace", changed_ms=NOW,
    )  # fmt: skip


def profile(until_day: int, days: int = 40, seed: int = 1) -> DayHistograms:
    """Reference of standard normal amounts, its last day just before UNTIL_DAY."""
    rng = np.random.default_rng(seed)
    times = np.repeat(np.arange(until_day - days, until_day), 50) * DAY_MS + 12 * HOUR
    made = reference_profile(("amount",), times, rng.normal(size=(len(times), 1)).astype(np.float32))
    assert made.binning.day_start_ms % HOUR == 0
    return made


@dataclass
class World:
    """A ModelWatch fed by hand."""

    plan: Plan = field(default_factory=a_plan)
    served_rows_max: int = 10_000

    def __post_init__(self) -> None:
        self.watch = ModelWatch(self.plan, self.plan.models[0], lambda: NOW, self.served_rows_max)
        self._offset = 0

    def decided(self, *passports: PredictionMade) -> None:
        for each in passports:
            self._offset += 1
            self.watch.decided(each, at("p", self._offset))

    def delivered(self, *rows: dict[str, object]) -> None:
        for row in rows:
            self._offset += 1
            self.watch.outcome(row, at("d", self._offset))

    def time_to(self, t_ms: int) -> None:
        """Event time comes to T on both sides, by an order nobody waits for."""
        self.decided(replace(passport(0, t_ms), request_id=f"tick{t_ms}"))
        self.delivered(delivery(-1, t_ms + HOUR, None, "lost"))


@dataclass
class Shop:
    """The loop on the in-memory broker; lives come and go, the log stays."""

    plan: Plan = field(default_factory=a_plan)

    def __post_init__(self) -> None:
        self.clock = ManualClock(NOW)
        self.broker = MemoryBroker(self.clock)
        self.bus = MemoryBus(self.broker)
        admin = self.bus.admin()
        admin.ensure_topics(platform_topics())
        admin.ensure_topics(plan_topics(self.plan))
        self.codec = Codec(MemoryRegistry())
        self.deliveries = event_schema(self.plan, "deliveries")
        self.codec.register_event(self.deliveries)
        self.metrics = ChassisMetrics()

    def life(self) -> MonitorLoop:
        """A new process."""
        self.metrics = ChassisMetrics()
        settings = MonitorSettings(zipkin_url="")
        chassis = Chassis(
            settings, self.clock, self.bus, Health(), self.metrics, Tracing("svc-monitor", "0", None),
            create_app("svc-monitor", Health(), self.metrics),
        )  # fmt: skip
        return MonitorLoop(self.plan, chassis, self.codec, MonitorMetrics(self.metrics.registry))

    def put(self, topic: str, value: bytes, partition: int = 0) -> None:
        self.broker.append(TopicPartition(topic, partition), b"k", value, (), None)

    def decided(self, *passports: PredictionMade, partition: int = 0) -> None:
        topic = predictions_topic(PIPELINE)
        for each in passports:
            self.put(topic, self.codec.encode(topic, each), partition)

    def delivered(self, *rows: dict[str, object], partition: int = 0) -> None:
        for row in rows:
            self.put("shop.deliveries.v1", self.codec.encode_event(self.deliveries, row), partition)

    def go(self, loop: MonitorLoop, rounds: int = 4) -> None:
        """Rounds, each after the next time to speak has come."""
        for _ in range(rounds):
            self.clock.advance(1_000)
            loop.step()

    def verdicts(self) -> Sequence[RolloutJudged]:
        return [self.codec.decode(r.value, RolloutJudged) for r in self.broker.records(ROLLOUT_VERDICTS)]

    def findings(self) -> Sequence[FindingRaised]:
        return [self.codec.decode(r.value, FindingRaised) for r in self.broker.records(FINDINGS)]

    def performance(self) -> Sequence[PerformanceMeasured]:
        return [self.codec.decode(r.value, PerformanceMeasured) for r in self.broker.records(PERFORMANCE)]

    def spoken(self) -> Sequence[AvroRecord]:
        return [*self.verdicts(), *self.findings(), *self.performance()]
