"""svc-ingest as a process, told of its pipeline by a signed control record, on a real broker and registry."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter
from dataclasses import replace
from pathlib import Path

import httpx

from headrace.chassis.bus import Record, TopicPartition
from headrace.chassis.bus_confluent import ConfluentBus
from headrace.client.ingest import IngestClient
from headrace.contracts.catalogue import PIPELINES, plan_topics, platform_topics
from headrace.contracts.codec import Codec, ConfluentRegistry
from headrace.contracts.records import PipelineAdmitted, RecordRejected
from headrace.contracts.signing import load_private, sign_control, write_key_pair
from headrace.plan.avro import event_schema
from headrace.plan.hashes import sealed, to_json
from headrace.plan.ir import Plan
from unit.svc_ingest.rig import PLAN

START_S = 60.0


def own_plan() -> Plan:
    """The rig's plan under a name, and on topics, of its own."""
    pipeline = f"t{uuid.uuid4().hex[:10]}"
    events = tuple(replace(event, topic=event.topic.replace("flights", pipeline)) for event in PLAN.events)
    return sealed(replace(PLAN, pipeline=pipeline, events=events))


class IngestProcess:
    """Start, kill and start again; the plan is admitted once."""

    def __init__(self, folder: Path, bootstrap: str, registry_url: str, plan: Plan) -> None:
        self.plan = plan
        self.folder = folder
        self.bus = ConfluentBus(bootstrap)
        self.codec = Codec(ConfluentRegistry(registry_url))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.drop = folder / "drop"
        write_key_pair(folder / "governance.pem", folder / "svc-governance.pub")
        source_folders = [path for path in sys.path if path.endswith("src")]
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")},
            "PYTHONPATH": os.pathsep.join(source_folders),
            "HEADRACE_BOOTSTRAP": bootstrap,
            "HEADRACE_REGISTRY_URL": registry_url,
            "HEADRACE_ZIPKIN_URL": "",
            "HEADRACE_STATE_DIR": str(folder / "state"),
            "HEADRACE_DROP_DIR": str(self.drop),
            "HEADRACE_DROP_POLL_S": "0.1",
            "HEADRACE_HTTP_PORT": str(port),
            "HEADRACE_TRUSTED_KEYS": str(folder),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.log = folder / "ingest.log"
        admin = self.bus.admin()
        admin.ensure_topics(platform_topics())
        admin.ensure_topics(plan_topics(plan))

    def admit(self, epoch: int = 1) -> None:
        """Publish the plan as svc-governance would."""
        plan = self.plan
        admitted = PipelineAdmitted(
            pipeline=plan.pipeline,
            epoch=epoch,
            plan_hash=plan.hash,
            plan=to_json(plan).decode(),
            admitted_by="test",
            admitted_ms=0,
        )
        payload = self.codec.encode(PIPELINES, admitted)
        private = load_private(self.folder / "governance.pem")
        envelope = sign_control(private, "svc-governance", PIPELINES, plan.pipeline, payload)
        producer = self.bus.producer("test")
        producer.produce(PIPELINES, self.codec.encode(PIPELINES, envelope), plan.pipeline.encode())
        producer.flush(10)
        producer.close()

    def start(self) -> None:
        """Returns at once; `await_open` waits."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([sys.executable, "-m", "svc_ingest"], env=self._env, stdout=log, stderr=log)

    def await_open(self) -> None:
        """Until the plan's sources are open."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self._process is not None
            assert self._process.poll() is None, self.log.read_text()[-3000:]
            try:
                sources = httpx.get(f"{self.url}/v1/status", trust_env=False).json()["sources"]
            except httpx.TransportError:
                sources = {}
            if f"{self.plan.pipeline}/departures" in sources:
                return
            time.sleep(0.05)
        raise AssertionError(f"not open in {START_S:g} s: {self.log.read_text()[-3000:]}")

    def end(self, signum: int) -> int:
        assert self._process is not None
        self._process.send_signal(signum)
        code = self._process.wait(30)
        self._process = None
        return code

    def kill(self) -> None:
        """Without warning. The plan is not to blame, so the count of lives it has cost is taken back."""
        self.end(signal.SIGKILL)
        (self.folder / "state" / "plan-starts.json").unlink(missing_ok=True)

    def close(self) -> None:
        if self._process is not None:
            self.kill()

    def client(self) -> IngestClient:
        return IngestClient(self.url, patient=True)

    def records(self, topic: str) -> list[Record]:
        """Everything a topic holds."""
        consumer = self.bus.consumer(None, "test")
        found: list[Record] = []
        try:
            for number in range(self.bus.admin().partitions(topic) or 0):
                partition = TopicPartition(topic, number)
                start, end = consumer.watermarks(partition)
                if start == end:
                    continue
                consumer.assign({partition: start})
                while (consumer.position(partition) or 0) < end:
                    found += consumer.consume(500, 0.2)
        finally:
            consumer.close()
        return found

    def ids(self, event: str = "departures") -> Counter[str]:
        """How often each flight is in the topic."""
        kind = next(item for item in self.plan.events if item.name == event)
        schema = event_schema(self.plan, kind)
        return Counter(str(self.codec.decode_event(schema, record.value)[kind.key]) for record in self.records(kind.topic))

    def letters(self, event: str = "departures") -> list[RecordRejected]:
        kind = next(item for item in self.plan.events if item.name == event)
        return [self.codec.decode(record.value, RecordRejected) for record in self.records(f"{kind.topic}.svc-ingest.dlq")]
