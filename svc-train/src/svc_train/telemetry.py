"""svc-train's facts, each named once."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_MODEL = ("pipeline", "model")
_SECONDS = (1, 2, 5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560)


class TrainMetrics:
    """Metric families of the process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.entered = Counter("train_runs_total", "States entered by runs.", (*_MODEL, "state"), registry=registry)
        self.seconds = Histogram(
            "train_run_seconds", "Lease to candidate: fit, export, parity, signature.", _MODEL, buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.under_way = Gauge("train_runs_under_way", "Runs this replica works on.", registry=registry)
