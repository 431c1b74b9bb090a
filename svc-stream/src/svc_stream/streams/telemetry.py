"""A stream's facts, each named once: as metrics, and for the page of its topology."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from headrace.chassis.bus import TopicPartition
from headrace.plan.ir import Stream
from svc_stream.streams.changelog import Changelog

_STREAM = ("pipeline", "stream")
ROUNDS_KEPT, RATE_S = 600, 10.0  # of which rates are told


class StreamFamilies:
    """Metric families of the process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, doc: str, *labels: str) -> Counter:
            return Counter(name, doc, (*_STREAM, *labels), registry=registry)

        def gauge(name: str, doc: str, *labels: str) -> Gauge:
            return Gauge(name, doc, (*_STREAM, *labels), registry=registry)

        self.records = counter("stream_operator_records_total", "Records a stream read in committed transactions.")
        self.results = counter("stream_operator_results_total", "Results a stream wrote.")
        self.verdicts = counter(
            "stream_operator_verdicts_total", "Verdicts a stream pronounced, by verdict.", "event", "verdict"
        )
        self.refused = counter(
            "stream_operator_refused_total", "Rows below a watermark that had gone on without their partition."
        )
        self.aborted = counter("stream_operator_transactions_aborted_total", "Transactions aborted, done again.")
        self.round_seconds = Histogram(
            "stream_operator_round_seconds", "One round: judge, prepare, operate, commit.", _STREAM, registry=registry
        )
        self.entries = gauge("stream_operator_state_entries", "Entries of a stream's tables on this replica.", "table")
        self.bytes = gauge("stream_operator_state_bytes", "Memory of a stream's tables on this replica.", "table")
        self.watermark_ms = gauge("stream_operator_watermark_ms", "Least watermark of a stream's tasks here, ms UTC.")
        self.watermark_lag = gauge(
            "stream_operator_watermark_lag_seconds", "Largest event time seen less the watermark, event time."
        )
        self.restore_left = gauge("stream_operator_restore_left", "Changelog offsets still to be restored.", "partition")
        self.tasks = gauge("stream_operator_tasks", "Tasks this replica owns.", "kind")


@dataclass(slots=True)
class WorkerMetrics:
    """Of one stream; the same facts for the status page."""

    families: StreamFamilies
    pipeline: str
    stream: Stream
    records: int = 0
    results: int = 0
    rounds: int = 0
    aborts: int = 0
    refusals: int = 0
    verdicts: dict[str, dict[str, int]] = field(default_factory=dict)
    tasks: tuple[int, int] = (0, 0)
    watermarks: dict[int, int | None] = field(default_factory=dict)
    tables: dict[str, tuple[int, int]] = field(default_factory=dict)
    sequences: dict[int, int] = field(default_factory=dict)
    restoring: dict[int, int] = field(default_factory=dict)  # by partition, offsets left
    round_s: float = 0.0  # of the last one
    recent: deque[tuple[float, int, int]] = field(default_factory=lambda: deque(maxlen=ROUNDS_KEPT))

    @property
    def _labels(self) -> tuple[str, str]:
        return self.pipeline, self.stream.name

    def aborted(self) -> None:
        self.aborts += 1
        self.families.aborted.labels(*self._labels).inc()

    def judged(self, event: str, counts: Mapping[str, int]) -> None:
        seen = self.verdicts.setdefault(event, {})
        for verdict, count in counts.items():
            self.families.verdicts.labels(*self._labels, event, verdict).inc(count)
            seen[verdict] = seen.get(verdict, 0) + count

    def refused(self, rows: int) -> None:
        self.refusals += rows
        self.families.refused.labels(*self._labels).inc(rows)

    def emitted(self, rows: int) -> None:
        self.results += rows
        self.families.results.labels(*self._labels).inc(rows)

    def committed(self, records: int, seconds: float, now_s: float) -> None:
        self.records += records
        self.rounds += 1
        self.round_s = seconds
        self.recent.append((now_s, self.records, self.results))
        self.families.records.labels(*self._labels).inc(records)
        self.families.round_seconds.labels(*self._labels).observe(seconds)

    def stands(self, operators: Mapping[int, Changelog]) -> None:
        """Watermarks and sizes after a commit."""
        self.tables = {}
        for partition, changelog in operators.items():
            task = changelog.task
            self.watermarks[partition], self.sequences[partition] = task.watermark_ms, task.sequence
            for name, table in task.operator.tables.items():
                entries, held = self.tables.get(name, (0, 0))
                self.tables[name] = entries + table.entries(), held + table.bytes()
        for name, (entries, held) in self.tables.items():
            self.families.entries.labels(*self._labels, name).set(entries)
            self.families.bytes.labels(*self._labels, name).set(held)
        known = [w for w in self.watermarks.values() if w is not None]
        newest = [c.maximum_ms for log in operators.values() for c in log.task.cut.values() if c.maximum_ms is not None]
        if known:
            self.families.watermark_ms.labels(*self._labels).set(min(known))
            self.families.watermark_lag.labels(*self._labels).set(max(0, max(newest, default=min(known)) - min(known)) / 1000)

    def restored(self, place: TopicPartition, position: int, end: int) -> None:
        left = self.restoring[place.partition] = max(0, end - position)
        self.families.restore_left.labels(*self._labels, place.partition).set(left)

    def assigned(self, sources: int, operators: int) -> None:
        self.tasks = (sources, operators)
        self.watermarks, self.sequences, self.restoring = {}, {}, {}
        self.families.tasks.labels(*self._labels, "source").set(sources)
        self.families.tasks.labels(*self._labels, "operator").set(operators)

    def rates(self, now_s: float) -> tuple[float, float]:
        """Records and results a second of the last RATE_S."""
        since = [at for at in list(self.recent) if at[0] >= now_s - RATE_S]
        if len(since) < 2:
            return 0.0, 0.0
        took_s = max(now_s - since[0][0], 1e-3)
        return (since[-1][1] - since[0][1]) / took_s, (since[-1][2] - since[0][2]) / took_s

    def page(self) -> dict[str, object]:
        """For the status page."""
        return {
            "records": self.records, "results": self.results, "rounds": self.rounds, "aborts": self.aborts,
            "refused": self.refusals, "verdicts": self.verdicts,
            "tasks": {"source": self.tasks[0], "operator": self.tasks[1]},
            "watermarks_ms": self.watermarks, "commit_sequence": self.sequences,
            "tables": {name: {"entries": entries, "bytes": held} for name, (entries, held) in self.tables.items()},
        }  # fmt: skip
