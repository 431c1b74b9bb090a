"""Wiring: plans come in, one worker thread per feature set goes round."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path

from headrace.chassis.app import Chassis, Part, run_service
from headrace.chassis.bus import TopicPartition
from headrace.chassis.errors import PipelineFault
from headrace.chassis.following import FollowPlans, plan_codec
from headrace.chassis.logs import logger
from headrace.chassis.state import RocksStore, Store
from headrace.chassis.worker import LoopThread
from headrace.plan.avro import event_schema
from headrace.plan.reading import read_plan
from headrace.plan.ir import Plan
from svc_stream.engine import SetWorker, Surroundings
from svc_stream.settings import StreamSettings
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
        )
        self._threads: dict[tuple[str, str], LoopThread] = {}  # (pipeline, set hash)
        self._workers: dict[tuple[str, str], SetWorker] = {}
        self._watchers: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] = asyncio.Future()
        self.plans = FollowPlans(chassis, self.codec, parse=read_plan, apply=self.apply, retire=self.retire)

    async def apply(self, plan: Plan, epoch: int) -> None:
        """Start workers of new feature sets, stop those of dropped ones. Raises PipelineFault to park the plan."""
        for event in plan.events:
            await asyncio.to_thread(self.codec.register_event, event_schema(plan, event))
        wanted = {(plan.pipeline, s.hash): s for s in plan.feature_sets}
        reporters = {e: min(s.hash for s in plan.feature_sets if e in s.events) for s in plan.feature_sets for e in s.events}
        for key in [k for k in self._threads if k[0] == plan.pipeline and k not in wanted]:
            await self._stop(key)
        for key in [k for k in wanted if k not in self._threads]:
            feature_set = wanted[key]
            reports = frozenset(e for e, reporter in reporters.items() if reporter == feature_set.hash)

            def build(feature_set=feature_set, reports=reports, key=key) -> SetWorker:
                worker = self._workers[key] = SetWorker(plan, feature_set, self._around, reports)
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
        """A fault of one pipeline parks it; anything else ends the process."""
        try:
            await thread.wait()
        except PipelineFault as fault:
            await self.plans.park(fault)
            if key in self._threads:
                await self._stop(key)
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


def build(chassis: Chassis[StreamSettings]) -> Sequence[Part]:
    """The parts of the service, in the order they start."""
    pipelines = Pipelines(chassis)

    @chassis.http.get("/v1/status")
    async def status() -> dict[str, object]:
        return pipelines.status()

    return [pipelines, pipelines.plans]


def main() -> int:
    """Run until stopped; returns the exit code."""
    return run_service(StreamSettings, build)
