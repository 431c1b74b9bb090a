"""Wiring: plans come in and open sources; the doors hand batches to the desk, one writer thread goes round."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from headrace.chassis.app import Chassis, Part, run_service
from headrace.chassis.codecs import plan_codec
from headrace.chassis.following import FollowPlans
from headrace.chassis.state import RocksStore
from headrace.chassis.worker import LoopThread
from headrace.contracts.codec import Codec
from headrace.contracts.errors import Fatal, PipelineFault
from headrace.plan.ir import Plan
from headrace.plan.reading import read_plan
from svc_ingest.adapters.avro import event_encoder
from svc_ingest.adapters.folder import FolderDoor
from svc_ingest.adapters.http import HttpBounds, HttpDoor
from svc_ingest.desk import Desk, DeskBounds
from svc_ingest.ports import Route
from svc_ingest.routes import Routes, compile_routes
from svc_ingest.settings import Settings
from svc_ingest.telemetry import Telemetry
from svc_ingest.writer import Writer, WriterSetup

TOPIC_LOOK_S = 0.25


class Pipelines(FollowPlans[Plan]):
    """Opens the sources of admitted plans."""

    def __init__(self, chassis: Chassis[Settings], codec: Codec, routes: Routes, desk: Desk, telemetry: Telemetry) -> None:
        self._settings = chassis.settings
        self._admin = chassis.bus.admin()
        self._routes = routes
        self._desk = desk
        self._telemetry = telemetry
        self._encoder = partial(event_encoder, codec)
        super().__init__(chassis, codec, parse=read_plan, apply=self.open, retire=self.close)
        routes.parked = self.follower.parked

    async def start(self) -> None:
        """When every plan is acted on, an unknown pipeline is unknown, not merely unread."""
        await super().start()
        self._routes.complete = True

    async def open(self, plan: Plan, epoch: int) -> None:
        """Open a plan's sources in place of its older ones. Raises PipelineFault to park it, Retryable to be asked again."""
        del epoch
        try:
            routes = await asyncio.to_thread(compile_routes, plan, self._encoder)
        except PipelineFault:
            raise
        except Fatal as refused:  # an incompatible schema is this plan's fault, not the process's
            raise PipelineFault(plan.pipeline, str(refused)) from refused
        for route in routes.values():
            await self._await_topics(route)
            await asyncio.wrap_future(self._desk.open(route))
            self._telemetry.route_opened(route)
        self._routes.put(plan.pipeline, routes)

    async def close(self, pipeline: str) -> None:
        self._routes.remove(pipeline)

    async def _await_topics(self, route: Route) -> None:
        """Topics are made on admission, which may still be under way."""
        missing = [route.event.topic, route.dead_letters]
        try:
            async with asyncio.timeout(self._settings.topics_wait_s):
                while True:
                    missing = [topic for topic in missing if await self._lacks(topic)]
                    if not missing:
                        return
                    await asyncio.sleep(TOPIC_LOOK_S)
        except TimeoutError:
            raise PipelineFault(
                route.pipeline, f"no topic {', '.join(missing)} after {self._settings.topics_wait_s:g} s: governance makes them"
            ) from None

    async def _lacks(self, topic: str) -> bool:
        return await asyncio.to_thread(self._admin.partitions, topic) is None


class FolderThread(LoopThread):
    """A door that waits for a broker must be told that the wait is over."""

    def __init__(self, door: FolderDoor, chassis: Chassis[Settings]) -> None:
        super().__init__(door.name, lambda: door, chassis.health)
        self._door = door

    async def stop(self) -> None:
        self._door.stop()
        await super().stop()


def build(chassis: Chassis[Settings]) -> Sequence[Part]:
    """The parts of the service, in the order they start."""
    settings = chassis.settings
    telemetry = Telemetry(chassis.metrics.registry)
    routes = Routes()
    codec = plan_codec(settings)
    store = RocksStore(settings.state_dir / "written")
    setup = WriterSetup(telemetry, chassis.tracing, chassis.clock, settings.id_hold_s * 1000)
    bounds = DeskBounds(settings.in_flight_batches_max, settings.in_flight_bytes_max)
    desk = Desk(Writer(chassis.bus, codec, store, setup), telemetry, bounds)
    http = HttpDoor(routes, desk, telemetry, HttpBounds(settings.body_bytes_max, settings.body_rows_max))
    folder = FolderDoor(settings.drop_dir, routes, desk, telemetry, settings.drop_poll_s)

    chassis.http.include_router(http.router())

    @chassis.http.get("/v1/status")
    async def status() -> dict[str, object]:
        """Open sources and what became of their rows in this process."""
        return {"sources": {f"{r.pipeline}/{r.source.name}": telemetry.tally(r) for r in routes.all()}}

    return [
        LoopThread(desk.name, lambda: desk, chassis.health),
        Pipelines(chassis, codec, routes, desk, telemetry),
        FolderThread(folder, chassis),
    ]


def main() -> int:
    """Run until stopped; returns the exit code."""
    return run_service(Settings, build)
