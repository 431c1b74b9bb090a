"""A process that is one stream worker of one feature set: `python -m bench.features.stream_worker '{...}'`, see Working.

It obeys lines of JSON on stdin and answers each with one: {"until": n} goes round until all its state partitions hold n
events, and says how it went; {"until": null} goes round until the next line or the end of stdin; {"bare": n} consumes the
last n events with the client alone.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("POLARS_MAX_THREADS", "1")  # as svc-stream sets it

import psutil
from confluent_kafka import Consumer
from confluent_kafka import TopicPartition as Position
from prometheus_client import CollectorRegistry

from bench.features.streams import plan_of
from headrace.chassis.bus import TopicPartition
from headrace.chassis.bus_confluent import ConfluentBus
from headrace.chassis.clock import SystemClock
from headrace.chassis.state import RocksStore
from headrace.chassis.tracing import Tracing
from headrace.contracts.codec import Codec, ConfluentRegistry
from svc_stream.app import reporters
from svc_stream.domain.entity import EntityState
from svc_stream.engine import SetWorker
from svc_stream.pauses import shorten_pauses
from svc_stream.settings import StreamSettings
from svc_stream.tasks import Surroundings
from svc_stream.telemetry import StreamMetrics

WARM_SHARE = 0.1  # of a leg: what was fetched ahead while standing still, and caches


@dataclass(frozen=True, slots=True)
class Working:
    """cpu: the one core it may use, -1 for all. by_log: every tile travels through the partials topic."""

    bootstrap: str
    registry_url: str
    pipeline: str
    state_dir: str
    instance: str = "0"
    cpu: int = -1
    by_log: bool = False


def built(working: Working) -> SetWorker:
    """As svc-stream builds it."""
    shorten_pauses()
    plan, folder = plan_of(working.pipeline), Path(working.state_dir)
    folder.mkdir(parents=True, exist_ok=True)

    def open_store(tp: TopicPartition) -> RocksStore:
        return RocksStore(folder / f"{tp.topic}-{tp.partition}")

    bus, codec = ConfluentBus(working.bootstrap), Codec(ConfluentRegistry(working.registry_url))
    tracing, metrics = Tracing("svc-stream", "bench", None), StreamMetrics(CollectorRegistry())
    around = Surroundings(bus, codec, StreamSettings(instance=working.instance), open_store, tracing, metrics, SystemClock())
    feature_set = plan.feature_sets[0]
    return SetWorker(plan, feature_set, around, reporters(plan)[feature_set.hash])


def held(worker: SetWorker) -> int:
    """Events that every state partition of the worker holds; the event topic has no transaction markers."""
    return min((sum(state.cut().values()) for state in worker.tasks.entities.values()), default=0)


def leg(worker: SetWorker, until: int) -> dict[str, float]:
    """Go round until `until` events are held; timed from the end of the warm-up."""
    process, begin = psutil.Process(), held(worker)
    warm = begin + int((until - begin) * WARM_SHARE)
    while held(worker) < warm:
        worker.step()
    first, rounds = held(worker), worker.metrics.rounds
    started, cpu = time.monotonic(), time.process_time()
    while held(worker) < until:
        worker.step()
    return {
        "events": held(worker) - first, "wall_s": time.monotonic() - started, "cpu_s": time.process_time() - cpu,
        "rounds": worker.metrics.rounds - rounds, "resident_bytes": process.memory_info().rss,
    }  # fmt: skip


def bare(working: Working, events: int) -> dict[str, float]:
    """The client alone, from where only `events` are left: what no engine on top of it can be faster than."""
    event = plan_of(working.pipeline).events[0]
    consumer = Consumer({
        "bootstrap.servers": working.bootstrap, "group.id": "bench-bare", "enable.auto.commit": False,
        "fetch.queue.backoff.ms": 1,
    })  # fmt: skip
    share = events // event.partitions
    places = [Position(event.topic, p) for p in range(event.partitions)]
    ends = [consumer.get_watermark_offsets(place, 10)[1] for place in places]
    consumer.assign([Position(event.topic, p, max(0, end - share)) for p, end in enumerate(ends)])
    taken, target = 0, sum(min(share, end) for end in ends)
    started, cpu = time.monotonic(), time.process_time()
    while taken < target:
        taken += len(consumer.consume(500, 0.1))
    told = {"events": taken, "wall_s": time.monotonic() - started, "cpu_s": time.process_time() - cpu}
    consumer.close()
    return told


def main() -> None:
    working = Working(**json.loads(sys.argv[1]))
    if working.cpu >= 0:
        os.sched_setaffinity(0, {working.cpu})
    if working.by_log:  # what a worker does whose states always live elsewhere
        EntityState.continues = lambda self, ranges: False
    worker = built(working)
    lines: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()
    try:
        while not worker.tasks.entities:
            worker.step()
        print(json.dumps({"ready": True}), flush=True)
        while (line := lines.get()) is not None:
            if "bare" in line:
                print(json.dumps(bare(working, line["bare"])), flush=True)
                continue
            if line["until"] is not None:
                print(json.dumps(leg(worker, line["until"])), flush=True)
                continue
            cpu, records, rounds = time.process_time(), held(worker), worker.metrics.rounds
            while lines.empty():
                worker.step()
            told = {
                "events": held(worker) - records, "cpu_s": time.process_time() - cpu, "aborts": worker.metrics.aborts,
                "rounds": worker.metrics.rounds - rounds,
            }  # fmt: skip
            print(json.dumps(told), flush=True)
    finally:
        worker.close()


def _listen(lines: queue.SimpleQueue[Mapping[str, Any] | None]) -> None:
    for line in sys.stdin:
        lines.put(json.loads(line))
    lines.put(None)


if __name__ == "__main__":
    main()
