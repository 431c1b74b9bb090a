"""Headrace: svc-stream as a process of its own, told of its plan by a signed control record as svc-governance writes it."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bench.stream.ground import Ground, Job, Outcome
from bench.stream.latency import Served
from bench.stream.plans import COLUMNS, out_topic, plan_of, stream_of
from bench.stream.process import Child
from headrace.chassis.bus_confluent import ConfluentBus
from headrace.contracts.catalogue import PIPELINES, platform_topics
from headrace.contracts.codec import Codec
from headrace.contracts.records import PipelineAdmitted, PipelineRetired
from headrace.contracts.signing import load_private, sign_control
from headrace.plan.hashes import to_json
from headrace.plan.ir import Plan
from headrace.plan.topics import plan_topics, worker_group

READY_S = 60.0


class Headrace:
    """Started anew for each run, with no state and no code warm: there is no cold and warm to tell apart.

    Args:
        service_env: HEADRACE_* as the launcher gives them to svc-stream. key: private key of svc-governance.
    """

    name = "headrace"

    def __init__(self, ground: Ground, service_env: Mapping[str, str], key: Path, guarantee: str = "exactly_once") -> None:
        self._ground, self._env, self._key, self._guarantee = ground, dict(service_env), key, guarantee
        self._bus, self._codec = ConfluentBus(ground.broker.bootstrap), Codec(ground.registry)
        self._bus.admin().ensure_topics(platform_topics())

    def run(self, job: Job) -> list[Outcome]:
        run = self._ground.fresh(job.name).rpartition("-")[2]
        plan = plan_of(job.name, pipeline_of(job.topics[0]), f"r{run}")
        with self.admitted(plan), self._ground.output(out_topic(plan)) as reader, self.process(plan, 100) as (child, port):
            outcome = self._ground.judge(child, self.name, "judged", worker_group(plan, stream_of(plan)), job, reader, COLUMNS)
            outcome = replace(outcome, notes={"loop_lag_p99_ms": _loop_lag_p99_ms(port)})
        self._ground.broker.drop(f"{plan.pipeline}.{stream_of(plan).name.replace('_', '-')}")
        return [outcome]

    @contextmanager
    def serving(self, name: str, topic: str, /, **values: object) -> Iterator[Served]:
        run = self._ground.fresh(name).rpartition("-")[2]
        plan = plan_of(name, pipeline_of(topic), f"r{run}")
        with self.admitted(plan), self.process(plan, int(str(values.get("commit_ms", 100)))) as (child, _):
            yield Served(child, worker_group(plan, stream_of(plan)), out_topic(plan), COLUMNS)

    @contextmanager
    def admitted(self, plan: Plan) -> Iterator[None]:
        """The plan is in force inside the block. Its input topics are there already."""
        self._bus.admin().ensure_topics(plan_topics(plan))
        self._publish(
            plan,
            PipelineAdmitted(
                pipeline=plan.pipeline, epoch=next(self._ground.epochs), plan_hash=plan.hash, plan=to_json(plan).decode(),
                admitted_by="bench", admitted_ms=0,
            ),
        )  # fmt: skip
        try:
            yield
        finally:
            retired = PipelineRetired(pipeline=plan.pipeline, epoch=next(self._ground.epochs), retired_by="bench", retired_ms=0)
            self._publish(plan, retired)

    def _publish(self, plan: Plan, record: PipelineAdmitted | PipelineRetired) -> None:
        payload = self._codec.encode(PIPELINES, record)
        envelope = sign_control(load_private(self._key), "svc-governance", PIPELINES, plan.pipeline, payload)
        producer = self._bus.producer("bench")
        producer.produce(PIPELINES, self._codec.encode(PIPELINES, envelope), plan.pipeline.encode())
        producer.flush(10)
        producer.close()

    @contextmanager
    def process(self, plan: Plan, commit_ms: int) -> Iterator[tuple[Child, int]]:
        """svc-stream on its core, its tasks assigned, and its HTTP port; its state goes with the block."""
        state = self._ground.folder / f"{plan.pipeline}.{stream_of(plan).name}.state"
        port = _free_port()
        env = self._env | {
            "HEADRACE_STATE_DIR": str(state), "HEADRACE_HTTP_PORT": str(port), "HEADRACE_ZIPKIN_URL": "",
            "HEADRACE_STREAM_COMMIT_INTERVAL_MS": str(commit_ms), "HEADRACE_STREAM_GUARANTEE": self._guarantee,
        }  # fmt: skip
        log = self._ground.folder / f"{state.name}.log"
        try:
            with Child([sys.executable, "-m", "svc_stream"], log, os.environ | env, answers=False) as child:
                _await_tasks(child, port)
                yield child, port
                child.terminate()
        finally:
            shutil.rmtree(state, ignore_errors=True)


def side_env() -> dict[str, str]:
    """For a process of ours that imports what this one does."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    return env | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def pipeline_of(topic: str) -> str:
    return topic.partition(".")[0]


def _await_tasks(child: Child, port: int) -> None:
    """Until the one stream has its tasks. Raises RuntimeError with the log's tail if it does not get them."""
    until = time.monotonic() + READY_S
    while time.monotonic() < until and child.running:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/status", timeout=5) as answer:
                pages = list(json.load(answer).values())
        except OSError:
            pages = []
        if pages and pages[0]["tasks"]["source"]:
            return
        time.sleep(0.01)
    raise child.failure("got no tasks")


def _loop_lag_p99_ms(port: int) -> float:
    """Of the service's event loop since its start: the upper bound of the histogram's bucket."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    found = re.findall(r'^event_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)$', text, re.MULTILINE)
    counts = [(float(bound), float(count)) for bound, count in found]
    return next((bound * 1_000 for bound, count in counts if count >= 0.99 * counts[-1][1]), 0.0)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
