"""A process of real stream workers that dies at a seeded point: `python -m parity.worker life.json`.

One thread per feature set, as in svc-stream. The batch bound is drawn anew each round. Where a death is given, the
process kills itself with SIGKILL at the n-th passage of one of the points below, whichever thread comes to it.

    begin .. produce .. | offsets | before_commit (commit) after_commit | before_write (local store) after_write
"""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("POLARS_MAX_THREADS", "1")  # as svc-stream sets it

from prometheus_client import CollectorRegistry

from headrace.chassis.bus import TopicPartition
from headrace.chassis.bus_confluent import ConfluentBus
from headrace.chassis.clock import SystemClock
from headrace.chassis.errors import Retryable
from headrace.chassis.objects import FolderObjectStore
from headrace.chassis.state import RocksStore
from headrace.chassis.tracing import Tracing
from headrace.contracts.codec import Codec, ConfluentRegistry
from headrace.plan.ir import FeatureSet, Plan
from svc_stream.app import reporters
from svc_stream.base import Bases
from svc_stream.engine import SetWorker
from svc_stream.owned import worker_of
from svc_stream.settings import StreamSettings
from svc_stream.tasks import Surroundings
from svc_stream.telemetry import StreamMetrics

POINTS = ("begin", "produce", "offsets", "before_commit", "after_commit", "before_write", "after_write")
BUILD_TRIES = 20
TASKS = "tasks.log"  # beside the state: instance, set, how many tasks it holds from now on


@dataclass(frozen=True, slots=True)
class Life:
    """One life of the process. death: (point, passage); None lives until it is told to stop."""

    plan: str
    bootstrap: str
    registry_url: str
    state_dir: str
    seed: int
    rows_max: tuple[int, ...]
    commit_interval_ms: int
    death: tuple[str, int] | None
    instance: str = "parity"
    objects: str | None = None  # folder of bodies; None: no base is looked for

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Life:
        found = json.loads(path.read_text())
        death = found.pop("death")
        return cls(**found, death=None if death is None else (death[0], death[1]))


class Fate:
    """Counts passages; ends the process at the chosen one."""

    def __init__(self, death: tuple[str, int] | None) -> None:
        self._point, self._left = death or ("", 0)
        self._lock = threading.Lock()

    def passes(self, point: str) -> None:
        if point != self._point:
            return
        with self._lock:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


class MortalProducer:
    """A producer in whose calls the process may die."""

    def __init__(self, inner: Any, fate: Fate) -> None:
        self._inner, self._fate = inner, fate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def begin(self) -> None:
        self._inner.begin()
        self._fate.passes("begin")

    def produce(self, *args: Any, **kwargs: Any) -> None:
        self._inner.produce(*args, **kwargs)
        self._fate.passes("produce")

    def send_offsets(self, offsets: Mapping[TopicPartition, Any], consumer: Any) -> None:
        self._inner.send_offsets(offsets, consumer)
        self._fate.passes("offsets")

    def commit(self) -> None:
        self._fate.passes("before_commit")
        self._inner.commit()
        self._fate.passes("after_commit")


class MortalBus(ConfluentBus):
    """The real bus with mortal producers."""

    def __init__(self, bootstrap: str, fate: Fate) -> None:
        super().__init__(bootstrap)
        self._fate = fate

    def producer(self, *args: Any, **kwargs: Any) -> Any:
        return MortalProducer(super().producer(*args, **kwargs), self._fate)


class MortalStore(RocksStore):
    """The real store in whose writes the process may die."""

    fate: Fate

    def write(self, *args: Any, **kwargs: Any) -> None:
        self.fate.passes("before_write")
        super().write(*args, **kwargs)
        self.fate.passes("after_write")


def run(life: Life) -> int:
    """Go round until stdin closes, which is how the parent says stop; 1 if a worker failed."""
    plan: Plan = pickle.loads(Path(life.plan).read_bytes())
    fate, stop, failed = Fate(life.death), threading.Event(), threading.Event()
    folder = Path(life.state_dir)

    def open_store(tp: TopicPartition) -> RocksStore:
        store = MortalStore(folder / f"{tp.topic}-{tp.partition}")
        store.fate = fate
        return store

    def around() -> Surroundings:
        settings = StreamSettings(
            instance=life.instance, commit_interval_ms=life.commit_interval_ms, idle_wait_ms=20,
            owned_commit_interval_ms=2 * life.commit_interval_ms,
        )  # fmt: skip
        bus, codec = MortalBus(life.bootstrap, fate), Codec(ConfluentRegistry(life.registry_url))
        bases = None if life.objects is None else Bases(bus, codec, FolderObjectStore(life.objects))
        tracing, metrics = Tracing("svc-stream", life.instance, None), StreamMetrics(CollectorRegistry())
        return Surroundings(bus, codec, settings, open_store, tracing, metrics, SystemClock(), bases=bases)

    folder.mkdir(parents=True, exist_ok=True)
    args = [(plan, s, life, around, stop, failed) for s in plan.feature_sets]
    threads = [threading.Thread(target=_rounds, args=(*a, i), daemon=True) for i, a in enumerate(args)]
    for thread in threads:
        thread.start()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    for thread in threads:
        thread.join()
    return 1 if failed.is_set() else 0


def _built(plan: Plan, feature_set: FeatureSet, around: Surroundings) -> SetWorker:
    """Asked again while the broker still settles the life before, as svc-stream does."""
    for _ in range(BUILD_TRIES - 1):
        try:
            return worker_of(plan, feature_set, around, reporters(plan)[feature_set.hash])
        except Retryable as error:
            print(f"to be built again: {error}", file=sys.stderr)
            time.sleep(1.0)
    return worker_of(plan, feature_set, around, reporters(plan)[feature_set.hash])


def _rounds(
    plan: Plan, feature_set: FeatureSet, life: Life, around: Any, stop: threading.Event, failed: threading.Event, number: int
) -> None:
    rng = random.Random(f"{life.seed}/{number}")
    try:
        worker = _built(plan, feature_set, around())
        held = None
        try:
            while not stop.is_set():
                worker.rows_max = rng.choice(life.rows_max)
                worker.step()
                if held != (held := worker.metrics.tasks):
                    with Path(life.state_dir).with_name(TASKS).open("a") as notes:
                        notes.write(f"{life.instance} {feature_set.name} {sum(held)}\n")
        finally:
            worker.close()
    except Exception:
        traceback.print_exc()
        failed.set()
        stop.set()


if __name__ == "__main__":
    raise SystemExit(run(Life.read(Path(sys.argv[1]))))
