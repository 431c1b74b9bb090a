"""Wiring: plans and rollouts come in; per model a decider, an event door and a REST door."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field

from headrace.chassis.app import Chassis, Part, run_service
from headrace.chassis.bus import TopicPartition
from headrace.chassis.codecs import plan_codec
from headrace.chassis.errors import PipelineFault, Retryable
from headrace.chassis.following import FollowPlans, trusted_keys
from headrace.chassis.logs import logger
from headrace.chassis.objects import FolderObjectStore
from headrace.chassis.state import RocksStore
from headrace.chassis.view import StateView
from headrace.chassis.worker import LoopThread
from headrace.contracts.catalogue import ROLLOUT_ACKS
from headrace.contracts.records import Progress, RolloutAckStatus, RolloutChanged
from headrace.plan.ir import FeatureSet, Model, Plan
from headrace.plan.reading import read_plan
from headrace.plan.retained import declared, models_of, versions
from headrace.plan.topics import state_topic
from svc_serve.awaited import Awaited
from svc_serve.deciding import Decider
from svc_serve.domain.answered import Answered
from svc_serve.doors import Doors
from svc_serve.features import SetReader
from svc_serve.owned_reads import OWNED, OwnedReads, owned_set
from svc_serve.requests import RequestReader
from svc_serve.rest_door import RestQueue, Waiting
from svc_serve.rollouts import RolloutLoader
from svc_serve.routes import add_routes
from svc_serve.settings import ServeSettings
from svc_serve.telemetry import ServeMetrics
from svc_serve.viewing import Viewing

RETRY_S = 2.0  # how soon a rollout whose artefacts could not be read is tried again
_log = logger(__name__)


@dataclass(slots=True)
class Served:
    """One model being served."""

    plan: Plan
    model: Model
    decider: Decider
    reader: RequestReader
    loader: RolloutLoader
    answered: Answered
    queue: RestQueue
    awaited: Awaited[Waiting] = field(default_factory=Awaited[Waiting])
    threads: list[LoopThread] = field(default_factory=list)
    loading: asyncio.Lock = field(default_factory=asyncio.Lock)  # one rollout at a time


class Models:
    """Everything this replica serves, by (pipeline, model)."""

    name = "models"

    def __init__(self, chassis: Chassis[ServeSettings]) -> None:
        self._chassis = chassis
        self.codec = plan_codec(chassis.settings)
        self.metrics = ServeMetrics(chassis.metrics.registry)
        self._objects = FolderObjectStore(chassis.settings.object_store)
        self._trusted = trusted_keys(chassis.settings)
        self.served: dict[tuple[str, str], Served] = {}
        self.parked: dict[str, str] = {}  # why a pipeline that ran does not run
        self._plans: dict[str, Plan] = {}  # in force
        self._views: dict[str, Viewing] = {}  # by pipeline
        self._rollouts: dict[tuple[str, str], RolloutChanged] = {}  # newest by model, also while no plan is in force
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.plans = FollowPlans(
            chassis,
            self.codec,
            parse=read_plan,
            apply=self.apply,
            retire=self.retire,
            rollouts=self.on_rollout,
            foretold=self.foretold,
        )

    # -- plans

    async def apply(self, plan: Plan, epoch: int) -> None:
        """Serve the plan in place of the one before; what cannot be set up leaves the one before in force.

        Raises: PipelineFault to park, Retryable to be asked again.
        """
        before = self._plans.get(plan.pipeline)
        await self.retire(plan.pipeline)  # first: both read the same local state where a set has not changed
        try:
            await self._set_up(plan)
        except BaseException:
            await self.retire(plan.pipeline)
            if before is not None:
                await self._set_up(before)
            raise

    async def _set_up(self, plan: Plan) -> None:
        """Follow the sets' state, then open the doors."""
        self._plans[plan.pipeline] = plan
        self.metrics.promised(plan)
        self.parked.pop(plan.pipeline, None)
        if not plan.models:
            return
        sets = {s.hash: s for version in versions(plan) for model in version.models for s in _read_by(version, model)}
        readers = {digest: SetReader(s, self._open_views(plan, s), self.codec) for digest, s in sets.items()}
        viewing = Viewing(plan.pipeline, [view for reader in readers.values() for view in reader.views], self._chassis)
        self._views[plan.pipeline] = viewing
        await viewing.start()
        self._watch(viewing.thread, plan)
        for model in plan.models:
            await self._serve(plan, model, readers)

    def _open_views(self, plan: Plan, feature_set: FeatureSet) -> list[StateView]:
        topic = state_topic(plan, feature_set)
        folder = self._chassis.settings.state_dir / "views"
        folder.mkdir(parents=True, exist_ok=True)

        def decode(raw: bytes) -> Progress:
            return self.codec.decode(raw, Progress)

        names = [re.sub(r"[^A-Za-z0-9._-]", "_", f"{topic}-{p}") for p in range(feature_set.partitions)]
        return [StateView(TopicPartition(topic, p), RocksStore(folder / name), decode) for p, name in enumerate(names)]

    async def _serve(self, plan: Plan, model: Model, readers: Mapping[str, SetReader]) -> None:
        """readers: by set hash, those of retained versions too."""
        chassis, settings = self._chassis, self._chassis.settings
        owned = owned_set(plan, model)

        def decider_of(version: Plan, model: Model, own: OwnedReads | None = None, older: Sequence[Decider] = ()) -> Decider:
            sets = [readers[s.hash] for s in _read_by(version, model)]
            return Decider(version, model, sets, chassis.clock, own, older=older, declared_hash=declared(version).hash)

        own = OwnedReads(owned) if owned else None

        def own_of(version: Plan, old: Model) -> OwnedReads | None:
            """A request has one answer here, of the set in force: an arm trained for another one falls to the rules."""
            theirs = owned_set(version, old)
            if theirs is None or (own is not None and own.feature_set.hash == theirs.hash):
                return None if theirs is None else own
            return OwnedReads(theirs, followed=False)

        older = [decider_of(version, old, own_of(version, old)) for version, old in models_of(plan, model.name)]
        decider = decider_of(plan, model, own, older)
        served = Served(
            plan,
            model,
            decider,
            RequestReader(plan, model, self.codec, chassis.clock),
            RolloutLoader(decider, self._objects, self._trusted, settings.instance, {}),
            Answered(settings.answered_max),
            RestQueue(settings.rest_in_flight_max),
        )
        key = (plan.pipeline, model.name)
        if key in self._rollouts:
            await self._take_up(served, self._rollouts[key])
        self.served[key] = served
        doors = Doors(plan, served, chassis, self.codec, self.metrics)
        for name, build in (("rest", doors.rest), ("events", doors.events)):
            thread = LoopThread(f"{plan.pipeline}/{model.name}/{name}", build, chassis.health)
            served.threads.append(thread)
            await thread.start()
            self._watch(thread, plan)

    async def retire(self, pipeline: str) -> None:
        self._plans.pop(pipeline, None)
        self.metrics.not_promised(pipeline)
        self.parked.pop(pipeline, None)
        for key in [k for k in self.served if k[0] == pipeline]:
            for thread in self.served.pop(key).threads:
                await thread.stop()
        viewing = self._views.pop(pipeline, None)
        if viewing is not None:
            await viewing.stop()

    # -- rollouts

    def foretold(self, rollout: RolloutChanged) -> None:
        """A rollout that held before this life: its models answer from the first request on."""
        self._rollouts[rollout.pipeline, rollout.model] = rollout

    async def on_rollout(self, rollout: RolloutChanged) -> None:
        """A rollout that holds from now on."""
        key = (rollout.pipeline, rollout.model)
        if self._rollouts.get(key) is rollout:
            return  # foretold: taken up before the doors of its plan opened
        self._rollouts[key] = rollout
        if key in self.served:
            await self._take_up(self.served[key], rollout)

    async def _take_up(self, served: Served, rollout: RolloutChanged) -> None:
        key = (rollout.pipeline, rollout.model)
        async with served.loading:
            now_ms = self._chassis.clock.now_ms()
            try:
                ack = await asyncio.to_thread(served.loader.take_up, rollout, now_ms)
            except Retryable as error:  # what serves goes on serving; a newer rollout does not wait for this one
                _log.warning("rollout_pending", model=rollout.model, epoch=rollout.epoch, error=str(error))
                ack = served.loader.pending(rollout, str(error), now_ms)
                self._spawn(self._take_up_later(served, rollout))
        if ack.status is RolloutAckStatus.REFUSED:
            self.metrics.refused.labels(*key).inc()
        self.metrics.epoch.labels(*key).set(served.decider.serving.table.epoch)
        await self.plans.publish(ROLLOUT_ACKS, "/".join(key), ack)

    async def _take_up_later(self, served: Served, rollout: RolloutChanged) -> None:
        await asyncio.sleep(RETRY_S)
        key = (rollout.pipeline, rollout.model)
        if self._rollouts.get(key) is rollout and self.served.get(key) is served:
            await self._take_up(served, rollout)

    # -- life

    def _watch(self, thread: LoopThread, plan: Plan) -> None:
        async def watch() -> None:
            try:
                await thread.wait()
            except PipelineFault as fault:
                if self._plans.get(plan.pipeline) is plan:
                    await self.retire(plan.pipeline)
                    self.parked[plan.pipeline] = fault.detail
                    await self.plans.park(fault)

        self._spawn(watch())

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        """A task of its own; what it raises ends the service."""

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None and not self._failed.done():
                self._failed.set_exception(error)

        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(ended)

    def views(self) -> dict[str, Viewing]:
        return self._views

    async def start(self) -> None:
        """Nothing to do before a plan comes."""

    async def wait(self) -> None:
        await self._failed

    async def stop(self) -> None:
        for pipeline in list(self._plans):
            await self.retire(pipeline)
        for task in list(self._tasks):
            task.cancel()


def _read_by(plan: Plan, model: Model) -> list[FeatureSet]:
    """The sets whose state a model reads here, in plan order; what an owner sends comes through another door."""
    names = {column.feature_set for column in model.inputs}
    return [s for s in plan.feature_sets if s.name in names and s.placement != OWNED]


def build(chassis: Chassis[ServeSettings]) -> Sequence[Part]:
    """The parts of the service, in the order they start."""
    models = Models(chassis)
    add_routes(chassis.http, models)
    return [models, models.plans]


def main() -> int:
    """Run until stopped; returns the exit code."""
    return run_service(ServeSettings, build)
