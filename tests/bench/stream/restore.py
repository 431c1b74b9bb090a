"""How long until a contender that has lost its disk is at work again, with a million keys to read back.

Every key has one reading in a window that stays open. The input is worked off, the process stopped in order, its local state
deleted, and the application started again.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.stream import inputs, kafka_streams, records
from bench.stream.broker import Progress
from bench.stream.ground import Ground
from bench.stream.ours import Headrace, pipeline_of, side_env
from bench.stream.plans import plan_of, stream_of
from bench.stream.process import Child
from bench.stream.watch import await_committed
from headrace.plan.topics import worker_group

OPEN_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Restored:
    """Keys a second: of a fresh process, and of one whose code is compiled."""

    keys: int
    cold_keys_s: float
    warm_keys_s: float


def filled(ground: Ground, keys: int) -> str:
    """A topic with one reading per key."""
    topic = f"{ground.fresh('distinct')}.readings.v1"
    ground.fill_readings(topic, inputs.distinct_keys(keys), distinct=True)
    return topic


def of_headrace(ground: Ground, ours: Headrace, topic: str, keys: int, runs: int) -> Restored:
    """Raises RuntimeError if fewer than the keys come back."""
    plan = plan_of("open", pipeline_of(topic), "r0")
    with ours.admitted(plan), ours.process(plan, 100) as (child, _):
        await_committed(child, Progress(ground.broker, worker_group(plan, stream_of(plan)), [topic]), keys)
    asked = {"workload": "open", "pipeline": plan.pipeline, "run": "r0", "state": str(ground.folder / "restore.state"),
             "bootstrap": ground.broker.bootstrap, "registry_url": ground.registry_url}  # fmt: skip
    rates: dict[str, list[float]] = {"cold": [], "warm": []}
    for _ in range(runs):
        command = [sys.executable, "-m", "bench.stream.ours_side", json.dumps(asked)]
        with Child(command, ground.folder / "restore.log", side_env()) as child:
            child.answer()
            for found in rates.values():
                answer = child.ask("start")
                if answer["restored"] < keys:
                    raise RuntimeError(f"{answer['restored']:,} of {keys:,} keys came back")
                found.append(keys / answer["running_ms"] * 1_000)
    return Restored(keys, median(rates["cold"]), median(rates["warm"]))


def of_kafka_streams(ground: Ground, place: Path, topic: str, keys: int, runs: int) -> Restored:
    """Raises RuntimeError if not exactly the keys come back."""
    application = ground.fresh("ks-restore")
    state, out = ground.folder / f"{application}.state", f"{application}-out"
    ground.broker.create([out])
    values: dict[str, object] = {
        "bootstrap": ground.broker.bootstrap, "state": state, "workload": "open", "size_ms": OPEN_MS, "in": topic, "out": out,
        "in_schema": ground.register(topic, records.READING), "out_schema": ground.register(out, records.WINDOW),
    }  # fmt: skip
    log = ground.folder / f"{application}.log"
    with kafka_streams.jvm(place, log, **values) as child:
        kafka_streams.start(child, application)
        await_committed(child, Progress(ground.broker, application, [topic]), keys)
        kafka_streams.stop(child)
    cold: list[float] = []
    warm: list[float] = []
    for _ in range(runs):
        with kafka_streams.jvm(place, log, **values) as child:
            for rates in (cold, warm):
                shutil.rmtree(state)
                answer = child.ask(f"start {application}")
                if answer["restored"] != keys:
                    raise RuntimeError(f"{answer['restored']:,} of {keys:,} keys came back")
                rates.append(keys / answer["running_ms"] * 1_000)
                kafka_streams.stop(child)
    ground.broker.drop(application)
    return Restored(keys, median(cold), median(warm))
