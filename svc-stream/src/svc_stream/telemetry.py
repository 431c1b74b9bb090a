"""svc-stream's facts, each named once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from headrace.chassis.bus import Record
from headrace.chassis.tracing import TRACEPARENT, Tracing, inject
from headrace.contracts.records import Progress
from svc_stream.domain.entity import Commit
from svc_stream.streams.telemetry import StreamFamilies

_SET = ("pipeline", "set")


class StreamMetrics:
    """Metric families of the process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.verdicts = Counter(
            "stream_verdicts_total", "Verdicts pronounced, by verdict.", (*_SET, "event", "verdict"), registry=registry
        )
        self.records = Counter("stream_records_total", "Records handled in committed transactions.", _SET, registry=registry)
        self.aborted = Counter(
            "stream_transactions_aborted_total", "Transactions aborted, done again.", _SET, registry=registry
        )
        self.round_seconds = Histogram(
            "stream_round_seconds", "One round: judge, lift, merge, commit.", _SET, registry=registry
        )
        self.maximum_ms = Gauge(
            "stream_event_time_maximum_ms", "Largest event time in the state, ms UTC.", (*_SET, "event"), registry=registry
        )
        self.watermark_ms = Gauge(
            "stream_watermark_ms", "Smallest watermark of the sources under the state, ms UTC.", (*_SET, "event"),
            registry=registry,
        )  # fmt: skip
        self.watermark_lag = Gauge(
            "stream_watermark_lag_seconds", "Largest event time seen less the watermark, event time.", (*_SET, "event"),
            registry=registry,
        )  # fmt: skip
        self.restored = Gauge(
            "stream_restored_offset", "Changelog offset restored to.", (*_SET, "partition"), registry=registry
        )
        self.streams = StreamFamilies(registry)
        self.tasks = Gauge("stream_tasks", "Tasks this replica owns.", (*_SET, "kind"), registry=registry)


@dataclass(slots=True)
class SetMetrics:
    """Metrics of one feature set, and the same facts for the status page."""

    families: StreamMetrics
    pipeline: str
    feature_set: str
    records: int = 0
    rounds: int = 0
    aborts: int = 0
    verdicts: dict[str, dict[str, int]] = field(default_factory=dict)
    maxima: dict[str, int] = field(default_factory=dict)
    sequence: dict[int, int] = field(default_factory=dict)
    tasks: tuple[int, int] = (0, 0)

    def aborted(self) -> None:
        self.aborts += 1
        self.families.aborted.labels(self.pipeline, self.feature_set).inc()

    def judged(self, event: str, counts: Mapping[str, int]) -> None:
        seen = self.verdicts.setdefault(event, {})
        for verdict, count in counts.items():
            self.families.verdicts.labels(self.pipeline, self.feature_set, event, verdict).inc(count)
            seen[verdict] = seen.get(verdict, 0) + count

    def committed(self, records: int, seconds: float) -> None:
        self.records += records
        self.rounds += 1
        self.families.records.labels(self.pipeline, self.feature_set).inc(records)
        self.families.round_seconds.labels(self.pipeline, self.feature_set).observe(seconds)

    def progress(self, progress: Progress, maxima: Mapping[str, int | None]) -> None:
        self.sequence[progress.partition] = progress.commit_sequence
        for event, top in maxima.items():
            if top is not None:
                self.maxima[event] = max(top, self.maxima.get(event, top))
                self.families.maximum_ms.labels(self.pipeline, self.feature_set, event).set(self.maxima[event])
        self._watermarks(progress)

    def _watermarks(self, progress: Progress) -> None:
        """Of each event the smallest over the sources of the partition told last."""
        found: dict[str, int] = {}
        for cut in progress.cut:
            if cut.watermark_ms is not None:
                found[cut.event] = min(cut.watermark_ms, found.get(cut.event, cut.watermark_ms))
        for event, at_ms in found.items():
            self.families.watermark_ms.labels(self.pipeline, self.feature_set, event).set(at_ms)
            lag_s = max(0, self.maxima.get(event, at_ms) - at_ms) / 1000
            self.families.watermark_lag.labels(self.pipeline, self.feature_set, event).set(lag_s)

    def restored(self, partition: int, offset: int) -> None:
        self.families.restored.labels(self.pipeline, self.feature_set, partition).set(offset)

    def assigned(self, sources: int, entities: int) -> None:
        self.tasks = (sources, entities)
        self.families.tasks.labels(self.pipeline, self.feature_set, "source").set(sources)
        self.families.tasks.labels(self.pipeline, self.feature_set, "entity").set(entities)

    def page(self) -> dict[str, object]:
        """For the status page."""
        return {
            "records": self.records,
            "rounds": self.rounds,
            "aborts": self.aborts,
            "verdicts": self.verdicts,
            "maxima_ms": self.maxima,
            "commit_sequence": self.sequence,
            "tasks": {"source": self.tasks[0], "entity": self.tasks[1]},
        }


def source_spans(tracing: Tracing, sampled: Sequence[Record], group: str) -> list[str]:
    """One process span per sampled source record; returns what to carry in the partials."""
    carried: list[str] = []
    for record in sampled:
        with tracing.process_span(record, group) as span:
            carried += [value.decode() for name, value in inject((), span) if name == TRACEPARENT] if span else []
    return carried


def entity_spans(tracing: Tracing, changes: Commit, topic: str, group: str) -> Commit:
    """One process span per carried trace; the commit then carries these spans on."""
    carried = changes.progress.traceparents
    if not carried:
        return changes
    at = changes.progress
    records = [
        Record(topic, at.partition, at.partials_offset - 1, 0, None, None, ((TRACEPARENT, t.encode()),)) for t in carried
    ]
    return replace(changes, progress=replace(at, traceparents=tuple(source_spans(tracing, records, group))))
