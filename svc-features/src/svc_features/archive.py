"""The archive: every record of the topics it follows lies in the lake exactly once, positions in the same commit.

One round: 1. consume   2. when rows or time are due, per topic: decode, append rows and positions in one commit
3. say how far it reached. After a crash the positions of the lake are where it reads on; no group, no offsets in Kafka.

A topic deleted and made anew has other records at the same offsets. The broker's topic id, kept with the table, is compared
at each start, and in each round between consuming and committing: an id never comes back, so rows committed after it was
found unchanged were consumed under it.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import polars as pl
import pyarrow as pa

from headrace.chassis.bus import Bus, Consumer, Record, TopicPartition
from headrace.chassis.clock import Clock
from headrace.chassis.errors import Fatal, Retryable
from headrace.chassis.health import Heartbeat
from headrace.chassis.logs import logger
from headrace.chassis.retry import Backoff, RetryPolicy
from svc_features.lag import Lag
from svc_features.ports import Conflict, Lake, LakeTable
from svc_features.telemetry import FeaturesMetrics

EARLIEST = -2
CONSUME_MAX = 10_000
IDLE_S = 0.5  # how soon a stop is noticed, and how often an idle archive looks how far it reached
TOPICS_S = 30.0  # how often an idle archive looks whether its topics are still the same
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Feed:
    """One topic to archive. `time`: the event time's column, for the status page."""

    topic: str
    partitions: int
    schema: pa.Schema
    rows: Callable[[Sequence[Record]], pa.Table]
    time: str | None = None


@dataclass(slots=True)
class TopicFacts:
    """What the lake holds of one topic. maximum_ms: event time; append_ms: append time."""

    rows: int = 0
    undecodable: int = 0
    positions: dict[int, int] = field(default_factory=dict)
    append_ms: int | None = None
    maximum_ms: int | None = None
    topic_id: str = ""

    def page(self) -> dict[str, object]:
        return {
            "topic_id": self.topic_id,
            "positions": dict(self.positions),
            "rows_since_start": self.rows,
            "undecodable_since_start": self.undecodable,
            "append_ms": self.append_ms,
            "maximum_ms": self.maximum_ms,
        }


class Reached:
    """How far the archive is, read from other threads. A position passes over markers once all before it is in the lake."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._positions: dict[TopicPartition, int] = {}
        self.facts: dict[str, TopicFacts] = {}

    def tell(self, positions: dict[TopicPartition, int]) -> None:
        with self._lock:
            self._positions |= positions

    def positions(self) -> dict[TopicPartition, int]:
        """Everything before these is in the lake, or is no record."""
        with self._lock:
            return dict(self._positions)

    def missing(self, ends: dict[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Those ends that are not reached yet."""
        with self._lock:
            return {p: end for p, end in ends.items() if self._positions.get(p, 0) < end}


class Archive:
    """A Loop for a LoopThread; built in its thread."""

    def __init__(
        self, name: str, feeds: Sequence[Feed], *, bus: Bus, lake: Lake, reached: Reached, clock: Clock,
        metrics: FeaturesMetrics, interval_ms: int, rows_max: int, retry: RetryPolicy | None = None, idle_s: float = IDLE_S,
    ) -> None:  # fmt: skip
        """Raises: Retryable if the broker does not answer; Fatal if a topic is missing, was made anew, or ends before the lake
        does.
        """
        self.name, self.heartbeat = name, Heartbeat(name, clock)
        self._feeds = {f.topic: f for f in feeds}
        self._lake, self._reached, self._clock, self._metrics = lake, reached, clock, metrics
        self._interval_s, self._rows_max, self._idle_s = interval_ms / 1000, rows_max, idle_s
        self._retry, self._random = retry or RetryPolicy(), random.Random()
        self._backoff: Backoff | None = None
        self._idle = threading.Event()  # never set: a wait the interpreter can interrupt
        self._tables: dict[str, LakeTable] = {}
        self._buffer: dict[str, list[Record]] = {}
        self._buffered, self._due_s, self._topics_due_s = 0, 0.0, clock.monotonic_s() + TOPICS_S
        self._admin = bus.admin()
        self._consumer: Consumer = bus.consumer(None, f"svc-features.{name}")
        self._lag = Lag(self._consumer, self._admin, clock, metrics, list(self._feeds))
        self._appended_ms: dict[TopicPartition, int] = {}  # of the last archived record
        try:
            self._open()
        except BaseException:
            self._consumer.close()
            raise

    def _open(self) -> None:
        """Read on from where the lake is."""
        self._buffer, self._buffered = {topic: [] for topic in self._feeds}, 0
        positions: dict[TopicPartition, int] = {}
        for feed in self._feeds.values():
            table = self._tables[feed.topic] = self._lake.open(feed.topic, feed.schema, feed.partitions)
            known = table.positions()
            self._reached.facts.setdefault(feed.topic, TopicFacts()).positions = known
            self._reached.facts[feed.topic].topic_id = table.topic_id()
            for p in range(feed.partitions):
                positions[TopicPartition(feed.topic, p)] = known.get(p, EARLIEST)
        self._same_topics(list(self._feeds))
        for partition, position in positions.items():
            self._check(partition, position)
        self._belong()
        self._consumer.assign(positions)
        self._reached.tell({p: n for p, n in positions.items() if n >= 0})

    def _same_topics(self, topics: Sequence[str]) -> dict[str, str]:
        """The ids of those that exist. Raises: Fatal if one was made anew since its table was begun."""
        now = self._admin.topic_ids(topics)
        for topic, found in now.items():
            known = self._tables[topic].topic_id()
            if known and known != found:
                raise Fatal(
                    f"topic {topic} was deleted and made anew: the lake holds records of {known}, the broker has {found}; its "
                    "offsets mean other records and none was archived. Move the table's folder away (decisions made of it can "
                    f"still be recomputed there) and start again, or give the topic a new name: {_next_name(topic)}"
                )
        return now

    def _look_at_topics(self) -> None:
        """Now and then, since a client may also stand still after its topic went. Raises as `_same_topics`, or Retryable."""
        if self._clock.monotonic_s() >= self._topics_due_s:
            self._same_topics(list(self._feeds))
            self._topics_due_s = self._clock.monotonic_s() + TOPICS_S

    def _belong(self) -> None:
        """Tables that do not say yet which topic they are of are of the one there is: their positions fit its log."""
        for topic, table in self._tables.items():
            if not table.topic_id():
                table.belong(self._admin.topic_id(topic))
                self._reached.facts[topic].topic_id = table.topic_id()

    def _check(self, partition: TopicPartition, position: int) -> None:
        """The log must still hold what the lake lacks, and all that the lake has."""
        start, end = self._consumer.watermarks(partition)
        if position == EARLIEST:
            return
        if position < start:
            raise Fatal(
                f"{partition.topic}-{partition.partition} starts at {start}, the lake ends at {position}: retention was shorter"
                " than the archive's lag, these records are lost; move the table away to archive what is left"
            )
        if position > end:
            raise Fatal(
                f"{partition.topic}-{partition.partition} ends at {end}, the lake holds {position}: the topic was made again; "
                "move its table away, or point HEADRACE_LAKE at a new folder"
            )

    # -- the round

    def step(self) -> int:
        """One round; records taken. Raises: Fatal."""
        self.heartbeat.beat()
        if self._backoff is not None and self._clock.monotonic_s() < self._backoff.due_s:
            self._idle.wait(min(self._idle_s, self._backoff.due_s - self._clock.monotonic_s()))
            return 0
        self._lag.look(self._reached.positions(), self._appended_ms)
        try:
            self._look_at_topics()
            taken = self._take()
            if self._buffered and (self._buffered >= self._rows_max or self._clock.monotonic_s() >= self._due_s):
                self.flush()
            elif not self._buffered:
                self._tell()
        except Conflict as conflict:
            _log.warning("archive_conflict", loop=self.name, error=str(conflict))
            self._metrics.conflicts.labels(self.name).inc()
            self._wait(conflict)
            self._open()
            return 0
        except Retryable as error:
            _log.warning("archive_to_be_retried", loop=self.name, error=str(error))
            self._wait(error)
            return 0
        if self._backoff is not None and not self._buffered:
            self._backoff = None
        return taken

    def _take(self) -> int:
        if self._buffered >= self._rows_max:
            return 0
        left_s = max(0.0, self._due_s - self._clock.monotonic_s()) if self._buffered else self._idle_s
        records = self._consumer.consume(min(CONSUME_MAX, self._rows_max - self._buffered), min(self._idle_s, left_s))
        if records and not self._buffered:
            self._due_s = self._clock.monotonic_s() + self._interval_s
        for record in records:
            self._buffer[record.topic].append(record)
        self._buffered += len(records)
        return len(records)

    def flush(self) -> None:
        """Everything buffered into the lake, one commit per topic."""
        started = self._clock.monotonic_s()
        filled = [topic for topic, records in self._buffer.items() if records]
        if gone := set(filled) - set(self._same_topics(filled)):
            raise Retryable(f"topics {sorted(gone)} do not show: whose records these are is not known")
        for topic, records in self._buffer.items():
            if records:
                self._append(self._feeds[topic], records)
                self._buffered -= len(records)
                self._buffer[topic] = []
        self._tell()
        self._metrics.flush_seconds.labels(self.name).observe(self._clock.monotonic_s() - started)

    def _append(self, feed: Feed, records: list[Record]) -> None:
        rows = feed.rows(records)
        positions: dict[int, int] = {}
        for record in records:  # a partition's records come in offset order
            positions[record.partition] = record.offset + 1
        self._tables[feed.topic].append(rows, positions)
        self._appended_ms |= {TopicPartition(feed.topic, r.partition): r.append_time_ms for r in records}
        facts = self._reached.facts[feed.topic]
        undecodable = rows.num_rows - int(pl.Series(rows["decodable"]).sum())
        facts.rows, facts.undecodable = facts.rows + rows.num_rows, facts.undecodable + undecodable
        facts.positions = {**facts.positions, **positions}
        facts.append_ms = max(facts.append_ms or 0, *(record.append_time_ms for record in records))
        if feed.time is not None and isinstance(top := pl.Series(rows[feed.time]).max(), int):
            facts.maximum_ms = top if facts.maximum_ms is None else max(top, facts.maximum_ms)
        for outcome, count in (("decoded", rows.num_rows - undecodable), ("undecodable", undecodable)):
            self._metrics.archived.labels(feed.topic, outcome).inc(count)
        for p, next_offset in positions.items():
            self._metrics.position.labels(feed.topic, p).set(next_offset)
        self._metrics.append_time_ms.labels(feed.topic).set(facts.append_ms)

    def _tell(self) -> None:
        """Nothing is buffered: whatever the client has passed is in the lake, or no record at all."""
        found: dict[TopicPartition, int] = {}
        for partition in self._consumer.assignment():
            known = self._reached.facts[partition.topic].positions.get(partition.partition, 0)
            found[partition] = max(known, self._consumer.position(partition) or 0)
        self._reached.tell(found)

    def _wait(self, error: Retryable) -> None:
        if self._backoff is None:
            self._backoff = Backoff(self._retry, self._clock.monotonic_s(), self._random)
        self._backoff.failed(self._clock.monotonic_s(), error)

    def close(self) -> None:
        """Archive what is buffered; what fails here comes again from Kafka."""
        try:
            self.flush()
        except Retryable as error:
            _log.warning("archive_not_flushed", loop=self.name, error=str(error))
        finally:
            self._consumer.close()


def _next_name(topic: str) -> str:
    """The topic's next major version: `flights.departures.v1` -> `flights.departures.v2`."""
    stem, dot, version = topic.rpartition(".v")
    return f"{stem}.v{int(version) + 1}" if dot and version.isdigit() else f"{topic}.v2"
