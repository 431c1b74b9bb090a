"""Wiring: plans come in; per pipeline an archive in a thread of its own, one for the audit chain; data sets on request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from headrace.chassis.app import Chassis, Part, run_service
from headrace.chassis.codecs import plan_codec
from headrace.chassis.errors import Fatal, PipelineFault, Retryable
from headrace.chassis.following import FollowPlans, rejected_encoder, trusted_keys
from headrace.chassis.logs import logger
from headrace.chassis.objects import FolderObjectStore
from headrace.chassis.queue import WorkQueue
from headrace.chassis.worker import LoopThread
from headrace.contracts.catalogue import AUDIT_ENTRIES, DATASET_REQUESTS
from headrace.plan.avro import event_schema
from headrace.plan.hashes import from_json
from headrace.plan.ir import Plan
from svc_features.adapters.lake import DeltaLake
from svc_features.archive import Archive, Feed, Reached
from svc_features.backfills import Backfills
from svc_features.continuous import Prover
from svc_features.dataset_door import DatasetDesk, add_dataset_route
from svc_features.datasets import Datasets
from svc_features.domain.columns import reserved_fields
from svc_features.handlers import audit_feed, event_feed, passport_feed, time_feed
from svc_features.lateness_routes import add_lateness_route
from svc_features.read_door import Bearers, ReadDoor, add_read_routes
from svc_features.replays import Replays
from svc_features.routes import add_routes
from svc_features.settings import FeaturesSettings
from svc_features.telemetry import FeaturesMetrics
from svc_features.viewing import Viewing

PLATFORM = "platform"
TOPIC_POLL_S = 1.0
_log = logger(__name__)


class Pipelines:
    """The archives of all plans. A plan that changes gets a new archive, which reads on where the lake is."""

    name = "pipelines"

    def __init__(self, chassis: Chassis[FeaturesSettings]) -> None:
        self._chassis, settings = chassis, chassis.settings
        self.codec = plan_codec(settings)
        self.metrics = FeaturesMetrics(chassis.metrics.registry)
        self.reached = Reached()
        self._lake = DeltaLake(settings.lake, settings.archive_files_max)
        self._threads: dict[str, LoopThread] = {}
        self._watchers: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._auditing: asyncio.Task[None] | None = None
        self.in_force: dict[str, Plan] = {}
        self.viewings: dict[str, Viewing] = {}
        self.plans = FollowPlans(chassis, self.codec, parse=from_json, apply=self.apply, retire=self.retire)

    async def apply(self, plan: Plan, epoch: int) -> None:
        """Archive its topics. Raises PipelineFault to park the plan."""
        for event in plan.events:
            taken = reserved_fields(event)
            if taken:
                raise PipelineFault(plan.pipeline, f"event {event.name}: fields {taken} have names the lake keeps for itself")
            await asyncio.to_thread(self.codec.register_event, event_schema(plan, event))
        feeds = [*(event_feed(plan, e, self.codec) for e in plan.events), passport_feed(plan, self.codec)]
        feeds.append(time_feed(plan, self.codec))
        await self.retire(plan.pipeline)
        await self._start(plan.pipeline, feeds, lambda error: PipelineFault(plan.pipeline, str(error)))
        self.in_force[plan.pipeline] = plan
        self.viewings[plan.pipeline] = viewing = Viewing(plan, self.codec, self._chassis)
        viewing.start()

    async def retire(self, pipeline: str) -> None:
        """Stop archiving; what lies in the lake stays there."""
        self.in_force.pop(pipeline, None)
        viewing = self.viewings.pop(pipeline, None)
        if viewing is not None:
            await viewing.stop()
        thread = self._threads.pop(pipeline, None)
        if thread is not None:
            await thread.stop()

    async def _start(self, name: str, feeds: Sequence[Feed], fault: Callable[[Fatal], Fatal]) -> None:
        settings = self._chassis.settings

        def make() -> Archive:
            try:
                return Archive(
                    name, feeds, bus=self._chassis.bus, lake=self._lake, reached=self.reached, clock=self._chassis.clock,
                    metrics=self.metrics, interval_ms=settings.archive_interval_ms, rows_max=settings.archive_rows_max,
                )  # fmt: skip
            except Fatal as error:
                raise fault(error) from error

        thread = LoopThread(f"archive/{name}", make, self._chassis.health)
        await thread.start()
        self._threads[name] = thread
        watcher = asyncio.create_task(self._watch(name, thread, fault))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)

    async def _watch(self, name: str, thread: LoopThread, fault: Callable[[Fatal], Fatal]) -> None:
        """What stops one pipeline's archive parks that pipeline; anything unclassified ends the process."""
        try:
            await thread.wait()
        except Fatal as error:
            failure = fault(error)
            if isinstance(failure, PipelineFault):
                await self.plans.park(failure)
                self._threads.pop(name, None)
            elif not self._failed.done():
                self._failed.set_exception(failure)
        except Exception as error:
            if not self._failed.done():
                self._failed.set_exception(error)

    def find(self, pipeline: str, plan_hash: str) -> Plan | None:
        """The plan in force, if it is that one."""
        plan = self.in_force.get(pipeline)
        return plan if plan is not None and plan.hash == plan_hash else None

    async def start(self) -> None:
        """The audit chain is archived whatever plans there are, once svc-governance has made its topic."""
        self._auditing = asyncio.create_task(self._audit(), name="audit-archive")

    async def _audit(self) -> None:
        admin = self._chassis.bus.admin()
        while True:
            try:
                if await asyncio.to_thread(admin.partitions, AUDIT_ENTRIES) is not None:
                    await self._start(PLATFORM, [audit_feed(self.codec)], lambda error: error)
                    return
            except Retryable as error:
                _log.warning("audit_archive_to_be_retried", error=str(error))
            except Exception as error:
                if not self._failed.done():
                    self._failed.set_exception(error)
                return
            await asyncio.sleep(TOPIC_POLL_S)

    async def wait(self) -> None:
        await self._failed

    async def stop(self) -> None:
        if self._auditing is not None:
            self._auditing.cancel()
            await asyncio.gather(self._auditing, return_exceptions=True)
        for name in list(self._threads):
            await self.retire(name)


def build(chassis: Chassis[FeaturesSettings]) -> Sequence[Part]:
    """The parts of the service, in the order they start."""
    settings = chassis.settings
    pipelines = Pipelines(chassis)
    datasets = Datasets(
        pipelines.codec, chassis.bus, pipelines.find, pipelines.reached, FolderObjectStore(settings.object_store), settings,
        pipelines.metrics,
    )  # fmt: skip
    queue = WorkQueue(
        bootstrap=settings.bootstrap,
        group=settings.service,
        producer=chassis.bus.producer(f"{settings.service}.{settings.instance}.queue"),
        encode_rejected=rejected_encoder(pipelines.codec),
        clock=chassis.clock,
        metrics=chassis.metrics,
        tracing=chassis.tracing,
        access=settings,
    )
    queue.on(DATASET_REQUESTS, datasets.requested)
    door = ReadDoor(pipelines.viewings, Bearers(trusted_keys(settings)), settings, chassis.clock, pipelines.metrics)
    add_read_routes(chassis.http, door, settings.read_body_bytes_max)
    objects = FolderObjectStore(settings.object_store)
    add_dataset_route(chassis.http, door, DatasetDesk(pipelines.in_force, datasets.build, objects))
    prover = Prover(pipelines.in_force, pipelines.reached, settings, pipelines.metrics, chassis.clock, pipelines.plans.publish)
    add_routes(chassis.http, pipelines.reached, pipelines.in_force, settings, prover.page)
    backfills = Backfills(
        pipelines.codec, chassis.bus, pipelines.in_force, settings, chassis.clock,
        chassis.bus.producer(f"{settings.service}.{settings.instance}.bases"),
    )  # fmt: skip
    backfills.add_routes(chassis.http)
    add_lateness_route(chassis.http, pipelines.in_force, settings)
    replays = Replays(pipelines.in_force, settings)
    replays.add_routes(chassis.http, door.identify)
    return [pipelines, pipelines.plans, queue, prover, backfills, replays]


def main() -> int:
    """Run until stopped; returns the exit code."""
    return run_service(FeaturesSettings, build)
