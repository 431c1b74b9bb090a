"""Prometheus metrics alike in all services. Labels are bounded: topics, groups, outcomes, never a key or an id."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

_SHORT_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class ChassisMetrics:
    """Each fact named once; one registry per service, so that tests can have many."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self.records = Counter(
            "consumer_records_total",
            "Records taken from a topic by what became of them: handled, poisoned, retried, parked, dropped.",
            ["topic", "group", "outcome"],
            registry=self.registry,
        )
        self.commit_seconds = Histogram(
            "consumer_commit_seconds",
            "Time to make a batch durable: flush, offsets, commit.",
            ["group"],
            buckets=_SHORT_S,
            registry=self.registry,
        )
        self.event_age_seconds = Histogram(
            "consumer_record_age_seconds",
            "Append of a record to the end of its handling.",
            ["topic", "group"],
            buckets=(*_SHORT_S, 30.0, 60.0, 300.0, 3600.0),
            registry=self.registry,
        )
        self.event_loop_lag_seconds = Histogram(
            "event_loop_lag_seconds", "How late the event loop wakes.", buckets=_SHORT_S, registry=self.registry
        )
        self.loop_progress = Gauge(
            "loop_progress_timestamp_seconds", "When a loop last went round, Unix time.", ["loop"], registry=self.registry
        )
        self.control_records = Counter(
            "control_records_total",
            "Control records by outcome: applied, refused.",
            ["topic", "outcome"],
            registry=self.registry,
        )
        self.view_age_seconds = Gauge(
            "view_progress_age_seconds",
            "Age of the Progress a view of feature state applied last; compaction waits topics' min.compaction.lag.ms.",
            ["topic", "partition"],
            registry=self.registry,
        )
        self.views_overtaken = Counter(
            "views_overtaken_total",
            "Times a view stopped answering: so far behind, or so slowly restored, that compaction may have overtaken it.",
            ["topic"],
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def render(self) -> bytes:
        """The page Prometheus scrapes."""
        return generate_latest(self.registry)
