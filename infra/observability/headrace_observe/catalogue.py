"""The metric catalogue: every metric of every service, read from the code that makes it.

    python -m headrace_observe.catalogue          write infra/observability/METRICS.md

A metric without words, or with a label nobody has bounded, is refused by the contract test, not hidden here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from headrace.chassis.clock import SystemClock
from headrace.chassis.health import Health
from headrace.chassis.metrics import ChassisMetrics
from headrace.chassis.observed import ProcessFacts
from headrace_observe.broker import BrokerMetrics
from svc_features.telemetry import FeaturesMetrics
from svc_governance.telemetry import Telemetry as GovernanceTelemetry
from svc_ingest.telemetry import Telemetry as IngestTelemetry
from svc_monitor.telemetry import MonitorMetrics
from svc_serve.telemetry import ServeMetrics
from svc_stream.telemetry import StreamMetrics
from svc_train.telemetry import TrainMetrics

PAGE = Path(__file__).resolve().parents[1] / "METRICS.md"

# Every label there may be, and what bounds the number of its values. A key, an id, a path or a message is never a label.
LABELS: Mapping[str, str] = {
    "action": "actions of the audit chain, an enumeration",
    "answered": "yes or no",
    "arm": "champion, challenger, rules",
    "certificate": "kafka, kafka-ca, registry-ca: what a certificate is for",
    "door": "event, rest, kafka: the kinds of request",
    "event": "event types of admitted plans",
    "feature": "features of admitted plans",
    "feature_set": "feature sets of admitted plans",
    "group": "consumer groups: one per service, or per feature set and model of admitted plans",
    "kind": "kinds of findings, of differences or of tasks: enumerations",
    "loop": "loops of this process: one per feature set, pipeline or purpose",
    "method": "HTTP methods, others told as one",
    "model": "models of admitted plans",
    "outcome": "what became of a record: an enumeration",
    "partition": "partition numbers",
    "pipeline": "admitted pipelines",
    "reason": "reason codes, an enumeration",
    "route": "route templates of the service, others told as one",
    "stream": "streams of the plans in force",
    "table": "tables of an operator: three at most",
    "set": "feature sets of admitted plans",
    "source": "rungs of the ladder: an enumeration",
    "state": "states of a life cycle: an enumeration",
    "status": "status classes, or statuses of feature values: enumerations",
    "store": "local stores of this process that are open: one per feature set and partition",
    "topic": "topics of the platform and of admitted plans",
    "verdict": "verdicts on records or canary steps: enumerations",
    # of the client library and of Prometheus
    "implementation": "of the interpreter", "le": "declared buckets", "major": "of the interpreter",
    "minor": "of the interpreter", "patchlevel": "of the interpreter", "version": "of the interpreter",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Metric:
    """One family as Prometheus names it: a counter with `_total`, a histogram with its three kinds of series."""

    name: str
    kind: str
    says: str
    labels: tuple[str, ...]
    home: str

    @property
    def series(self) -> tuple[str, ...]:
        """Names a query may use."""
        if self.kind == "histogram":
            return tuple(f"{self.name}_{part}" for part in ("bucket", "count", "sum"))
        return (self.name,)


def catalogue() -> list[Metric]:
    """Every metric there is, by home, then name."""
    chassis = ChassisMetrics()
    with tempfile.TemporaryDirectory() as folder:
        chassis.registry.register(ProcessFacts(Health(), Path(folder), SystemClock(), {}))
        found = [*_metrics("every service", chassis.registry)]
    makers = {
        "svc-ingest": IngestTelemetry, "svc-stream": StreamMetrics, "svc-features": FeaturesMetrics, "svc-train": TrainMetrics,
        "svc-serve": ServeMetrics, "svc-monitor": MonitorMetrics, "svc-governance": GovernanceTelemetry,
        "broker": BrokerMetrics,
    }  # fmt: skip
    for home, make in makers.items():
        registry = CollectorRegistry()
        make(registry)
        found += _metrics(home, registry)
    return found


def _metrics(home: str, registry: CollectorRegistry) -> Iterable[Metric]:
    collectors: list[Collector] = list(registry._collector_to_names)  # the library has no public list
    labelled = {c._name: c._labelnames for c in collectors if isinstance(c, MetricWrapperBase)}
    found = []
    for family in registry.collect():
        labels = labelled.get(family.name, getattr(family, "_labelnames", ()))
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found.append(Metric(name, family.type, family.documentation, tuple(labels), home))
    return sorted(found, key=lambda metric: metric.name)


def page(metrics: Iterable[Metric]) -> str:
    """The catalogue as Markdown."""
    lines = [
        "# Metrics",
        "",
        "Generated from the code by `python -m headrace_observe.catalogue`; a contract test keeps it so.",
        "Scrape `/metrics`; who takes OpenMetrics gets exemplars with trace ids.",
    ]
    home = ""
    for metric in metrics:
        if metric.home != home:
            home = metric.home
            lines += ["", f"## {home}", "", "| metric | kind | labels | says |", "|---|---|---|---|"]
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.says} |")
    lines += ["", "## Labels", "", "| label | bounded by |", "|---|---|"]
    lines += [f"| `{label}` | {why} |" for label, why in sorted(LABELS.items())]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the page."""
    PAGE.write_text(page(catalogue()))
    print(PAGE)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
