"""Governance's facts for Prometheus, each named once. Labels are bounded: topics, actions, outcomes."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class Telemetry:
    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = registry or CollectorRegistry()
        self._appended = Counter("governance_audit_entries", "Entries appended to the chain.", ["action"], registry=registry)
        self._length = Gauge("governance_chain_entries", "Length of the audit chain.", registry=registry)
        self._consumed = Counter(
            "governance_inputs", "Consumed records by what came of them.", ["topic", "outcome"], registry=registry
        )

    def appended(self, action: str) -> None:
        self._appended.labels(action).inc()

    def chain(self, entries: int) -> None:
        self._length.set(entries)

    def consumed(self, topic: str, outcome: str) -> None:
        self._consumed.labels(topic, outcome).inc()
