"""How far the archive is behind the log, and how near the broker is to deleting what it has not taken.

A few partitions are asked about each second, in turn, so that a pipeline of a thousand costs no more than one of ten.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headrace.chassis.bus import Admin, Consumer, TopicPartition
from headrace.chassis.clock import Clock
from headrace.chassis.errors import Fatal, Retryable
from headrace.chassis.logs import logger
from svc_features.telemetry import FeaturesMetrics

LOOK_S = 1.0
LOOKS = 8  # partitions a look; each asks the broker twice
FAILED_S = 30.0  # the broker did not answer: archiving comes first
RETENTION_S = 600.0  # how long a topic's retention is believed
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Behind:
    """One partition: records not archived, age of the oldest of them (s, an upper bound), share of its life used up."""

    records: int = 0
    seconds: float = 0.0
    retention_used: float = 0.0


def behind(
    start: int, end: int, position: int | None, now_ms: int, appended_ms: int | None, seen_ms: int, retention_ms: int | None
) -> Behind:
    """Args:
        start, end: of the log; position: next offset to archive, None where nothing was archived.
        appended_ms: append time of the last archived record, None where not known: what follows it is not older.
        seen_ms: since when the archive has stood at this position; stands in for an unknown append time.
        retention_ms: None keeps for ever.
    Returns: retention_used is the larger of age over retention and, once the broker has deleted anything at all, the part
        of what it keeps that is not archived: at 1 the next record to go is lost.
    """  # fmt: skip
    records = max(0, end - max(start, position or 0))
    if not records:
        return Behind()
    seconds = max(0, now_ms - (seen_ms if appended_ms is None else appended_ms)) / 1000
    by_age = 1000 * seconds / retention_ms if retention_ms else 0.0
    by_place = records / (end - start) if start > 0 else 0.0
    return Behind(records, seconds, max(by_age, by_place))


class Lag:
    """Keeps the gauges of some topics. Lives in the archive's thread; whatever fails here stops nothing."""

    def __init__(self, consumer: Consumer, admin: Admin, clock: Clock, metrics: FeaturesMetrics, topics: Sequence[str]) -> None:
        self._consumer, self._admin, self._clock, self._metrics = consumer, admin, clock, metrics
        self._topics = list(topics)
        self._turn: deque[TopicPartition] = deque()
        self._found: dict[TopicPartition, Behind] = {}
        self._stood: dict[TopicPartition, tuple[int | None, int]] = {}  # position, since when (ms UTC)
        self._retention: dict[str, int | None] = {}
        self._due_s = self._retention_due_s = 0.0

    def look(self, positions: Mapping[TopicPartition, int], appended_ms: Mapping[TopicPartition, int]) -> None:
        """When it is time, ask about the next partitions. positions: next offset to archive, of partitions begun."""
        now_s = self._clock.monotonic_s()
        if now_s < self._due_s:
            return
        self._due_s = now_s + LOOK_S
        try:
            self._look(positions, appended_ms)
        except (Retryable, Fatal) as error:
            _log.warning("archive_lag_not_seen", error=str(error))
            self._due_s = self._clock.monotonic_s() + FAILED_S

    def _look(self, positions: Mapping[TopicPartition, int], appended_ms: Mapping[TopicPartition, int]) -> None:
        self._ask_retention()
        if not self._turn:
            self._turn.extend(sorted(self._consumer.assignment()))
        touched: set[str] = set()
        for _ in range(min(LOOKS, len(self._turn))):
            partition = self._turn[0]
            start, end = self._consumer.watermarks(partition)
            self._turn.popleft()
            position, now_ms = positions.get(partition), self._clock.now_ms()
            before = self._stood.get(partition)
            if before is None or before[0] != position:
                self._stood[partition] = before = (position, now_ms)
            retention_ms = self._retention.get(partition.topic)
            self._found[partition] = behind(start, end, position, now_ms, appended_ms.get(partition), before[1], retention_ms)
            touched.add(partition.topic)
        for topic in touched:
            self._tell(topic)

    def _tell(self, topic: str) -> None:
        mine = [found for partition, found in self._found.items() if partition.topic == topic]
        self._metrics.lag_records.labels(topic).set(sum(found.records for found in mine))
        self._metrics.lag_seconds.labels(topic).set(max(found.seconds for found in mine))
        self._metrics.retention_used.labels(topic).set(max(found.retention_used for found in mine))

    def _ask_retention(self) -> None:
        if self._clock.monotonic_s() < self._retention_due_s:
            return
        self._retention_due_s = self._clock.monotonic_s() + RETENTION_S
        try:
            self._retention = self._admin.retention_ms(self._topics)
        except Fatal as error:  # not allowed to ask: the place in the log still tells
            _log.warning("retention_not_known", error=str(error))
