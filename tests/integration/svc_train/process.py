"""svc-train as a process; whoever holds this plays svc-governance and svc-features."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from headrace.chassis.bus import TopicPartition
from headrace.chassis.bus_confluent import ConfluentBus
from headrace.chassis.objects import FolderObjectStore
from headrace.contracts.catalogue import PIPELINES, TRAINING_REQUESTS, platform_topics
from headrace.contracts.codec import Codec, ConfluentRegistry
from headrace.contracts.records import (
    DatasetRequested,
    ModelTrained,
    PipelineAdmitted,
    TrainingRequested,
    TrainingRunChanged,
)
from headrace.contracts.signing import TrustedKeys, load_private, sign_control, write_key_pair
from headrace.plan.hashes import to_json
from unit.svc_train.worlds import MODEL, a_plan

PATIENCE_S = 200.0  # a machine shared with other tests is slow
T = TypeVar("T", DatasetRequested, ModelTrained, TrainingRunChanged)


class TrainProcess:
    """Start, kill, start again."""

    def __init__(self, folder: Path, bootstrap: str, registry_url: str, dsn: str) -> None:
        self.folder, self.bus, self.codec = folder, ConfluentBus(bootstrap), Codec(ConfluentRegistry(registry_url))
        self.plan = a_plan(f"t{uuid.uuid4().hex[:10]}")
        self.key = f"{self.plan.pipeline}/{MODEL}"
        self.objects = FolderObjectStore(folder / "objects")
        self.bus.admin().ensure_topics(platform_topics())
        keys = folder / "keys"
        keys.mkdir()
        for name in ("svc-governance", "svc-train"):
            write_key_pair(folder / f"{name}.pem", keys / f"{name}.pub")
        self.trusted = TrustedKeys(keys)
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")},
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path.endswith("src")),
            "HEADRACE_BOOTSTRAP": bootstrap,
            "HEADRACE_REGISTRY_URL": registry_url,
            "HEADRACE_ZIPKIN_URL": "",
            "HEADRACE_POSTGRES_DSN": dsn,
            "HEADRACE_OBJECT_STORE": str(folder / "objects"),
            "HEADRACE_STATE_DIR": str(folder / "state"),
            "HEADRACE_HTTP_PORT": "0",
            "HEADRACE_TRUSTED_KEYS": str(keys),
            "HEADRACE_KEY_FILE": str(folder / "svc-train.pem"),
            "HEADRACE_TRACKING_URL": f"sqlite:///{folder}/mlflow.db",
            "HEADRACE_LEASE_S": "3",
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "train.log"

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([sys.executable, "-m", "svc_train"], env=self._env, stdout=log, stderr=log)

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(30)
            self._process = None

    def admit(self) -> None:
        plan = self.plan
        admitted = PipelineAdmitted(
            pipeline=plan.pipeline, epoch=1, plan_hash=plan.hash, plan=to_json(plan).decode(), admitted_by="test", admitted_ms=0
        )  # fmt: skip
        payload = self.codec.encode(PIPELINES, admitted)
        private = load_private(self.folder / "svc-governance.pem")
        envelope = sign_control(private, "svc-governance", PIPELINES, plan.pipeline, payload)
        self.send(PIPELINES, self.codec.encode(PIPELINES, envelope), plan.pipeline)

    def send(self, topic: str, value: bytes, key: str | None = None) -> None:
        producer = self.bus.producer("test")
        producer.produce(topic, value, (key or self.key).encode())
        producer.flush(20)
        producer.close()

    def request(self, request: TrainingRequested) -> None:
        self.send(TRAINING_REQUESTS, self.codec.encode(TRAINING_REQUESTS, request))

    def said(self, topic: str, kind: type[T]) -> list[T]:
        """Everything said so far about this pipeline, in order."""
        reader = self.bus.consumer(None, "test")
        places = [TopicPartition(topic, p) for p in range(self.bus.admin().partitions(topic) or 0)]
        ends = {place: reader.watermarks(place)[1] for place in places}
        reader.assign(dict.fromkeys(places, 0))
        records = []
        while any((reader.position(place) or 0) < end for place, end in ends.items()):
            records += reader.consume(500, 0.2)
        reader.close()
        return [r for r in (self.codec.decode(record.value, kind) for record in records) if r.pipeline == self.plan.pipeline]

    def await_said(self, topic: str, kind: type[T], wanted: Callable[[T], bool]) -> T:
        """The first record that is wanted; fails with the log when it does not come."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            assert self._process is None or self._process.poll() is None, self.log()
            for record in self.said(topic, kind):
                if wanted(record):
                    return record
            time.sleep(0.2)
        raise AssertionError(f"nothing wanted on {topic} in {PATIENCE_S:g} s: {self.log()}")

    def log(self) -> str:
        return self._log.read_text()[-3000:]

    def close(self) -> None:
        self.kill()
