"""Getting a task back to exactly what is committed: offset and commit sequence."""

from __future__ import annotations

import time

import numpy as np
import polars as pl

from headrace.chassis.bus import Bus, Committed, TopicPartition
from headrace.chassis.errors import Fatal, Retryable
from headrace.chassis.view import StateView, ViewFollower
from headrace.contracts.codec import Codec, EventSchema
from headrace.plan.ir import EventType
from headrace.plan.verdicts import SourceState, judge
from svc_stream.domain.source import SourcePosition, SourceTask
from svc_stream.telemetry import SetMetrics

RESTORE_TIMEOUT_S = 300.0  # a changelog that stands still this long is a fault, not a wait
READ_RECORDS = 5_000


def restore_source(
    event: EventType, schema: EventSchema, tp: TopicPartition, at: SourcePosition, codec: Codec, bus: Bus, client_id: str
) -> SourceTask:
    """Rebuild the ids of the duplicate rule by judging the log again from the rewind point.

    Raises: Fatal if what is rebuilt is not what was committed, Retryable if the log does not answer.
    """
    state = SourceState(maximum_ms=at.rewind_maximum_ms if at.rewind_offset is not None else at.maximum_ms)
    task = SourceTask(event, tp.partition, at.next_offset, at.next_offset, state)
    if at.rewind_offset is None or at.rewind_offset >= at.next_offset:
        return task
    consumer = bus.consumer(None, f"{client_id}.rewind")
    try:
        consumer.assign({tp: at.rewind_offset})
        stalled = time.monotonic() + RESTORE_TIMEOUT_S
        while (consumer.position(tp) or 0) < at.next_offset:
            records = [r for r in consumer.consume(READ_RECORDS, 1.0) if r.offset < at.next_offset]
            if records:
                stalled = time.monotonic() + RESTORE_TIMEOUT_S
            elif time.monotonic() > stalled:
                raise Retryable(f"source {tp.topic}-{tp.partition} does not answer from offset {at.rewind_offset}")
            decoded = codec.decode_events(schema, [r.value for r in records])
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


def restore_entity(view: StateView, at: Committed | None, bus: Bus, client_id: str, metrics: SetMetrics) -> None:
    """Follow the changelog until its Progress equals the committed offset and sequence.

    Less means the changelog's end is not read yet: wait. More means another life wrote it: refuse.
    """
    wanted = (at.offset, int(at.metadata or 0)) if at else (0, 0)
    consumer = bus.consumer(None, f"{client_id}.restore")
    follower = ViewFollower([view], consumer)
    try:
        stalled = time.monotonic() + RESTORE_TIMEOUT_S
        while True:
            found = (view.progress.partials_offset, view.progress.commit_sequence) if view.progress else (0, 0)
            if found[1] > wanted[1] or (found[1] == wanted[1] and found[0] != wanted[0]):
                raise Fatal(f"state {view.partition.topic}-{view.partition.partition} stands at {found}, committed is {wanted}")
            if found == wanted and view.live:
                return
            if follower.step(0.1):
                stalled = time.monotonic() + RESTORE_TIMEOUT_S
                metrics.restored(view.partition.partition, view.position)
            elif time.monotonic() > stalled:
                raise Fatal(
                    f"state {view.partition.topic}-{view.partition.partition} ends at {found}, committed is {wanted}: records lost"
                )
    finally:
        follower.close()
