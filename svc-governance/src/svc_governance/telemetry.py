"""Governance's facts for Prometheus, each named once. Labels are bounded: topics, actions, outcomes."""

from __future__ import annotations

import math
from collections import Counter as Tally
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from headrace.contracts.records import AckStatus, RolloutAckStatus
from svc_governance.domain.state import State


class Telemetry:
    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = registry or CollectorRegistry()
        self._appended = Counter("governance_audit_entries", "Entries appended to the chain.", ["action"], registry=registry)
        self._length = Gauge("governance_chain_entries", "Length of the audit chain, once it is read.", registry=registry)
        self._length.set(math.nan)  # 0 would say that it shrank
        self._consumed = Counter(
            "governance_inputs", "Consumed records by what came of them.", ["topic", "outcome"], registry=registry
        )
        self._epoch = Gauge("governance_pipeline_epoch", "Epoch in force.", ["pipeline"], registry=registry)
        self._rollout_epoch = Gauge(
            "governance_rollout_epoch", "Rollout epoch in force.", ["pipeline", "model"], registry=registry
        )
        self._weight = Gauge(
            "governance_rollout_weight_ratio", "Share of requests an arm is given.", ["pipeline", "model", "arm"],
            registry=registry,
        )  # fmt: skip
        self._candidates = Gauge(
            "governance_candidates", "Candidates by what became of them.", ["pipeline", "model", "state"], registry=registry
        )
        self._findings = Gauge(
            "governance_findings", "Findings on record.", ["pipeline", "kind", "answered"], registry=registry
        )
        self._parked = Gauge(
            "governance_parked_replicas", "Replicas that parked the plan in force.", ["pipeline"], registry=registry
        )
        self._pending = Gauge(
            "governance_rollout_pending_replicas", "Replicas that do not serve the rollout in force.", ["pipeline", "model"],
            registry=registry,
        )  # fmt: skip

        self._known: dict[Gauge, set[tuple[str, ...]]] = {}

    def standing(self, state: State) -> None:
        """What is in force and on record, after each change."""
        for name, pipeline in state.pipelines.items():
            self._epoch.labels(name).set(pipeline.epoch)
            self._parked.labels(name).set(sum(ack.status is AckStatus.PARKED for ack in pipeline.acks.values()))
        weights: dict[tuple[str, ...], float] = {}
        for labels, rollout in state.rollouts.items():
            self._rollout_epoch.labels(*labels).set(rollout.record.epoch)
            waiting = sum(ack.status is not RolloutAckStatus.APPLIED for ack in rollout.acks.values())
            self._pending.labels(*labels).set(waiting)
            for arm in rollout.record.arms:
                weights[*labels, arm.name] = arm.weight / 10_000
        self._put(self._weight, weights)
        self._put(
            self._candidates,
            Tally((c.trained.pipeline, c.trained.model, c.state.value.lower()) for c in state.candidates.values()),
        )
        found = (f for f in state.findings.values())
        self._put(self._findings, Tally((f.raised.pipeline, f.raised.kind, "yes" if f.answered else "no") for f in found))

    def _put(self, gauge: Gauge, values: Mapping[tuple[str, ...], float]) -> None:
        """Set all series of a gauge; those that are gone say 0."""
        known = self._known.setdefault(gauge, set())
        known.update(values)
        for labels in known:
            gauge.labels(*labels).set(values.get(labels, 0))

    def appended(self, action: str) -> None:
        self._appended.labels(action).inc()

    def chain(self, entries: int) -> None:
        self._length.set(entries)

    def consumed(self, topic: str, outcome: str) -> None:
        self._consumed.labels(topic, outcome).inc()
