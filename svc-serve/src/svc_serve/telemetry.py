"""svc-serve's facts, each named once."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Collection

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from headrace.contracts.records import PredictionMade
from headrace.plan.ir import Plan
from headrace.plan.topics import worker_group

STATUSES = ("fresh", "stale", "missing", "ahead", "expired")  # by their numbers in a passport
_SCORES = tuple(n / 10 for n in range(1, 11))
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class ServeMetrics:
    """Metric families of the process, and totals for the status page."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.decisions = Counter(
            "serve_decisions_total",
            "Decisions by rung and arm.",
            ("pipeline", "model", "source", "arm", "door"),
            registry=registry,
        )
        self.compute = Histogram(
            "serve_compute_seconds", "Compute per decision.", ("pipeline", "model"), buckets=_SECONDS, registry=registry
        )
        self.seconds = Histogram(
            "serve_decision_seconds",
            "Request received, or appended to its topic, to decided.",
            ("pipeline", "model", "door"),
            buckets=(*_SECONDS, 10.0, 60.0),
            registry=registry,
        )
        self.positives = Counter(
            "serve_positive_decisions_total", "Decisions that say yes.", ("pipeline", "model", "arm"), registry=registry
        )
        self.scores = Histogram(
            "serve_score", "Scores of models.", ("pipeline", "model", "arm"), buckets=_SCORES, registry=registry
        )
        self.values = Counter(
            "serve_feature_values_total",
            "Feature values read for decisions, by status.",
            ("pipeline", "feature_set", "status"),
            registry=registry,
        )
        self.freshness = Gauge(
            "serve_freshness_bound_seconds",
            "How soon an event is promised to be readable, by the group that makes it so.",
            ("pipeline", "feature_set", "group"),
            registry=registry,
        )
        self.rest_seconds = Histogram(
            "serve_rest_seconds", "Request to durable reply over REST.", buckets=_SECONDS, registry=registry
        )
        self.repeats = Counter("serve_repeated_requests_total", "Requests whose id was answered before.", registry=registry)
        self.undecodable = Counter(
            "serve_undecodable_requests_total", "Request events that could not be read.", registry=registry
        )
        self.refused = Counter("serve_models_refused_total", "Artefacts refused.", ("pipeline", "model"), registry=registry)
        self.epoch = Gauge("serve_rollout_epoch", "Rollout epoch in force.", ("pipeline", "model"), registry=registry)
        self.passports = Counter("serve_passports_durable_total", "Passports committed.", registry=registry)
        self.by_source: Tally[str] = Tally()
        self._promised: dict[str, list[tuple[str, str, str]]] = {}  # labels of `freshness` by pipeline

    def promised(self, plan: Plan) -> None:
        """Freshness of the views this plan is served from. An owner's answers go before its commits: no group shows them."""
        self.not_promised(plan.pipeline)
        for item in plan.feature_sets:
            if item.freshness_ms is not None and item.placement == "replicated":
                self.freshness.labels(plan.pipeline, item.name, worker_group(plan, item)).set(item.freshness_ms / 1000)
                self._promised.setdefault(plan.pipeline, []).append((plan.pipeline, item.name, worker_group(plan, item)))

    def not_promised(self, pipeline: str) -> None:
        """The pipeline is not served any more, or otherwise."""
        for labels in self._promised.pop(pipeline, []):
            self.freshness.remove(*labels)

    def decided(self, passport: PredictionMade) -> None:
        source = passport.decision_source.value.lower()
        self.decisions.labels(passport.pipeline, passport.model, source, passport.arm, passport.door.value.lower()).inc()
        traced = {"trace_id": passport.trace_id} if passport.trace_id else None
        self.compute.labels(passport.pipeline, passport.model).observe(passport.cost_us / 1e6, traced)
        self._timed(passport, traced)
        self._said(passport)
        self.by_source[source] += 1

    def _timed(self, passport: PredictionMade, traced: dict[str, str] | None) -> None:
        began_ms = passport.received_ms if passport.request_append_ms is None else passport.request_append_ms
        seconds = max(0, passport.decided_ms - began_ms) / 1000
        self.seconds.labels(passport.pipeline, passport.model, passport.door.value.lower()).observe(seconds, traced)

    def _said(self, passport: PredictionMade) -> None:
        labels = (passport.pipeline, passport.model, passport.arm)
        if passport.decision:
            self.positives.labels(*labels).inc()
        if passport.score is not None:
            self.scores.labels(*labels).observe(passport.score)
        for read in passport.sets:
            for status, count in Tally(read.statuses).items():
                self.values.labels(passport.pipeline, read.set, STATUSES[status]).inc(count)

    def repeated(self, count: int) -> None:
        if count:
            self.repeats.inc(count)

    def durable(self, ids: Collection[str]) -> None:
        self.passports.inc(len(ids))
