"""A service killed -9 again and again loses nothing and doubles nothing; asked to stop, it stops in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.chassis.bus import TopicPartition, TopicSpec
from headrace.chassis.bus_confluent import ConfluentBus

RECORDS = 1500
PARTITIONS = 3
PATIENCE_S = 60.0
WORKER = Path(__file__).parents[2] / "support" / "bus_worker.py"


class Copies:
    """The workers of one test and what came out of them."""

    def __init__(self, kafka: str, folder: Path) -> None:
        self.bus = ConfluentBus(kafka)
        self.source = f"kill-{uuid.uuid4().hex[:8]}.v1"
        self.sink = f"{self.source}-copy"
        self.bus.admin().ensure_topics([TopicSpec(self.source, PARTITIONS), TopicSpec(self.sink, 1)])
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")},
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            "HEADRACE_BOOTSTRAP": kafka,
            "HEADRACE_ZIPKIN_URL": "",
            "HEADRACE_HTTP_PORT": "0",
            "HEADRACE_SOURCE": self.source,
            "HEADRACE_SINK": self.sink,
        }
        self._folder = folder
        self.started: list[subprocess.Popen[bytes]] = []
        self._reader = self.bus.consumer(None, "reader")
        self._reader.assign({TopicPartition(self.sink, 0): -2})
        self.found: list[bytes] = []

    def feed(self, first: int = 0, end: int = RECORDS) -> None:
        producer = self.bus.producer("feed")
        for i in range(first, end):
            producer.produce(self.source, b"%d" % i, partition=i % PARTITIONS)
        producer.flush(30)

    def start(self, instance: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{len(self.started)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, str(WORKER)], env=self._environment | {"HEADRACE_INSTANCE": instance}, stdout=log, stderr=log
            )
        self.started.append(process)
        return process

    def until(self, count: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while len(self.found) < count:
            self.found += [r.value or b"" for r in self._reader.consume(500, 0.1)]
            assert time.monotonic() < deadline, f"{len(self.found)} of {count} copied in {PATIENCE_S} s"

    def until_assigned(self, process: subprocess.Popen[bytes]) -> None:
        log = self._folder / f"{self.started.index(process)}.log"
        deadline = time.monotonic() + PATIENCE_S
        while b"partitions_assigned" not in log.read_bytes():
            assert time.monotonic() < deadline, f"no partitions: {log.read_text()}"
            time.sleep(0.05)

    def end(self) -> None:
        self._reader.close()
        for process in self.started:
            process.kill()
            process.wait()


@pytest.fixture
def copies(kafka: str, tmp_path: Path) -> Iterator[Copies]:
    made = Copies(kafka, tmp_path)
    yield made
    made.end()


def test_a_service_killed_mid_transaction_copies_each_record_once(copies: Copies) -> None:
    """The successor with the same identity aborts what was left open and goes on from the committed offsets."""
    copies.feed()
    for stage in range(1, 4):
        worker = copies.start("0")
        copies.until(stage * RECORDS // 4)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    last = copies.start("0")
    copies.until(RECORDS)
    last.send_signal(signal.SIGTERM)
    assert last.wait(20) == 0
    copies.until(RECORDS)
    assert Counter(copies.found) == Counter(b"%d" % i for i in range(RECORDS))


def test_two_replicas_share_and_the_survivor_takes_over(copies: Copies) -> None:
    """A rebalance under load doubles nothing; a dead replica's partitions move after its session, its open transaction is
    never seen."""
    half = RECORDS // 2
    copies.feed(0, half)
    stays = copies.start("0")
    copies.until(1)
    dies = copies.start("1")
    copies.until_assigned(dies)
    copies.feed(half)
    copies.until(half + 100)
    dies.kill()
    copies.until(RECORDS)
    stays.send_signal(signal.SIGTERM)
    assert stays.wait(20) == 0
    assert Counter(copies.found) == Counter(b"%d" % i for i in range(RECORDS))
