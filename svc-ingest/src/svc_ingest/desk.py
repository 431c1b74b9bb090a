"""Admission: what may wait for the writer, bounded in batches and bytes, and the one thread that writes.

    door -> enter (refused when full) -> hand_in -> [queue] -> writer thread: rounds of what waits -> receipt -> leave

The writer thread also opens routes, so that everything that touches the ledger happens in one thread.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from headrace.chassis.health import Heartbeat
from headrace.contracts.errors import HeadraceError, Retryable
from svc_ingest.ports import Batch, Receipt, Route
from svc_ingest.telemetry import Telemetry
from svc_ingest.writer import Writer

ROUND_BATCHES_MAX = 32
ROUND_BYTES_MAX = 8 << 20  # of bodies; a round's rows and encoded events are held in memory at once
STOPPING = "this replica is stopping: send the batch again"


class Full(HeadraceError):
    """Too much waits already: come back in retry_after_s."""

    def __init__(self, detail: str, retry_after_s: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class DeskBounds:
    in_flight_batches_max: int = 64
    in_flight_bytes_max: int = 64 << 20
    idle_s: float = 1.0  # how often the thread shows it lives while nothing waits


@dataclass(slots=True)
class _Job:
    batch: Batch
    answer: Future[Receipt]


@dataclass(slots=True)
class _Call:
    run: Callable[[], Any]
    answer: Future[Any]


class Desk:
    """Doors hand batches in from any thread; the writer thread steps."""

    def __init__(self, writer: Writer, telemetry: Telemetry, bounds: DeskBounds | None = None) -> None:
        self._writer = writer
        self._telemetry = telemetry
        self.bounds = bounds or DeskBounds()
        self._waiting: queue.Queue[_Job | _Call] = queue.Queue()  # bounded by `enter`
        self._lock = threading.Lock()
        self._batches = 0
        self._bytes = 0
        self._closed = False
        self.name = "writer"
        self.heartbeat = Heartbeat(self.name)

    @contextmanager
    def enter(self, size_bytes: int) -> Iterator[None]:
        """Hold a place for a body of this size, from before it is read until its answer is known.

        Raises: Full if the bounds are reached.
        """
        bounds = self.bounds
        with self._lock:
            if self._batches >= bounds.in_flight_batches_max:
                raise Full(f"{self._batches} batches are in flight, at most {bounds.in_flight_batches_max}")
            if self._bytes + size_bytes > bounds.in_flight_bytes_max:
                raise Full(f"{self._bytes} bytes are in flight and {size_bytes} more would pass {bounds.in_flight_bytes_max}")
            self._count(1, size_bytes)
        try:
            yield
        finally:
            with self._lock:
                self._count(-1, -size_bytes)

    def _count(self, batches: int, size_bytes: int) -> None:
        self._batches += batches
        self._bytes += size_bytes
        self._telemetry.in_flight(self._batches, self._bytes)

    def hand_in(self, batch: Batch) -> Future[Receipt]:
        """The receipt, once everything is durable. Fails with Retryable (send it again) or the batch's own fault."""
        answer: Future[Receipt] = Future()
        self._put(_Job(batch, answer), answer)
        return answer

    def open(self, route: Route) -> Future[None]:
        """Make a route writable, in the writer's thread."""
        answer: Future[None] = Future()
        self._put(_Call(lambda: self._writer.open(route), answer), answer)
        return answer

    def _put(self, job: _Job | _Call, answer: Future[Any]) -> None:
        with self._lock:
            if not self._closed:
                self._waiting.put(job)
                return
        answer.set_exception(Retryable(STOPPING))

    def step(self) -> int:
        """One round: waits at most idle_s for work; returns the batches written. The writer thread's body."""
        self.heartbeat.beat()
        jobs, call = self._take()
        if jobs:
            self._write(jobs)
        if call is not None and call.answer.set_running_or_notify_cancel():
            try:
                call.answer.set_result(call.run())
            except Exception as fault:
                call.answer.set_exception(fault)
                if not isinstance(fault, Retryable):
                    raise
        return len(jobs)

    def close(self) -> None:
        """Refuse what waits and what still comes; nothing handed in stays without an answer."""
        with self._lock:
            self._closed = True
        while True:
            try:
                job = self._waiting.get_nowait()
            except queue.Empty:
                break
            if job.answer.set_running_or_notify_cancel():
                job.answer.set_exception(Retryable(STOPPING))
        self._writer.close()

    def _take(self) -> tuple[list[_Job], _Call | None]:
        """What waits, up to a round's bounds; a call closes the round."""
        jobs: list[_Job] = []
        size_bytes = 0
        try:
            job = self._waiting.get(timeout=self.bounds.idle_s)
            while isinstance(job, _Job):
                if job.answer.set_running_or_notify_cancel():
                    jobs.append(job)
                    size_bytes += job.batch.size_bytes
                if len(jobs) >= ROUND_BATCHES_MAX or size_bytes >= ROUND_BYTES_MAX:
                    return jobs, None
                job = self._waiting.get_nowait()
        except queue.Empty:
            return jobs, None
        return jobs, job

    def _write(self, jobs: list[_Job]) -> None:
        try:
            results = self._writer.write([job.batch for job in jobs])
        except Retryable as fault:
            self._telemetry.round_failed(len(jobs), fault)
            for job in jobs:
                job.answer.set_exception(fault)
            return
        except BaseException as fault:
            for job in jobs:
                job.answer.set_exception(Retryable(f"not written: {fault}"))
            raise
        for job, result in zip(jobs, results, strict=True):
            if isinstance(result, Exception):
                job.answer.set_exception(result)
            else:
                self._telemetry.batch_done(job.batch.route, result)
                job.answer.set_result(result)
