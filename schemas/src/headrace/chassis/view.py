"""A view: a local copy of one partition of feature state that stands exactly at a Progress, never between two.

    state topic partition:  block block Progress | block Progress | block ...
                                                 ^ applied up to here, in one write
    RESTORING --(position reaches the log end seen at start)--> LIVE
        ^------(the next Progress is too old: overtaken)---------'

svc-serve, svc-features, standbys and a restoring stream task run the same view. It answers nothing while
RESTORING: compaction may have removed the blocks that belonged to an older Progress. For the same reason a view is
overtaken when the Progress it would stand at next is older than compaction waits, whether its restore took that long
or it fell behind: then it answers again only at the log end seen at that moment, and says so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from headrace.chassis.bus import Consumer, Record, TopicPartition
from headrace.chassis.clock import Clock, SystemClock
from headrace.chassis.logs import logger
from headrace.chassis.metrics import ChassisMetrics
from headrace.chassis.state import Store
from headrace.contracts.catalogue import compaction_lag_ms
from headrace.contracts.formats import readable
from headrace.contracts.records import Progress

PROGRESS_KEY = b"\x00progress"  # reserved: every tile key starts with its format version, which is never 0
POSITION_KEY = b"\x00position"  # local only: next changelog offset
CONSUME_RECORDS_MAX = 2_000  # bounds how long one apply holds the lock
COMPACTION_SHARE = 0.5  # of what compaction waits may a view be behind: clocks differ, and compaction has its own pace
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Reading:
    """Blocks and Progress that belong together. Valid only inside `StateView.reading`."""

    progress: Progress | None  # None: nothing was ever committed; the cut is empty
    multi_get: Callable[[Sequence[bytes]], list[bytes | None]]


class StateView:
    """Applies one partition of a state topic. One thread calls `apply`; any thread may read."""

    def __init__(self, partition: TopicPartition, store: Store, decode_progress: Callable[[bytes], Progress]) -> None:
        self.partition = partition
        self.store = store
        self.progress: Progress | None = None
        self.position = 0
        self.live = False
        self._ready_at = 0
        self._pending: dict[bytes, bytes | None] = {}
        self._decode = lambda raw: readable(decode_progress(raw))
        self._lock = threading.Lock()

    def saved(self) -> Progress | None:
        """The Progress the local store stands at, whatever the log says."""
        raw = self.store.get(PROGRESS_KEY)
        return None if raw is None else self._decode(raw)

    def resume(self) -> None:
        """Go on from the local store alone: for the one writer of a state, whose store is known to be at its last commit."""
        self.progress = self.saved()
        self.position = int.from_bytes(self.store.get(POSITION_KEY) or b"", "big")
        self._pending, self.live = {}, True

    def hold(self, ready_at: int) -> None:
        """Answer nothing before this offset of the log is reached."""
        self.live, self._ready_at = False, ready_at

    def would_answer(self, reached: int | None) -> bool:
        """Whether it answers now, or would once everything before `reached` is applied."""
        return self.live or max(self.position, reached or 0) >= self._ready_at

    def start(self, consumer: Consumer) -> int:
        """Offset to read from: behind the last Progress applied here, or the log's beginning after a wipe."""
        low, high = consumer.watermarks(self.partition)
        raw_position, progress = self.store.get(POSITION_KEY), self.saved()
        saved = int.from_bytes(raw_position, "big") if raw_position is not None else low
        if not low <= saved <= high or progress is None:
            self.store.wipe()  # the log moved under us, or nothing is here: what we hold cannot be continued
            saved, progress = low, None
        self.progress = progress
        self.position, self._ready_at, self._pending = saved, high, {}
        self.live = saved >= high
        return saved

    def apply(self, records: Sequence[Record], reached: int | None) -> int:
        """Take records of this partition, in order.

        Args:
            records: consumed since the last call; may be empty.
            reached: the consumer's position, which steps over transaction markers.
        Returns: how many Progress records were applied.
        """
        newest = max((i for i, record in enumerate(records) if record.key == PROGRESS_KEY), default=-1)
        self._take(records[: newest + 1])
        if newest >= 0:
            self._write_pending(records[newest])
        self._take(records[newest + 1 :])
        applied = sum(record.key == PROGRESS_KEY for record in records)
        if not self.live and not self._pending:
            self.live = max(self.position, reached or 0) >= self._ready_at
        return applied

    def _take(self, records: Sequence[Record]) -> None:
        for record in records:
            assert record.key is not None, "state records are keyed"
            if record.key != PROGRESS_KEY:
                self._pending[record.key] = record.value

    def _write_pending(self, last: Record) -> None:
        """One write for however many Progress records came: the view stands at the last of them, never between two."""
        assert last.value is not None, "Progress is never deleted"
        puts = {key: value for key, value in self._pending.items() if value is not None}
        deletes = [key for key, value in self._pending.items() if value is None]
        self.write(puts, deletes, last.value, last.offset + 1)
        self._pending = {}

    def write(self, puts: dict[bytes, bytes], deletes: Sequence[bytes], raw_progress: bytes, position: int) -> None:
        """One atomic write: blocks, the Progress they belong to, and where the changelog goes on."""
        meta = {PROGRESS_KEY: raw_progress, POSITION_KEY: position.to_bytes(8, "big")}
        progress = self._decode(raw_progress)
        with self._lock:
            self.store.write(puts | meta, deletes)
            self.progress, self.position = progress, position

    @contextmanager
    def reading(self) -> Iterator[Reading]:
        """Hold still: what is read inside belongs to one Progress."""
        with self._lock:
            yield Reading(self.progress, self.store.multi_get)


class ViewFollower:
    """Feeds several views from one consumer; call `step` in a loop from one thread."""

    def __init__(
        self, views: Sequence[StateView], consumer: Consumer, clock: Clock | None = None, metrics: ChassisMetrics | None = None
    ) -> None:
        """clock: None is the system's. metrics: told of each view's age, and of views that were overtaken."""
        self._views = {view.partition: view for view in views}
        self._consumer, self._clock, self._metrics = consumer, clock or SystemClock(), metrics
        self._patience_ms = {
            tp: None if (lag := compaction_lag_ms(tp.topic)) is None else int(lag * COMPACTION_SHARE) for tp in self._views
        }
        consumer.assign({partition: view.start(consumer) for partition, view in self._views.items()})

    def step(self, timeout_s: float) -> int:
        """Consume once and apply; returns the number of Progress records applied."""
        batches: dict[TopicPartition, list[Record]] = {partition: [] for partition in self._views}
        for record in self._consumer.consume(CONSUME_RECORDS_MAX, timeout_s):
            batches[TopicPartition(record.topic, record.partition)].append(record)
        return sum(
            self._apply(view, batches[tp], self._consumer.position(tp))
            for tp, view in self._views.items()
            if batches[tp] or not view.live
        )

    def _apply(self, view: StateView, records: Sequence[Record], reached: int | None) -> int:
        newest = next((r for r in reversed(records) if r.key == PROGRESS_KEY), None)
        if newest is not None:
            self._watch(view, newest, reached)
        return view.apply(records, reached)

    def _watch(self, view: StateView, progress: Record, reached: int | None) -> None:
        """Before a Progress is applied: blocks that belong to one so old may be gone already, unless nothing follows it."""
        tp, age_ms = view.partition, self._clock.now_ms() - progress.append_time_ms
        if self._metrics is not None:
            self._metrics.view_age_seconds.labels(tp.topic, tp.partition).set(age_ms / 1000)
        patience_ms = self._patience_ms[tp]
        if patience_ms is None or age_ms <= patience_ms or not view.would_answer(reached):
            return
        _, end = self._consumer.watermarks(tp)
        if (reached or 0) >= end:
            return
        view.hold(end)
        if self._metrics is not None:
            self._metrics.views_overtaken.labels(tp.topic).inc()
        _log.error("view_overtaken", topic=tp.topic, partition=tp.partition, behind_s=age_ms / 1000, answers_at=end)

    @property
    def live(self) -> bool:
        """Whether every view has reached the log end it saw at its start, and was not overtaken since."""
        return all(view.live for view in self._views.values())

    def close(self) -> None:
        self._consumer.close()
