"""Whoever stands beside us, each with the same shape: run a job, be watched, be compared."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.stream import kafka_streams, records
from bench.stream.ground import Ground, Job, Outcome
from bench.stream.inputs import PARTITIONS
from bench.stream.latency import Served
from bench.stream.process import Child

LABELS = ("cold", "warm")


class KafkaStreams:
    """A JVM runs the topology twice under two application ids: cold as a process starts, warm with all code compiled."""

    name = "kafka_streams"

    def __init__(self, ground: Ground, place: Path, **values: object) -> None:
        self._ground, self._place, self._values = ground, place, values

    def run(self, job: Job, labels: tuple[str, ...] = LABELS) -> list[Outcome]:
        """One outcome per label, of one JVM."""
        name = self._ground.fresh(f"ks-{job.name}")
        log, state = self._ground.folder / f"{name}.log", self._ground.folder / f"{name}.state"
        bootstrap = self._ground.broker.bootstrap
        with kafka_streams.jvm(self._place, log, bootstrap=bootstrap, state=state, **self._values) as child:
            return [self._once(child, job, f"{name}-{label}", label) for label in labels]

    @contextmanager
    def serving(self, name: str, topic: str, /, **values: object) -> Iterator[Served]:
        """An application at work on a topic, in a JVM of its own."""
        ground, application = self._ground, self._ground.fresh(f"ks-{name}")
        log, state, out = ground.folder / f"{application}.log", ground.folder / f"{application}.state", f"{application}-out"
        ground.broker.create([out])
        schema = records.MOMENT if name == "map" else records.WINDOW
        schemas = {"in_schema": ground.register(topic, records.of(topic)), "out_schema": ground.register(out, schema)}
        bootstrap = ground.broker.bootstrap
        with kafka_streams.jvm(self._place, log, bootstrap=bootstrap, state=state, **self._values) as child:
            kafka_streams.start(child, application, **{"workload": name, "in": topic, "out": out} | values | schemas)
            yield Served(child, application, out, {})
        ground.broker.drop(application)

    def _once(self, child: Child, job: Job, application: str, label: str) -> Outcome:
        out, ground = f"{application}-out", self._ground
        ground.broker.create([out])
        schemas = self._schemas(job, out)
        with ground.output(out) as reader:
            kafka_streams.start(child, application, **{"in": job.topics[0], "out": out}, **job.values, **schemas)
            outcome = ground.judge(child, f"{self.name}_{label}", "plain", application, job, reader)
            kafka_streams.stop(child)
        ground.broker.drop(application)
        return outcome

    def _schemas(self, job: Job, out: str) -> dict[str, object]:
        register = self._ground.register
        if job.name == "w3":
            return {
                "in_schema": register(job.topics[0], records.ORDER), "right_schema": register(job.topics[1], records.PAYMENT),
                "out_schema": register(out, records.PAIR),
            }  # fmt: skip
        return {"in_schema": register(job.topics[0], records.READING), "out_schema": register(out, records.WINDOW)}


class Quix:
    """Quix Streams as a process of its own environment. No second run in one process: it would be no faster."""

    name = "quix"

    def __init__(self, ground: Ground, python: Path, **values: object) -> None:
        self._ground, self._python = ground, python
        self._values = {"commit_ms": 100, "guarantee": "exactly-once"} | values

    def run(self, job: Job) -> list[Outcome]:
        name, ground = self._ground.fresh(f"quix-{job.name}"), self._ground
        out = f"{name}-out"
        ground.broker.create([out])
        with self.child(name, job.topics[0], out, records.WINDOW, **job.values) as child, ground.output(out) as reader:
            outcome = ground.judge(child, self.name, "plain", name, job, reader)
        ground.broker.drop(name)
        return [outcome]

    @contextmanager
    def serving(self, name: str, topic: str, /, **values: object) -> Iterator[Served]:
        """The process at work on a topic."""
        group, ground = self._ground.fresh(f"quix-{name}"), self._ground
        out = f"{group}-out"
        ground.broker.create([out])
        schema = records.MOMENT if name == "map" else records.WINDOW
        with self.child(group, topic, out, schema, **{"workload": name} | values) as child:
            yield Served(child, group, out, {})
        ground.broker.drop(group)

    def child(self, group: str, topic: str, out: str, out_avro: Mapping[str, Any], **values: object) -> Child:
        """The process, started; the topics exist."""
        ground = self._ground
        asked = self._values | values | {
            "bootstrap": ground.broker.bootstrap, "group": group, "state": str(ground.folder / f"{group}.state"),
            "in": topic, "in_avro": without_logical_types(records.of(topic)),
            "in_schema": ground.register(topic, records.of(topic)),
            "out": out, "out_avro": without_logical_types(out_avro), "out_schema": ground.register(out, out_avro),
        }  # fmt: skip
        side = str(Path(__file__).with_name("quix_side.py"))
        child = Child([str(self._python), side, json.dumps(asked)], ground.folder / f"{group}.log")
        child.answer()
        return child


def without_logical_types(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The same bytes read as plain longs: dates as objects would cost a Python reader twice."""
    found = copy.deepcopy(dict(schema))
    for field in found["fields"]:
        if isinstance(field["type"], dict):
            field["type"] = field["type"]["type"]
    return found


def bare(ground: Ground, job: Job) -> dict[str, float]:
    """The control over a job's first topic: records, wall_s, cpu_s, peak_bytes."""
    asked = {"bootstrap": ground.broker.bootstrap, "topic": job.topics[0], "total": job.total, "partitions": PARTITIONS}
    side = str(Path(__file__).with_name("bare_side.py"))
    with Child([sys.executable, side, json.dumps(asked)], ground.folder / "bare.log") as child:
        return child.answer()
