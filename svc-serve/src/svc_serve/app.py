"""Wiring: plans and rollouts come in; per model a decider, an event door and a REST door."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from headrace.chassis.app import Chassis, Part, run_service
from headrace.chassis.bus import Producer, Record, TopicPartition
from headrace.chassis.errors import PipelineFault
from headrace.chassis.following import FollowPlans, plan_codec, trusted_keys
from headrace.chassis.objects import FolderObjectStore
from headrace.chassis.records import Rejected
from headrace.chassis.state import RocksStore
from headrace.chassis.transactional import TransactionalLoop
from headrace.chassis.view import StateView
from headrace.chassis.worker import Loop, LoopThread
from headrace.contracts.catalogue import ROLLOUT_ACKS, ROLLOUTS
from headrace.contracts.errors import Poison, Reason, Retryable
from headrace.contracts.records import Progress, RolloutApplied, RolloutChanged, SignedControl
from headrace.contracts.signing import open_control
from headrace.plan.avro import event_schema
from headrace.plan.reading import read_plan
from headrace.plan.ir import FeatureSet, Model, Plan
from headrace.plan.topics import predictions_topic, state_topic
from svc_serve.deciding import Decider
from svc_serve.domain.answered import Answered
from svc_serve.event_door import EventDoor
from svc_serve.features import SetReader
from svc_serve.readback import read_back
from svc_serve.rest_door import RestDoor, RestQueue
from svc_serve.rollouts import RolloutLoader
from svc_serve.routes import add_routes
from svc_serve.settings import ServeSettings
from svc_serve.telemetry import ServeMetrics
from svc_serve.viewing import Viewing

LOAD_RETRY_S = (0.2, 0.5, 1.0, 2.0)  # for an object store that hiccups; the control loop waits meanwhile
PREDICTIONS_PARTITIONS = 2  # as the topic file says


@dataclass(slots=True)
class Served:
    """One model being served."""

    plan: Plan
    model: Model
    decider: Decider
    loader: RolloutLoader
    answered: Answered
    queue: RestQueue
    threads: list[LoopThread] = field(default_factory=list)


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
        self._views: dict[str, Viewing] = {}  # by pipeline
        self._rollouts: dict[tuple[str, str], RolloutChanged] = {}  # newest by model, also while no plan is in force
        self._watchers: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.plans = FollowPlans(
            chassis, self.codec, parse=read_plan, apply=self.apply, retire=self.retire, also={ROLLOUTS: self.on_rollout}
        )

    # -- plans

    async def apply(self, plan: Plan, epoch: int) -> None:
        """Follow the sets' state, then open the doors. Raises PipelineFault to park."""
        await self.retire(plan.pipeline)
        if not plan.models:
            return
        used = {c.feature_set for m in plan.models for c in m.inputs if c.feature_set}
        sets = [s for s in plan.feature_sets if s.name in used]
        views = {s.name: self._open_views(plan, s) for s in sets}
        viewing = Viewing(plan.pipeline, [v for parts in views.values() for v in parts], self._chassis)
        self._views[plan.pipeline] = viewing
        await viewing.start()
        self._watch(viewing.thread, plan.pipeline)
        readers = [SetReader(s, views[s.name], self.codec) for s in sets]
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

    async def _serve(self, plan: Plan, model: Model, readers: Sequence[SetReader]) -> None:
        chassis, settings = self._chassis, self._chassis.settings
        decider = Decider(plan, model, readers, chassis.clock)
        loader = RolloutLoader(decider, self._objects, self._trusted, settings.instance, {})
        served = Served(plan, model, decider, loader, Answered(settings.answered_max), RestQueue(settings.rest_in_flight_max))
        key = (plan.pipeline, model.name)
        if key in self._rollouts:
            await self._take_up(served, self._rollouts[key])
        client = f"svc-serve.{plan.pipeline}.{model.name.replace('_', '-')}.{settings.instance}"
        event = next(e for e in plan.events if e.name == model.request)
        schema = event_schema(plan, event)

        def producer(door: str) -> Producer:
            return chassis.bus.producer(
                f"{client}.{door}", transactional_id=f"{client}.{door}", transaction_timeout_ms=settings.transaction_timeout_ms
            )

        def rest() -> Loop:
            return RestDoor(
                decider, self.codec, served.answered, served.queue, lambda: producer("rest"), self.metrics, chassis.clock
            )

        def events() -> Loop:
            door = EventDoor(
                plan,
                decider,
                schema,
                self.codec,
                served.answered,
                chassis.tracing,
                self.metrics,
                chassis.clock,
                settings.event_batch_max,
            )
            loop = TransactionalLoop(
                group=door.group, topics=[event.topic], consumer=chassis.bus.consumer(door.group, client, instance_id=client),
                make_producer=lambda: producer("event"), handle=door.handle, encode_rejected=_never, clock=chassis.clock,
                metrics=chassis.metrics, on_committed=door.committed, records_max=500, poll_timeout_s=0.02,
            )  # fmt: skip
            topic = predictions_topic(plan.pipeline)
            read_back(
                chassis.bus,
                self.codec,
                topic,
                PREDICTIONS_PARTITIONS,
                served.answered,
                settings.answered_max,
                f"{client}.readback",
            )
            return loop

        for name, build in (("rest", rest), ("events", events)):  # both producers are fenced before passports are read back
            thread = LoopThread(f"{plan.pipeline}/{model.name}/{name}", build, chassis.health)
            await thread.start()
            served.threads.append(thread)
            self._watch(thread, plan.pipeline)
        self.served[key] = served

    async def retire(self, pipeline: str) -> None:
        for key in [k for k in self.served if k[0] == pipeline]:
            for thread in self.served.pop(key).threads:
                await thread.stop()
        viewing = self._views.pop(pipeline, None)
        if viewing is not None:
            await viewing.stop()

    # -- rollouts

    async def on_rollout(self, record: Record) -> None:
        """A control record: verified, kept if its epoch grows, taken up."""
        try:
            envelope = self.codec.decode(record.value, SignedControl)
            payload = open_control(self._trusted, record.topic, (record.key or b"").decode(), envelope)
            rollout = self.codec.decode(payload, RolloutChanged)
            if (record.key or b"").decode() != f"{rollout.pipeline}/{rollout.model}":
                raise Poison(Reason.WRONG_TYPE, f"a rollout of {rollout.pipeline}/{rollout.model} under another key")
        except Poison as poison:
            await self.plans.refuse(record, poison)
            return
        key = (rollout.pipeline, rollout.model)
        known = self._rollouts.get(key)
        if known is not None and rollout.epoch <= known.epoch:
            detail = f"epoch {rollout.epoch} is not above {known.epoch}"
            await self.plans.refuse(record, Poison(Reason.LOWER_EPOCH, detail))
            return
        self._rollouts[key] = rollout
        if key in self.served:
            await self._take_up(self.served[key], rollout)

    async def _take_up(self, served: Served, rollout: RolloutChanged) -> None:
        ack = await self._attempt(served, rollout)
        if ack.status.value == "REFUSED":
            self.metrics.refused.labels(rollout.pipeline, rollout.model).inc()
        self.metrics.epoch.labels(rollout.pipeline, rollout.model).set(served.decider.serving.table.epoch)
        await self.plans.publish(ROLLOUT_ACKS, f"{rollout.pipeline}/{rollout.model}", ack)

    async def _attempt(self, served: Served, rollout: RolloutChanged) -> RolloutApplied:
        """Refused, too, if the objects it names cannot be read within the attempts: what serves goes on serving."""
        clock = self._chassis.clock
        for delay_s in (*LOAD_RETRY_S, None):
            try:
                return await asyncio.to_thread(served.loader.take_up, rollout, clock.now_ms())
            except Retryable as error:
                if delay_s is None:
                    return served.loader.refuse(rollout, error, clock.now_ms())
                await asyncio.sleep(delay_s)
        raise AssertionError("unreachable")

    # -- life

    def _watch(self, thread: LoopThread, pipeline: str) -> None:
        async def watch() -> None:
            try:
                await thread.wait()
            except PipelineFault as fault:
                await self.plans.park(fault)
                await self.retire(pipeline)
            except Exception as error:
                if not self._failed.done():
                    self._failed.set_exception(error)

        task = asyncio.create_task(watch())
        self._watchers.add(task)
        task.add_done_callback(self._watchers.discard)

    def views(self) -> dict[str, Viewing]:
        return self._views

    async def start(self) -> None:
        """Nothing to do before a plan comes."""

    async def wait(self) -> None:
        await self._failed

    async def stop(self) -> None:
        for pipeline in {*self._views, *(key[0] for key in self.served)}:
            await self.retire(pipeline)


def _never(rejected: Rejected) -> bytes:
    raise AssertionError(f"no request is dead-lettered here: {rejected.reason}")


def build(chassis: Chassis[ServeSettings]) -> Sequence[Part]:
    """The parts of the service, in the order they start."""
    models = Models(chassis)
    add_routes(chassis.http, models, chassis)
    return [models, models.plans]


def main() -> int:
    """Run until stopped; returns the exit code."""
    return run_service(ServeSettings, build)
