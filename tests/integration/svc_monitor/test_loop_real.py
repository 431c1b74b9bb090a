"""The loop on a real broker: reads to the end as of its start, speaks once over two lives."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import replace

from headrace.chassis.app import Chassis
from headrace.chassis.bus import TopicPartition
from headrace.chassis.bus_confluent import ConfluentBus
from headrace.chassis.clock import SystemClock
from headrace.chassis.health import Health
from headrace.chassis.http import create_app
from headrace.chassis.metrics import ChassisMetrics
from headrace.chassis.tracing import Tracing
from headrace.contracts.catalogue import ROLLOUT_VERDICTS, plan_topics, platform_topics
from headrace.contracts.codec import Codec, ConfluentRegistry
from headrace.contracts.records import RolloutJudged, Verdict
from headrace.plan.avro import event_schema
from headrace.plan.hashes import sealed
from headrace.plan.ir import Plan
from headrace.plan.profile import DAY_MS
from headrace.plan.topics import predictions_topic
from svc_monitor.loop import MonitorLoop
from svc_monitor.settings import MonitorSettings
from svc_monitor.telemetry import MonitorMetrics
from unit.svc_monitor.worlds import DAY0, HOUR, MODEL, a_plan, delivery, passport, rollout

NOON = DAY0 * DAY_MS + 12 * HOUR
PATIENCE_S = 60.0


class RealShop:
    """A pipeline of its own on a broker others use too."""

    def __init__(self, bootstrap: str, registry_url: str) -> None:
        name = f"shop{uuid.uuid4().hex[:10]}"
        plan = a_plan()
        events = tuple(replace(e, topic=e.topic.replace("shop", name)) for e in plan.events)
        self.plan: Plan = sealed(replace(plan, pipeline=name, events=events))
        self.bus, self.codec = ConfluentBus(bootstrap), Codec(ConfluentRegistry(registry_url))
        self.label = event_schema(self.plan, "deliveries")
        self.codec.register_event(self.label)
        self.bus.admin().ensure_topics([*platform_topics(), *plan_topics(self.plan)])

    def life(self) -> MonitorLoop:
        metrics = ChassisMetrics()
        chassis = Chassis(
            MonitorSettings(zipkin_url=""), SystemClock(), self.bus, Health(), metrics, Tracing("svc-monitor", "0", None),
            create_app("svc-monitor", Health(), metrics),
        )  # fmt: skip
        return MonitorLoop(self.plan, chassis, self.codec, MonitorMetrics(metrics.registry))

    def trade(self) -> None:
        """Six labelled decisions of each arm, and one of a week later on one partition only."""
        topic = predictions_topic(self.plan.pipeline)
        producer = self.bus.producer("test")
        for number in range(13):
            arm, t = "challenger" if number % 2 else "champion", NOON + number + (7 * DAY_MS if number == 12 else 0)
            made = replace(passport(number, t, arm=arm, epoch=7, score=0.1), pipeline=self.plan.pipeline)
            producer.produce(topic, self.codec.encode(topic, made), b"k", partition=number // 2 % 2)
            value = self.codec.encode_event(self.label, delivery(number, t + HOUR, 0))
            producer.produce(self.label.topic, value, b"k", partition=0 if number == 12 else number % 2)
        producer.flush(30)
        producer.close()

    def verdicts(self) -> list[RolloutJudged]:
        reader = self.bus.consumer(None, "test")
        place = TopicPartition(ROLLOUT_VERDICTS, 0)
        end = reader.watermarks(place)[1]
        reader.assign({place: 0})
        found = []
        while (reader.position(place) or 0) < end:
            found += reader.consume(500, 0.2)
        reader.close()
        judged = (self.codec.decode(record.value, RolloutJudged) for record in found)
        return [v for v in judged if v.pipeline == self.plan.pipeline]


def go(loop: MonitorLoop, until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not until():
        assert time.monotonic() < deadline, "did not come to it"
        loop.step()


def test_a_canary_is_judged_once_over_two_lives(kafka: str, registry_url: str) -> None:
    """The idle partition is recognised by the broker's log end; the second life reads the verdict back."""
    shop = RealShop(kafka, registry_url)
    shop.trade()
    canary = replace(rollout(7), pipeline=shop.plan.pipeline)
    for _ in range(2):
        loop = shop.life()
        loop.rollouts.put((canary, None))
        go(loop, lambda watch=loop.watches[MODEL]: watch.watermark_ms == NOON + 12 + 7 * DAY_MS)
        loop.close()
    (verdict,) = shop.verdicts()
    assert (verdict.verdict, verdict.challenger_decisions, verdict.control_decisions) == (Verdict.PASS, 6, 6)
