"""How far consumer groups are behind, in records and in seconds: asked of the broker, which alone can tell.

A stopped service cannot report its own lag. And lag is honest about transactions: between a group's offset and the end of a
log may lie nothing but markers and aborted records; so where a group is behind, the first record it has not taken is read,
and the lag in seconds is the age of that record since its append. Nothing to read up to the last stable offset means no lag,
whatever the offsets say.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import (
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
)
from confluent_kafka import TopicPartition as Position
from confluent_kafka.admin import AdminClient, OffsetSpec  # pyright: ignore[reportPrivateImportUsage]

from headrace.chassis.logs import kafka_log

REQUEST_S = 10.0
PROBE_S = 2.0  # for all first unread records of one batch; a broker on the same network answers in milliseconds

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
    """Asks the broker. `look` from one thread. access: the client's settings of identity and encryption, if any are needed."""

    def __init__(self, bootstrap: str, request_s: float = REQUEST_S, access: Mapping[str, Any] | None = None) -> None:
        self._request_s = request_s
        base = {"bootstrap.servers": bootstrap, **(access or {})}
        self._admin = AdminClient(base, logger=kafka_log)
        self._consumer = Consumer(
            {
                **base,
                "group.id": "headrace-observer",  # never commits, never joins
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "queued.max.messages.kbytes": 16_384,
                "fetch.message.max.bytes": 65_536,  # one record per partition is wanted
            },
            logger=kafka_log,
        )

    def look(self) -> Found:
        """One look. Raises: KafkaException."""
        cluster = self._admin.list_topics(timeout=self._request_s)
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
            request_timeout=self._request_s,
        )
        return {(at.topic, at.partition): answer.result().offset for at, answer in asked.items()}

    def _committed(self) -> dict[Taken, int]:
        found: dict[Taken, int] = {}
        listed = self._admin.list_consumer_groups(request_timeout=self._request_s).result()
        for group in listed.valid or []:
            name = group.group_id
            asked = self._admin.list_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(name)], request_timeout=self._request_s
            )
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
        answered = [Position(t, p) for t, p, _ in batch if (t, p) not in waiting]
        self._consumer.resume(answered)  # else they stay paused, and their next assignment never answers
        self._consumer.unassign()
        return found

    def close(self) -> None:
        self._consumer.close()


@dataclass(frozen=True, slots=True)
class GroupLag:
    """One group over all its partitions. records: the sum; seconds: the largest; topic: where most is left."""

    group: str
    records: int
    seconds: float
    partitions: int
    topic: str


def by_group(found: Mapping[Taken, tuple[int, float]]) -> list[GroupLag]:
    """Lags of each group together, the one furthest behind first."""
    groups: dict[str, dict[tuple[str, int], tuple[int, float]]] = defaultdict(dict)
    for (group, topic, partition), lag in found.items():
        groups[group][topic, partition] = lag
    lines = [
        GroupLag(
            group,
            sum(records for records, _ in lags.values()),
            max(seconds for _, seconds in lags.values()),
            len(lags),
            max(lags, key=lambda at: (lags[at][0], at))[0],
        )
        for group, lags in groups.items()
    ]
    return sorted(lines, key=lambda line: (-line.seconds, -line.records, line.group))
