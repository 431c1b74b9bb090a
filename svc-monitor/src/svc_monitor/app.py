"""Wiring: plans, rollouts and candidates come in; one loop per pipeline watches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Literal

import orjson
from fastapi import HTTPException

from headrace.chassis.app import Chassis, Part, run_service
from headrace.chassis.codecs import plan_codec
from headrace.chassis.errors import PipelineFault
from headrace.chassis.following import FollowPlans
from headrace.chassis.logs import logger
from headrace.chassis.objects import FolderObjectStore
from headrace.chassis.worker import LoopThread
from headrace.contracts.errors import HeadraceError, Retryable
from headrace.contracts.records import ArmServed, RolloutChanged
from headrace.plan.ir import Plan
from headrace.plan.profile import DayHistograms
from headrace.plan.profile import from_json as profile_from_json
from headrace.plan.reading import read_plan
from svc_monitor.loop import MonitorLoop
from svc_monitor.settings import MonitorSettings
from svc_monitor.telemetry import MonitorMetrics
from svc_monitor.watching import ModelWatch

PROFILE_TRIES = 5  # a shared store may lag behind the topic
PROFILE_WAIT_S = 1.0
ANSWER_S = 30.0
_log = logger(__name__)


class Watching:
    """A part of the service: one loop per pipeline."""

    name = "watching"

    def __init__(self, chassis: Chassis[MonitorSettings]) -> None:
        self._chassis = chassis
        self._codec = plan_codec(chassis.settings)
        self._objects = FolderObjectStore(chassis.settings.object_store)
        self._metrics = MonitorMetrics(chassis.metrics.registry)
        self.loops: dict[str, MonitorLoop] = {}
        self._threads: dict[str, LoopThread] = {}
        self._watchers: set[asyncio.Task[None]] = set()
        self._rollouts: dict[tuple[str, str], RolloutChanged] = {}
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.plans = FollowPlans(
            chassis, self._codec, parse=read_plan, apply=self._apply, retire=self._retire, rollouts=self._rollout
        )

    async def _apply(self, plan: Plan, epoch: int) -> None:
        await self._retire(plan.pipeline)
        if not plan.models:
            return

        def build() -> MonitorLoop:
            loop = self.loops[plan.pipeline] = MonitorLoop(plan, self._chassis, self._codec, self._metrics)
            return loop

        thread = LoopThread(f"{plan.pipeline}/monitor", build, self._chassis.health)
        await thread.start()
        self._threads[plan.pipeline] = thread
        self._watch(plan.pipeline, thread)
        for (pipeline, _), rollout in self._rollouts.items():
            if pipeline == plan.pipeline:
                await self._hand_over(rollout)

    async def _retire(self, pipeline: str) -> None:
        thread = self._threads.pop(pipeline, None)
        self.loops.pop(pipeline, None)
        if thread is not None:
            await thread.stop()

    async def _rollout(self, rollout: RolloutChanged) -> None:
        self._rollouts[rollout.pipeline, rollout.model] = rollout
        await self._hand_over(rollout)

    async def _hand_over(self, rollout: RolloutChanged) -> None:
        loop = self.loops.get(rollout.pipeline)
        if loop is None:
            return
        champion = next((a for a in rollout.arms if a.name == "champion"), None)
        loop.rollouts.put((rollout, await self._profile(champion) if champion else None))

    async def _profile(self, champion: ArmServed) -> DayHistograms | None:
        """The reference of a model's inputs, named by its manifest; None: no drift watch, which metrics and page tell."""
        for attempt in range(1, PROFILE_TRIES + 1):
            try:
                return await asyncio.to_thread(self._read_profile, champion)
            except Retryable as error:
                _log.warning("profile_not_read", candidate=champion.candidate_id[:12], attempt=attempt, error=str(error))
                await asyncio.sleep(PROFILE_WAIT_S)
            except (HeadraceError, ValueError, KeyError, TypeError) as error:
                _log.error("profile_unreadable", candidate=champion.candidate_id[:12], error=repr(error))
                return None
        return None

    def _read_profile(self, champion: ArmServed) -> DayHistograms:
        manifest = orjson.loads(self._objects.get(champion.manifest_reference, champion.manifest_digest))
        named = manifest["facts"]["profile"]
        return profile_from_json(orjson.loads(self._objects.get(named["reference"], named["digest"])))

    def _watch(self, pipeline: str, thread: LoopThread) -> None:
        async def watch() -> None:
            try:
                await thread.wait()
            except PipelineFault as fault:
                await self.plans.park(fault)
                await self._retire(pipeline)
            except Exception as error:
                if not self._failed.done():
                    self._failed.set_exception(error)

        task = asyncio.create_task(watch())
        self._watchers.add(task)
        task.add_done_callback(self._watchers.discard)

    async def start(self) -> None:
        """Nothing to do before a plan comes."""

    async def wait(self) -> None:
        await self._failed

    async def stop(self) -> None:
        for pipeline in list(self._threads):
            await self._retire(pipeline)


def build(chassis: Chassis[MonitorSettings]) -> Sequence[Part]:
    """The parts of the service, in the order they start."""
    watching = Watching(chassis)

    async def ask(pipeline: str, model: str, answer: Callable[[ModelWatch], dict[str, object]]) -> dict[str, object]:
        loop = watching.loops.get(pipeline)
        watch = loop.watches.get(model) if loop else None
        if loop is None or watch is None:
            raise HTTPException(404, f"no model {model} watched in pipeline {pipeline}")
        try:
            return await asyncio.wait_for(asyncio.wrap_future(loop.ask(lambda: answer(watch))), ANSWER_S)
        except TimeoutError:
            raise HTTPException(503, f"the loop of {pipeline} did not answer in {ANSWER_S:g} s") from None

    @chassis.http.get("/v1/{pipeline}/{model}/performance")
    async def performance(pipeline: str, model: str, by: Literal["week", "month"] = "week") -> dict[str, object]:
        """Figures by week or month of request time and by model digest ('all' over all), with maturity."""
        return await ask(pipeline, model, lambda watch: performance_of(watch, by))

    @chassis.http.get("/v1/{pipeline}/{model}/drift")
    async def drift(pipeline: str, model: str) -> dict[str, object]:
        """Every look at the champion's inputs since it was promoted, and whether they are watched at all."""
        return await ask(pipeline, model, drift_of)

    @chassis.http.get("/v1/{pipeline}/{model}/canary")
    async def canary(pipeline: str, model: str) -> dict[str, object]:
        """How far the step under judgement is: what it waits for, and what its verdict would rest on. {} without one."""
        return await ask(pipeline, model, canary_of)

    return [watching, watching.plans]


def performance_of(watch: ModelWatch, by: str) -> dict[str, object]:
    """The performance page's body."""
    table = watch.monthly if by == "month" else watch.weekly
    rows = [asdict(p) for p in table.report()]
    return {"rows": rows, "watermark_ms": watch.watermark_ms, "labels": dict(watch.join.counts), "refused": dict(watch.refused)}


def drift_of(watch: ModelWatch) -> dict[str, object]:
    """The drift page's body."""
    watched = watch.watched
    looks = [asdict(look) for look in watched.looks]
    return {"model_digest": watched.model_digest, "watched": watched.drift is not None, "looks": looks}


def canary_of(watch: ModelWatch) -> dict[str, object]:
    """The canary page's body."""
    canary = watch.canary()
    return {} if canary is None else asdict(canary)


def main() -> int:
    """Run until stopped; returns the exit code."""
    return run_service(MonitorSettings, build)
