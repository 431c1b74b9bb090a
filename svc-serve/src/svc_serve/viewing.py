"""The views of one pipeline, fed by one thread."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.chassis.app import Chassis
from headrace.chassis.errors import Fatal, PipelineFault, Retryable
from headrace.chassis.health import Heartbeat
from headrace.chassis.logs import logger
from headrace.chassis.view import StateView, ViewFollower
from headrace.chassis.worker import LoopThread
from svc_serve.settings import ServeSettings

LIVE_WAIT_STEP_S = 0.05
FOLLOW_WAIT_S = 0.1
_log = logger(__name__)


class _ViewLoop:
    """Steps the follower; built in its thread, live before it is handed over."""

    def __init__(self, pipeline: str, views: Sequence[StateView], chassis: Chassis[ServeSettings]) -> None:
        self.name = f"views {pipeline}"
        self.heartbeat = Heartbeat(self.name, chassis.clock)
        self._pipeline, self._views, self._health = pipeline, views, chassis.health
        self._overtaken = False
        consumer = chassis.bus.consumer(None, f"svc-serve.{pipeline}.views.{chassis.settings.instance}")
        self._follower = ViewFollower(views, consumer, chassis.clock, chassis.metrics)
        try:
            while not self._follower.live:  # no answer before the log end seen at the start
                self._step(LIVE_WAIT_STEP_S)
        except BaseException:
            self.close()
            raise

    def step(self) -> int:
        """Raises PipelineFault if the state cannot be read: its cut stays where it is, and others go on."""
        applied = self._step(FOLLOW_WAIT_S)
        if self._overtaken != (not self._follower.live):  # requests wait, or get a 503; others had better not come here
            self._overtaken = not self._overtaken
            if self._overtaken:
                self._health.wait_for(self.name, "feature state is older than compaction waits: reading on to its end")
            else:
                self._health.ready(self.name)
        return applied

    def _step(self, wait_s: float) -> int:
        self.heartbeat.beat()
        try:
            return self._follower.step(wait_s)
        except Retryable as error:  # a broker that is away: the view stands still, requests see it as stale
            _log.warning("view_not_fed", loop=self.name, error=str(error))
            return 0
        except Fatal:
            raise
        except Exception as error:
            raise PipelineFault(self._pipeline, f"feature state: {type(error).__name__}: {error}") from error

    def close(self) -> None:
        self._health.ready(self.name)
        self._follower.close()
        for view in self._views:
            view.store.close()


class Viewing:
    """Starts when every view is live."""

    def __init__(self, pipeline: str, views: Sequence[StateView], chassis: Chassis[ServeSettings]) -> None:
        self.views = views
        self.thread = LoopThread(f"{pipeline}/views", lambda: _ViewLoop(pipeline, views, chassis), chassis.health)

    async def start(self) -> None:
        await self.thread.start()

    async def stop(self) -> None:
        await self.thread.stop()

    def maxima(self) -> dict[str, int]:
        """Per event the largest event time every view has reached, ms UTC: what a request may rely on."""
        tops: dict[str, dict[str, int]] = {}
        for view in self.views:
            found: dict[str, int] = {}
            for cut in view.progress.cut if view.progress else ():
                if cut.maximum_ms is not None:
                    found[cut.event] = max(cut.maximum_ms, found.get(cut.event, cut.maximum_ms))
            tops[f"{view.partition.topic}-{view.partition.partition}"] = found
        events = {event for found in tops.values() for event in found}
        return {e: min(found[e] for found in tops.values() if e in found) for e in events}
