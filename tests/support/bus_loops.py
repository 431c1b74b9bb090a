"""A loop on the in-memory bus with a clock of its own, stepped by hand."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from headrace.chassis.bus import Committed, TopicPartition, TopicSpec
from headrace.chassis.bus_memory import MemoryBus
from headrace.chassis.clock import ManualClock
from headrace.chassis.memory_broker import MemoryBroker
from headrace.chassis.metrics import ChassisMetrics
from headrace.chassis.records import Rejected, dead_letter_topic
from headrace.chassis.retry import RetryPolicy
from headrace.chassis.transactional import BatchHandler, OnCommitted, TransactionalLoop

GROUP, IN, OUT = "svc-test", "test.inputs.v1", "test.outputs.v1"
DLQ = dead_letter_topic(IN, GROUP)


def encode(rejected: Rejected) -> bytes:
    """A readable stand-in for RecordRejected."""
    record = rejected.record
    return f"{rejected.reason}|{record.topic}/{record.partition}/{record.offset}|".encode() + (record.value or b"")


@dataclass
class Bench:
    """One broker, one clock; loops come and go as processes do."""

    clock: ManualClock = field(default_factory=lambda: ManualClock(1_000_000))
    partitions: int = 2
    budget_s: float = 60.0

    def __post_init__(self) -> None:
        self.broker = MemoryBroker(self.clock)
        self.bus = MemoryBus(self.broker)
        self.metrics = ChassisMetrics()
        specs = [TopicSpec(IN, self.partitions), TopicSpec(OUT, 1), TopicSpec(DLQ, 1)]
        self.bus.admin().ensure_topics(specs)

    def send(self, *values: bytes, partition: int = 0) -> None:
        """Straight into the log, so that ordered faults hit the loop alone."""
        for value in values:
            self.broker.append(TopicPartition(IN, partition), b"key", value, [("event-id", value)], None)

    def outputs(self, topic: str = OUT) -> list[bytes]:
        return [r.value or b"" for r in self.broker.records(topic)]

    def committed(self, partition: int = 0) -> Committed | None:
        where = TopicPartition(IN, partition)
        return self.bus.consumer(GROUP, "probe").committed([where])[where]

    def count(self, outcome: str) -> float:
        labels = {"topic": IN, "group": GROUP, "outcome": outcome}
        return self.metrics.registry.get_sample_value("consumer_records_total", labels) or 0.0

    def transactional(self, handle: BatchHandler, on_committed: OnCommitted | None = None) -> TransactionalLoop:
        return TransactionalLoop(
            group=GROUP,
            topics=[IN],
            consumer=self.bus.consumer(GROUP, "test"),
            make_producer=lambda: self.bus.producer("test", transactional_id=f"{GROUP}-0"),
            handle=handle,
            encode_rejected=encode,
            clock=self.clock,
            metrics=self.metrics,
            on_committed=on_committed,
            poll_timeout_s=0.0,
            retry=RetryPolicy(budget_s=self.budget_s, base_s=1, cap_s=8),
            rng=random.Random(1),
        )

    def run(self, loop: TransactionalLoop, rounds: int = 6, seconds: float = 0.0) -> int:
        """Some rounds, with time passing between them."""
        done = 0
        for _ in range(rounds):
            done += loop.step()
            self.clock.advance(int(seconds * 1000))
        return done
