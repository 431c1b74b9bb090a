"""What the demo knows while it runs: written by the player, the story and the watcher, read by screen and report."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from headrace.contracts.records import PredictionMade


@dataclass(frozen=True, slots=True)
class Decision:
    """Of a passport, what is kept for all of them. Times in ms UTC; passport_ms is the append time of the passport."""

    request_id: str
    t_ms: int
    source: str
    arm: str
    epoch: int
    digest: str
    score: float | None
    rule_score: float | None
    decision: bool
    trace_id: str
    request_append_ms: int | None
    passport_ms: int
    door: str

    @property
    def latency_ms(self) -> int | None:
        """From append of the request to append of its passport."""
        return None if self.request_append_ms is None else self.passport_ms - self.request_append_ms


@dataclass(slots=True)
class Board:
    """Counters grow only; everything is replaced whole, never edited in place by two threads."""

    phase: str = "starting"
    began_s: float = field(default_factory=time.monotonic)
    stack_ready_s: float | None = None
    first_decision_s: float | None = None  # of source rules
    clock_ms: int = 0  # event time the player has come to
    accepted: Counter[str] = field(default_factory=Counter)  # rows by source
    duplicates: int = 0
    rejected: Counter[str] = field(default_factory=Counter)  # by reason, as the receipts said
    published: int = 0  # events of the producer that is not ours
    asked_ms: int = 0  # end of the last step whose requests were let go
    feature_lag_ms_max: int = 0  # largest t - (what features had to have seen) at which a request was let go
    steps: int = 0
    play_s: float = 0.0
    rest_ms: list[float] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    latest: PredictionMade | None = None
    kept: dict[str, PredictionMade] = field(default_factory=dict)  # passports of traced flights
    sources: Counter[str] = field(default_factory=Counter)
    services: dict[str, Any] = field(default_factory=dict)  # last status page by service
    rates: dict[str, float] = field(default_factory=dict)
    lag_records: dict[str, int] = field(default_factory=dict)
    memory_mb: dict[str, float] = field(default_factory=dict)
    peak_memory_mb: float = 0.0
    rollout: dict[str, Any] | None = None
    weights: list[tuple[int, int, str]] = field(default_factory=list)  # (event time, challenger per cent, state)
    events: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=200))
    months: list[dict[str, Any]] = field(default_factory=list)  # svc-monitor's figures by month
    looks: list[dict[str, Any]] = field(default_factory=list)  # svc-monitor's drift looks
    facts: dict[str, Any] = field(default_factory=dict)  # what the story saw: refusals, parked pipeline, promotions
    stop: threading.Event = field(default_factory=threading.Event)

    def say(self, text: str) -> None:
        """An event worth a line."""
        self.events.append((time.monotonic() - self.began_s, text))

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.began_s
