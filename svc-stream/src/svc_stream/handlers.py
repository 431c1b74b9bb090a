"""From consumed records to what one transaction writes. No Kafka client here: records in, records out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from headrace.chassis.bus import Record
from headrace.contracts.codec import Codec, EventSchema
from headrace.contracts.errors import Poison, Reason
from headrace.contracts.records import RecordRejected
from headrace.plan.ir import EventType, FeatureSet
from headrace.plan.tiles import PartialColumns, lift
from headrace.plan.verdicts import Verdict, judge
from svc_stream.domain.source import SourceTask

GROUP = "svc-stream"  # dead letters are named by service, not by plan
TRACEPARENTS_MAX = 16
_SAMPLED = b"-01"  # W3C traceparent flags: only sampled records cost anything


@dataclass(slots=True)
class SourceOutcome:
    """What a batch of one source partition gives."""

    accepted: pl.DataFrame
    rejected: list[RecordRejected] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    sampled: list[Record] = field(default_factory=list)


def judge_batch(task: SourceTask, schema: EventSchema, codec: Codec, records: Sequence[Record]) -> SourceOutcome:
    """Decode and judge records of one source partition, in offset order; advances the task."""
    event = task.event
    decoded = codec.decode_events(schema, [r.value for r in records])
    offsets = np.fromiter((r.offset for r in records), dtype=np.int64, count=len(records))
    appended = np.fromiter((r.append_time_ms for r in records), dtype=np.int64, count=len(records))
    times = decoded.frame[event.time].cast(pl.Int64).fill_null(0).to_numpy()
    ids = decoded.frame[event.dedup_id].to_list() if event.dedup_id else None
    judged = judge(task.state, event, offsets, times, appended, ids, decoded.decodable)
    task.next_offset = records[-1].offset + 1
    frame = decoded.frame.with_columns(
        pl.lit(task.partition, dtype=pl.Int64).alias("__partition"),
        pl.Series("__offset", offsets),
        pl.Series("__time", times),
    )
    outcome = SourceOutcome(frame.filter(pl.Series(judged.verdicts == Verdict.OK)))
    outcome.counts.update(Verdict(int(v)).name.lower() for v in judged.verdicts)
    for row in np.flatnonzero((judged.verdicts != Verdict.OK) & (judged.verdicts != Verdict.DUPLICATE)).tolist():
        late_by_ms = int(judged.maximum_after_ms[row]) - event.lateness_ms - int(times[row])
        verdict = Verdict(int(judged.verdicts[row]))
        outcome.rejected.append(_rejected(event, records[row], verdict, late_by_ms, decoded.errors.get(row)))
    outcome.sampled = [r for r in records if _is_sampled(r)][:TRACEPARENTS_MAX]
    return outcome


def lift_all(
    feature_set: FeatureSet, events: Sequence[EventType], frames: dict[str, list[pl.DataFrame]]
) -> list[PartialColumns]:
    """Partial tiles of everything accepted in this transaction."""
    by_name = {e.name: e for e in events}
    pieces: list[PartialColumns] = []
    for name, parts in frames.items():
        frame = pl.concat(parts) if len(parts) > 1 else parts[0]
        if frame.height:
            pieces += lift(feature_set, by_name[name], frame)
    return pieces


def _rejected(event: EventType, record: Record, verdict: Verdict, late_by_ms: int, error: Poison | None) -> RecordRejected:
    lateness = None
    if verdict is Verdict.LATE:
        reason, detail = Reason.LATE, f"event time below the largest seen minus {event.lateness_ms} ms"
        lateness = late_by_ms
    elif verdict is Verdict.POISON:
        reason, detail = Reason.FAR_FUTURE, f"event time more than {event.poison_bound_ms} ms after append time"
    else:
        reason, detail = (error.reason, error.detail) if error else (Reason.BAD_FRAME, "cannot be decoded")
    return RecordRejected(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        append_time_ms=record.append_time_ms,
        group=GROUP,
        reason=reason.value,
        detail=detail,
        key=record.key,
        value=record.value,
        origin_id=f"{record.topic}-{record.partition}-{record.offset}",
        lateness_ms=lateness,
    )


def _is_sampled(record: Record) -> bool:
    return any(name == "traceparent" and value.endswith(_SAMPLED) for name, value in record.headers)
