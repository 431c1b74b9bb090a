"""Backing off inside a budget: how long to wait before the next try, and when to stop trying."""

from __future__ import annotations

import random
from dataclasses import dataclass

from headrace.chassis.errors import Fatal

FORGET_S = 60.0  # far above the time between two tries


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential with jitter. The budget counts from the first failure of the same work."""

    budget_s: float = 300.0  # as long as a broker or database may take to come back
    base_s: float = 0.1
    cap_s: float = 5.0  # stays far below the poll interval, so that a stop is answered soon


class Backoff:
    """The state of one piece of work that keeps failing."""

    def __init__(self, policy: RetryPolicy, now_s: float, rng: random.Random) -> None:
        self._policy = policy
        self._rng = rng
        self._since_s = now_s
        self.attempts = 0
        self.due_s = now_s

    def failed(self, now_s: float, error: Exception) -> None:
        """Set when to try again. Raises Fatal when the budget is spent. A failure long after the last try was due is a new one:
        the work went elsewhere meanwhile."""
        if now_s - self.due_s > max(self._policy.budget_s, FORGET_S):
            self._since_s, self.attempts = now_s, 0
        if now_s - self._since_s >= self._policy.budget_s:
            raise Fatal(f"gave up after {self.attempts + 1} tries in {now_s - self._since_s:.0f} s: {error}") from error
        wait = min(self._policy.cap_s, self._policy.base_s * 2 ** min(self.attempts, 30))
        self.due_s = now_s + wait * self._rng.uniform(0.5, 1.0)  # half of it is jitter: replicas must not march in step
        self.attempts += 1
