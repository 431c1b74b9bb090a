"""Is it alive, is it ready, and if not why: kept by the parts of a service, read by the orchestrator."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from enum import StrEnum

from headrace.chassis.clock import Clock, SystemClock

HEARTBEAT_LIMIT_S = 60.0  # a loop that has not gone round for so long hangs: longer than any bounded call inside it


class State(StrEnum):
    """STARTING -> READY <-> WAITING -> STOPPING; FAILED ends all but STOPPING.

    STARTING becomes READY when every reason to wait is gone; WAITING when one comes back.
    """

    STARTING = "starting"
    READY = "ready"
    WAITING = "waiting"
    STOPPING = "stopping"
    FAILED = "failed"


class Heartbeat:
    """Proof that a loop goes round. Beaten from its thread, read from the event loop."""

    def __init__(self, name: str, clock: Clock | None = None, limit_s: float = HEARTBEAT_LIMIT_S) -> None:
        self.name = name
        self.limit_s = limit_s
        self._clock = clock or SystemClock()
        self._last_s = self._clock.monotonic_s()

    def beat(self) -> None:
        self._last_s = self._clock.monotonic_s()

    @property
    def age_s(self) -> float:
        return self._clock.monotonic_s() - self._last_s


@dataclass(frozen=True, slots=True)
class Report:
    """What /health/ready says."""

    state: State
    reasons: dict[str, str] = field(default_factory=dict)  # why not ready, by who waits
    parked: dict[str, str] = field(default_factory=dict)  # pipelines on their last-known-good; does not make unready

    @property
    def ready(self) -> bool:
        return self.state is State.READY


class Health:
    """Thread-safe. A part that is not ready yet says why by name, and takes it back by the same name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, str] = {"start": "parts are starting"}
        self._parked: dict[str, str] = {}
        self._heartbeats: dict[str, Heartbeat] = {}
        self._was_ready = self._stopping = False
        self._failure: str | None = None

    def wait_for(self, name: str, reason: str) -> None:
        with self._lock:
            self._waiting[name] = reason

    def ready(self, name: str) -> None:
        with self._lock:
            self._waiting.pop(name, None)
            self._was_ready = self._was_ready or not self._waiting

    def park(self, pipeline: str, reason: str) -> None:
        with self._lock:
            self._parked[pipeline] = reason

    def unpark(self, pipeline: str) -> None:
        with self._lock:
            self._parked.pop(pipeline, None)

    def watch(self, heartbeat: Heartbeat) -> None:
        """From now on liveness needs this loop to go round."""
        with self._lock:
            heartbeat.beat()
            self._heartbeats[heartbeat.name] = heartbeat

    def unwatch(self, heartbeat: Heartbeat) -> None:
        with self._lock:
            self._heartbeats.pop(heartbeat.name, None)

    def fail(self, reason: str) -> None:
        with self._lock:
            self._failure = reason

    def stop(self) -> None:
        with self._lock:
            self._stopping = True

    def silent(self) -> dict[str, float]:
        """Loops that no longer go round, with the age of their last beat in seconds. Empty means alive."""
        with self._lock:
            return {h.name: h.age_s for h in self._heartbeats.values() if h.age_s > h.limit_s}

    def ages(self) -> dict[str, float]:
        """Seconds since each watched loop last went round."""
        with self._lock:
            return {h.name: h.age_s for h in self._heartbeats.values()}

    def report(self) -> Report:
        with self._lock:
            reasons = dict(self._waiting)
            if self._failure is not None:
                reasons["failure"] = self._failure
            return Report(self._state(), reasons, dict(self._parked))

    def _state(self) -> State:
        if self._stopping:
            return State.STOPPING
        if self._failure is not None:
            return State.FAILED
        if self._waiting:
            return State.WAITING if self._was_ready else State.STARTING
        return State.READY
