"""Works on runs: leases one, trains in a process of its own, signs, leaves the candidate in the outbox.

    lease -> data set from the object store -> training process -> verify parity -> sign manifest -> DONE + ModelTrained

A killed worker's lease runs out and the next one begins the step again; what the dead one still does carries an old
fence and changes nothing. A run that was begun ATTEMPTS_MAX times in vain has failed, so none can hold the service up.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from headrace.chassis.bus import Producer
from headrace.chassis.clock import Clock
from headrace.chassis.logs import logger
from headrace.chassis.retry import Backoff, RetryPolicy
from headrace.contracts.catalogue import MODEL_CANDIDATES, TRAINING_RUNS
from headrace.contracts.codec import Codec
from headrace.contracts.errors import Poison, Retryable
from headrace.contracts.records import DatasetBuilt, RunState, TrainingRequested
from svc_train.adapters.process import STDERR_CHARS, JobFailed, run_job
from svc_train.handlers import changed_record, key_of
from svc_train.ports import FindChampion, FindModel, Jobs, LeaseLost, Message, Run
from svc_train.settings import TrainSettings
from svc_train.telemetry import TrainMetrics
from svc_train.workshop import RunFailed, Task, Workshop

IDLE_S = 0.3  # between looks at an empty table
ATTEMPTS_MAX = 6  # leases of one run; the first only asks for the data set
FLUSH_S = 30.0
_log = logger(__name__)
T = TypeVar("T")


async def insist(clock: Clock, act: Callable[[], Awaitable[T]]) -> T:
    """Do something idempotent until the world lets it happen. Raises: Fatal when the budget is spent."""
    backoff: Backoff | None = None
    while True:
        try:
            return await act()
        except Retryable as error:
            now_s = clock.monotonic_s()
            backoff = backoff or Backoff(RetryPolicy(), now_s, random.Random())
            backoff.failed(now_s, error)
            _log.warning("to_be_retried", attempt=backoff.attempts, error=str(error))
            await asyncio.sleep(max(0.0, backoff.due_s - now_s))


class _Going:
    """A part of the service that is one task."""

    name = "going"

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._go(), name=self.name)

    async def wait(self) -> None:
        assert self._task is not None, "started"
        await asyncio.shield(self._task)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _go(self) -> None:
        raise NotImplementedError


class Runner(_Going):
    """A part of the service: one run at a time. Stopped, it leaves the run under way to the next lease."""

    name = "runner"

    def __init__(
        self,
        jobs: Jobs,
        workshop: Workshop,
        codec: Codec,
        settings: TrainSettings,
        clock: Clock,
        find: FindModel,
        champion: FindChampion,
        metrics: TrainMetrics,
    ) -> None:
        super().__init__()
        self._jobs, self._shop, self._codec, self._settings, self._clock = jobs, workshop, codec, settings, clock
        self._find, self._champion, self._metrics = find, champion, metrics
        self._work_dir = settings.state_dir / "training"

    async def _go(self) -> None:
        await asyncio.to_thread(shutil.rmtree, self._work_dir, True)  # what a killed life of this replica left
        while True:
            run = await insist(self._clock, self._lease)
            if run is None:
                await asyncio.sleep(IDLE_S)
                continue
            try:
                await self._hold(run)
            except LeaseLost as lost:
                _log.warning("lease_lost", run=run.run_id[:12], detail=str(lost))
            except Retryable as error:  # comes again when its lease has run out
                _log.warning("run_interrupted", run=run.run_id[:12], fence=run.fence, error=str(error))

    async def _lease(self) -> Run | None:
        return await self._jobs.lease(self._settings.lease_s, self._settings.dataset_timeout_s)

    async def _hold(self, run: Run) -> None:
        """Work while the lease holds; a lost lease ends the work at once."""
        tasks = [asyncio.create_task(self._work(run)), asyncio.create_task(self._renew(run))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _renew(self, run: Run) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_s / 3)
            try:
                await self._jobs.renew(run, self._settings.lease_s)
            except Retryable as error:
                _log.warning("lease_not_renewed", run=run.run_id[:12], error=str(error))

    async def _work(self, run: Run) -> None:
        request = TrainingRequested.from_avro(run.request)
        if run.state == "ACCEPTED" and run.dataset is None:  # the outbox asks for its data set
            await self._enter(run, request, RunState.DATASET, "waiting for the data set")
            return
        _log.info("run_started", run=run.run_id[:12], fence=run.fence)
        timed = self._metrics.seconds.labels(request.pipeline, request.model).time()
        try:
            with self._metrics.under_way.track_inprogress(), timed:
                candidate = await self._train(run, request)
        except (RunFailed, JobFailed, Poison, ValueError) as error:
            _log.error("run_failed", run=run.run_id[:12], error=str(error))
            await self._enter(run, request, RunState.FAILED, str(error)[:STDERR_CHARS])
            return
        await self._enter(run, request, RunState.DONE, "", candidate)
        _log.info("run_done", run=run.run_id[:12])

    async def _train(self, run: Run, request: TrainingRequested) -> Message:
        """The run's candidate. Raises: RunFailed, JobFailed, Poison, ValueError: this run cannot give one; Retryable."""
        if run.dataset is None:
            raise RunFailed(f"no data set within {self._settings.dataset_timeout_s:g} s: does svc-features run?")
        if run.fence > ATTEMPTS_MAX:
            raise RunFailed(f"given up after {ATTEMPTS_MAX} leases: the log says what interrupted them")
        dataset = DatasetBuilt.from_avro(run.dataset)
        if not dataset.ok:
            raise RunFailed(f"data set: {dataset.error}")
        found = self._find(request.pipeline, request.plan_hash, request.model)
        if found is None:
            raise RunFailed(f"plan {request.plan_hash[:8]} is no longer in force")
        await self._enter(run, request, RunState.TRAINING, "", keep_lease=True)
        task = Task(run.run_id, request, dataset, *found)
        self._work_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._work_dir, prefix="run-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            champion = self._champion(request.pipeline, request.model)
            await asyncio.to_thread(self._shop.lay_out, folder, task, champion)
            await run_job(folder, self._settings.training_timeout_s)
            trained = await asyncio.to_thread(self._shop.finish, folder, task)
        return Message("candidate", MODEL_CANDIDATES, key_of(request), self._codec.encode(MODEL_CANDIDATES, trained))

    async def _enter(
        self,
        run: Run,
        request: TrainingRequested,
        state: RunState,
        detail: str,
        *messages: Message,
        keep_lease: bool = False,
    ) -> None:
        record = changed_record(run.run_id, request, state, run.fence, detail, self._clock.now_ms())
        value = self._codec.encode(TRAINING_RUNS, record)
        said = Message(f"run-{state.value}-{run.fence}", TRAINING_RUNS, key_of(request), value)
        self._metrics.entered.labels(request.pipeline, request.model, state.value.lower()).inc()
        await insist(self._clock, lambda: self._jobs.change(run, state.value, detail, [*messages, said], keep_lease=keep_lease))


class Outbox(_Going):
    """A part of the service: publishes what runs left, in order; again after a crash, so consumers go by id."""

    name = "outbox"

    def __init__(self, jobs: Jobs, producer: Producer, clock: Clock) -> None:
        super().__init__()
        self._jobs, self._producer, self._clock = jobs, producer, clock

    async def stop(self) -> None:
        await super().stop()
        self._producer.close()

    async def _go(self) -> None:
        while True:
            if not await insist(self._clock, self.publish):
                await asyncio.sleep(IDLE_S)

    async def publish(self) -> int:
        """Publish what is there, then say so; in between a crash publishes it again. Returns how many."""
        found = await self._jobs.unsent()
        if found:
            await asyncio.to_thread(self._send, [message for _, message in found])
            await self._jobs.sent([number for number, _ in found])
        return len(found)

    def _send(self, messages: list[Message]) -> None:
        for m in messages:
            self._producer.produce(m.topic, m.value, m.key.encode())
        self._producer.flush(FLUSH_S)
