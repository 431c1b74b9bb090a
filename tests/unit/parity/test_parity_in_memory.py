"""The parity run without servers: the same driver, workers, views, archive and recomputation on the bus in memory."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

from headrace.chassis.bus import TopicPartition
from headrace.chassis.bus_memory import MemoryBus
from headrace.chassis.clock import ManualClock
from headrace.chassis.memory_broker import MemoryBroker
from headrace.chassis.state import MemoryStore, Store
from headrace.chassis.tracing import Tracing
from headrace.contracts.codec import Codec, MemoryRegistry
from headrace.contracts.partition import partition_for
from headrace.plan.avro import event_schema
from parity.generated import law_world
from parity.owned import RowAsker
from parity.playing import Driver, Played, archive
from parity.recomputing import recompute
from parity.serving import SetAsker
from parity.traits import TRAITS
from parity.worlds import How, Segment, World, encoded
from svc_stream.app import reporters
from svc_stream.engine import SetWorker
from svc_stream.owned import worker_of
from svc_stream.settings import StreamSettings
from svc_stream.tasks import Surroundings
from svc_stream.telemetry import StreamMetrics


@dataclass
class Memory:
    """Sending and Workers in one, as the driver sees them."""

    world: World
    rng: random.Random
    clock: ManualClock = field(default_factory=lambda: ManualClock(1_370_000_000_000))
    sent: Counter[str] = field(default_factory=Counter)
    decodable: Counter[str] = field(default_factory=Counter)
    ends: dict[tuple[str, int], int] = field(default_factory=dict)
    lives: int = 0

    def __post_init__(self) -> None:
        self.broker = MemoryBroker(self.clock)
        self.bus, self.codec = MemoryBus(self.broker), Codec(MemoryRegistry())
        for spec in self.world.topics():
            self.broker.create(spec)
        self._events = {e.name: e for e in self.world.plan.events}
        self._schemas = {e.name: event_schema(self.world.plan, e) for e in self.world.plan.events}
        self._plain, self._within = self.bus.producer("plain"), self.bus.producer("within", transactional_id="within")
        self._within.init_transactions()
        self._stores: dict[TopicPartition, Store] = {}
        self._workers: list[SetWorker] = []

    def send(self, step: Sequence[Segment]) -> None:
        for segment in step:
            producer = self._plain if segment.how is How.PLAIN else self._within
            self.sent[segment.how.value] += len(segment.records)
            if segment.how is not How.PLAIN:
                producer.begin()
            for record in segment.records:
                event = self._events[record.event]
                partition = partition_for(record.key, event.partitions) if record.partition is None else record.partition
                if record.append_ms is not None:
                    self.clock.jump(record.append_ms - self.clock.now_ms())
                at = self.broker.log(TopicPartition(event.topic, partition)).next_offset
                producer.produce(event.topic, encoded(self.codec, self._schemas, event, record), b"", partition)
                if segment.how in (How.PLAIN, How.COMMITTED):
                    self.decodable[record.event] += record.fields is not None
                    self.ends[record.event, partition] = at + 1
            if segment.how is How.COMMITTED:
                producer.commit()
            elif segment.how is not How.PLAIN:
                producer.abort()

    def reached(self, share: float) -> None:
        if not self.lives:
            self.start()

    def settled(self) -> bool:
        return True

    def start(self) -> None:
        plan = self.world.plan
        self.lives += 1
        if self.rng.random() < 0.3:
            self._stores.clear()
        self._workers = [worker_of(plan, s, self._around(), reporters(plan)[s.hash]) for s in plan.feature_sets]

    def _around(self) -> Surroundings:
        settings = StreamSettings(instance="a", idle_wait_ms=0, commit_interval_ms=1)
        tracing, metrics = Tracing("svc-stream", "a", None), StreamMetrics(CollectorRegistry())
        return Surroundings(
            self.bus, self.codec, settings, lambda tp: self._stores.setdefault(tp, MemoryStore()), tracing, metrics, self.clock
        )

    def poll(self) -> None:
        if self.rng.random() < 0.1:
            self.stop()
            self.start()
        for worker in self._workers:
            worker.rows_max = self.rng.choice(self.world.rows_max)
            self.clock.advance(10)
            worker.step()

    def stop(self) -> None:
        for worker in self._workers:
            worker.close()


def _silent(_what: str, _count: int) -> None: ...


def _played(world: World, folder: Path, seed: int) -> tuple[Played, dict[str, Any]]:
    rng = random.Random(seed)
    memory: Any = Memory(world, rng)
    askers: list[SetAsker | RowAsker] = [
        RowAsker(world, s, memory.bus, memory.codec)
        if s.placement == "owned"
        else SetAsker(world, s, memory.bus, memory.codec, folder / "views", random.Random(rng.random()))
        for s in world.plan.feature_sets
    ]
    driver = Driver(world, memory, memory, askers, rng, _silent)
    driver.run()
    memory.stop()
    for asker in askers:
        asker.close()
    rows = archive(world.plan, memory.bus, memory.codec, folder / "lake", rng)
    facts = {"rows": rows, "sent": memory.sent, "in_play": driver.in_play, "lives": memory.lives}
    return Played(world, {a.feature_set.name: a.answers for a in askers}, folder / "lake", {}), facts


def test_what_views_serve_in_memory_is_recomputed_and_one_changed_bit_is_seen(tmp_path: Path) -> None:
    """Goal: no difference between served, DuckDB and oracle; then exactly the one that was made. Method: a generated log."""
    world = law_world(5, 4, 400, 3_000)
    played, facts = _played(world, tmp_path, 5)
    found = recompute(played, 0.2, tmp_path, _silent)
    assert (found.differing, found.mismatches) == (0, [])
    assert found.reads == world.reads() >= 3_000
    assert found.oracle_reads > 100
    assert facts["rows"] == facts["sent"]["plain"] + facts["sent"]["committed"]
    assert facts["sent"]["aborted"] + facts["sent"]["interleaved"] > 0
    assert facts["lives"] > 1
    assert 4 * found.fresh >= found.reads  # the drawn set asks far back; the whole run is held to half
    assert facts["in_play"] * 2 > sum(len(q.due_ms) for q in world.questions.values())
    values = played.answers["origin_load"].values[0]
    row, column = next(zip(*np.nonzero(np.isfinite(values)), strict=True))
    values[row, column] = np.nextafter(values[row, column], np.inf)
    changed = recompute(played, 0.0, tmp_path, _silent)
    assert (changed.bits_differing, changed.statuses_differing, len(changed.mismatches)) == (1, 0, 1)


def test_what_owners_answer_at_their_rows_in_memory_is_recomputed(tmp_path: Path) -> None:
    """Goal: every decodable request is answered, each answer as DuckDB and the oracle say at its cut, also after deaths."""
    world = law_world(5, 3, 300, 0)
    played, facts = _played(world, tmp_path, 5)
    found = recompute(played, 0.2, tmp_path, _silent)
    assert (found.differing, found.mismatches) == (0, [])
    assert found.reads >= world.reads() > 3_000
    assert facts["lives"] > 1
    assert found.oracle_reads > 100 and found.fresh > 500
    assert not found.traits["rekeyed"], "an owner's events lie where their entity lives"
    assert all(found.traits[t] for t in TRAITS if t not in ("rekeyed", "lagging"))
