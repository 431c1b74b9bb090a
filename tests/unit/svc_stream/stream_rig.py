"""Streams without their process: real workers on the bus in memory, and what the naive oracle says of the same log."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry

from headrace.chassis.bus import Record, TopicPartition
from headrace.chassis.bus_memory import MemoryBus
from headrace.chassis.clock import ManualClock
from headrace.chassis.memory_broker import MemoryBroker
from headrace.chassis.retry import RetryPolicy
from headrace.chassis.state import MemoryStore, Store
from headrace.chassis.tracing import Tracing
from headrace.contracts.codec import Codec, MemoryRegistry
from headrace.contracts.records import RecordRejected, TimeAdvanced
from headrace.plan.avro import event_schema
from headrace.plan.ir import Plan, Stream
from headrace.plan.oracle import Oracle, RawRecord
from headrace.plan.streams.frames import GONE, OFFSET, PARTITION, TIME
from headrace.plan.topics import late_topic, plan_topics, time_advances_topic
from headrace.plan.verdicts import Verdict
from svc_stream.settings import StreamSettings
from svc_stream.streams.worker import StreamWorker
from svc_stream.tasks import Surroundings
from svc_stream.telemetry import StreamMetrics

UNDECODABLE = b"\x00\xff\xff\xff\xffnot a value"
DAY = 86_400_000
BEGIN = 20_000 * DAY


@dataclass
class StreamRig:
    """One broker, one plan. Workers come and go; local stores live as long as their instance's disk."""

    plan: Plan
    clock: ManualClock = field(default_factory=lambda: ManualClock(BEGIN))
    stores: dict[tuple[str, TopicPartition], MemoryStore] = field(default_factory=dict)
    log: list[RawRecord] = field(default_factory=list)
    gone: list[tuple[str, int, int, int, str]] = field(default_factory=list)  # event, partition, offset, append ms, key
    cache_bytes: int = 1 << 20
    idle_ms: int = 1_000_000_000

    def __post_init__(self) -> None:
        self.broker = MemoryBroker(self.clock)
        self.bus = MemoryBus(self.broker)
        self.codec = Codec(MemoryRegistry())
        self.events = {e.name: e for e in self.plan.events}
        self.schemas = {e.name: event_schema(self.plan, e) for e in self.plan.events}
        for spec in plan_topics(self.plan):
            self.broker.create(spec)

    def stream(self, name: str) -> Stream:
        return next(s for s in self.plan.streams if s.name == name)

    def send(
        self, event: str, partition: int, fields: Mapping[str, Any] | None, append_ms: int, *, key: str | None = None
    ) -> None:
        """Append one record. fields None: an undecodable one, or with a key, a deletion."""
        declared = self.events[event]
        self.clock.jump(max(append_ms, self.clock.now_ms()) - self.clock.now_ms())
        at_ms = self.clock.now_ms()
        value: bytes | None = UNDECODABLE
        if fields is not None:
            value = self.codec.encode_event(self.schemas[event], fields)
            key = fields[declared.key]
        offset = self.broker.log(TopicPartition(declared.topic, partition)).next_offset
        if fields is None and key is not None:
            value = None
            self.gone.append((event, partition, offset, at_ms, key))
        self.bus.producer("source").produce(declared.topic, value, (key or "").encode(), partition)
        self.log.append(RawRecord(event, partition, offset, at_ms, None if fields is None else dict(fields)))

    def worker(
        self, stream: Stream, instance: str = "a", *, lose_disk: bool = False, exactly_once: bool = True
    ) -> StreamWorker:
        if lose_disk:
            self.stores = {key: store for key, store in self.stores.items() if key[0] != instance}
        settings = StreamSettings(
            instance=instance, idle_wait_ms=0, stream_commit_interval_ms=1, stream_cache_bytes=self.cache_bytes,
            idle_partition_ms=self.idle_ms, stream_guarantee="exactly_once" if exactly_once else "at_least_once",
        )  # fmt: skip

        def open_store(tp: TopicPartition) -> Store:
            return self.stores.setdefault((instance, tp), MemoryStore())

        around = Surroundings(
            self.bus, self.codec, settings, open_store, Tracing("svc-stream", instance, None),
            StreamMetrics(CollectorRegistry()), self.clock, RetryPolicy(base_s=0.001, cap_s=0.001),
        )  # fmt: skip
        return StreamWorker(self.plan, stream, around, frozenset(i.event for i in stream.inputs))

    def round(self, worker: StreamWorker, rows_max: int = 1_000) -> int:
        worker.rows_max = rows_max
        self.clock.advance(10)
        return worker.step()

    def drain(self, *workers: StreamWorker, rng: random.Random | None = None, rounds: int = 4_000) -> None:
        """Go round until nobody has anything left."""
        idle = 0
        for _ in range(rounds):
            done = [self.round(w, rng.choice((1, 2, 7, 40, 1_000)) if rng else 1_000) for w in workers]
            idle = 0 if any(done) or any(w.tasks.stale for w in workers) else idle + 1
            if idle > 2:
                return
        raise AssertionError("the workers never come to rest")

    # -- what came of it

    def results(self, stream: Stream) -> list[dict[str, Any]]:
        """What a reader of committed records sees."""
        output = self.events[stream.output]
        return [self.codec.decode_event(self.schemas[output.name], r.value) for r in self.broker.records(output.topic)]

    def outputs(self, stream: Stream) -> list[Record]:
        return self.broker.records(self.events[stream.output].topic)

    def letters(self) -> list[RecordRejected]:
        return [self.codec.decode(r.value, RecordRejected) for r in self.broker.records(late_topic(self.plan.pipeline))]

    def advances(self) -> list[TimeAdvanced]:
        topic = time_advances_topic(self.plan.pipeline)
        return [self.codec.decode(r.value, TimeAdvanced) for r in self.broker.records(topic)]

    def accepted(self, event: str, *, deletions: bool = False) -> list[dict[str, Any]]:
        """Rows of an event that its verdicts let through, as the oracle's rows. deletions: values of null are such."""
        verdicts = Oracle(tuple(self.plan.events), [r for r in self.log if r.event == event]).verdicts()
        declared = self.events[event]
        rows = [
            {**r.fields, TIME: r.fields[declared.time], PARTITION: r.partition, OFFSET: r.offset, GONE: False}
            for r in self.log
            if r.event == event and r.fields is not None and verdicts[r.event, r.partition, r.offset] == Verdict.OK
        ]
        nothing = {f.name: None for f in declared.fields}
        rows += [
            {**nothing, declared.key: key, TIME: at_ms, PARTITION: partition, OFFSET: offset, GONE: True}
            for name, partition, offset, at_ms, key in self.gone
            if deletions and name == event
        ]
        return rows

    def watermark_ms(self, stream: Stream) -> int | None:
        """The least of all source partitions, at the end of the log; None if one has said nothing."""
        of = [
            self.watermark_of(part.event, p, deletions=part.table)
            for part in stream.inputs
            for p in range(self.events[part.event].partitions)
        ]
        known = [at for at in of if at is not None]
        return min(known) if len(known) == len(of) else None

    def watermark_of(self, event: str, partition: int, *, deletions: bool = False) -> int | None:
        """Of one source partition: largest event time that is neither broken nor poison, less lateness."""
        verdicts = Oracle(tuple(self.plan.events), [r for r in self.log if r.event == event]).verdicts()
        moving, declared = (Verdict.OK, Verdict.LATE, Verdict.DUPLICATE), self.events[event]
        times = [
            r.fields[declared.time]
            for r in self.log
            if (r.event, r.partition) == (event, partition) and r.fields is not None
            and verdicts[event, partition, r.offset] in moving
        ]  # fmt: skip
        times += [at_ms for name, p, _, at_ms, _ in self.gone if deletions and (name, p) == (event, partition)]
        return max(times) - declared.lateness_ms if times else None
