"""svc-features' facts, each named once."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class FeaturesMetrics:
    """Metric families of the process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.archived = Counter(
            "features_archived_records_total",
            "Records in the lake, by whether they decode.",
            ("topic", "outcome"),
            registry=registry,
        )
        self.position = Gauge("features_archive_offset", "Last archived offset + 1.", ("topic", "partition"), registry=registry)
        self.append_time_ms = Gauge(
            "features_archive_append_time_ms", "Largest append time archived, ms UTC.", ("topic",), registry=registry
        )
        self.lag_records = Gauge(
            "features_archive_lag_records", "Records in the log that are not in the lake.", ("topic",), registry=registry
        )
        self.lag_seconds = Gauge(
            "features_archive_lag_seconds",
            "Age of the oldest record that is not in the lake, at most.",
            ("topic",),
            registry=registry,
        )
        self.retention_used = Gauge(
            "features_archive_retention_used_ratio",
            "How near the broker is to deleting what is not in the lake; at 1 it is lost.",
            ("topic",),
            registry=registry,
        )
        self.flush_seconds = Histogram("features_archive_flush_seconds", "One round of commits.", ("loop",), registry=registry)
        self.conflicts = Counter(
            "features_archive_conflicts_total",
            "Commits refused because another writer was there.",
            ("loop",),
            registry=registry,
        )
        self.datasets = Counter("features_datasets_total", "Data sets answered, by outcome.", ("outcome",), registry=registry)
        self.dataset_seconds = Histogram(
            "features_dataset_seconds", "Building one data set.", registry=registry, buckets=(1, 2, 5, 10, 20, 40, 80, 160, 320)
        )
        self.read_values = Counter(
            "features_read_values_total", "Feature values answered over HTTP.", ("pipeline",), registry=registry
        )
        self.parity_checked = Counter(
            "parity_checked_total", "Decisions recomputed from the archive as it grows.", ("pipeline",), registry=registry
        )
        self.parity_differing = Counter(
            "parity_differing_total", "What differs in them, by kind.", ("pipeline", "kind"), registry=registry
        )
        self.parity_unverifiable = Counter(
            "parity_unverifiable_total", "Sampled decisions about times no longer kept.", ("pipeline",), registry=registry
        )
        self.parity_seconds = Histogram(
            "parity_round_seconds", "One round of continuous proof.", registry=registry, buckets=(1, 2, 5, 10, 20, 40, 80, 160)
        )
        self.skew = Gauge(
            "features_lateness_skew_ratio", "Share of sampled values that what came late would change.",
            ("pipeline", "feature_set", "feature"), registry=registry,
        )  # fmt: skip
