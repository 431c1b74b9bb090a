"""A service's life: read settings, build its parts, start them in order, run, stop them in reverse, exit with a code.

    settings -> logs, traces, metrics, health -> HTTP (alive, not ready) -> parts in order -> ready -> signal or failure
    -> unready -> parts in reverse, each bounded -> HTTP -> traces -> exit

Exit codes: 0 stopped by a signal, 1 failed, 2 settings refused.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import uvloop
from fastapi import FastAPI

from headrace.chassis.bus import Bus
from headrace.chassis.bus_confluent import ConfluentBus
from headrace.chassis.clock import Clock, SystemClock
from headrace.chassis.errors import Fatal
from headrace.chassis.health import Health
from headrace.chassis.http import HttpServer, create_app
from headrace.chassis.logs import configure_logs, logger
from headrace.chassis.metrics import ChassisMetrics
from headrace.chassis.observed import ProcessFacts
from headrace.chassis.settings import ServiceSettings
from headrace.chassis.tracing import Tracing, exporter

PART_STOP_S = 15.0  # one part's way to an orderly end; then it is left behind
LAG_INTERVAL_S = 0.1

S = TypeVar("S", bound=ServiceSettings)
_log = logger("headrace.app")


class Part(Protocol):
    """Something that runs for the life of the service: a loop, a reader, a server, a pool."""

    @property
    def name(self) -> str: ...
    async def start(self) -> None:
        """Return when it does its work (a control reader: when it has read all). Raises Fatal."""
        ...

    async def wait(self) -> None:
        """Return or raise when it ended by itself; both end the service. Cancelled when the service stops first."""
        ...

    async def stop(self) -> None:
        """Orderly end; also called when start or wait failed."""
        ...


@dataclass(frozen=True)
class Chassis(Generic[S]):
    """What every service gets to build its parts from."""

    settings: S
    clock: Clock
    bus: Bus
    health: Health
    metrics: ChassisMetrics
    tracing: Tracing
    http: FastAPI


Build = Callable[[Chassis[S]], Sequence[Part]]


def run_service(settings_type: type[S], build: Build[S]) -> int:
    """Run a service until SIGTERM, SIGINT or a failure; returns the exit code. Call as sys.exit(run_service(...))."""
    try:
        settings = settings_type.load()
        bus = ConfluentBus(settings.bootstrap, settings.kafka())
    except Fatal as error:
        print(f"{settings_type.service}: {error}", file=sys.stderr)
        return 2
    configure_logs(settings.service, settings.instance, settings.log_level)
    tracing = Tracing(settings.service, settings.instance, exporter(settings.zipkin_url, settings.otlp_url))
    health, metrics, clock = Health(), ChassisMetrics(), SystemClock()
    metrics.registry.register(ProcessFacts(health, settings.state_dir, clock, settings.certificates()))
    chassis = Chassis(
        settings,
        clock,
        bus,
        health,
        metrics,
        tracing,
        create_app(settings.service, health, metrics),
    )
    code = 1
    try:
        code = uvloop.run(serve(chassis, build))
    finally:
        tracing.stop()
        _log.info("service_stopped", exit_code=code)
        sys.stdout.flush()
    if code != 0:
        os._exit(code)  # a thread that hangs in a failed client must not keep a failed process alive
    return code


async def serve(chassis: Chassis[S], build: Build[S], *, stop: asyncio.Event | None = None) -> int:
    """The life inside an event loop; stop stands in for a signal."""
    settings, health = chassis.settings, chassis.health
    loop = asyncio.get_running_loop()
    if stop_by_signal := stop is None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
    server = HttpServer(chassis.http, settings.http_host, settings.http_port)
    lag = asyncio.create_task(_measure_lag(chassis.metrics), name="event-loop-lag")
    started: list[Part] = []
    code = 0
    try:
        for part in (server, *build(chassis)):
            if not await _start(part, started, stop):
                break
        if not stop.is_set():
            health.ready("start")
            _log.info("service_started", port=server.port, parts=[p.name for p in started])
            await _until_first(started, stop)
    except Exception as error:
        code = 1
        health.fail(str(error))
        _log.error("service_failed", error=str(error), kind=type(error).__name__, exc_info=not isinstance(error, Fatal))
    finally:
        health.stop()
        lag.cancel()
        for part in reversed(started):
            code = max(code, await _stop(part))
        if stop_by_signal:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
    return code


async def _start(part: Part, started: list[Part], stop: asyncio.Event) -> bool:
    """Start one part unless the service is told to stop meanwhile. It counts as started even if that fails."""
    started.append(part)
    starting = asyncio.ensure_future(part.start())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if starting.done():
        starting.result()
        return True
    starting.cancel()
    await asyncio.wait({starting}, timeout=PART_STOP_S)
    return False


async def _until_first(parts: Sequence[Part], stop: asyncio.Event) -> None:
    """Until the signal (returns) or until a part ends (raises what ended it, or Fatal if it just returned)."""
    waits = {asyncio.create_task(part.wait(), name=part.name) for part in parts}
    stopping = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait({*waits, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stopping}:
            task.result()
            raise Fatal(f"part {task.get_name()} ended by itself")
    finally:
        stopping.cancel()
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


async def _stop(part: Part) -> int:
    try:
        async with asyncio.timeout(PART_STOP_S):
            await part.stop()
    except Exception as error:
        _log.error("part_not_stopped", part=part.name, error=str(error) or type(error).__name__)
        return 1
    return 0


async def _measure_lag(metrics: ChassisMetrics) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_INTERVAL_S
        await asyncio.sleep(LAG_INTERVAL_S)
        metrics.event_loop_lag_seconds.observe(max(0.0, loop.time() - due))
