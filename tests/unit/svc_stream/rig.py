"""svc-stream without its process: real workers on the bus in memory, generated logs, and the naive oracle beside them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from prometheus_client import CollectorRegistry

from headrace.chassis.bus import Record, TopicPartition, TopicSpec
from headrace.chassis.bus_memory import MemoryBus
from headrace.chassis.clock import ManualClock
from headrace.chassis.memory_broker import MemoryBroker
from headrace.chassis.retry import RetryPolicy
from headrace.chassis.state import MemoryStore, Store
from headrace.chassis.tracing import Tracing
from headrace.chassis.view import StateView, ViewFollower
from headrace.contracts import catalogue
from headrace.contracts.codec import Codec, MemoryRegistry
from headrace.contracts.partition import partition_for
from headrace.contracts.records import Progress, RecordRejected, TileBlock
from headrace.plan.avro import event_schema
from headrace.plan.blocks import block_of
from headrace.plan.ir import FeatureSet, Plan
from headrace.plan.oracle import Oracle, RawRecord
from headrace.plan.read import read_features
from headrace.plan.tiles import Block, BlockKey, decode_key, encode_key, expire, floor_ms
from headrace.plan.topics import late_topic, partials_topic, scoring_inputs_topic, state_topic, time_advances_topic
from headrace.plan.verdicts import Verdict
from support.law_worlds import EVENTS, GATE_LOAD, MIN, ORIGIN_LOAD, World, hexed, make_world
from svc_stream.base import Bases
from svc_stream.engine import SetWorker
from svc_stream.handlers import GROUP
from svc_stream.owned import worker_of
from svc_stream.settings import StreamSettings
from svc_stream.tasks import Surroundings
from svc_stream.telemetry import StreamMetrics

UNDECODABLE = b"\x00\xff\xff\xff\xffnot a value"
ORIGIN, GATE = replace(ORIGIN_LOAD, hash="1" * 64), replace(GATE_LOAD, hash="2" * 64)
# Hashes by hand: the worlds' ranges go beyond what a compiled plan allows, on purpose.
PLAN = Plan("flights", "ops", tuple(EVENTS.values()), (), (ORIGIN, GATE), (), hash="3" * 64)


class Deferred:
    """Background work of tests: done at once, or whole at some later look, as the generator says."""

    def __init__(self, rng: random.Random | None) -> None:
        self._rng = rng
        self._work: Callable[[], None] | None = None
        self._error: Exception | None = None

    def start(self, work: Callable[[], None]) -> None:
        self._work = work
        if self._rng is None:
            self._run()

    def ended(self) -> bool:
        if self._work is not None and self._rng is not None and self._rng.random() < 0.3:
            self._run()
        return self._work is None

    def result(self) -> None:
        self._run()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None: ...

    def _run(self) -> None:
        work, self._work = self._work, None
        try:
            if work is not None:
                work()
        except Exception as error:
            self._error = error


@dataclass
class Rig:
    """One broker, one plan. Workers come and go; local stores live as long as their instance's disk."""

    plan: Plan = PLAN
    clock: ManualClock = field(default_factory=lambda: ManualClock(1_000_000))
    stores: dict[tuple[str, TopicPartition], MemoryStore] = field(default_factory=dict)
    log: list[RawRecord] = field(default_factory=list)
    idle_wait_ms: int = 0
    owned_commit_interval_ms: int = 1
    bases: Bases | None = None
    beside: random.Random | None = None  # when commits of owned sets end: at once without

    def __post_init__(self) -> None:
        self.broker = MemoryBroker(self.clock)
        self.bus = MemoryBus(self.broker)
        self.codec = Codec(MemoryRegistry())
        self.schemas = {e.name: event_schema(self.plan, e) for e in self.plan.events}
        topics = [(e.topic, e.partitions) for e in self.plan.events]
        topics += [(catalogue.dlq_topic(e.topic, GROUP), 1) for e in self.plan.events]
        topics += [
            (late_topic(self.plan.pipeline), 1),
            (time_advances_topic(self.plan.pipeline), 1),
            (scoring_inputs_topic(self.plan.pipeline), 2),
        ]
        for feature_set in self.plan.feature_sets:
            topics += [(partials_topic(self.plan, feature_set), feature_set.partitions)]
            topics += [(state_topic(self.plan, feature_set), feature_set.partitions)]
        for name, partitions in topics:
            self.broker.create(TopicSpec(name, partitions))

    # -- the log

    def send(self, records: Sequence[RawRecord]) -> None:
        """Append raw records at their append times; the offsets they get are noted in `log`."""
        producer = self.bus.producer("source")
        for raw in records:
            event = next(e for e in self.plan.events if e.name == raw.event)
            self.clock.jump(raw.append_ms - self.clock.now_ms())
            value = UNDECODABLE
            if raw.fields is not None:
                fields = {f.name: raw.fields.get(f.name) for f in event.fields}
                value = self.codec.encode_event(self.schemas[event.name], fields)
            at = self.broker.log(TopicPartition(event.topic, raw.partition)).next_offset
            producer.produce(event.topic, value, b"", raw.partition)
            self.log.append(replace(raw, offset=at))

    def hole(self, event: str, partition: int, records: int) -> None:
        """An aborted transaction: offsets no reader ever sees."""
        topic = next(e.topic for e in self.plan.events if e.name == event)
        producer = self.bus.producer("hole", transactional_id="hole")
        producer.init_transactions()
        producer.begin()
        for _ in range(records):
            producer.produce(topic, b"aborted", b"", partition)
        producer.abort()

    # -- workers

    def worker(
        self, feature_set: FeatureSet, instance: str = "a", *, reports: bool = True, lose_disk: bool = False
    ) -> SetWorker:
        if lose_disk:
            self.stores = {key: store for key, store in self.stores.items() if key[0] != instance}
        settings = StreamSettings(
            instance=instance,
            idle_wait_ms=self.idle_wait_ms,
            commit_interval_ms=1,
            owned_commit_interval_ms=self.owned_commit_interval_ms,
        )

        def open_store(tp: TopicPartition) -> Store:
            return self.stores.setdefault((instance, tp), MemoryStore())

        tracing, metrics = Tracing("svc-stream", instance, None), StreamMetrics(CollectorRegistry())
        retry = RetryPolicy(base_s=0.001, cap_s=0.001)
        around = Surroundings(
            self.bus, self.codec, settings, open_store, tracing, metrics, self.clock, retry, lambda _: Deferred(self.beside),
            self.bases,
        )  # fmt: skip
        return worker_of(self.plan, feature_set, around, frozenset(EVENTS) if reports else frozenset())

    def round(self, worker: SetWorker, rows_max: int = 1_000) -> int:
        worker.rows_max = rows_max
        self.clock.advance(10)
        return worker.step()

    def drain(self, *workers: SetWorker, rng: random.Random | None = None, rounds: int = 4_000) -> None:
        """Go round until nobody has anything left."""
        idle = 0
        for _ in range(rounds):
            done = [self.round(w, rng.choice((1, 2, 7, 40, 1_000)) if rng else 1_000) for w in workers]
            idle = 0 if any(done) or any(w.tasks.stale for w in workers) else idle + 1
            if idle > 2:
                return
        raise AssertionError("the workers never come to rest")

    # -- what came of it

    def view(self, feature_set: FeatureSet, partition: int) -> StateView:
        """A fresh public view of the state, restored from its topic."""
        tp = TopicPartition(state_topic(self.plan, feature_set), partition)
        view = StateView(tp, MemoryStore(), lambda raw: self.codec.decode(raw, Progress))
        follower = ViewFollower([view], self.bus.consumer(None, "view"))
        while not view.live:
            follower.step(0)
        follower.close()
        return view

    def state(self, feature_set: FeatureSet) -> dict[BlockKey, dict[int, list[int]]]:
        """Tiles that count, by block: what two lives must agree on. When tiles below the floor go depends on batches."""
        found: dict[BlockKey, dict[int, list[int]]] = {}
        for view in (self.view(feature_set, p) for p in range(feature_set.partitions)):
            maxima = maxima_of(view)
            for raw_key, raw in view.store.range(b"\x01"):
                key = decode_key(feature_set, raw_key)
                floor = floor_ms(feature_set, key.event, maxima, None)
                block = expire(block_of(self.codec.decode(raw, TileBlock)), floor, endless=not key.hop_ms)
                if len(block.starts_ms):
                    found[key] = dict(zip(block.starts_ms.tolist(), block.slots.tolist(), strict=True))
        return found

    def letters(self) -> dict[tuple[str, int, int], list[str]]:
        """Reasons of the rejected records written out, by (event, partition, offset)."""
        found: dict[tuple[str, int, int], list[str]] = {}
        names = {e.topic: e.name for e in self.plan.events}
        for topic in [late_topic(self.plan.pipeline), *(catalogue.dlq_topic(t, GROUP) for t in names)]:
            for record in self.broker.records(topic):
                letter = self.codec.decode(record.value, RecordRejected)
                found.setdefault((names[letter.topic], letter.partition, letter.offset), []).append(letter.reason)
        return found

    def expected_letters(self) -> dict[tuple[str, int, int], Verdict]:
        judged = Oracle(self.plan.events, self.log).verdicts()
        return {k: v for k, v in judged.items() if v not in (Verdict.OK, Verdict.DUPLICATE)}

    def cut(self, view: StateView) -> dict[tuple[str, int], int]:
        return {(c.event, c.partition): c.next_offset for c in view.progress.cut} if view.progress else {}

    def compare(self, feature_set: FeatureSet, rng: random.Random, questions: int = 12) -> None:
        """Read what a server would read, at random entities and times, and ask the oracle the same at the view's cut."""
        oracle = Oracle(self.plan.events, self.log)
        views = [self.view(feature_set, p) for p in range(feature_set.partitions)]
        newest = max((r.append_ms for r in self.log), default=self.clock.now_ms())
        for _ in range(questions):
            origin = rng.choice(("EWR", "JFK", "LGA", "", "never"))
            entity = origin if len(feature_set.entity) == 1 else f"{origin}\x1f{rng.randint(0, 2)}"
            t = newest - rng.choice((0, rng.randint(-MIN, 40 * MIN), rng.randint(0, 40 * 60 * MIN)))
            view = views[partition_for(entity, feature_set.partitions)]
            got = self.read(feature_set, view, entity, t)
            values, statuses = oracle.answer(feature_set, entity, t, self.cut(view), None)
            assert got == (hexed(values), [int(s) for s in statuses]), (entity, t, self.cut(view))

    def read(self, feature_set: FeatureSet, view: StateView, entity: str, t: int) -> tuple[list[str | None], list[int]]:
        def blocks(keys: Sequence[BlockKey]) -> list[Block | None]:
            with view.reading() as reading:
                found = reading.multi_get([encode_key(feature_set, k) for k in keys])
            return [None if raw is None else block_of(self.codec.decode(raw, TileBlock)) for raw in found]

        rows = read_features(feature_set, [entity], [t], blocks, maxima_of(view), None)
        return hexed(rows.rows()[0]), rows.statuses[0].tolist()


def maxima_of(view: StateView) -> dict[str, int | None]:
    maxima: dict[str, int | None] = {}
    for c in view.progress.cut if view.progress else ():
        maxima[c.event] = max((m for m in (maxima.get(c.event), c.maximum_ms) if m is not None), default=None)
    return maxima


def world(seed: int, records: int = 60) -> World:
    return make_world(seed, records)


def by_append(found: World) -> list[RawRecord]:
    return sorted(found.log, key=lambda r: r.append_ms)


def committed(rig: Rig, worker: SetWorker) -> dict[TopicPartition, tuple[int, str]]:
    return {tp: (c.offset, c.metadata) for tp, c in rig.broker.group(worker.group).offsets.items()}


def rewind_of(metadata: str) -> list[int | None] | None:
    return json.loads(metadata)["rewind"]


def progress_records(rig: Rig, feature_set: FeatureSet) -> list[Record]:
    return [r for r in rig.broker.records(state_topic(rig.plan, feature_set)) if r.key == b"\x00progress"]
