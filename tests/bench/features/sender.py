"""A process that sends payments: `python -m bench.features.sender '{...}'`, see Sending. Prints one JSON line at its end.

With a rate it sends a share of a second's events every few milliseconds, each at its own moment, probes among them; the
moments of the probes go to a file. Without, it sends as fast as the broker takes them.
"""

from __future__ import annotations

import json
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from confluent_kafka import KafkaError, Message, Producer

from bench.features.streams import PROBES, Payments, plan_of
from headrace.contracts.codec import Codec, ConfluentRegistry
from headrace.contracts.partition import partition_for

TICK_S = 0.005
FLUSH_S = 60.0
LINGER_MS = 1
QUEUED_MAX = 100_000


@dataclass(frozen=True, slots=True)
class Sending:
    """rate: events a second, 0 for all at once. cards: drawn uniformly from so many. probes: file of their moments, or ''.

    first: number of the first event, so that ids go on where an earlier sender stopped.
    """

    bootstrap: str
    registry_url: str
    pipeline: str
    count: int
    cards: int
    rate: int = 0
    probes: str = ""
    first: int = 0


class Sender:
    """Blocking. Raises RuntimeError if anything was not delivered."""

    def __init__(self, sending: Sending) -> None:
        self._asked, plan = sending, plan_of(sending.pipeline)
        self._event = plan.events[0]
        self._payments = Payments(plan, Codec(ConfluentRegistry(sending.registry_url)))
        self._producer = Producer({
            "bootstrap.servers": sending.bootstrap, "linger.ms": LINGER_MS, "enable.idempotence": True,
            "queue.buffering.max.messages": 2 * QUEUED_MAX,
        })  # fmt: skip
        self._rng = random.Random(f"{sending.pipeline}/{sending.first}")
        self.number, self._failed = sending.first, 0

    def all_at_once(self) -> None:
        end = self._asked.first + self._asked.count
        while self.number < end:
            stamp = self._payments.time(_now_ms())
            for _ in range(min(1_000, end - self.number)):
                self._send(self._card(), stamp)
            self._producer.poll(0)
            while len(self._producer) > QUEUED_MAX:
                self._producer.poll(0.01)

    def paced(self) -> dict[str, list[int]]:
        """The moments, ns since 1970, at which the n-th event of each probe was handed to the client."""
        moments: dict[str, list[int]] = {probe: [] for probe in PROBES}
        each, started = max(1, round(self._asked.rate * TICK_S)), time.monotonic()
        for tick in range(self._asked.count // each):
            _wait_until(started + tick * each / self._asked.rate)
            probe, at = PROBES[tick % len(PROBES)], self._rng.randrange(each)
            stamp = self._payments.time(_now_ms())
            for place in range(each):
                if place == at:
                    moments[probe].append(time.time_ns())
                    self._send_probe(probe, stamp)
                else:
                    self._send(self._card(), stamp)
            self._producer.poll(0)
        return moments

    def _send_probe(self, probe: str, stamp: bytes) -> None:
        """All of a probe in one event partition, so that its events are seen in the order they were sent."""
        home = PROBES.index(probe)
        while partition_for(f"p{self.number:012d}", self._event.partitions) != home:
            self.number += 1
        self._send(probe.encode(), stamp)

    def _card(self) -> bytes:
        return b"card-%08d" % self._rng.randrange(self._asked.cards)

    def _send(self, card: bytes, stamp: bytes) -> None:
        number = self.number
        payment = b"p%012d" % number
        value = self._payments.value(payment, card, stamp, number)
        home = partition_for(payment.decode(), self._event.partitions)
        self._producer.produce(self._event.topic, value, payment, home, on_delivery=self._told)
        self.number += 1

    def _told(self, error: KafkaError | None, _message: Message) -> None:
        self._failed += error is not None

    def finish(self) -> None:
        left = self._producer.flush(FLUSH_S)
        if left or self._failed:
            raise RuntimeError(f"{left} events not acknowledged in {FLUSH_S:g} s, {self._failed} refused")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _wait_until(due_s: float) -> None:
    left = due_s - time.monotonic()
    if left > 0:
        time.sleep(left)


def main() -> None:
    asked = Sending(**json.loads(sys.argv[1]))
    sender = Sender(asked)
    started, cpu = time.monotonic(), time.process_time()
    if asked.rate:
        moments = sender.paced()
        wall_s = time.monotonic() - started
        sender.finish()
        Path(asked.probes).write_bytes(orjson.dumps(moments))
    else:
        sender.all_at_once()
        sender.finish()
        wall_s = time.monotonic() - started
    told: dict[str, Any] = {"sent": sender.number - asked.first, "wall_s": wall_s, "cpu_s": time.process_time() - cpu}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
