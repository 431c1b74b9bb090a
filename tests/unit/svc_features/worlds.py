"""A small world served, archived and recomputed: the real law online on one side, the lake on the other.

A world of `support.law_worlds` goes onto the bus in memory, undecodable records as garbage; at random moments of reading
it in random batches, decisions are made from tiles as svc-serve makes them, and their passports go onto the bus too.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
from prometheus_client import CollectorRegistry

from headrace.chassis.bus import Bus, Delivered, Producer, TopicSpec
from headrace.chassis.bus_memory import MemoryBus
from headrace.chassis.clock import ManualClock
from headrace.chassis.memory_broker import MemoryBroker
from headrace.contracts.catalogue import PREDICTIONS, topics
from headrace.contracts.codec import Codec, EventSchema, MemoryRegistry
from headrace.contracts.records import DecisionSource, Door, PassportCut, PredictionMade, SetRead
from headrace.plan import tiles, verdicts
from headrace.plan.assemble import Assembler
from headrace.plan.avro import event_schema
from headrace.plan.hashes import sealed
from headrace.plan.ir import EventType, Field, Input, Label, Model, Plan, Rollout, Watch
from headrace.plan.oracle import RawRecord
from headrace.plan.read import read_features
from headrace.plan.tiles import entity_of
from headrace.plan.topics import predictions_topic
from support.law_worlds import DEPARTURES, GATE_LOAD, HOUR, MIN, ORIGIN_LOAD, WEATHER, World, frame_of, judge_frame
from svc_features.adapters.lake import DeltaLake
from svc_features.archive import Archive, Reached
from svc_features.handlers import event_feed, passport_feed
from svc_features.telemetry import FeaturesMetrics

PIPELINE = "small-world"
ASKS = EventType(
    name="asks", record="Asked", topic=f"{PIPELINE}.asks.v1", key="flight_id", time="asked_at",
    fields=(
        Field("flight_id", "string"),
        Field("asked_at", "timestamp"),
        Field("origin", "string", nullable=True),
        Field("gate", "int"),
    ),
    lateness_ms=4 * HOUR, poison_bound_ms=HOUR, dedup_id="flight_id", dedup_horizon_ms=6 * HOUR, partitions=2,
    available_after_ms=5 * MIN,
)  # fmt: skip
_FEATURES = tuple(Input(f.name, "feature", s.name, f.name) for s in (ORIGIN_LOAD, GATE_LOAD) for f in s.features)
MODEL = Model(
    name="delay", request="asks", sample_bp=10_000, routing_key="flight_id", request_id="flight_id", when=None,
    label=Label("departures", "delay > 15", "flight_id", 24 * HOUR, exclude="gate = 2"),
    inputs=(
        *_FEATURES, Input("gate", "request", expression="gate"), Input("load", "on_demand", expression="departures_1h * gust"),
    ),
    trainer="gradient_boosting", trainer_parameters=(), threshold="0.5", gate=(), deadline_ms=1000,
    rules="departures_1h > 3", rules_score="delay_mean_1h", default_decision=False, explain_top=0,
    rollout=Rollout((100,), 10), watch=Watch(("departures_1h", "delay_mean_1h"), 7 * 24 * HOUR, 200, 500), owner="ops",
)  # fmt: skip
_OPEN = replace(  # without ranges: JSON's integers are short
    DEPARTURES,
    topic=f"{PIPELINE}.departures.v1",
    fields=tuple(replace(f, minimum=None, maximum=None) for f in DEPARTURES.fields),
)
_WEATHER = replace(WEATHER, topic=f"{PIPELINE}.weather.v1")
PLAN: Plan = sealed(Plan(PIPELINE, "ops", (ASKS, _OPEN, _WEATHER), (), (ORIGIN_LOAD, GATE_LOAD), (MODEL,)))
SETS = PLAN.feature_sets
EVENTS = {e.name: e for e in PLAN.events}
GARBAGE = b"garbage\x00\xff"
LONG_AFTER_MS = 2_000_000_000_000
PREDICTIONS_TOPIC = predictions_topic(PIPELINE)


@dataclass(slots=True)
class View:
    """One feature set as a stream task would hold it: its own progress through the log."""

    feature_set: Any
    topic_ids: Mapping[str, str] = field(default_factory=dict)
    source: dict[tuple[str, int], verdicts.SourceState] = field(default_factory=dict)
    cut: dict[tuple[str, int], int] = field(default_factory=dict)
    blocks: dict[tiles.BlockKey, tiles.Block] = field(default_factory=dict)

    def apply(self, event: EventType, records: Sequence[RawRecord]) -> None:
        """Judge, lift and merge records of one partition."""
        place = (event.name, records[0].partition)
        state = self.source.setdefault(place, verdicts.SourceState())
        frame = frame_of(event, records)
        accepted = frame.filter(judge_frame(state, event, frame).accepted)
        for partial in tiles.lift(self.feature_set, event, accepted):
            tiles.apply(self.feature_set, partial, self.blocks)
        self.cut[place] = records[-1].offset + 1

    def read(self, request: Mapping[str, Any], t: int) -> SetRead:
        entity = entity_of(self.feature_set, request)
        tops: dict[str, int | None] = {}
        for (event, _), state in self.source.items():
            known = [m for m in (tops.get(event), state.maximum_ms) if m is not None]
            tops[event] = max(known, default=None)
        rows = read_features(
            self.feature_set,
            ["\x00" if entity is None else entity],
            [t],
            lambda keys: [self.blocks.get(k) for k in keys],
            tops,
            None,
        )
        return SetRead(
            set=self.feature_set.name, hash=self.feature_set.hash, entity=entity, placement="replicated", partition=0,
            commit_sequence=1, base_floor_ms=None,
            statuses=tuple(int(s) for s in rows.statuses[0]), values=tuple(rows.rows()[0]),
            cut=tuple(
                PassportCut(event=e, partition=p, next_offset=n, topic_id=self.topic_ids.get(e, ""))
                for (e, p), n in sorted(self.cut.items())
            ),
        )  # fmt: skip


@dataclass(slots=True)
class Rig:
    """The bus, the registry, and what was produced. `log`: the raw log with its real offsets."""

    clock: ManualClock = field(default_factory=lambda: ManualClock(0))
    codec: Codec = field(default_factory=lambda: Codec(MemoryRegistry()))
    log: list[RawRecord] = field(default_factory=list)
    passports: list[PredictionMade] = field(default_factory=list)
    real: Bus | None = None  # a broker that stamps records itself, long after the world's time
    bus: Bus = field(init=False)
    broker: MemoryBroker = field(init=False)
    _producer: Producer = field(init=False)
    _schemas: dict[str, EventSchema] = field(init=False)

    def __post_init__(self) -> None:
        self.broker = MemoryBroker(self.clock)
        self.bus = self.real or MemoryBus(self.broker)
        specs = [TopicSpec(e.topic, e.partitions) for e in PLAN.events]
        specs.append(TopicSpec(PREDICTIONS_TOPIC, topics()[PREDICTIONS].partitions))
        if self.real is None:
            self.bus.admin().ensure_topics(specs)
        self._producer = self.bus.producer("world")
        self._schemas = {e.name: event_schema(PLAN, e) for e in PLAN.events}

    def send(self, event: EventType, partition: int, append_ms: int, fields: Mapping[str, Any] | None) -> RawRecord:
        """Produce one event at a time of its own; None is garbage."""
        self.clock.jump(append_ms - self.clock.now_ms())
        value = GARBAGE if fields is None else self.codec.encode_event(self._schemas[event.name], fields)
        landed: list[Delivered] = []
        self._producer.produce(
            event.topic, value, partition=partition, on_delivery=lambda _, d: landed.append(d) if d else None
        )
        self._producer.flush(10.0)
        appended = append_ms if self.real is None else LONG_AFTER_MS
        self.log.append(RawRecord(event.name, partition, landed[0].offset, appended, fields))
        return self.log[-1]

    def topic_ids(self) -> dict[str, str]:
        """By event name."""
        admin = self.bus.admin()
        return {e.name: admin.topic_id(e.topic) for e in PLAN.events}

    def decide(self, passport: PredictionMade) -> None:
        self._producer.produce(PREDICTIONS_TOPIC, self.codec.encode(PREDICTIONS_TOPIC, passport), passport.request_id.encode())
        self._producer.flush(10.0)
        self.passports.append(passport)

    def archive(self, lake: Path, *, bus: Bus | None = None, **settings: Any) -> Archive:
        """The archive of all topics of the plan."""
        feeds = [event_feed(PLAN, e, self.codec) for e in PLAN.events] + [passport_feed(PLAN, self.codec)]
        settings = {"interval_ms": 1, "rows_max": 10_000, "reached": Reached(), "idle_s": 0.0, **settings}
        settings = {"metrics": FeaturesMetrics(CollectorRegistry()), **settings}
        return Archive(PIPELINE, feeds, bus=bus or self.bus, lake=DeltaLake(lake), clock=self.clock, **settings)

    def archived(self, lake: Path) -> Archive:
        """Archive all there is."""
        archive = self.archive(lake)
        while archive.step():
            self.clock.advance(10)
        archive.close()
        return archive


def played(
    world: World, rng: random.Random, asks: int = 40, decided: float = 1.0, rig: Rig | None = None,
    meanwhile: Callable[[float], None] = lambda _: None,
) -> Rig:  # fmt: skip
    """The world on the bus, some `asks` requests in between, this share of them decided; `meanwhile` hears the share played."""
    rig = rig or Rig()
    ids = rig.topic_ids()
    views = [View(s, ids) for s in SETS]
    assembler = Assembler(PLAN, PLAN.models[0])
    records = sorted(world.log, key=lambda r: r.append_ms)
    behind: dict[tuple[int, str, int], list[RawRecord]] = {}
    for number, raw in enumerate(records):
        sent = rig.send(EVENTS[raw.event], raw.partition, raw.append_ms, raw.fields)
        for i in range(len(views)):
            behind.setdefault((i, raw.event, raw.partition), []).append(sent)
        if rng.random() < 0.3:
            waiting = [key for key in behind if behind[key]]
            key = rng.choice(waiting)
            views[key[0]].apply(EVENTS[key[1]], behind.pop(key))
        meanwhile(number / len(records))
        if rng.random() < asks / len(records):
            _ask(rig, views, assembler, rng, number, raw.append_ms, decided)
    return rig


def _ask(
    rig: Rig, views: Sequence[View], assembler: Assembler, rng: random.Random, number: int, now: int, decided: float
) -> None:
    t = now + (rng.randint(-40 * MIN, MIN) if rng.random() < 0.7 else -rng.randint(0, 3 * HOUR))
    request = {
        "flight_id": f"F{number % 60}" if rng.random() < 0.6 else f"A{number}",
        "asked_at": t,
        "origin": rng.choice(("EWR", "EWR", "JFK", "LGA", None)),
        "gate": rng.randint(0, 2),
    }
    if any(p.request_id == request["flight_id"] for p in rig.passports):
        return
    sent = rig.send(ASKS, rng.randrange(2), now, request)
    if rng.random() >= decided:
        return
    reads = tuple(v.read(request, t) for v in views)
    row = assembler.assemble(request, {r.set: r.values for r in reads})
    by_event = rng.random() < 0.8
    rig.decide(
        PredictionMade(
            request_id=str(request["flight_id"]), pipeline=PIPELINE, model=MODEL.name, plan_hash=PLAN.hash,
            semantics_version=PLAN.semantics_version, request_body=orjson.dumps(request, option=orjson.OPT_SORT_KEYS).decode(),
            t_ms=t, routing_key=str(request["flight_id"]), sets=reads, vector=tuple(row.row.tolist()), model_digest=None,
            arm="rules", epoch=0, score=None, decision=row.rule_decision, decision_source=DecisionSource.RULES,
            source_reason="no_model", rule_score=row.rule_score, contributions=(), contribution_method="", raw_score=None,
            event_id=f"{ASKS.topic}-{sent.partition}-{sent.offset}" if by_event else None, trace_id="",
            request_append_ms=sent.append_ms if by_event else None, received_ms=now, decided_ms=now,
            door=Door.EVENT if by_event else Door.REST, owner="ops", team="", cost_us=1,
        )
    )  # fmt: skip
