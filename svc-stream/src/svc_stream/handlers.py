"""From consumed records to what one transaction writes. No Kafka client here: records in, records out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headrace.chassis.bus import Record
from headrace.contracts.codec import Codec, EventSchema
from headrace.contracts.errors import Fatal, Poison, Reason
from headrace.contracts.records import PartialTiles, RecordRejected
from headrace.plan.ir import EventType, FeatureSet
from headrace.plan.tiles import PartialColumns, lift
from headrace.plan.verdicts import Verdict, judge
from svc_stream.domain.source import JudgedRows, SourceTask, halve, partial_records, split

GROUP = "svc-stream"  # dead letters are named by service, not by plan
TRACEPARENTS_MAX = 16
_SAMPLED = b"-01"  # W3C traceparent flags: only sampled records cost anything


@dataclass(slots=True)
class Pronounced:
    """Verdicts on a batch of one source partition, and what they give.

    offsets, maxima_ms (the largest event time after each record, NO_MAXIMUM where there is none), verdicts: shape (n,).
    """

    offsets: NDArray[np.int64]
    maxima_ms: NDArray[np.int64]
    verdicts: NDArray[np.int8]
    rejected: list[RecordRejected] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    sampled: list[Record] = field(default_factory=list)


@dataclass(slots=True)
class SourceOutcome(Pronounced):
    """What a batch of one source partition gives.

    frame: all rows with `__partition`, `__offset` and `__time`, nulls where undecodable.
    """

    rows: JudgedRows = field(kw_only=True)
    frame: pl.DataFrame = field(kw_only=True)


@dataclass(slots=True)
class RowsOutcome(Pronounced):
    """The same for a small batch. fields: None where undecodable; times_ms: 0 there."""

    fields: list[dict[str, Any] | None] = field(kw_only=True)
    times_ms: list[int] = field(kw_only=True)


def judge_batch(task: SourceTask, schema: EventSchema, codec: Codec, records: Sequence[Record]) -> SourceOutcome:
    """Decode and judge records of one source partition, in offset order; advances the task."""
    event = task.event
    decoded = codec.decode_events(schema, [r.value for r in records])
    column = decoded.frame[event.time]
    times = (column.fill_null(0) if column.null_count() else column).to_numpy()
    ids = decoded.frame[event.dedup_id].to_list() if event.dedup_id else None
    found = _pronounce(task, records, times, ids, decoded.decodable, decoded.errors)
    # Eager steps: a lazy plan of three columns costs more than the columns.
    partitions = np.full(len(records), task.partition, np.int64)
    frame = decoded.frame.hstack(
        [pl.Series("__partition", partitions), pl.Series("__offset", found.offsets), pl.Series("__time", times)]
    )
    ok = found.verdicts == Verdict.OK
    accepted = frame if ok.all() else frame[np.flatnonzero(ok)]
    rows = JudgedRows(event, task.partition, task.told_offset, found.offsets, found.maxima_ms, accepted, task.advanced_ms)
    return SourceOutcome(
        found.offsets, found.maxima_ms, found.verdicts, found.rejected, found.counts, found.sampled, rows=rows, frame=frame
    )


def judge_rows(task: SourceTask, schema: EventSchema, codec: Codec, records: Sequence[Record]) -> RowsOutcome:
    """`judge_batch` without a frame, whose making costs more than a few records."""
    fields: list[dict[str, Any] | None] = []
    errors: dict[int, Poison] = {}
    for row, record in enumerate(records):
        try:
            fields.append(codec.decode_event(schema, record.value))
        except Poison as poison:
            fields.append(None)
            errors[row] = poison
    event = task.event
    times = [0 if f is None else f[event.time] for f in fields]
    ids = [None if f is None else f[event.dedup_id] for f in fields] if event.dedup_id else None
    decodable = np.array([f is not None for f in fields], np.bool_)
    found = _pronounce(task, records, np.array(times, np.int64), ids, decodable, errors)
    return RowsOutcome(
        found.offsets, found.maxima_ms, found.verdicts, found.rejected, found.counts, found.sampled,
        fields=fields, times_ms=times,
    )  # fmt: skip


def _pronounce(
    task: SourceTask, records: Sequence[Record], times: NDArray[np.int64], ids: Sequence[str | None] | None,
    decodable: NDArray[np.bool_], errors: Mapping[int, Poison],
) -> Pronounced:  # fmt: skip
    """Verdicts, and what is rejected; advances the task."""
    event = task.event
    offsets = np.fromiter((r.offset for r in records), dtype=np.int64, count=len(records))
    appended = np.fromiter((r.append_time_ms for r in records), dtype=np.int64, count=len(records))
    judged = judge(task.state, event, offsets, times, appended, ids, decodable)
    task.next_offset = records[-1].offset + 1
    found = Pronounced(offsets, judged.maximum_after_ms, judged.verdicts)
    counts = np.bincount(judged.verdicts, minlength=len(Verdict)).tolist()
    found.counts = {v.name.lower(): counts[v] for v in Verdict if counts[v]}
    for row in np.flatnonzero((judged.verdicts != Verdict.OK) & (judged.verdicts != Verdict.DUPLICATE)).tolist():
        late_by_ms = int(judged.maximum_after_ms[row]) - event.lateness_ms - int(times[row])
        verdict = Verdict(int(judged.verdicts[row]))
        found.rejected.append(_rejected(event, records[row], verdict, late_by_ms, errors.get(row)))
    found.sampled = [r for r in records if _is_sampled(r)][:TRACEPARENTS_MAX]
    return found


def lifted(
    feature_set: FeatureSet, events: Mapping[str, EventType], rows: Sequence[JudgedRows]
) -> dict[int, list[PartialColumns]]:
    """Partial tiles of everything that was accepted, by the partition their entity lives in."""
    frames: dict[str, list[pl.DataFrame]] = defaultdict(list)
    for r in rows:
        if r.accepted.height:
            frames[r.event.name].append(r.accepted)
    pieces: list[PartialColumns] = []
    for name, parts in frames.items():
        pieces += lift(feature_set, events[name], pl.concat(parts) if len(parts) > 1 else parts[0])
    return split(feature_set, pieces)


def partials_of(
    feature_set: FeatureSet,
    events: Mapping[str, EventType],
    rows: Sequence[JudgedRows],
    pieces: Mapping[int, Sequence[PartialColumns]],
    carried: Sequence[str],
    destinations: Sequence[int],
    encode: Callable[[PartialTiles], bytes],
    bytes_max: int,
) -> list[tuple[int, bytes]]:
    """(destination, value) of one transaction, in the order to write: one record per destination that carries all ranges.

    Where a value gets larger than bytes_max, shorter ranges follow each other.

    Args:
        pieces: what `lifted` made of the rows.
    Raises: Fatal if a single record gives more than bytes_max.
    """
    records = partial_records(feature_set, [r.range() for r in rows], pieces, carried, destinations)
    values = [(partition, encode(record)) for partition, record in records.items()]
    if max((len(value) for _, value in values), default=0) <= bytes_max:
        return values
    shorter = halve(rows)
    if shorter is None:
        raise Fatal(f"one record of {feature_set.name} gives partial tiles of more than {bytes_max} bytes")
    out: list[tuple[int, bytes]] = []
    for half in shorter:
        again = lifted(feature_set, events, half)
        out += partials_of(feature_set, events, half, again, carried, destinations, encode, bytes_max)
    return out


def fitting(rejected: RecordRejected, value_bytes_max: int) -> RecordRejected:
    """A rejected record without its bytes where they would not go into a topic again; its origin stays."""
    size = len(rejected.value or b"")
    if size <= value_bytes_max:
        return rejected
    return replace(rejected, value=None, detail=f"{rejected.detail}; value of {size} bytes left out")


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
    return bool(record.headers) and any(name == "traceparent" and value.endswith(_SAMPLED) for name, value in record.headers)
