"""Event time of a stream where nothing comes: which sources go on without a record, and how far.

A source that has been quiet for long, and was read to its end, goes on with the slowest that is not; with a tick declared,
a stream of which all sources are silent goes on as the clock does. Both are logged: whoever recomputes the stream reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from headrace.chassis.bus import TopicPartition
from headrace.contracts.records import AdvanceCause, TimeAdvanced
from headrace.plan.ir import Stream
from svc_stream.domain.quiet import Advance, Place, Quiet, Standing
from svc_stream.domain.source import SourceTask
from svc_stream.streams.changelog import Changelog

LOOKS_PER_QUIET = 4  # so much of the time that makes a source quiet may pass before it is noticed


@dataclass(frozen=True, slots=True)
class Told:
    """A source that goes on."""

    place: TopicPartition
    source: SourceTask
    advance: Advance
    cause: AdvanceCause

    def record(self, stream: Stream) -> TimeAdvanced:
        """For the log."""
        return TimeAdvanced(
            set=stream.name, set_hash=stream.hash, event=self.source.event.name, topic=self.place.topic,
            partition=self.place.partition, next_offset=self.source.next_offset, watermark_ms=self.advance.watermark_ms,
            cause=self.cause, quiet_ms=int(self.advance.quiet_s * 1000),
        )  # fmt: skip


class Advances:
    """Looks now and then."""

    def __init__(self, stream: Stream, idle_s: float, fused: bool) -> None:
        self._stream, self._fused = stream, fused
        self._tick_s = None if stream.tick_ms is None else stream.tick_ms / 1000
        self._every_s = min(idle_s, self._tick_s or idle_s) / LOOKS_PER_QUIET
        self._look_s = 0.0
        self._quiet = Quiet(idle_s, _of_partition if fused else _of_all)
        self._ticked: dict[Place, float] = {}

    def due(self, now_s: float) -> bool:
        if now_s < self._look_s:
            return False
        self._look_s = now_s + self._every_s
        return True

    def found(
        self, sources: Mapping[TopicPartition, SourceTask], operators: Mapping[int, Changelog], now_s: float
    ) -> Iterator[Told]:
        """What may go on, were its log read to the end.

        Args:
            operators: tasks here, which have heard of sources that others read.
        """
        standings = {
            place: Standing(cut.next_offset, cut.watermark_ms) for o in operators.values() for place, cut in o.task.cut.items()
        }
        own = {(task.event.name, task.partition): (tp, task) for tp, task in sources.items()}
        standings |= {place: Standing(task.next_offset, task.watermark_ms()) for place, (_, task) in own.items()}
        for advance in self._quiet.advances(standings, frozenset(own), now_s):
            yield Told(*own[advance.place], advance, AdvanceCause.IDLE)
        if self._tick_s is not None:
            yield from self._ticks(standings, own, self._tick_s)

    def _ticks(
        self, standings: Mapping[Place, Standing], own: Mapping[Place, tuple[TopicPartition, SourceTask]], tick_s: float
    ) -> Iterator[Told]:
        """As if the clock had gone on in the events: until everything that could wait has been closed, then no more."""
        for place, (tp, task) in own.items():
            group = [p for p in standings if not self._fused or p[1] == place[1]]
            silent_s = min(self._quiet.quiet_s(p) for p in group)
            if silent_s < tick_s:
                self._ticked.pop(place, None)
                continue
            if silent_s - self._ticked.get(place, 0.0) < tick_s:
                continue
            newest = [t.state.maximum_ms for p, (_, t) in own.items() if p in group and t.state.maximum_ms is not None]
            if not newest:
                continue
            limit_ms = max(newest) + span_ms(self._stream)
            to_ms = min(max(newest) + int(silent_s * 1000) - task.event.lateness_ms, limit_ms)
            if to_ms > (task.watermark_ms() or 0):
                self._ticked[place] = silent_s
                yield Told(tp, task, Advance(place, to_ms, silent_s), AdvanceCause.TICK)


def span_ms(stream: Stream) -> int:
    """How long after the newest event the last result that waits for event time can come."""
    window, join = stream.window, stream.join
    held = 0 if window is None else window.size_ms + window.gap_ms
    if join is not None:
        held = max(held, join.before_ms, join.after_ms)
    return held + 1


def _of_partition(place: Place) -> int:
    return place[1]


def _of_all(_place: Place) -> int:
    return 0
