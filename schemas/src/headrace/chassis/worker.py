"""A loop in a thread of its own, as a part of the service: the event loop stays free for health and HTTP."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Protocol

from headrace.chassis.health import Health, Heartbeat
from headrace.chassis.logs import logger

_log = logger("headrace.worker")


class Loop(Protocol):
    """What a thread can go round with."""

    name: str
    heartbeat: Heartbeat

    def step(self) -> int: ...
    def close(self) -> None: ...


class LoopThread:
    """Builds the loop in its thread (clients are not thread-safe), steps until stopped, then closes it."""

    def __init__(self, name: str, build: Callable[[], Loop], health: Health) -> None:
        self._name = name
        self._build = build
        self._health = health
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._built: asyncio.Future[None] | None = None
        self._ended: asyncio.Future[None] | None = None

    @property
    def name(self) -> str:
        return self._name

    async def start(self) -> None:
        """Return when the loop is built; raises what its building raised."""
        self._loop = asyncio.get_running_loop()
        self._built, self._ended = self._loop.create_future(), self._loop.create_future()
        self._ended.add_done_callback(lambda f: f.cancelled() or f.exception())  # seen, whoever waits
        self._thread.start()
        await asyncio.shield(self._built)

    async def wait(self) -> None:
        if self._ended is not None:
            await asyncio.shield(self._ended)

    async def stop(self) -> None:
        """Ends after the round under way. A failure of the loop was told by wait and is not raised again."""
        self._stop.set()
        if self._ended is not None:
            await asyncio.wait({self._ended})

    def _run(self) -> None:
        loop: Loop | None = None
        failure: Exception | None = None
        try:
            loop = self._build()
            self._health.watch(loop.heartbeat)
            self._tell(self._built, None)
            while not self._stop.is_set():
                loop.step()
        except Exception as error:
            failure = error
            _log.error("loop_failed", loop=self._name, error=str(error), kind=type(error).__name__)
        finally:
            if loop is not None:
                self._health.unwatch(loop.heartbeat)
                failure = self._close(loop, failure)
            self._tell(self._built, failure)
            self._tell(self._ended, failure)

    def _close(self, loop: Loop, failure: Exception | None) -> Exception | None:
        try:
            loop.close()
        except Exception as error:
            _log.warning("loop_not_closed", loop=self._name, error=str(error))
            return failure or error
        return failure

    def _tell(self, future: asyncio.Future[None] | None, failure: Exception | None) -> None:
        def resolve() -> None:
            if future is not None and not future.done():
                if failure is None:
                    future.set_result(None)
                else:
                    future.set_exception(failure)

        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(resolve)
