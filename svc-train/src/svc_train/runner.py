"""Works on runs: leases one, trains in a process of its own, signs, leaves the candidate in the outbox.

    lease -> data set from the object store -> training process -> verify parity -> sign manifest -> DONE + ModelTrained

A killed worker's lease runs out and the next one begins the step again; what the dead one still does carries an old
fence and changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from headrace.chassis.bus import Producer
from headrace.chassis.clock import Clock
from headrace.chassis.errors import Fatal
from headrace.chassis.logs import logger
from headrace.chassis.objects import ObjectStore
from headrace.contracts.catalogue import MODEL_CANDIDATES, TRAINING_RUNS
from headrace.contracts.codec import Codec
from headrace.contracts.errors import HeadraceError
from headrace.contracts.records import ArmServed, DatasetBuilt, ModelTrained, RunState, TrainingRequested
from headrace.contracts.signing import sign_bytes
from headrace.plan.ir import Model, Plan
from svc_train.adapters.jobs import Jobs, LeaseLost, Message, Run
from svc_train.domain.manifest import manifest_bytes
from svc_train.handlers import FindModel, changed_record
from svc_train.settings import TrainSettings

SIGNER = "svc-train"
IDLE_S = 0.3  # between looks at an empty table
STDERR_CHARS = 2_000
_log = logger(__name__)

Champion = Callable[[str, str], ArmServed | None]  # pipeline, model


class RunFailed(HeadraceError):
    """This run cannot give a candidate; the next one may."""


@dataclass(frozen=True, slots=True)
class Workshop:
    """What runs are worked on with."""

    jobs: Jobs
    codec: Codec
    objects: ObjectStore
    key: Ed25519PrivateKey
    settings: TrainSettings
    clock: Clock
    find: FindModel
    champion: Champion
    code_digest: str


class Runner:
    """A part of the service: one run at a time."""

    name = "runner"

    def __init__(self, workshop: Workshop) -> None:
        self._shop = workshop
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._go(), name=self.name)

    async def wait(self) -> None:
        assert self._task is not None, "started"
        await asyncio.shield(self._task)

    async def stop(self) -> None:
        """Leaves the run under way to the next lease."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _go(self) -> None:
        while True:
            run = await self._shop.jobs.lease(self._shop.settings.lease_s)
            if run is None:
                await asyncio.sleep(IDLE_S)
                continue
            if run.dataset is None:  # accepted: the outbox has asked for its data set
                await self._shop.jobs.change(run, "DATASET", "waiting for the data set", [])
                continue
            renewing = asyncio.create_task(self._renew(run))
            try:
                await self._work(run)
            except LeaseLost as lost:
                _log.warning("lease_lost", run=run.run_id[:12], detail=str(lost))
            finally:
                renewing.cancel()
                await asyncio.gather(renewing, return_exceptions=True)

    async def _renew(self, run: Run) -> None:
        while True:
            await asyncio.sleep(self._shop.settings.lease_s / 3)
            await self._shop.jobs.renew(run, self._shop.settings.lease_s)

    async def _work(self, run: Run) -> None:
        request = TrainingRequested.from_avro(run.request)
        _log.info("run_started", run=run.run_id[:12], fence=run.fence)
        try:
            messages = await self._train(run, request)
        except (RunFailed, ValueError) as error:
            _log.error("run_failed", run=run.run_id[:12], error=str(error))
            await self._shop.jobs.change(run, "FAILED", str(error)[:STDERR_CHARS], [self._changed(run, request, RunState.FAILED, str(error))])
            return
        await self._shop.jobs.change(run, "DONE", "", [*messages, self._changed(run, request, RunState.DONE, "")])
        _log.info("run_done", run=run.run_id[:12])

    async def _train(self, run: Run, request: TrainingRequested) -> list[Message]:
        assert run.dataset is not None, "leased with its data set"
        dataset = DatasetBuilt.from_avro(run.dataset)
        if not dataset.ok:
            raise RunFailed(f"data set: {dataset.error}")
        found = self._shop.find(request.pipeline, request.plan_hash, request.model)
        if found is None:
            raise RunFailed(f"plan {request.plan_hash[:8]} is no longer in force")
        plan, model = found
        with tempfile.TemporaryDirectory(prefix="headrace-train-") as name:
            folder = Path(name)
            await asyncio.to_thread(self._lay_out, folder, run, request, dataset, model)
            await self._process(folder)
            return await asyncio.to_thread(self._finish, folder, run, request, dataset, plan, model)

    def _lay_out(self, folder: Path, run: Run, request: TrainingRequested, dataset: DatasetBuilt, model: Model) -> None:
        shop = self._shop
        (folder / "data.parquet").write_bytes(shop.objects.get(dataset.reference, dataset.digest))
        champion = shop.champion(request.pipeline, request.model)
        if champion is not None:
            manifest = json.loads(shop.objects.get(champion.manifest_reference, champion.manifest_digest))
            if manifest["columns"] == list(dataset.columns):  # else the rows mean something else to it
                (folder / "champion.onnx").write_bytes(shop.objects.get(manifest["onnx"]["reference"], manifest["onnx"]["digest"]))
        job = {
            "run_id": run.run_id,
            "columns": list(dataset.columns),
            "parameters": dict(model.trainer_parameters),
            "threshold": model.threshold,
            "threads": shop.settings.training_threads,
            "tracking_url": shop.settings.tracking_url,
            "experiment": f"{request.pipeline}/{request.model}",
            "tags": {
                "run_id": run.run_id, "trigger_id": request.trigger_id, "plan_hash": request.plan_hash, "code_digest": shop.code_digest,
                "dataset_digest": dataset.digest, "dataset_checksum": dataset.content_checksum, "rows": str(dataset.rows),
            },
        }  # fmt: skip
        (folder / "job.json").write_text(json.dumps(job))

    async def _process(self, folder: Path) -> None:
        """Run the job; a cancelled service takes it along."""
        env = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")}  # no settings, no secrets
        env["OMP_WAIT_POLICY"] = "PASSIVE"  # spinning threads cost a factor of seven on a shared machine
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "svc_train.job", str(folder), env=env,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            _, stderr = await process.communicate()
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        if process.returncode != 0:
            raise RunFailed(f"training process ended with {process.returncode}: {stderr.decode(errors='replace')[-STDERR_CHARS:]}")

    def _finish(
        self, folder: Path, run: Run, request: TrainingRequested, dataset: DatasetBuilt, plan: Plan, model: Model
    ) -> list[Message]:
        shop = self._shop
        result = json.loads((folder / "result.json").read_text())
        if not result["parity_ok"]:
            raise RunFailed(f"export differs from the native model: {result['metrics']}")
        onnx = shop.objects.put((folder / "model.onnx").read_bytes(), ".onnx")
        native = shop.objects.put((folder / "model.ubj").read_bytes(), ".ubj")
        body = manifest_bytes(
            plan,
            model,
            {"reference": onnx.reference, "digest": onnx.digest},
            {"reference": native.reference, "digest": native.digest, "kind": "xgboost-ubj"},
            result["known_answer"],
            {"run_id": run.run_id, "dataset_digest": dataset.digest, "code_digest": shop.code_digest, "tracking_id": result["tracking_id"]},
        )
        manifest = shop.objects.put(body, ".json")
        trained = ModelTrained(
            candidate_id=run.run_id, pipeline=request.pipeline, model=request.model, plan_hash=plan.hash, model_hash=model.hash,
            trigger_id=request.trigger_id, requested_by=request.requested_by,
            manifest_reference=manifest.reference, manifest_digest=manifest.digest, signature=sign_bytes(shop.key, body), key_id=SIGNER,
            model_digest=onnx.digest, dataset_digest=dataset.digest, content_checksum=dataset.content_checksum,
            tracking_id=result["tracking_id"], code_digest=shop.code_digest, metrics=result["metrics"],
            profile_reference=dataset.profile_reference, profile_digest=dataset.profile_digest,
            rows=result["rows"], from_ms=request.from_ms, until_ms=request.until_ms,
        )  # fmt: skip
        key = f"{request.pipeline}/{request.model}"
        return [Message("candidate", MODEL_CANDIDATES, key, shop.codec.encode(MODEL_CANDIDATES, trained))]

    def _changed(self, run: Run, request: TrainingRequested, state: RunState, detail: str) -> Message:
        record = changed_record(run.run_id, request, state, run.fence, detail[:STDERR_CHARS], self._shop.clock.now_ms())
        value = self._shop.codec.encode(TRAINING_RUNS, record)
        return Message(f"run-{state.value}-{run.fence}", TRAINING_RUNS, f"{request.pipeline}/{request.model}", value)


class Outbox:
    """A part of the service: publishes what runs left, in order; again after a crash, so consumers go by id."""

    name = "outbox"

    def __init__(self, jobs: Jobs, producer: Producer) -> None:
        self._jobs, self._producer = jobs, producer
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._go(), name=self.name)

    async def wait(self) -> None:
        assert self._task is not None, "started"
        await asyncio.shield(self._task)
        raise Fatal("outbox ended")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._producer.close()

    async def _go(self) -> None:
        while True:
            found = await self._jobs.unsent()
            if not found:
                await asyncio.sleep(IDLE_S)
                continue
            await asyncio.to_thread(self._send, [message for _, message in found])
            await self._jobs.sent([number for number, _ in found])

    def _send(self, messages: list[Message]) -> None:
        for m in messages:
            self._producer.produce(m.topic, m.value, m.key.encode())
        self._producer.flush(30.0)
