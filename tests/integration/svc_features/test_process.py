"""svc-features as a process of its own on a real broker and registry, killed -9 while it archives."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import polars as pl
import pytest

from headrace.chassis.bus import TopicPartition
from headrace.chassis.bus_confluent import ConfluentBus
from headrace.chassis.objects import FolderObjectStore
from headrace.contracts.catalogue import DATASET_REQUESTS, DATASETS, PIPELINES, PLAN_ACKS, plan_topics, platform_topics
from headrace.contracts.codec import AvroRecord, Codec
from headrace.contracts.records import AckStatus, DatasetBuilt, DatasetRequested, PipelineAdmitted, PlanAcknowledged
from headrace.contracts.registry import ConfluentRegistry
from headrace.contracts.signing import load_private, sign_control, write_key_pair
from headrace.plan.hashes import to_json
from support.law_worlds import HOUR, make_world
from svc_features.adapters.lake import LakeReader
from unit.svc_features.worlds import MODEL, PIPELINE, PLAN, PREDICTIONS_TOPIC, Rig, played

PATIENCE_S = 90.0  # a start on a busy machine
SEED = 4
KILLS = 3


class Town:
    """The service as a process, and what the other services do, by hand."""

    def __init__(self, folder: Path, bootstrap: str, registry_url: str) -> None:
        self.folder, self.lake, self.objects = folder, folder / "lake", folder / "objects"
        self.bus, self.codec = ConfluentBus(bootstrap), Codec(ConfluentRegistry(registry_url))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        write_key_pair(folder / "governance.pem", folder / "svc-governance.pub")
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")},
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path.endswith("src")),
            "HEADRACE_BOOTSTRAP": bootstrap, "HEADRACE_REGISTRY_URL": registry_url, "HEADRACE_ZIPKIN_URL": "",
            "HEADRACE_STATE_DIR": str(folder / "state"), "HEADRACE_OBJECT_STORE": str(self.objects),
            "HEADRACE_LAKE": str(self.lake), "HEADRACE_ARCHIVE_INTERVAL_MS": "20",
            "HEADRACE_HTTP_PORT": str(port), "HEADRACE_TRUSTED_KEYS": str(folder),
        }  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self.bus.admin().ensure_topics([*platform_topics(), *plan_topics(PLAN)])

    def start(self) -> None:
        with (self.folder / "features.log").open("ab") as log:
            command = [sys.executable, "-m", "svc_features"]
            self._process = subprocess.Popen(command, env=self._env, cwd=self.folder, stdout=log, stderr=log)

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        shutil.rmtree(
            self.folder / "state", ignore_errors=True
        )  # these deaths are not the plan's fault; nothing else is kept there

    def send(self, topic: str, key: str, record: AvroRecord) -> None:
        producer = self.bus.producer("test")
        producer.produce(topic, self.codec.encode(topic, record), key.encode())
        producer.flush(10.0)
        producer.close()

    def admit(self) -> None:
        """As svc-governance does."""
        admitted = PipelineAdmitted(
            pipeline=PIPELINE, epoch=1, plan_hash=PLAN.hash, plan=to_json(PLAN).decode(), admitted_by="ada", admitted_ms=1
        )
        private = load_private(self.folder / "governance.pem")
        payload = self.codec.encode(PIPELINES, admitted)
        self.send(PIPELINES, PIPELINE, sign_control(private, "svc-governance", PIPELINES, PIPELINE, payload))

    def acks(self) -> list[tuple[str, AckStatus]]:
        found = [self.codec.decode(value, PlanAcknowledged) for value in self.values(PLAN_ACKS)]
        return [(a.service, a.status) for a in found if a.pipeline == PIPELINE]

    def archived(self) -> list[tuple[str, int, int]]:
        found: list[tuple[str, int, int]] = []
        for event in PLAN.events:
            if LakeReader(self.lake).exists(event.topic):
                rows = LakeReader(self.lake).batches(event.topic, ["part", "off"]).read_all().to_pydict()
                found += [(event.name, p, o) for p, o in zip(rows["part"], rows["off"], strict=True)]
        return sorted(found)

    def passports(self) -> int:
        return LakeReader(self.lake).batches(PREDICTIONS_TOPIC, ["off"]).read_all().num_rows

    def values(self, topic: str) -> list[bytes]:
        consumer = self.bus.consumer(None, "test")
        partition = TopicPartition(topic, 0)
        end = consumer.watermarks(partition)[1]
        consumer.assign({partition: -2})
        found: list[bytes] = []
        deadline = time.monotonic() + PATIENCE_S
        while (consumer.position(partition) or 0) < end and time.monotonic() < deadline:
            found += [record.value for record in consumer.consume(100, 0.2) if record.value is not None]
        consumer.close()
        return found

    def built(self, request_id: str, answers: int) -> list[DatasetBuilt]:
        def found() -> list[DatasetBuilt]:
            all_ = [self.codec.decode(value, DatasetBuilt) for value in self.values(DATASETS)]
            return [b for b in all_ if b.request_id == request_id]

        eventually(lambda: len(found()) >= answers)
        return found()

    def page(self, path: str) -> dict[str, Any]:
        with urlopen(f"{self.url}{path}", timeout=PATIENCE_S) as reply:
            return json.load(reply)


def eventually(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.2)


@pytest.fixture
def town(tmp_path: Path, kafka: str, registry_url: str) -> Iterator[Town]:
    town = Town(tmp_path, kafka, registry_url)
    yield town
    town.kill()


def test_killed_while_it_archives_it_loses_and_doubles_nothing_and_its_lake_proves_every_decision(town: Town) -> None:
    """Goal: exactly once over kill -9; then parity over HTTP and a data set over Kafka, both from that lake.
    Method: a small world is produced while the service dies again and again; rows are compared with what was produced."""
    town.admit()
    town.start()
    eventually(lambda: town.acks() == [("svc-features", AckStatus.APPLIED)])
    killed: list[int] = []

    def meanwhile(share: float) -> None:
        """At each quarter: die once something of this life is in the lake."""
        if share * (KILLS + 1) >= len(killed) + 1:
            eventually(lambda: len(town.archived()) > (killed[-1] if killed else 0))
            town.kill()
            killed.append(len(town.archived()))
            town.start()

    rig = played(make_world(SEED), random.Random(SEED), asks=40, rig=Rig(codec=town.codec, real=town.bus), meanwhile=meanwhile)
    assert len(killed) == KILLS
    expected = sorted((r.event, r.partition, r.offset) for r in rig.log)
    eventually(lambda: len(town.archived()) >= len(expected) and town.passports() >= len(rig.passports))
    assert town.archived() == expected
    assert town.passports() == len(rig.passports) > 10

    page = town.page(f"/v1/parity?pipeline={PIPELINE}")
    assert (page["checked"], page["differing"], page["bits_differing"]) == (len(rig.passports), 0, 0)
    assert page["oracle_checked"] == 2 * len(rig.passports)

    times = [r.fields["asked_at"] for r in rig.log if r.event == "asks" and r.fields]
    request = DatasetRequested(
        request_id="one", pipeline=PIPELINE, model=MODEL.name, plan_hash=PLAN.hash,
        from_ms=min(times), until_ms=max(times) + 1, mature_until_ms=max(times) + 24 * HOUR,
    )  # fmt: skip
    town.send(DATASET_REQUESTS, f"{PIPELINE}/{MODEL.name}", request)
    (built,) = town.built("one", 1)
    assert built.ok, built.error
    frame = pl.read_parquet(FolderObjectStore(town.objects).get(built.reference, built.digest))
    assert len(frame) == built.rows == built.as_served_rows > 3
    town.send(DATASET_REQUESTS, f"{PIPELINE}/{MODEL.name}", request)
    assert town.built("one", 2) == [built, built]
    assert town.page("/v1/status")["plans"] == {PIPELINE: PLAN.hash}
