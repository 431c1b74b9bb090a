"""svc-stream's facts, each named once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from prometheus_client import Counter, Gauge, Histogram

from headrace.chassis.bus import Record
from headrace.chassis.telemetry import SpanSource
from headrace.contracts.records import Progress
from svc_stream.domain.entity import Commit

_SET = ("pipeline", "set")
VERDICTS = Counter("stream_verdicts_total", "Verdicts pronounced, by verdict.", (*_SET, "event", "verdict"))
RECORDS = Counter("stream_records_total", "Records handled in committed transactions.", _SET)
ABORTED = Counter("stream_transactions_aborted_total", "Transactions aborted and done again.", _SET)
COMMIT_SECONDS = Histogram("stream_round_seconds", "One round: judge, lift, merge, commit.", _SET)
MAXIMUM_MS = Gauge("stream_event_time_maximum_ms", "Largest event time in the state, ms UTC.", (*_SET, "event"))
RESTORED = Gauge("stream_restored_offset", "Changelog offset restored up to.", (*_SET, "partition"))
TASKS = Gauge("stream_tasks", "Tasks this replica owns.", (*_SET, "kind"))


@dataclass(slots=True)
class SetMetrics:
    """Metrics of one feature set, and the same facts for the status page."""

    pipeline: str
    feature_set: str
    records: int = 0
    verdicts: dict[str, dict[str, int]] = field(default_factory=dict)
    maxima: dict[str, int | None] = field(default_factory=dict)
    sequence: dict[int, int] = field(default_factory=dict)
    tasks: tuple[int, int] = (0, 0)

    @property
    def aborted(self) -> Counter:
        return ABORTED.labels(self.pipeline, self.feature_set)

    def judged(self, event: str, counts: Mapping[str, int]) -> None:
        seen = self.verdicts.setdefault(event, {})
        for verdict, count in counts.items():
            VERDICTS.labels(self.pipeline, self.feature_set, event, verdict).inc(count)
            seen[verdict] = seen.get(verdict, 0) + count

    def committed(self, records: int, seconds: float) -> None:
        self.records += records
        RECORDS.labels(self.pipeline, self.feature_set).inc(records)
        COMMIT_SECONDS.labels(self.pipeline, self.feature_set).observe(seconds)

    def progress(self, partition: int, progress: Progress, maxima: Mapping[str, int | None]) -> None:
        self.sequence[partition] = progress.commit_sequence
        for event, top in maxima.items():
            if top is not None:
                self.maxima[event] = max(top, self.maxima.get(event) or top)
                MAXIMUM_MS.labels(self.pipeline, self.feature_set, event).set(self.maxima[event] or 0)

    def restored(self, partition: int, offset: int) -> None:
        RESTORED.labels(self.pipeline, self.feature_set, partition).set(offset)

    def assigned(self, sources: int, entities: int) -> None:
        self.tasks = (sources, entities)
        TASKS.labels(self.pipeline, self.feature_set, "source").set(sources)
        TASKS.labels(self.pipeline, self.feature_set, "entity").set(entities)


@dataclass(frozen=True, slots=True)
class Tracing:
    """Spans of sampled records only: what is not sampled costs nothing."""

    spans: SpanSource

    def source_spans(self, sampled: Sequence[Record]) -> list[str]:
        """One process span per sampled source record; returns what to carry in the partials."""
        return [self.spans.process(r.topic, r.headers, partition=r.partition, offset=r.offset) for r in sampled]

    def entity_spans(self, changes: Commit, topic: str) -> Commit:
        """One process span per carried trace; the commit then carries these spans on."""
        carried = changes.progress.traceparents
        if not carried:
            return changes
        spans = [self.spans.process(topic, [("traceparent", t.encode())], partition=changes.progress.partition) for t in carried]
        return replace(changes, progress=replace(changes.progress, traceparents=tuple(spans)))
