"""svc-monitor's facts, each named once."""

from __future__ import annotations

from collections import Counter as Tally

from prometheus_client import CollectorRegistry, Counter, Gauge

from svc_monitor.saying import Said
from svc_monitor.watching import ModelWatch

_MODEL = ("pipeline", "model")


class MonitorMetrics:
    """Metric families of the process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, says: str) -> Gauge:
            return Gauge(name, says, _MODEL, registry=registry)

        def counter(name: str, says: str, *labels: str) -> Counter:
            return Counter(name, says, labels, registry=registry)

        self.joined = counter("monitor_labels_total", "Decisions by what became of them.", *_MODEL, "outcome")
        self.refused = counter("monitor_refused_records_total", "Records that say nothing here, by why.", *_MODEL, "reason")
        self.unreadable = counter("monitor_unreadable_records_total", "Records not decoded, by why.", "pipeline", "reason")
        self.open = gauge("monitor_open_decisions", "Decisions whose label is not known yet.")
        self.watermark_ms = gauge("monitor_watermark_ms", "Event time up to which labels are joined, ms UTC.")
        self.auc = gauge("monitor_auc", "AUC of the newest week told, all models together.")
        self.rule_auc = gauge("monitor_rule_auc", "The rule's AUC on the same rows.")
        self.psi = gauge("monitor_drift_psi", "Largest PSI of the last look at the champion's inputs; 0 before the first.")
        self.drift_watched = gauge("monitor_drift_watched", "1 while the champion's inputs are compared with its profile.")
        self.overdue = gauge(
            "monitor_labels_overdue_seconds",
            "How far decisions have come past the maturity of the oldest one without a label, event time.",
        )
        self.maturity = gauge("monitor_label_maturity_ratio", "Share of the newest week's decisions whose time has come.")
        self.labelled = gauge("monitor_labelled_decisions", "Labelled decisions of the newest week told.")
        self.precision = gauge("monitor_precision", "Precision of the newest week told.")
        self.recall = gauge("monitor_recall", "Recall of the newest week told.")
        self.brier = gauge("monitor_brier", "Brier score of the newest week told.")
        self.drift_looks = gauge("monitor_drift_looks", "Looks at the champion's inputs since it was promoted.")
        self.findings = counter("monitor_findings_total", "Findings raised.", *_MODEL, "kind")
        self.verdicts = counter("monitor_rollout_verdicts_total", "Verdicts on canary steps.", *_MODEL, "verdict")
        self._counted: dict[tuple[str, ...], int] = {}

    def told(self, labels: tuple[str, str], watch: ModelWatch, said: Said) -> None:
        """After a round of one model."""
        self._count(self.joined, labels, watch.join.counts)
        self._count(self.refused, labels, watch.refused)
        self.open.labels(*labels).set(watch.join.open_decisions)
        self.drift_watched.labels(*labels).set(watch.watched.drift is not None)
        self.drift_looks.labels(*labels).set(len(watch.watched.looks))
        due_ms, decided_ms = watch.join.oldest_due_ms, watch.decided_time.newest_ms
        overdue_ms = 0 if due_ms is None or decided_ms is None else max(0, decided_ms - due_ms)
        self.overdue.labels(*labels).set(overdue_ms / 1000)
        if watch.watermark_ms is not None:
            self.watermark_ms.labels(*labels).set(watch.watermark_ms)
        # A champion that was not looked at yet has not moved, nor has one that is gone: the last one's figure ends with it.
        self.psi.labels(*labels).set(watch.watched.looks[-1].worst_psi if watch.watched.looks else 0.0)
        self._performance(labels, said)

    def _performance(self, labels: tuple[str, str], said: Said) -> None:
        """The newest week told that has a label, and of those with a model's scores the newest."""
        told = [p for p in said.performance if p.arm == "all" and p.labelled]
        if told:
            newest = max(told, key=lambda p: p.from_ms)
            self.maturity.labels(*labels).set(newest.matured / newest.decisions if newest.decisions else 0.0)
            self.labelled.labels(*labels).set(newest.labelled)
            for gauge, value in ((self.precision, newest.precision), (self.recall, newest.recall), (self.brier, newest.brier)):
                if value is not None:
                    gauge.labels(*labels).set(value)
        weeks = [p for p in said.performance if p.arm == "all" and p.auc is not None and p.rule_auc is not None]
        if weeks:
            newest = max(weeks, key=lambda p: p.from_ms)
            self.auc.labels(*labels).set(newest.auc or 0.0)
            self.rule_auc.labels(*labels).set(newest.rule_auc or 0.0)

    def _count(self, counter: Counter, labels: tuple[str, str], counts: Tally[str]) -> None:
        for outcome, count in counts.items():
            key = (counter._name, *labels, outcome)
            # a new plan's watch begins at nothing again: a counter only grows, by what is more than was counted
            counter.labels(*labels, outcome).inc(max(0, count - self._counted.get(key, 0)))
            self._counted[key] = max(count, self._counted.get(key, 0))
