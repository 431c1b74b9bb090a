"""Wiring: plans come in, one worker thread per feature set goes round."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from functools import partial
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
from headrace.plan.ir import Plan, Stream
from headrace.plan.reading import read_plan
from headrace.plan.retained import sets_in_play
from svc_stream.base import Bases
from svc_stream.engine import SetWorker
from svc_stream.owned import worker_of
from svc_stream.pauses import shorten_pauses
from svc_stream.settings import StreamSettings
from svc_stream.streams.worker import StreamWorker
from svc_stream.tasks import Surroundings
from svc_stream.telemetry import StreamMetrics
from svc_stream.topology import add_routes

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
        self._workers: dict[tuple[str, str], SetWorker | StreamWorker] = {}
        self._watchers: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] = asyncio.Future()
        self.plans = FollowPlans(chassis, self.codec, parse=read_plan, apply=self.apply, retire=self.retire)

    async def apply(self, plan: Plan, epoch: int) -> None:
        """Start the workers of new feature sets, then stop those of dropped ones: whole, or as it was.

        Raises: PipelineFault to park the plan, Retryable to be asked again.
        """
        for event in plan.events:
            await asyncio.to_thread(self.codec.register_event, event_schema(plan, event))
        wanted: dict[tuple[str, str], Start] = {
            (plan.pipeline, digest): partial(worker_of, *version) for digest, version in sets_in_play(plan).items()
        }
        # Only the plan in force makes events: two versions of a stream would both write its topic.
        wanted |= {(plan.pipeline, stream.hash): partial(StreamWorker, plan, stream) for stream in plan.streams}
        reports = reporters(plan)
        for key in [(plan.pipeline, stream.hash) for stream in plan.streams if self._stored_otherwise(plan.pipeline, stream)]:
            await self._stop(key)  # the same results, kept elsewhere: it begins again from its changelog
        started: list[tuple[str, str]] = []
        try:
            for key in [k for k in wanted if k not in self._threads]:
                await self._start(key, wanted[key], reports[key[1]])
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

    def _stored_otherwise(self, pipeline: str, stream: Stream) -> bool:
        worker = self._workers.get((pipeline, stream.hash))
        return isinstance(worker, StreamWorker) and worker.stream.store != stream.store

    async def _start(self, key: tuple[str, str], start: Start, reports: frozenset[str]) -> None:
        def build() -> SetWorker | StreamWorker:
            worker = self._workers[key] = start(self._around, reports)
            return worker

        thread = LoopThread(f"{key[0]}/{key[1][:8]}", build, self._chassis.health)
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
        """Rates, maxima and tasks per feature set and per stream."""
        return {f"{pipeline}/{w.title}/{digest[:8]}": w.metrics.page() for (pipeline, digest), w in self._workers.items()}

    def streams(self) -> dict[tuple[str, str], StreamWorker]:
        """The workers of streams, by pipeline and hash."""
        return {key: worker for key, worker in self._workers.items() if isinstance(worker, StreamWorker)}

    async def start(self) -> None:
        """Nothing to do before a plan comes."""

    async def wait(self) -> None:
        await self._failed

    async def stop(self) -> None:
        for key in list(self._threads):
            await self._stop(key)


def reporters(plan: Plan) -> dict[str, frozenset[str]]:
    """By set hash the events whose rejected records that set writes out: each event has exactly one reporter.

    A set of a retained version reports only what nothing of the plan in force reads: its law may be an older one. A stream
    that reads an event as a table reports it before others: to them a deletion is a broken record.
    """
    readers = [(1 + (version is not plan), s.hash, frozenset(s.events)) for version, s in sets_in_play(plan).values()]
    readers += [(1, s.hash, frozenset(i.event for i in s.inputs if not i.table)) for s in plan.streams]
    readers += [(0, s.hash, frozenset(i.event for i in s.inputs if i.table)) for s in plan.streams]
    names = {name for _, _, events in readers for name in events}
    of = {name: min((old, digest) for old, digest, events in readers if name in events)[1] for name in names}
    return {digest: frozenset(e for e, reporter in of.items() if reporter == digest) for _, digest, _ in readers}


Start = Callable[[Surroundings, frozenset[str]], SetWorker | StreamWorker]


def build(chassis: Chassis[StreamSettings]) -> Sequence[Part]:
    """The parts of the service, in the order they start."""
    pipelines = Pipelines(chassis)

    @chassis.http.get("/v1/status")
    async def status() -> dict[str, object]:
        return pipelines.status()

    add_routes(chassis.http, pipelines.streams, chassis.clock.monotonic_s)
    return [pipelines, pipelines.plans]


def main() -> int:
    """Run until stopped; returns the exit code."""
    shorten_pauses()
    return run_service(StreamSettings, build)
