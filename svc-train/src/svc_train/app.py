"""Wiring: requests and data sets become runs, a runner works on them, an outbox speaks for them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path

from headrace.chassis.app import Chassis, Part, run_service
from headrace.chassis.codecs import plan_codec
from headrace.chassis.errors import Fatal
from headrace.chassis.following import FollowPlans, rejected_encoder
from headrace.chassis.objects import FolderObjectStore
from headrace.chassis.queue import WorkQueue
from headrace.contracts.catalogue import DATASETS, TRAINING_REQUESTS
from headrace.contracts.records import ArmServed, RolloutChanged
from headrace.contracts.signing import load_private
from headrace.plan.ir import Model, Plan
from headrace.plan.reading import read_plan
from svc_train.adapters.jobs import PostgresJobs
from svc_train.adapters.tracking import prepare
from svc_train.handlers import Requests
from svc_train.runner import Outbox, Runner, insist
from svc_train.settings import TrainSettings
from svc_train.telemetry import TrainMetrics
from svc_train.workshop import Workshop


def code_digest() -> str:
    """SHA-256 over this package's sources: a run under other code is another run."""
    folder = Path(__file__).parent
    parts = [(str(p.relative_to(folder)), p.read_bytes()) for p in sorted(folder.rglob("*.py"))]
    return hashlib.sha256(b"".join(name.encode() + b"\x00" + body + b"\x00" for name, body in parts)).hexdigest()


class Training:
    """A part of the service that holds the others: the runs table must answer before any of them starts."""

    name = "training"

    def __init__(self, chassis: Chassis[TrainSettings]) -> None:
        self._chassis = chassis
        self._codec = plan_codec(chassis.settings)
        self._plans: dict[str, Plan] = {}
        self._champions: dict[tuple[str, str], ArmServed | None] = {}
        self.jobs: PostgresJobs | None = None
        self._parts: list[Part] = []
        self._preparing: asyncio.Task[None] | None = None
        self.plans = FollowPlans(
            chassis, self._codec, parse=read_plan, apply=self._apply, retire=self._retire, rollouts=self._rollout
        )

    async def _apply(self, plan: Plan, epoch: int) -> None:
        self._plans[plan.pipeline] = plan

    async def _retire(self, pipeline: str) -> None:
        self._plans.pop(pipeline, None)

    async def _rollout(self, rollout: RolloutChanged) -> None:
        """Remember the champion: the next model is judged beside it."""
        champion = next((a for a in rollout.arms if a.name == "champion"), None)
        self._champions[rollout.pipeline, rollout.model] = champion

    def _find(self, pipeline: str, plan_hash: str, model: str) -> tuple[Plan, Model] | None:
        plan = self._plans.get(pipeline)
        found = next((m for m in plan.models if m.name == model), None) if plan and plan.hash == plan_hash else None
        return (plan, found) if plan and found else None

    def _champion(self, pipeline: str, model: str) -> ArmServed | None:
        return self._champions.get((pipeline, model))

    async def start(self) -> None:
        """Connect, then start queue, runner and outbox."""
        chassis, settings = self._chassis, self._chassis.settings
        if settings.key_file is None:
            raise Fatal("HEADRACE_KEY_FILE is not set: models cannot be signed; name svc-train's private key")
        dsn = settings.postgres_dsn.get_secret_value()
        self.jobs = jobs = await insist(chassis.clock, lambda: PostgresJobs.connect(dsn, settings.postgres_password))
        self._preparing = asyncio.create_task(prepare(settings.tracking_url), name="tracking")
        digest = code_digest()
        requests = Requests(jobs, self._codec, self._find, digest, chassis.clock)
        queue = WorkQueue(
            bootstrap=settings.bootstrap,
            group="svc-train",
            producer=chassis.bus.producer(f"svc-train.{settings.instance}.queue"),
            encode_rejected=rejected_encoder(self._codec),
            clock=chassis.clock,
            metrics=chassis.metrics,
            tracing=chassis.tracing,
            access=settings,
        )
        queue.on(TRAINING_REQUESTS, requests.requested)
        queue.on(DATASETS, requests.dataset_built)
        shop = Workshop(
            FolderObjectStore(settings.object_store),
            load_private(settings.key_file),
            digest,
            settings.tracking_url,
            settings.training_threads,
        )
        metrics = TrainMetrics(chassis.metrics.registry)
        outbox = Outbox(jobs, chassis.bus.producer(f"svc-train.{settings.instance}.outbox"), chassis.clock)
        runner = Runner(jobs, shop, self._codec, settings, chassis.clock, self._find, self._champion, metrics)
        for part in (outbox, runner, queue):
            self._parts.append(part)
            await part.start()

    async def wait(self) -> None:
        waits = [asyncio.ensure_future(part.wait()) for part in self._parts]
        done, rest = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        for task in done:
            task.result()

    async def stop(self) -> None:
        if self._preparing is not None:
            self._preparing.cancel()
            await asyncio.gather(self._preparing, return_exceptions=True)
        for part in reversed(self._parts):
            await part.stop()
        if self.jobs is not None:
            await self.jobs.close()


def build(chassis: Chassis[TrainSettings]) -> Sequence[Part]:
    """The parts of the service, in the order they start."""
    training = Training(chassis)

    @chassis.http.get("/v1/runs")
    async def runs() -> list[dict[str, object]]:
        return await training.jobs.listing() if training.jobs else []

    return [training.plans, training]


def main() -> int:
    """Run until stopped; returns the exit code."""
    return run_service(TrainSettings, build)
