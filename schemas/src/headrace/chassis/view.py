"""A view: a local copy of feature state that stands exactly at a Progress, never between two.

    state topic partition:  block block Progress | block Progress | block ...
                                                 ^ applied up to here, in one write
    RESTORING --(position reaches the log end seen at start)--> LIVE

svc-serve, svc-features and standbys run the same view. It answers nothing while RESTORING: compaction may
have removed the blocks that belonged to an older Progress.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from headrace.chassis.bus import Consumer, Record, TopicPartition
from headrace.chassis.state import Store
from headrace.contracts.records import Progress

PROGRESS_KEY = b"\x00progress"  # reserved: every tile key starts with its format version, which is never 0
_POSITION_KEY = b"\x00position"
CONSUME_RECORDS_MAX = 2_000  # bounds how long one apply holds the lock


@dataclass(slots=True)
class _PartitionView:
    ready_at: int  # log end seen at start
    progress: Progress | None = None
    pending: dict[bytes, bytes | None] = field(default_factory=dict)
    position: int = 0
    live: bool = False


@dataclass(frozen=True, slots=True)
class Reading:
    """What one partition of the state contains, and its blocks. Valid only inside `StateView.reading`."""

    progress: Progress | None  # None: nothing was ever committed; the cut is empty
    multi_get: Callable[[Sequence[bytes]], list[bytes | None]]


class StateView:
    """Applies one state topic. One thread calls `apply`; any thread may read."""

    def __init__(self, topic: str, partitions: int, store: Store, decode_progress: Callable[[bytes], Progress]) -> None:
        self.topic = topic
        self._store = store
        self._decode = decode_progress
        self._lock = threading.Lock()
        self._parts = [_PartitionView(ready_at=0) for _ in range(partitions)]

    def start_positions(self, consumer: Consumer) -> dict[TopicPartition, int]:
        """Where to read from: behind the last Progress applied here, or the log's beginning after a wipe."""
        ends: dict[TopicPartition, tuple[int, int]] = {
            (tp := TopicPartition(self.topic, p)): consumer.watermarks(tp) for p in range(len(self._parts))
        }
        saved = {tp: self._saved_position(tp.partition) for tp in ends}
        if any(saved[tp] and not low <= saved[tp] <= high for tp, (low, high) in ends.items()):
            self._store.wipe()  # the log moved under us: what we hold cannot be continued
            saved = dict.fromkeys(ends, 0)
        for tp, (low, high) in ends.items():
            part = self._parts[tp.partition]
            raw = self._store.get(PROGRESS_KEY + _suffix(tp.partition)) if saved[tp] else None
            part.progress = self._decode(raw) if raw is not None else None
            part.ready_at, part.position = high, max(saved[tp], low)
            part.live = part.position >= high
        return {tp: self._parts[tp.partition].position for tp in ends}

    def apply(self, records: Sequence[Record], position: Callable[[TopicPartition], int | None]) -> int:
        """Take records of this topic, in order; returns how many Progress records were applied."""
        applied = 0
        for record in records:
            part = self._parts[record.partition]
            if record.key != PROGRESS_KEY:
                assert record.key is not None, "state records are keyed"
                part.pending[record.key] = record.value
                continue
            assert record.value is not None, "Progress is never deleted"
            self._commit(record.partition, part, record.value, record.offset + 1)
            applied += 1
        for number, part in enumerate(self._parts):
            if not part.live and not part.pending:
                reached = position(TopicPartition(self.topic, number))
                part.live = max(part.position, reached or 0) >= part.ready_at
        return applied

    def _commit(self, number: int, part: _PartitionView, raw: bytes, position: int) -> None:
        puts = {key: value for key, value in part.pending.items() if value is not None}
        deletes = [key for key, value in part.pending.items() if value is None]
        puts[PROGRESS_KEY + _suffix(number)] = raw
        puts[_POSITION_KEY + _suffix(number)] = position.to_bytes(8, "big")
        progress = self._decode(raw)
        with self._lock:
            self._store.write(puts, deletes)
            part.progress, part.position, part.pending = progress, position, {}

    def _saved_position(self, number: int) -> int:
        raw = self._store.get(_POSITION_KEY + _suffix(number))
        return int.from_bytes(raw, "big") if raw is not None else 0

    @property
    def live(self) -> bool:
        """Whether every partition has reached the log end it saw at its start."""
        return all(part.live for part in self._parts)

    def progress(self) -> list[Progress | None]:
        """The Progress each partition stands at."""
        with self._lock:
            return [part.progress for part in self._parts]

    @contextmanager
    def reading(self) -> Iterator[list[Reading]]:
        """Hold still: blocks and Progress of every partition belong together until the block ends."""
        with self._lock:
            yield [Reading(part.progress, self._store.multi_get) for part in self._parts]


def _suffix(partition: int) -> bytes:
    return partition.to_bytes(4, "big")


class ViewFollower:
    """Feeds several views from one consumer; call `step` in a loop from one thread."""

    def __init__(self, views: Mapping[str, StateView], consumer: Consumer) -> None:
        """views: by state topic."""
        self._views = dict(views)
        self._consumer = consumer
        positions: dict[TopicPartition, int] = {}
        for view in self._views.values():
            positions |= view.start_positions(consumer)
        consumer.assign(positions)

    def step(self, timeout_s: float) -> int:
        """Consume once and apply; returns the number of Progress records applied."""
        by_topic: dict[str, list[Record]] = {topic: [] for topic in self._views}
        for record in self._consumer.consume(CONSUME_RECORDS_MAX, timeout_s):
            by_topic[record.topic].append(record)
        return sum(view.apply(by_topic[topic], self._consumer.position) for topic, view in self._views.items())

    @property
    def live(self) -> bool:
        return all(view.live for view in self._views.values())

    def close(self) -> None:
        self._consumer.close()
