"""A process of real stream workers that may die at a seeded point: `python -m chaos.worker life.json`.

One thread per stream, as in svc-stream. Notes when it first committed something, for who measures how long a recovery takes.
"""

from __future__ import annotations

import os
import pickle
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("POLARS_MAX_THREADS", "1")  # as svc-stream sets it

from prometheus_client import CollectorRegistry

from headrace.chassis.bus import TopicPartition
from headrace.chassis.clock import SystemClock
from headrace.chassis.errors import Retryable
from headrace.chassis.state import RocksStore
from headrace.chassis.tracing import Tracing
from headrace.contracts.codec import Codec, ConfluentRegistry
from headrace.plan.ir import Plan, Stream
from parity.worker import BUILD_TRIES, Fate, Life, MortalBus, MortalStore
from svc_stream.app import reporters
from svc_stream.settings import StreamSettings
from svc_stream.streams.worker import StreamWorker
from svc_stream.tasks import Surroundings
from svc_stream.telemetry import StreamMetrics

NOTES = "notes.log"  # beside the state: wall clock ms, instance, what happened


def run(life: Life) -> int:
    """Go round until stdin closes, which is how the parent says stop; 1 if a worker failed."""
    plan: Plan = pickle.loads(Path(life.plan).read_bytes())
    fate, stop, failed = Fate(life.death), threading.Event(), threading.Event()
    folder = Path(life.state_dir)
    folder.mkdir(parents=True, exist_ok=True)

    def open_store(tp: TopicPartition) -> RocksStore:
        store = MortalStore(folder / f"{tp.topic}-{tp.partition}")
        store.fate = fate
        return store

    def around() -> Surroundings:
        settings = StreamSettings(instance=life.instance, stream_commit_interval_ms=life.commit_interval_ms, idle_wait_ms=20)
        bus, codec = MortalBus(life.bootstrap, fate), Codec(ConfluentRegistry(life.registry_url))
        tracing, metrics = Tracing("svc-stream", life.instance, None), StreamMetrics(CollectorRegistry())
        return Surroundings(bus, codec, settings, open_store, tracing, metrics, SystemClock())

    def note(what: str) -> None:
        with folder.with_name(NOTES).open("a") as notes:
            notes.write(f"{int(time.time() * 1000)} {life.instance} {what}\n")

    args = [(plan, s, life, around, stop, failed, note) for s in plan.streams]
    threads = [threading.Thread(target=_rounds, args=(*a, i), daemon=True) for i, a in enumerate(args)]
    for thread in threads:
        thread.start()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    for thread in threads:
        thread.join()
    return 1 if failed.is_set() else 0


def _built(plan: Plan, stream: Stream, around: Surroundings) -> StreamWorker:
    """Asked again while the broker still settles the life before, as svc-stream does."""
    for _ in range(BUILD_TRIES - 1):
        try:
            return StreamWorker(plan, stream, around, reporters(plan)[stream.hash])
        except Retryable as error:
            print(f"to be built again: {error}", file=sys.stderr)
            time.sleep(1.0)
    return StreamWorker(plan, stream, around, reporters(plan)[stream.hash])


def _rounds(
    plan: Plan, stream: Stream, life: Life, around: Callable[[], Surroundings], stop: threading.Event, failed: threading.Event,
    note: Callable[[str], None], number: int,
) -> None:  # fmt: skip
    rng = random.Random(f"{life.seed}/{number}")
    try:
        worker = _built(plan, stream, around())
        first, aborts = True, 0
        try:
            while not stop.is_set():
                worker.rows_max = rng.choice(life.rows_max)
                done = worker.step()
                if done and first:
                    first = False
                    note(f"goes on with {stream.name}")
                if worker.metrics.aborts > aborts:
                    aborts = worker.metrics.aborts
                    note(f"aborted in {stream.name}")
        finally:
            worker.close()
    except Exception:
        traceback.print_exc()
        failed.set()
        stop.set()


if __name__ == "__main__":
    raise SystemExit(run(Life.read(Path(sys.argv[1]))))
