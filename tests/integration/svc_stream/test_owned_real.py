"""Placement `owned` on a real broker: right at every row, and how long an answer takes."""

from __future__ import annotations

import random
import threading
import time

import pytest

from headrace.chassis.bus import Bus, Record, TopicPartition
from headrace.contracts.partition import partition_for
from headrace.contracts.records import ScoringInput
from headrace.plan.topics import scoring_inputs_topic
from integration.svc_stream.real_rig import RealRig, plan_of_its_own
from svc_stream.engine import SetWorker
from unit.svc_stream.owned_world import OWNED, OWNED_PLAN, PARTITIONS, check_answers

REQUESTS = 400
GAP_S = 0.02  # between two moments; every tenth moment brings a burst of one entity
WARM = 50  # first answers, which pay for compiling and first look-ups


class Running:
    """A worker in a thread of its own, as the service runs it."""

    def __init__(self, worker: SetWorker) -> None:
        self.worker, self._stop = worker, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.worker.step()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.worker.close()


def send(rig: RealRig, rng: random.Random) -> None:
    """Requests one after the other, each appended at once."""
    event = next(e for e in rig.plan.events if e.name == "departures")
    producer = rig.bus.producer("requests")
    for number in range(REQUESTS):
        origin = "EWR" if number % 20 < 8 else rng.choice(("EWR", "JFK", "LGA", "BOS"))
        row = {"flight_id": f"F{number}", "origin": origin, "gate": 1, "delay": number % 50, "fare": 100}
        value = rig.codec.encode_event(rig.schemas[event.name], row | {event.time: int(time.time() * 1000)})
        producer.produce(event.topic, value, origin.encode(), partition_for(origin, PARTITIONS))
        if number % 20 >= 8:
            producer.flush(10)
            time.sleep(GAP_S)
    producer.flush(10)
    producer.close()


def read_whole(bus: Bus, topic: str, partitions: int, records: int) -> list[Record]:
    """Until so many records are there."""
    consumer, found = bus.consumer(None, "inputs"), []
    consumer.assign({TopicPartition(topic, p): -2 for p in range(partitions)})
    until = time.monotonic() + 30
    while len(found) < records and time.monotonic() < until:
        found += consumer.consume(500, 0.2)
    consumer.close()
    return found


def percentile(values: list[int], share: float) -> int:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


@pytest.mark.timeout(120)
def test_requests_are_answered_at_their_rows_within_milliseconds(kafka: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Both ends are stamped by the broker: from append of the request to append of its ScoringInput. Printed, not judged."""
    rig = RealRig(bootstrap=kafka, plan=plan_of_its_own(OWNED_PLAN), idle_wait_ms=100, owned_commit_interval_ms=200)
    running = Running(rig.worker(OWNED))
    deadline = time.monotonic() + 30
    while not running.worker.tasks.entities and time.monotonic() < deadline:
        time.sleep(0.05)
    send(rig, random.Random(1))
    records = read_whole(rig.bus, scoring_inputs_topic(rig.plan.pipeline), 2, REQUESTS)
    running.close()
    found = [rig.codec.decode(r.value, ScoringInput) for r in records]
    rig.read_log()
    assert len(rig.log) == REQUESTS
    check_answers(rig, found)
    spent = [r.append_time_ms - a.append_time_ms for r, a in zip(records, found, strict=True) if a.offset > WARM // PARTITIONS]
    with capsys.disabled():
        print(f"\n  append of request to append of its ScoringInput: p50 {percentile(spent, 0.5)} ms, ", end="")
        print(f"p99 {percentile(spent, 0.99)} ms, largest {max(spent)} ms, n {len(spent)}")
    assert min(spent) >= 0
