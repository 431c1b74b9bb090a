"""Wiring: plans come in, one worker thread per feature set goes round."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path

from headrace.chassis.app import Chassis, Part, run_service
from headrace.chassis.bus import TopicPartition
from headrace.chassis.codecs import plan_codec
from headrace.chassis.errors import PipelineFault
from headrace.chassis.following import FollowPlans
from headrace.chassis.logs import logger
from headrace.chassis.objects import FolderObjectStore
from headrace.chassis.state import RocksStore, Store
from headrace.chassis.worker import LoopThread
from headrace.plan.avro import event_schema
from headrace.plan.ir import FeatureSet, Plan
from headrace.plan.reading import read_plan
from headrace.plan.retained import sets_in_play
from svc_stream.base import Bases
from svc_stream.engine import SetWorker
from svc_stream.owned import worker_of
from svc_stream.pauses import shorten_pauses
from svc_stream.settings import StreamSettings
from svc_stream.tasks import Surroundings
from svc_stream.telemetry import StreamMetrics

_log = logger(__name__)


class Pipelines:
    """The workers of all plans: an unchanged feature set keeps its worker when a plan changes."""

    name = "pipelines"

    def __init__(self, chassis: Chassis[StreamSettings]) -> None:
        self._chassis = chassis
        self.codec = plan_codec(chassis.settings)
        self._around = Surroundings(
            chassis.bus,
            self.codec,
            chassis.settings,
            self._open_store,
            chassis.tracing,
            StreamMetrics(chassis.metrics.registry),
            chassis.clock,
            bases=Bases(chassis.bus, self.codec, FolderObjectStore(chassis.settings.object_store)),
        )
        self._threads: dict[tuple[str, str], LoopThread] = {}  # (pipeline, set hash)
        self._workers: dict[tuple[str, str], SetWorker] = {}
        self._watchers: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] = asyncio.Future()
        self.plans = FollowPlans(chassis, self.codec, parse=read_plan, apply=self.apply, retire=self.retire)

    async def apply(self, plan: Plan, epoch: int) -> None:
        """Start the workers of new feature sets, then stop those of dropped ones: whole, or as it was.

        Raises: PipelineFault to park the plan, Retryable to be asked again.
        """
        for event in plan.events:
            await asyncio.to_thread(self.codec.register_event, event_schema(plan, event))
        wanted = {(plan.pipeline, digest): version for digest, version in sets_in_play(plan).items()}
        reports = reporters(plan)
        started: list[tuple[str, str]] = []
        try:
            for key in [k for k in wanted if k not in self._threads]:
                await self._start(*wanted[key], reports[key[1]])
                started.append(key)
        except BaseException:
            for key in started:
                await self._stop(key)
            raise
        for key in [k for k in self._threads if k[0] == plan.pipeline]:
            if key not in wanted:
                await self._stop(key)
            else:
                self._workers[key].reports = reports[key[1]]

    async def _start(self, plan: Plan, feature_set: FeatureSet, reports: frozenset[str]) -> None:
        key = (plan.pipeline, feature_set.hash)

        def build() -> SetWorker:
            worker = self._workers[key] = worker_of(plan, feature_set, self._around, reports)
            return worker

        thread = LoopThread(f"{plan.pipeline}/{feature_set.name}", build, self._chassis.health)
        await thread.start()
        self._threads[key] = thread
        watcher = asyncio.create_task(self._watch(key, thread))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)

    async def retire(self, pipeline: str) -> None:
        for key in [k for k in self._threads if k[0] == pipeline]:
            await self._stop(key)

    async def _stop(self, key: tuple[str, str]) -> None:
        thread = self._threads.pop(key)
        self._workers.pop(key, None)
        await thread.stop()

    async def _watch(self, key: tuple[str, str], thread: LoopThread) -> None:
        """A fault of one pipeline parks it, with all its sets; anything else ends the process."""
        try:
            await thread.wait()
        except PipelineFault as fault:
            if self._threads.get(key) is thread:
                await self.retire(key[0])
            await self.plans.park(fault)
        except Exception as error:
            if not self._failed.done():
                self._failed.set_exception(error)

    def _open_store(self, partition: TopicPartition) -> Store:
        folder: Path = self._chassis.settings.state_dir / "sets"
        folder.mkdir(parents=True, exist_ok=True)
        return RocksStore(folder / re.sub(r"[^A-Za-z0-9._-]", "_", f"{partition.topic}-{partition.partition}"))

    def status(self) -> dict[str, object]:
        """Rates, maxima and tasks per feature set."""
        return {
            f"{pipeline}/{w.feature_set.name}/{digest[:8]}": w.metrics.page() for (pipeline, digest), w in self._workers.items()
        }

    async def start(self) -> None:
        """Nothing to do before a plan comes."""

    async def wait(self) -> None:
        await self._failed

    async def stop(self) -> None:
        for key in list(self._threads):
            await self._stop(key)


def reporters(plan: Plan) -> dict[str, frozenset[str]]:
    """By set hash the events whose rejected records that set writes out: each event has exactly one reporter.

    A set of a retained version reports only what no set of the plan in force reads: its law may be an older one.
    """
    readers = [(version is not plan, s.hash, s.events) for version, s in sets_in_play(plan).values()]
    names = {name for _, _, events in readers for name in events}
    of = {name: min((old, digest) for old, digest, events in readers if name in events)[1] for name in names}
    return {digest: frozenset(e for e, reporter in of.items() if reporter == digest) for _, digest, _ in readers}


def build(chassis: Chassis[StreamSettings]) -> Sequence[Part]:
    """The parts of the service, in the order they start."""
    pipelines = Pipelines(chassis)

    @chassis.http.get("/v1/status")
    async def status() -> dict[str, object]:
        return pipelines.status()

    return [pipelines, pipelines.plans]


def main() -> int:
    """Run until stopped; returns the exit code."""
    shorten_pauses()
    return run_service(StreamSettings, build)
