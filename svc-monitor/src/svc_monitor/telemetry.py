"""svc-monitor's facts, each named once."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

_MODEL = ("pipeline", "model")


class MonitorMetrics:
    """Metric families of the process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.joined = Counter(
            "monitor_labels_total", "Decisions by what became of them.", (*_MODEL, "outcome"), registry=registry
        )
        self.open = Gauge("monitor_open_decisions", "Decisions whose label is not known yet.", _MODEL, registry=registry)
        self.watermark_ms = Gauge(
            "monitor_watermark_ms", "Event time up to which labels are joined, ms UTC.", _MODEL, registry=registry
        )
        self.auc = Gauge("monitor_auc", "AUC of the newest matured week.", _MODEL, registry=registry)
        self.rule_auc = Gauge("monitor_rule_auc", "The rule's AUC on the same rows.", _MODEL, registry=registry)
        self.psi = Gauge("monitor_drift_psi", "Largest PSI of the last look.", _MODEL, registry=registry)
        self.findings = Counter("monitor_findings_total", "Findings raised.", (*_MODEL, "kind"), registry=registry)
        self.verdicts = Counter(
            "monitor_rollout_verdicts_total", "Verdicts on canary steps.", (*_MODEL, "verdict"), registry=registry
        )
