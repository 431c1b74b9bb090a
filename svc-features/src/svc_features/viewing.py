"""The views of one pipeline's replicated sets, fed by one thread. A view that fails is tried again; the archive goes on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence

from headrace.chassis.app import Chassis
from headrace.chassis.bus import TopicPartition
from headrace.chassis.errors import Retryable
from headrace.chassis.health import Heartbeat
from headrace.chassis.logs import logger
from headrace.chassis.state import RocksStore
from headrace.chassis.view import StateView, ViewFollower
from headrace.chassis.worker import LoopThread
from headrace.contracts.codec import Codec
from headrace.contracts.records import Progress
from headrace.plan.ir import FeatureSet, Plan
from headrace.plan.topics import state_topic
from svc_features.reading import SetReader, head_of
from svc_features.settings import FeaturesSettings

FOLLOW_WAIT_S = 0.1
RETRY_S = 5.0  # a state that does not open or read is looked at again so often
_log = logger(__name__)


class _ViewLoop:
    """Opens the local copies in its thread and steps the follower."""

    def __init__(self, viewing: Viewing, chassis: Chassis[FeaturesSettings]) -> None:
        self.name = f"views {viewing.plan.pipeline}"
        self.heartbeat = Heartbeat(self.name, chassis.clock)
        self._views: list[StateView] = []
        self._follower: ViewFollower | None = None
        try:
            readers = {s.name: self._reader(viewing, s, chassis) for s in viewing.sets}
            settings = chassis.settings
            consumer = chassis.bus.consumer(None, f"{settings.service}.{viewing.plan.pipeline}.views.{settings.instance}")
            self._follower = ViewFollower(self._views, consumer, chassis.clock, chassis.metrics)
        except BaseException:
            self.close()
            raise
        viewing.readers, viewing.trouble = readers, ""

    def _reader(self, viewing: Viewing, feature_set: FeatureSet, chassis: Chassis[FeaturesSettings]) -> SetReader:
        topic, codec = state_topic(viewing.plan, feature_set), viewing.codec

        def decode(raw: bytes) -> Progress:
            return codec.decode(raw, Progress)

        views: list[StateView] = []
        for p in range(feature_set.partitions):
            folder = chassis.settings.state_dir / "views" / re.sub(r"[^A-Za-z0-9._-]", "_", f"{topic}-{p}")
            views.append(StateView(TopicPartition(topic, p), RocksStore(folder), decode))
            self._views.append(views[-1])
        return SetReader(feature_set, views, codec, head_of(codec, topic))

    def step(self) -> int:
        """Records of a broker that is away come later: the view stands still, and reads show it as stale."""
        self.heartbeat.beat()
        assert self._follower is not None
        try:
            return self._follower.step(FOLLOW_WAIT_S)
        except Retryable as error:
            _log.warning("view_not_fed", loop=self.name, error=str(error))
            return 0

    def close(self) -> None:
        if self._follower is not None:
            self._follower.close()
        for view in self._views:
            view.live = False  # whoever still holds a reader hears that it is not there, not that a store is closed
            view.store.close()


class Viewing:
    """The readers of one plan; empty until the local copies are open. A set answers once its views are live."""

    def __init__(self, plan: Plan, codec: Codec, chassis: Chassis[FeaturesSettings]) -> None:
        self.plan, self.codec, self._chassis = plan, codec, chassis
        self.sets: Sequence[FeatureSet] = [s for s in plan.feature_sets if s.placement == "replicated"]
        self.readers: Mapping[str, SetReader] = {}
        self.trouble = "views are being opened"
        self._thread: LoopThread | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Returns at once."""
        if self.sets:
            self._task = asyncio.create_task(self._run(), name=f"{self.plan.pipeline}/views")

    async def _run(self) -> None:
        while True:
            self._thread = LoopThread(
                f"{self.plan.pipeline}/views", lambda: _ViewLoop(self, self._chassis), self._chassis.health
            )
            try:
                await self._thread.start()
                await self._thread.wait()
                return
            except Exception as error:
                self.readers, self.trouble = {}, f"{type(error).__name__}: {error}"
                _log.warning("views_to_be_retried", pipeline=self.plan.pipeline, error=self.trouble)
            await asyncio.sleep(RETRY_S)

    async def stop(self) -> None:
        """The stores are closed when this returns."""
        self.readers, self.trouble = {}, "the pipeline is being changed"
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._thread is not None:
            await self._thread.stop()
