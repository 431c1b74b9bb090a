"""Calls over REST that wait for the owner of their entity: asked by an event of their own, answered by the scoring door.

called --event--> owner --ScoringInput--> scoring door --settled--> reply
   \\---------------- deadline passed: the REST door answers by the rules, and what the owner sends later is a repeat
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from svc_serve.domain.request import Request


class Call(Protocol):
    """One caller who waits."""

    @property
    def request(self) -> Request: ...
    def answer(self, body: bytes) -> None: ...


C = TypeVar("C", bound=Call)


class Awaited(Generic[C]):
    """By request id; thread-safe. Bounded by what the REST door lets in."""

    def __init__(self) -> None:
        self._calls: dict[str, list[C]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        with self._lock:
            return sum(map(len, self._calls.values()))

    def add(self, call: C) -> bool:
        """Whether it is the only one of its id, so that the owner must be asked."""
        with self._lock:
            calls = self._calls.setdefault(call.request.request_id, [])
            calls.append(call)
            return len(calls) == 1

    def first(self, request_id: str) -> Request | None:
        """The request as it was called first."""
        with self._lock:
            calls = self._calls.get(request_id)
            return calls[0].request if calls else None

    def settled(self, replies: Mapping[str, bytes]) -> None:
        """These are durable now: whoever waits for them is answered."""
        with self._lock:
            done = [(call, body) for request_id, body in replies.items() for call in self._calls.pop(request_id, ())]
        for call, body in done:
            call.answer(body)

    def overdue(self, now_s: float) -> list[C]:
        """Calls whose deadline has passed; they wait no longer."""
        return self._taken([k for k, calls in self._snapshot() if calls[0].request.deadline_s < now_s])

    def all(self) -> list[C]:
        """Everyone; nobody waits any longer."""
        return self._taken([request_id for request_id, _ in self._snapshot()])

    def next_deadline_s(self) -> float:
        """Monotonic; infinite when nobody waits."""
        return min((calls[0].request.deadline_s for _, calls in self._snapshot()), default=float("inf"))

    def _snapshot(self) -> list[tuple[str, list[C]]]:
        with self._lock:
            return list(self._calls.items())

    def _taken(self, request_ids: Sequence[str]) -> list[C]:
        with self._lock:
            return [call for request_id in request_ids for call in self._calls.pop(request_id, ())]
