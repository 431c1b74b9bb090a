"""What svc-ingest tells of itself, each fact named once."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from headrace.chassis.logs import logger
from headrace.contracts.errors import Reason
from svc_ingest.ports import Receipt, Route

_LOG = logger("svc_ingest")
_LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Telemetry:
    """Counters are of this process; labels are bounded by the admitted plans and the reason codes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._events = Counter(
            "ingest_events_total",
            "Outside rows by what became of them.",
            ("pipeline", "event", "outcome"),
            registry=registry,
        )
        self._rejected = Counter(
            "ingest_rejected_total", "Outside rows refused, by reason.", ("pipeline", "event", "reason"), registry=registry
        )
        self._requests = Counter("ingest_requests_total", "HTTP batches by status.", ("status",), registry=registry)
        self._batches = Gauge("ingest_in_flight_batches", "Batches admitted and not answered.", registry=registry)
        self._bytes = Gauge("ingest_in_flight_bytes", "Bytes of batches admitted and not answered.", registry=registry)
        self._seconds = Histogram(
            "ingest_batch_seconds", "From the last byte of a batch to its receipt.", buckets=_LATENCY_S, registry=registry
        )
        self._failed = Counter("ingest_rounds_failed_total", "Rounds the broker did not acknowledge.", registry=registry)
        self._learnt = Counter("ingest_read_back_total", "Names learnt from the topics' tails.", registry=registry)
        self._accepted_at = Gauge(
            "ingest_last_accepted_timestamp_seconds", "When a row of the event was last accepted, Unix time.",
            ("pipeline", "event"), registry=registry,
        )  # fmt: skip
        self._tallies: dict[tuple[str, str], Receipt] = {}
        self._files = Counter("ingest_files_total", "Dropped files by what became of them.", ("outcome",), registry=registry)

    def batch_done(self, route: Route, receipt: Receipt) -> None:
        labels = (route.pipeline, route.event.name)
        self._tallies.setdefault((route.pipeline, route.source.name), Receipt()).add(receipt)
        for outcome, count in (
            ("accepted", receipt.accepted),
            ("duplicate", receipt.duplicates),
            ("rejected", receipt.rejected),
        ):
            if count:
                self._events.labels(*labels, outcome).inc(count)
        if receipt.accepted:
            self._accepted_at.labels(*labels).set_to_current_time()
        for reason, count in receipt.reasons.items():
            self._rejected.labels(*labels, reason.value).inc(count)
        _LOG.debug(
            "batch_written",
            pipeline=route.pipeline,
            source=route.source.name,
            accepted=receipt.accepted,
            duplicates=receipt.duplicates,
            rejected=receipt.rejected,
        )

    def tally(self, route: Route) -> dict[str, Any]:
        """What this process made of a source's rows."""
        total = self._tallies.get((route.pipeline, route.source.name), Receipt())
        return {
            "topic": route.event.topic,
            "kind": route.source.kind,
            "accepted": total.accepted,
            "duplicates": total.duplicates,
            "rejected": {reason.value: count for reason, count in total.reasons.items()},
        }

    def batch_failed(self, route: Route, fault: Exception) -> None:
        _LOG.error("batch_failed", pipeline=route.pipeline, source=route.source.name, error=repr(fault), exc_info=fault)

    def batch_seconds(self, seconds: float) -> None:
        self._seconds.observe(seconds)

    def request_answered(self, status: int) -> None:
        self._requests.labels(str(status)).inc()

    def in_flight(self, batches: int, size_bytes: int) -> None:
        self._batches.set(batches)
        self._bytes.set(size_bytes)

    def round_failed(self, batches: int, fault: Exception) -> None:
        self._failed.inc()
        _LOG.warning("round_failed", batches=batches, error=str(fault))

    def producer_not_closed(self, fault: Exception) -> None:
        _LOG.warning("producer_not_closed", error=str(fault))

    def read_back(self, topics: int, learnt: int) -> None:
        self._learnt.inc(learnt)
        _LOG.info("topics_read_back", topics=topics, names_learnt=learnt)

    def route_opened(self, route: Route) -> None:
        _LOG.info("source_opened", pipeline=route.pipeline, source=route.source.name, topic=route.event.topic)

    def file_done(self, name: str, receipt: Receipt) -> None:
        self._files.labels("done").inc()
        _LOG.info("file_done", file=name, accepted=receipt.accepted, duplicates=receipt.duplicates, rejected=receipt.rejected)

    def file_refused(self, name: str, reason: Reason | str, detail: str) -> None:
        self._files.labels("refused").inc()
        _LOG.warning("file_refused", file=name, reason=str(reason), detail=detail)

    def file_postponed(self, name: str, fault: Exception) -> None:
        _LOG.warning("file_postponed", file=name, error=str(fault))
