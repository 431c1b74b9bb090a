"""svc-features as a process of its own on a real broker and registry, and what the other services do, by hand."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from headrace.chassis.bus_confluent import ConfluentBus
from headrace.chassis.whole import read_whole
from headrace.contracts.catalogue import DATASETS, PIPELINES, PLAN_ACKS, plan_topics, platform_topics
from headrace.contracts.codec import AvroRecord, Codec
from headrace.contracts.records import AckStatus, DatasetBuilt, PipelineAdmitted, PlanAcknowledged
from headrace.contracts.registry import ConfluentRegistry
from headrace.contracts.signing import load_private, sign_control, write_key_pair
from headrace.plan.hashes import to_json
from headrace.plan.ir import Plan
from headrace.plan.topics import predictions_topic
from svc_features.adapters.lake import LakeReader

PATIENCE_S = 90.0  # a start on a busy machine


class Town:
    """The service as a process, and what the other services do, by hand."""

    def __init__(self, folder: Path, bootstrap: str, registry_url: str, plan: Plan) -> None:
        self.plan = plan
        self.folder, self.lake, self.objects = folder, folder / "lake", folder / "objects"
        self.bus, self.codec = ConfluentBus(bootstrap), Codec(ConfluentRegistry(registry_url))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        write_key_pair(folder / "governance.pem", folder / "svc-governance.pub")
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")},
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path.endswith("src")),
            "HEADRACE_BOOTSTRAP": bootstrap, "HEADRACE_REGISTRY_URL": registry_url, "HEADRACE_ZIPKIN_URL": "",
            "HEADRACE_STATE_DIR": str(folder / "state"), "HEADRACE_OBJECT_STORE": str(self.objects),
            "HEADRACE_LAKE": str(self.lake), "HEADRACE_ARCHIVE_INTERVAL_MS": "20",
            "HEADRACE_HTTP_PORT": str(port), "HEADRACE_TRUSTED_KEYS": str(folder),
        }  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self.bus.admin().ensure_topics([*platform_topics(), *plan_topics(self.plan)])

    def start(self) -> None:
        with (self.folder / "features.log").open("ab") as log:
            command = [sys.executable, "-m", "svc_features"]
            self._process = subprocess.Popen(command, env=self.env, cwd=self.folder, stdout=log, stderr=log)

    def kill(self, jobs: bool = False) -> None:
        """kill -9, its jobs too if so said."""
        if self._process is not None:
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
            found = [int(child) for child in children.read_text().split()] if jobs and children.exists() else []
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            for child in found:
                os.kill(child, signal.SIGKILL)
        (self.folder / "state" / "plan-starts.json").unlink(missing_ok=True)  # these deaths are not the plan's fault

    def send(self, topic: str, key: str, record: AvroRecord) -> None:
        producer = self.bus.producer("test")
        producer.produce(topic, self.codec.encode(topic, record), key.encode())
        producer.flush(10.0)
        producer.close()

    def abort(self, topic: str, partition: int, records: int) -> None:
        """A transaction whose records no reader ever sees."""
        producer = self.bus.producer("hole", transactional_id="hole")
        producer.init_transactions()
        producer.begin()
        for _ in range(records):
            producer.produce(topic, b"aborted", b"", partition)
        producer.flush(10.0)
        producer.abort()
        producer.close()

    def admit(self) -> None:
        """As svc-governance does."""
        admitted = PipelineAdmitted(
            pipeline=self.plan.pipeline,
            epoch=1,
            plan_hash=self.plan.hash,
            plan=to_json(self.plan).decode(),
            admitted_by="ada",
            admitted_ms=1,
        )
        private = load_private(self.folder / "governance.pem")
        payload = self.codec.encode(PIPELINES, admitted)
        self.send(
            PIPELINES, self.plan.pipeline, sign_control(private, "svc-governance", PIPELINES, self.plan.pipeline, payload)
        )

    def acks(self) -> list[tuple[str, AckStatus]]:
        found = [self.codec.decode(value, PlanAcknowledged) for value in self.values(PLAN_ACKS)]
        return [(a.service, a.status) for a in found if a.pipeline == self.plan.pipeline]

    def archived(self) -> list[tuple[str, int, int]]:
        found: list[tuple[str, int, int]] = []
        for event in self.plan.events:
            if LakeReader(self.lake).exists(event.topic):
                rows = LakeReader(self.lake).batches(event.topic, ["part", "off"]).read_all().to_pydict()
                found += [(event.name, p, o) for p, o in zip(rows["part"], rows["off"], strict=True)]
        return sorted(found)

    def passports(self) -> int:
        return LakeReader(self.lake).batches(predictions_topic(self.plan.pipeline), ["off"]).read_all().num_rows

    def values(self, topic: str) -> list[bytes]:
        whole = read_whole(self.bus, topic, "test")
        return [record.value for records in whole for record in records if record.value is not None]

    def built(self, request_id: str, answers: int) -> list[DatasetBuilt]:
        def found() -> list[DatasetBuilt]:
            all_ = [self.codec.decode(value, DatasetBuilt) for value in self.values(DATASETS)]
            return [b for b in all_ if b.request_id == request_id]

        eventually(lambda: len(found()) >= answers)
        return found()

    def page(self, path: str) -> Any:
        with urlopen(f"{self.url}{path}", timeout=PATIENCE_S) as reply:
            return json.load(reply)

    def post(self, path: str, body: Any) -> dict[str, Any]:
        asked = Request(f"{self.url}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urlopen(asked, timeout=PATIENCE_S) as reply:
            return json.load(reply)


def eventually(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.2)
