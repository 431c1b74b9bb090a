"""Producers that are not ours, as their README shows them: what they publish is judged like everything else."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from headrace.client.letters import read_letters
from headrace.contracts.catalogue import dlq_topic
from headrace.contracts.codec import Codec, ConfluentRegistry
from headrace.contracts.partition import partition_for
from headrace.plan.ir import Plan
from headrace.plan.oracle import Oracle
from headrace.plan.topics import late_topic
from headrace.plan.verdicts import Verdict
from headrace_local.dist import NO_NETWORK
from integration.svc_stream.real_rig import RealRig, plan_of_its_own
from support.law_worlds import DEPARTURES, HOUR, MIN
from support.source import ROOT
from unit.svc_stream.rig import ORIGIN, PLAN

PRODUCERS = ROOT / "infra" / "producers"
BUILD_S, RUN_S = 240.0, 60.0
ON_TIME = 40

Row = dict[str, Any]
Publisher = Callable[[str, list[Row]], str]  # topic, rows -> what the program printed


def flat_plan() -> Plan:
    """Departures of plain fields only: the programs in the README know no arrays and no nested records."""
    fields = tuple(f for f in DEPARTURES.fields if f.type != "array" and "." not in f.name)
    departures = replace(DEPARTURES, fields=fields, records=())
    return plan_of_its_own(replace(PLAN, events=(departures, *PLAN.events[1:]), feature_sets=(ORIGIN,)))


@dataclass
class RegisteredRig(RealRig):
    """The rig with the real registry, where the plan's schemas are as they are after its admission."""

    registry: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.codec = Codec(ConfluentRegistry(self.registry))
        for schema in self.schemas.values():
            self.codec.register_event(schema)


def run(command: list[str], kafka: str, registry_url: str, topic: str, rows: list[Row]) -> str:
    """The program as a person would start it: rows on stdin, nothing of ours on its path."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "PYTHON"))}
    registry = registry_url.removesuffix("/apis/ccompat/v7")
    done = subprocess.run(
        [*command, kafka, registry, topic, "flight_id"], input="\n".join(map(json.dumps, rows)), capture_output=True,
        text=True, check=False, timeout=RUN_S, env=env, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def python_publish(kafka: str, registry_url: str) -> Publisher:
    program = [sys.executable, str(PRODUCERS / "python" / "publish.py")]
    return lambda topic, rows: run(program, kafka, registry_url, topic, rows)


@pytest.fixture(scope="session")
def java_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled program and its jars; skipped where no Maven, no compiler or no repository is to be had."""
    for tool in ("mvn", "javac", "java"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} on PATH: the Java producer needs a Maven client and a JDK of 17 or later")
    out = tmp_path_factory.mktemp("java")
    command = ["mvn", "-B", "-q", "-f", str(PRODUCERS / "java" / "pom.xml"), f"-Dout={out}", "compile"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=BUILD_S)
    said = done.stdout + done.stderr
    if done.returncode and any(sign in said for sign in NO_NETWORK):
        pytest.skip(f"Maven cannot reach its repository: {said[:300]}")
    assert done.returncode == 0, said[-3000:]
    return out


@pytest.fixture
def java_publish(java_classes: Path, kafka: str, registry_url: str) -> Publisher:
    classpath = os.pathsep.join((str(java_classes / "classes"), f"{java_classes / 'lib'}/*"))
    program = ["java", "-XX:+UseSerialGC", "-cp", classpath, "Publish"]
    return lambda topic, rows: run(program, kafka, registry_url, topic, rows)


def row(name: str, at_ms: int, **changed: Any) -> Row:
    fields = {"gate": 7, "delay": len(name) % 40, "fare": 12_345, "carrier": None, "origin": "EWR"}
    return {"flight_id": name, "departed_at": at_ms, **fields, **changed}


def rows_of(who: str, now_ms: int) -> list[Row]:
    """Some that are fine, then one of each kind that is not, and one that says nothing where it may."""
    fine = [row(f"{who}-{n}", now_ms - n * 20_000, origin=("EWR", "JFK", "LGA")[n % 3]) for n in range(ON_TIME)]
    return [
        *fine,
        fine[0],
        row(f"{who}-late", now_ms - 5 * HOUR),
        row(f"{who}-future", now_ms + 3 * HOUR),
        row(f"{who}-range", now_ms, delay=2**40),
        row(f"{who}-nulls", now_ms, delay=None, origin=None),
    ]


def letters(rig: RegisteredRig) -> dict[str, list[str]]:
    """Reasons by flight, of everything svc-stream refused."""
    departures = rig.plan.events[0]
    found: dict[str, list[str]] = {}
    for topic in (late_topic(rig.plan.pipeline), dlq_topic(departures.topic, "svc-stream")):
        for letter in read_letters(rig.bus, rig.codec, topic):
            found.setdefault((letter.record.key or b"").decode(), []).append(letter.record.reason)
    return found


def judged(rig: RegisteredRig, sent: list[Row], *producers: str) -> None:
    """What lies in the topic is what was sent, where its key belongs; state, letters and verdicts are the oracle's."""
    rig.read_log()
    departures = rig.plan.events[0]
    read = [raw for raw in rig.log if raw.event == departures.name]
    names = [field.name for field in departures.fields]
    in_range = [r for r in sent if not str(r["flight_id"]).endswith("-range")]
    found = Counter(tuple(raw.fields[name] for name in names) for raw in read if raw.fields is not None)
    assert found == Counter(tuple(r.get(name) for name in names) for r in in_range)
    for raw in read:
        if raw.fields is not None:
            assert raw.partition == partition_for(str(raw.fields["flight_id"]), departures.partitions)
    worker = rig.worker(ORIGIN, "a")
    rig.finish(worker)
    rig.compare(ORIGIN, random.Random(1), questions=30)
    worker.close()
    verdicts = Counter(Oracle(rig.plan.events, rig.log).verdicts().values())
    assert verdicts[Verdict.DUPLICATE] >= len(producers)
    expected = {
        f"{who}-{kind}": [reason]
        for who in producers
        for kind, reason in (("late", "late"), ("future", "far_future"), ("range", "out_of_range"))
    }
    assert letters(rig) == expected


@pytest.mark.timeout(200)
def test_events_of_the_python_producer_are_judged_like_all_others(
    kafka: str, registry_url: str, python_publish: Publisher
) -> None:
    """Method: fine, duplicate, late, far future and out of range rows; svc-stream's worker, and the naive oracle beside it."""
    rig = RegisteredRig(bootstrap=kafka, plan=flat_plan(), registry=registry_url)
    sent = rows_of("py", time.time_ns() // 1_000_000 - MIN)
    assert python_publish(rig.plan.events[0].topic, sent).startswith(f"{len(sent)} events")
    judged(rig, sent, "py")


@pytest.mark.timeout(400)
def test_java_and_python_producers_share_a_topic_and_its_law(
    kafka: str, registry_url: str, java_publish: Publisher, python_publish: Publisher
) -> None:
    """The same, and a row Java published is a duplicate when Python publishes it again: one key, one partition, one id."""
    rig = RegisteredRig(bootstrap=kafka, plan=flat_plan(), registry=registry_url)
    topic = rig.plan.events[0].topic
    now_ms = time.time_ns() // 1_000_000 - MIN
    by_java = rows_of("java", now_ms)
    by_python = [*rows_of("py", now_ms), by_java[1]]
    assert java_publish(topic, by_java).startswith(f"{len(by_java)} events")
    python_publish(topic, by_python)
    judged(rig, [*by_java, *by_python], "java", "py")
    verdicts = Counter(Oracle(rig.plan.events, rig.log).verdicts().values())
    assert verdicts[Verdict.DUPLICATE] == 3
