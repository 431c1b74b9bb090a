"""svc-ingest without its process: the real writer, desk and HTTP app on a bus given by the test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import orjson
from fastapi import FastAPI
from opentelemetry.sdk.trace.export import SpanExporter
from prometheus_client import CollectorRegistry

from headrace.chassis.bus import Bus, Record, TopicPartition, TopicSpec
from headrace.chassis.bus_memory import MemoryBus
from headrace.chassis.clock import Clock, ManualClock
from headrace.chassis.state import MemoryStore, Store
from headrace.chassis.tracing import Tracing
from headrace.contracts.codec import Codec, MemoryRegistry
from headrace.contracts.records import RecordRejected
from headrace.plan.ir import EventType, Field, Plan, Source
from svc_ingest.adapters.avro import event_encoder
from svc_ingest.adapters.http import HttpBounds, HttpDoor
from svc_ingest.desk import Desk, DeskBounds
from svc_ingest.ports import Route
from svc_ingest.routes import Routes, compile_routes
from svc_ingest.telemetry import Telemetry
from svc_ingest.writer import Writer, WriterSetup

HOUR_MS = 3_600_000
NOW_MS = 1_767_225_600_000  # 2026-01-01T00:00Z, the manual clock's start
HOLD_MS = 24 * HOUR_MS

DEPARTED = EventType(
    name="departures",
    record="Departed",
    topic="flights.departures.v1",
    key="flight_id",
    time="departed_at",
    fields=(
        Field("flight_id", "string"),
        Field("origin", "string"),
        Field("departed_at", "timestamp"),
        Field("dep_delay", "long", nullable=True, minimum=-1000, maximum=10_000),
        Field("gust", "decimal", nullable=True, scale=2, minimum=0),
        Field("hour", "int", nullable=True),
        Field("ratio", "double", nullable=True),
        Field("diverted", "boolean", nullable=True),
    ),
    lateness_ms=2 * HOUR_MS,
    poison_bound_ms=HOUR_MS,
    dedup_id="flight_id",
    dedup_horizon_ms=6 * HOUR_MS,
)
CLICKED = EventType(
    name="clicks",
    record="Clicked",
    topic="flights.clicks.v1",
    key="user",
    time="at",
    fields=(Field("user", "string"), Field("at", "timestamp")),
    lateness_ms=HOUR_MS,
    poison_bound_ms=HOUR_MS,
)
PLAN = Plan(
    pipeline="flights",
    owner="ops",
    events=(DEPARTED, CLICKED),
    sources=(
        Source("departures", "departures", "http_json_lines"),
        Source("clicks", "clicks", "http_json_lines"),
        Source("departure-files", "departures", "csv_folder", (("flight_id", "Flight"), ("departed_at", "Off block"))),
    ),
    feature_sets=(),
    models=(),
)
TOPICS = (DEPARTED.topic, CLICKED.topic)


def departure(number: int = 0, **changes: Any) -> dict[str, Any]:
    """A row as a producer sends it."""
    row = {"flight_id": f"UA-{number}", "origin": "EWR", "departed_at": NOW_MS - HOUR_MS + number, "dep_delay": 4, "gust": 12.5}
    return row | changes


def lines(*rows: dict[str, Any] | bytes) -> bytes:
    return b"\n".join(row if isinstance(row, bytes) else orjson.dumps(row) for row in rows)


class Rig:
    """One life of svc-ingest. `reborn` is the next life on the same bus, with the same disk or a new one."""

    def __init__(
        self,
        bus: Bus | None = None,
        store: Store | None = None,
        *,
        codec: Codec | None = None,
        plan: Plan = PLAN,
        clock: Clock | None = None,
        desk_bounds: DeskBounds | None = None,
        http_bounds: HttpBounds | None = None,
        exporter: SpanExporter | None = None,
    ) -> None:
        self.bus = bus or MemoryBus()
        self.store = store or MemoryStore()
        self.codec = codec or Codec(MemoryRegistry())
        self.clock = clock or ManualClock(NOW_MS)
        self.metrics = CollectorRegistry()
        self.telemetry = Telemetry(self.metrics)
        self.tracing = Tracing("svc-ingest", "0", exporter)
        self.bus.admin().ensure_topics(
            [
                spec
                for event in plan.events
                for spec in (TopicSpec(event.topic, 2), TopicSpec(f"{event.topic}.svc-ingest.dlq", 1))
            ]
        )
        setup = WriterSetup(self.telemetry, self.tracing, self.clock, HOLD_MS)
        self.writer = Writer(self.bus, self.codec, self.store, setup)
        self.desk = Desk(self.writer, self.telemetry, replace(desk_bounds or DeskBounds(), idle_s=0.01))
        self.routes = Routes()
        self.sources = compile_routes(plan, lambda schema: event_encoder(self.codec, schema))
        for route in self.sources.values():
            self.writer.open(route)
        self.routes.put(plan.pipeline, self.sources)
        self.routes.complete = True
        self.app = FastAPI()
        self.app.include_router(HttpDoor(self.routes, self.desk, self.telemetry, http_bounds).router())

    def reborn(self, *, keep_disk: bool = True) -> Rig:
        return Rig(self.bus, self.store if keep_disk else MemoryStore(), codec=self.codec, clock=self.clock)

    def route(self, name: str = "departures") -> Route:
        return self.sources[name]

    @contextmanager
    def writing(self) -> Iterator[None]:
        """The writer thread at work inside the block."""
        stop = threading.Event()

        def body() -> None:
            while not stop.is_set():
                self.desk.step()

        thread = threading.Thread(target=body, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(10)

    def records(self, topic: str) -> list[Record]:
        """Everything a topic holds, by partition."""
        consumer = self.bus.consumer(None, "test")
        found: list[Record] = []
        try:
            for number in range(self.bus.admin().partitions(topic) or 0):
                partition = TopicPartition(topic, number)
                consumer.assign({partition: -2})
                _, end = consumer.watermarks(partition)
                while end and (not found or found[-1].partition != number or found[-1].offset + 1 < end):
                    found += consumer.consume(500, 0.2)
        finally:
            consumer.close()
        return found

    def events(self, source: str = "departures") -> list[dict[str, Any]]:
        route = self.sources[source]
        return [self.codec.decode_event(route.schema, record.value) for record in self.records(route.event.topic)]

    def letters(self, source: str = "departures") -> list[RecordRejected]:
        topic = self.sources[source].dead_letters
        return [self.codec.decode(record.value, RecordRejected) for record in self.records(topic)]

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.get_sample_value(name, labels) or 0.0
