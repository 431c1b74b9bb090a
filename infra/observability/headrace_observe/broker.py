"""What only the broker can tell, as Prometheus metrics: how far logs and groups are, lag in records and in seconds.

A stopped service cannot report its own lag, so this runs beside the services:

    python -m headrace_observe.broker --bootstrap 127.0.0.1:19092 --port 19308

Lag is honest about transactions. Between a group's offset and the end of a log may lie nothing but markers and aborted
records; so where a group is behind, the first record it has not taken is read, and the lag in seconds is the age of that
record since its append. Nothing to read up to the last stable offset means no lag, whatever the offsets say.
"""

from __future__ import annotations

import argparse
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from confluent_kafka import (
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
)
from confluent_kafka import TopicPartition as Position
from confluent_kafka.admin import AdminClient, OffsetSpec  # pyright: ignore[reportPrivateImportUsage]
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

REQUEST_S = 10.0
PROBE_S = 2.0  # for all first unread records of one batch; a broker on the same network answers in milliseconds
EVERY_S = 5.0

Partition = tuple[str, int]
Taken = tuple[str, str, int]  # group, topic, partition


@dataclass(frozen=True, slots=True)
class Found:
    """One look. ends and stable by partition; lags: (records, seconds) by group and partition."""

    brokers: int = 0
    ends: Mapping[Partition, int] = field(default_factory=dict)
    stable: Mapping[Partition, int] = field(default_factory=dict)
    lags: Mapping[Taken, tuple[int, float]] = field(default_factory=dict)


def batches(positions: Iterable[tuple[str, int, int]]) -> Iterator[list[tuple[str, int, int]]]:
    """Split (topic, partition, offset) so that no batch names a partition twice: a consumer can be assigned each."""
    left = sorted(set(positions))
    while left:
        seen: set[Partition] = set()
        batch, later = list[tuple[str, int, int]](), list[tuple[str, int, int]]()
        for topic, partition, offset in left:
            (later if (topic, partition) in seen else batch).append((topic, partition, offset))
            seen.add((topic, partition))
        yield batch
        left = later


def lags(
    committed: Mapping[Taken, int],
    stable: Mapping[Partition, int],
    unread_ms: Mapping[tuple[str, int, int], int | None],
    now_ms: int,
) -> dict[Taken, tuple[int, float]]:
    """(records, seconds) of each group on each partition.

    Args:
        committed: next offset of the group.
        stable: last stable offset.
        unread_ms: by (topic, partition, offset) the append time of the first record from there on, ms UTC; None where
            there is none to read. A position that was not asked about counts by its offsets, without an age.
    """
    found: dict[Taken, tuple[int, float]] = {}
    for (group, topic, partition), offset in committed.items():
        behind = max(0, stable.get((topic, partition), offset) - offset)
        append_ms = unread_ms.get((topic, partition, offset), -1)
        if behind and append_ms is None:
            behind = 0
        seconds = max(0, now_ms - append_ms) / 1000 if behind and append_ms is not None and append_ms >= 0 else 0.0
        found[group, topic, partition] = (behind, seconds)
    return found


class Looker:
    """Asks the broker. `look` from one thread."""

    def __init__(self, bootstrap: str) -> None:
        self._admin = AdminClient({"bootstrap.servers": bootstrap})
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "headrace-observer",  # never commits, never joins
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "queued.max.messages.kbytes": 16_384,
                "fetch.message.max.bytes": 65_536,  # one record per partition is wanted
            }
        )

    def look(self) -> Found:
        """One look. Raises: KafkaException."""
        cluster = self._admin.list_topics(timeout=REQUEST_S)
        partitions = [
            (name, number) for name, topic in cluster.topics.items() if not name.startswith("__") for number in topic.partitions
        ]
        ends = self._offsets(partitions, IsolationLevel.READ_UNCOMMITTED)
        stable = self._offsets(partitions, IsolationLevel.READ_COMMITTED)
        committed = {taken: at for taken, at in self._committed().items() if (taken[1], taken[2]) in stable}
        behind = {(t, p, at) for (_, t, p), at in committed.items() if stable[t, p] > at}
        unread: dict[tuple[str, int, int], int | None] = {}
        for batch in batches(behind):
            unread |= self._first_unread(batch)
        return Found(len(cluster.brokers), ends, stable, lags(committed, stable, unread, time.time_ns() // 1_000_000))

    def _offsets(self, partitions: list[Partition], isolation: IsolationLevel) -> dict[Partition, int]:
        if not partitions:
            return {}
        latest = OffsetSpec.latest()
        assert latest is not None, "the client's stub says it may be"
        asked = self._admin.list_offsets(
            {Position(t, p): latest for t, p in partitions},
            isolation_level=isolation,
            request_timeout=REQUEST_S,
        )
        return {(at.topic, at.partition): answer.result().offset for at, answer in asked.items()}

    def _committed(self) -> dict[Taken, int]:
        found: dict[Taken, int] = {}
        listed = self._admin.list_consumer_groups(request_timeout=REQUEST_S).result()
        for group in listed.valid or []:
            name = group.group_id
            asked = self._admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(name)], request_timeout=REQUEST_S)
            for at in asked[name].result().topic_partitions or []:
                if at.offset >= 0 and at.error is None:
                    found[name, at.topic, at.partition] = at.offset
        return found

    def _first_unread(self, batch: list[tuple[str, int, int]]) -> dict[tuple[str, int, int], int | None]:
        """Append times of first unread records; positions that did not answer in time are left out."""
        waiting = {(topic, partition): offset for topic, partition, offset in batch}
        found: dict[tuple[str, int, int], int | None] = {}
        self._consumer.assign([Position(*at) for at in batch])
        deadline = time.monotonic() + PROBE_S
        while waiting and (left := deadline - time.monotonic()) > 0:
            for message in self._consumer.consume(len(batch), left if len(waiting) == len(batch) else min(left, 0.2)):
                topic, partition, error = message.topic(), message.partition(), message.error()
                if topic is None or partition is None or (topic, partition) not in waiting:
                    continue
                kind, stamp = message.timestamp()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:
                    continue
                known = error is None and kind != TIMESTAMP_NOT_AVAILABLE
                offset = waiting.pop((topic, partition))
                found[topic, partition, offset] = stamp if known else None if error is not None else -1
                self._consumer.pause([Position(topic, partition)])
        self._consumer.unassign()
        return found

    def close(self) -> None:
        self._consumer.close()


class BrokerMetrics(Collector):
    """The last look as metric families. Labels: topics and groups of admitted plans, numbered partitions."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._found = Found()
        self.failed = Counter("kafka_looks_failed_total", "Looks at the broker that were not answered.", registry=registry)
        self.looked = Gauge("kafka_look_timestamp_seconds", "When the broker last answered, Unix time.", registry=registry)
        registry.register(self)

    def took(self, found: Found) -> None:
        self._found = found
        self.looked.set_to_current_time()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        found, at = self._found, ("topic", "partition")
        yield GaugeMetricFamily("kafka_brokers", "Brokers of the cluster.", float(found.brokers))
        for name, says, values in (
            ("kafka_log_end_offset", "Next offset of a partition (high watermark).", found.ends),
            ("kafka_last_stable_offset", "Offset up to which read-committed consumers can read.", found.stable),
        ):
            family = GaugeMetricFamily(name, says, labels=at)
            for (topic, partition), offset in values.items():
                family.add_metric((topic, str(partition)), float(offset))
            yield family
        records = GaugeMetricFamily("kafka_group_lag_records", "Records a group has not taken.", labels=("group", *at))
        seconds = GaugeMetricFamily(
            "kafka_group_lag_seconds", "Age of the first record a group has not taken.", labels=("group", *at)
        )
        for (group, topic, partition), (behind, age_s) in found.lags.items():
            labels = (group, topic, str(partition))
            records.add_metric(labels, float(behind))
            seconds.add_metric(labels, age_s)
        yield from (records, seconds)


def follow(looker: Looker, metrics: BrokerMetrics, stop: threading.Event, every_s: float = EVERY_S) -> None:
    """Look until stopped; a broker that is away is counted and asked again."""
    while not stop.is_set():
        try:
            metrics.took(looker.look())
        except KafkaException as error:
            metrics.failed.inc()
            print(f"broker_not_looked_at error={error}", flush=True)
        stop.wait(every_s)


def main() -> int:
    """Serve /metrics until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bootstrap", default="127.0.0.1:19092")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=19308)
    parser.add_argument("--every", type=float, default=EVERY_S, help="seconds between looks")
    given = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    registry = CollectorRegistry()
    metrics = BrokerMetrics(registry)
    server, _ = start_http_server(given.port, given.host, registry)
    looker = Looker(given.bootstrap)
    try:
        follow(looker, metrics, stop, given.every)
    finally:
        looker.close()
        server.shutdown()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
