"""Our worker without the service around it, for what only it can tell: `python -m bench.stream.ours_side '{...}'`.

Each line on stdin starts a worker with an empty state folder; the answer, once it has read its state back and its tasks stand:
milliseconds since the call, entries of its tables. Then it is closed.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

from prometheus_client import CollectorRegistry

from bench.stream.plans import plan_of, stream_of
from headrace.chassis.bus import TopicPartition
from headrace.chassis.bus_confluent import ConfluentBus
from headrace.chassis.clock import SystemClock
from headrace.chassis.state import RocksStore, Store
from headrace.chassis.tracing import Tracing
from headrace.contracts.codec import Codec, ConfluentRegistry
from svc_stream.pauses import shorten_pauses
from svc_stream.settings import StreamSettings
from svc_stream.streams.worker import StreamWorker
from svc_stream.tasks import Surroundings
from svc_stream.telemetry import StreamMetrics


def main() -> None:
    asked = json.loads(sys.argv[1])
    shorten_pauses()
    plan, folder = plan_of(asked["workload"], asked["pipeline"], asked["run"]), Path(asked["state"])

    def open_store(place: TopicPartition) -> Store:
        return RocksStore(folder / f"{place.topic}-{place.partition}")

    bus, codec = ConfluentBus(asked["bootstrap"]), Codec(ConfluentRegistry(asked["registry_url"]))
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        around = Surroundings(
            bus, codec, StreamSettings(instance="restore"), open_store, Tracing("svc-stream", "bench", None),
            StreamMetrics(CollectorRegistry()), SystemClock(),
        )  # fmt: skip
        began = time.perf_counter()
        worker = StreamWorker(plan, stream_of(plan), around, frozenset())
        while worker.tasks.stale or len(worker.tasks.operators) < stream_of(plan).partitions:
            worker.step()
        took = time.perf_counter() - began
        tables = [t for log in worker.tasks.operators.values() for t in log.task.operator.tables.values()]
        print(json.dumps({"running_ms": took * 1_000, "restored": sum(t.entries() for t in tables)}), flush=True)
        worker.close()


if __name__ == "__main__":
    main()
