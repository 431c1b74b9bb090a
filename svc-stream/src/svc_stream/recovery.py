"""Getting a task back to exactly what is committed: offset and commit sequence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from headrace.chassis.bus import Bus, Committed, TopicPartition
from headrace.chassis.clock import Clock
from headrace.chassis.errors import Fatal, Retryable
from headrace.chassis.view import StateView, ViewFollower
from headrace.contracts.codec import Codec, EventSchema
from headrace.plan.ir import EventType
from headrace.plan.verdicts import SourceState, judge
from svc_stream.domain.source import SourcePosition, SourceTask

RESTORE_TIMEOUT_S = 300.0  # a log that stands still this long is a fault, not a wait
READ_RECORDS = 5_000


@dataclass(frozen=True, slots=True)
class Reader:
    """What reading a log again needs. `beat` is called as it goes on: a long restore is not a hang."""

    bus: Bus
    codec: Codec
    client_id: str
    clock: Clock
    beat: Callable[[], None]
    wait_s: float = 0.1
    timeout_s: float = RESTORE_TIMEOUT_S


def restore_source(
    event: EventType, schema: EventSchema, tp: TopicPartition, at: SourcePosition, reader: Reader,
    base: tuple[int, SourceState] | None = None,
) -> SourceTask:  # fmt: skip
    """Rebuild the ids of the duplicate rule by judging the log again from the rewind point.

    base: cut and verdict state the set started from; a rewind to before it begins there, the log may no longer go further.

    Raises: Fatal if the log no longer holds what is needed, or what is rebuilt is not what was committed; Retryable if
        the log does not answer.
    """
    state = SourceState(maximum_ms=at.rewind_maximum_ms if at.rewind_offset is not None else at.maximum_ms)
    task = SourceTask(event, tp.partition, at.next_offset, at.next_offset, state, at.base, at.advanced_ms)
    consumer = reader.bus.consumer(None, f"{reader.client_id}.rewind")
    try:
        start = at.next_offset if at.rewind_offset is None else min(at.rewind_offset, at.next_offset)
        if base is not None and at.rewind_offset is not None and at.rewind_offset < base[0]:
            start, state = base
            task.state = state
        low, high = consumer.watermarks(tp)
        if low > start:
            raise Fatal(f"log of {tp.topic}-{tp.partition} begins at {low}, needed from {start}: retention took it")
        if high < at.next_offset:  # a new leader may lag for a moment; a topic made anew does for good
            raise Retryable(f"log of {tp.topic}-{tp.partition} ends at {high}, committed is {at.next_offset}")
        if start == at.next_offset:
            return task
        consumer.assign({tp: start})
        stalled_s = reader.clock.monotonic_s() + reader.timeout_s
        while (consumer.position(tp) or 0) < at.next_offset:
            reader.beat()
            records = [r for r in consumer.consume(READ_RECORDS, reader.wait_s) if r.offset < at.next_offset]
            if not records:
                if reader.clock.monotonic_s() > stalled_s:
                    raise Retryable(f"source {tp.topic}-{tp.partition} does not answer from offset {start}")
                continue
            stalled_s = reader.clock.monotonic_s() + reader.timeout_s
            decoded = reader.codec.decode_events(schema, [r.value for r in records])
            judge(
                state,
                event,
                np.fromiter((r.offset for r in records), np.int64, len(records)),
                decoded.frame[event.time].cast(pl.Int64).fill_null(0).to_numpy(),
                np.fromiter((r.append_time_ms for r in records), np.int64, len(records)),
                decoded.frame[event.dedup_id].to_list() if event.dedup_id else None,
                decoded.decodable,
            )
    finally:
        consumer.close()
    if state.maximum_ms != at.maximum_ms:
        raise Fatal(
            f"source {tp.topic}-{tp.partition}: rebuilt maximum {state.maximum_ms} is not the committed {at.maximum_ms}"
        )
    return task


def restore_entity(view: StateView, at: Committed | None, reader: Reader) -> None:
    """Follow the changelog until its Progress equals the committed offset and sequence.

    A local store that stands there already needs no log: disk never holds what was not committed. Less means the
    changelog's end is not read yet: wait. More means another life wrote it: refuse.

    Raises: Fatal if the state stands above what is committed, or never reaches it; Retryable if the log does not answer.
    """
    wanted = (at.offset, int(at.metadata or 0)) if at else (0, 0)
    where = f"state {view.partition.topic}-{view.partition.partition}"
    saved = view.saved()
    if saved is not None and (saved.partials_offset, saved.commit_sequence) == wanted:
        view.resume()
        return
    follower = ViewFollower([view], reader.bus.consumer(None, f"{reader.client_id}.restore"))
    try:
        stalled_s = reader.clock.monotonic_s() + reader.timeout_s
        while True:
            reader.beat()
            found = (view.progress.partials_offset, view.progress.commit_sequence) if view.progress else (0, 0)
            if found[1] > wanted[1] or (found[1] == wanted[1] and found[0] != wanted[0]):
                raise Fatal(f"{where} stands at (offset, sequence) {found}, committed is {wanted}")
            if found == wanted and view.live:
                return
            if follower.step(reader.wait_s):
                stalled_s = reader.clock.monotonic_s() + reader.timeout_s
            elif reader.clock.monotonic_s() >= stalled_s:
                lost = f"{where} ends at (offset, sequence) {found}, committed is {wanted}"
                raise Fatal(f"{lost}: records lost") if view.live else Retryable(f"{lost}: its log does not answer")
    finally:
        follower.close()
