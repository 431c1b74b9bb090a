"""What a run left behind, gathered: the one thing the report, its checks and the page are made of."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from headrace_demo.evidence import MonthAuc


@dataclass
class Findings:
    """Everything the report is made of."""

    null: bool
    seed: int
    wall_s: float
    facts: dict[str, Any]
    decisions: pl.DataFrame
    outcomes: pl.DataFrame
    months: list[MonthAuc]
    latency_ms: list[float]
    rest_ms: list[float]
    letters: Counter[str]
    parity: dict[str, Any]
    audit: dict[str, Any]
    governance: dict[str, Any]  # candidates, findings, trainings, rollouts, as svc-governance shows them
    followed: dict[str, Any]  # flight, passport, spans, arrival
    sent: int  # events acknowledged, by svc-ingest or by the broker
    archived: int  # records of the event topics in the archive
    asked: set[str]  # request ids of play that had to be answered
    peak_memory_mb: float
    first_decision_s: float | None
    play_s: float
    feature_lag_ms: int
    duplicates_in: int
    weights: list[tuple[int, int, str]] = field(default_factory=list)
    looks: list[dict[str, Any]] = field(default_factory=list)

    @property
    def verb(self) -> str:
        kinds = ("null" if self.null else "", "secure" if self.intruders else "")
        return "-".join(("demo", *filter(None, kinds)))

    @property
    def intruders(self) -> dict[str, dict[str, Any]]:
        """What became of those who should not get in; empty where the stack is not secure."""
        return self.facts.get("intruders", {})

    @property
    def drift(self) -> list[dict[str, Any]]:
        return [finding for finding in self.governance["findings"] if finding["kind"] == "drift"]

    @property
    def promoted(self) -> list[dict[str, Any]]:
        return [view for view in self.governance["candidates"] if view["state"] in ("PROMOTED", "SUPERSEDED")]

    @property
    def answers(self) -> list[dict[str, Any]]:
        """Training requests that answer a finding."""
        return [training for training in self.governance["trainings"] if training["trigger_kind"] == "finding"]

    def verdicts(self, name: str) -> int:
        """Records of a verdict over all event topics, as the archive's recomputation pronounced them."""
        return sum(counts.get(name, 0) for counts in self.parity.get("verdicts", {}).values())
