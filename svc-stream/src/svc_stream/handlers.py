"""From consumed records to what one transaction writes. No Kafka client here: records in, records out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headrace.chassis.bus import Record, RecordBatch, TopicPartition
from headrace.contracts.codec import Codec, DecodedEvents, EventSchema
from headrace.contracts.errors import Fatal, Poison, Reason
from headrace.contracts.records import PartialTiles, RecordRejected
from headrace.plan.ir import EventType, FeatureSet
from headrace.plan.rows import Lifter, Row, tiles_of
from headrace.plan.streams.frames import GONE
from headrace.plan.tiles import PartialColumns, lift
from headrace.plan.topics import dlq_topic, late_topic
from headrace.plan.verdicts import Verdict, judge, judge_each
from svc_stream.domain.source import JudgedRows, LiftedRows, Numbers, SourceTask, halve, partial_records, split

GROUP = "svc-stream"  # dead letters are named by service, not by plan
TRACEPARENTS_MAX = 16
LETTER_BYTES_MAX = 1_500_000  # topics of dead letters and late records take two: room for any record of the default size
_SAMPLED = b"-01"  # W3C traceparent flags: only sampled records cost anything
_NAMES = {int(verdict): verdict.name.lower() for verdict in Verdict}
_OK, _QUIETLY = int(Verdict.OK), frozenset((int(Verdict.OK), int(Verdict.DUPLICATE)))  # all others are rejected


@dataclass(slots=True)
class Pronounced:
    """What verdicts on a batch of one source partition say of it, beside themselves."""

    rejected: list[RecordRejected]
    counts: dict[str, int]
    sampled: list[Record]


@dataclass(slots=True)
class FrameOutcome(Pronounced):
    """A batch of one source partition as a frame.

    offsets, maxima_ms (the largest event time after each record, NO_MAXIMUM where there is none), verdicts: shape (n,).
    frame: all rows with `__partition`, `__offset` and `__time`, nulls where undecodable.
    """

    offsets: NDArray[np.int64]
    maxima_ms: NDArray[np.int64]
    verdicts: NDArray[np.int8]
    frame: pl.DataFrame

    def rows(self, task: SourceTask) -> JudgedRows:
        """What it adds to the chain, which stands where the task was told of last."""
        ok = self.verdicts == Verdict.OK
        accepted = self.frame if ok.all() else self.frame[np.flatnonzero(ok)]
        return _chained(task, self.offsets, self.maxima_ms, accepted)


@dataclass(slots=True)
class RowsOutcome(Pronounced):
    """The same for a small batch, as lists. fields: None where undecodable; times_ms: 0 there."""

    offsets: list[int]
    maxima_ms: list[int]
    verdicts: list[int]
    fields: list[dict[str, Any] | None]
    times_ms: list[int]

    def rows(self, task: SourceTask, lifter: Lifter) -> JudgedRows:
        """The same, lifted."""
        offsets: list[int] = []
        lifted_rows: list[Row] = []
        for row, verdict in enumerate(self.verdicts):
            fields = self.fields[row]
            if verdict == _OK and fields is not None:
                found = lifter.row(fields, task.partition, self.offsets[row], self.times_ms[row])
                if found is not None:
                    offsets.append(self.offsets[row])
                    lifted_rows.append(found)
        return _chained(task, self.offsets, self.maxima_ms, LiftedRows(offsets, lifted_rows))


def _chained(task: SourceTask, offsets: Numbers, maxima_ms: Numbers, accepted: pl.DataFrame | LiftedRows) -> JudgedRows:
    return JudgedRows(task.event, task.partition, task.told_offset, offsets, maxima_ms, accepted, task.advanced_ms)


def judge_batch(task: SourceTask, schema: EventSchema, codec: Codec, records: Sequence[Record]) -> FrameOutcome:
    """Decode and judge records of one source partition, in offset order; advances the task."""
    return judge_columns(task, schema, codec, RecordBatch.one(TopicPartition(task.event.topic, task.partition), records))


def judge_columns(
    task: SourceTask, schema: EventSchema, codec: Codec, batch: RecordBatch, *, deletions: bool = False
) -> FrameOutcome:
    """`judge_batch` of columns.

    Args:
        deletions: a value of null deletes its key at its append time: a row of nulls but for the key, marked GONE.
    """
    event = task.event
    decoded = codec.decode_events(schema, batch.values)
    offsets, appended = np.array(batch.offsets, np.int64), np.array(batch.append_times_ms, np.int64)
    if deletions:
        decoded = _with_deletions(event, decoded, batch, appended)
    column = decoded.frame[event.time]
    times = (column.fill_null(0) if column.null_count() else column).to_numpy()
    ids = decoded.frame[event.dedup_id].to_list() if event.dedup_id else None
    judged = judge(task.state, event, offsets, times, appended, ids, decoded.decodable)
    task.next_offset = batch.offsets[-1] + 1
    verdicts, maxima_ms = judged.verdicts, judged.maximum_after_ms
    counts = np.bincount(verdicts, minlength=len(Verdict)).tolist()
    bad = np.flatnonzero((verdicts != Verdict.OK) & (verdicts != Verdict.DUPLICATE)).tolist()
    behind_ms = maxima_ms - times
    rejected = [
        _rejected(event, batch.record(row), Verdict(int(verdicts[row])), int(behind_ms[row]), decoded.errors.get(row))
        for row in bad
    ]
    # Eager steps: a lazy plan of three columns costs more than the columns.
    partitions = np.full(len(offsets), task.partition, np.int64)
    frame = decoded.frame.hstack(
        [pl.Series("__partition", partitions), pl.Series("__offset", offsets), pl.Series("__time", times)]
    )
    sampled = _sampled([batch.record(row) for row in batch.traced]) if batch.traced else []
    return FrameOutcome(rejected, _counted(enumerate(counts)), sampled, offsets, maxima_ms, verdicts, frame)


def _with_deletions(event: EventType, decoded: DecodedEvents, batch: RecordBatch, appended: Numbers) -> DecodedEvents:
    """Rows without a value stand for the end of their key's row. Without a key they stay undecodable."""
    keys_gone = {row: batch.record(row).key for row, value in enumerate(batch.values) if value is None}
    gone = {row: key.decode() for row, key in keys_gone.items() if key is not None}  # an empty key is one
    marks = np.zeros(len(batch.values), np.bool_)
    rows = list(gone)
    marks[rows] = True
    times = np.where(marks, appended, decoded.frame[event.time].fill_null(0).to_numpy())
    keys = decoded.frame[event.key].scatter(rows, list(gone.values())) if gone else decoded.frame[event.key]
    frame = decoded.frame.with_columns(keys, pl.Series(event.time, times), pl.Series(GONE, marks))
    errors = {row: error for row, error in decoded.errors.items() if row not in gone}
    return DecodedEvents(frame, decoded.decodable | marks, errors)


def judge_rows(task: SourceTask, schema: EventSchema, codec: Codec, records: Sequence[Record]) -> RowsOutcome:
    """`judge_batch` without frame and arrays, whose making costs more than a few records."""
    event, decode = task.event, codec.event_codec(schema).decode
    fields: list[dict[str, Any] | None] = []
    errors: dict[int, Poison] = {}
    for row, record in enumerate(records):
        try:
            fields.append(decode(record.value))
        except Poison as poison:
            fields.append(None)
            errors[row] = poison
    times = [0 if f is None else f[event.time] for f in fields]
    ids = [None if f is None else f[event.dedup_id] for f in fields] if event.dedup_id else None
    offsets = [r.offset for r in records]
    decodable = [f is not None for f in fields]
    verdicts, maxima_ms = judge_each(task.state, event, offsets, times, [r.append_time_ms for r in records], ids, decodable)
    task.next_offset = offsets[-1] + 1
    rejected = [
        _rejected(event, records[row], Verdict(verdict), maxima_ms[row] - times[row], errors.get(row))
        for row, verdict in enumerate(verdicts)
        if verdict not in _QUIETLY
    ]
    counts = _counted(Counter(verdicts).items())
    return RowsOutcome(rejected, counts, _sampled(records), offsets, maxima_ms, verdicts, fields, times)


def _counted(counts: Iterable[tuple[int, int]]) -> dict[str, int]:
    """By the names of the verdicts that occur."""
    return {_NAMES[verdict]: count for verdict, count in counts if count}


def _sampled(records: Sequence[Record]) -> list[Record]:
    return [r for r in records if r.headers and _is_sampled(r)][:TRACEPARENTS_MAX]


def lifted(
    feature_set: FeatureSet, events: Mapping[str, EventType], rows: Sequence[JudgedRows]
) -> dict[int, list[PartialColumns]]:
    """Partial tiles of everything that was accepted, by the partition their entity lives in.

    All batches of an event should be of one kind, frames or rows: of two kinds an entity's tiles come in two pieces.
    """
    accepted: dict[str, list[pl.DataFrame | LiftedRows]] = defaultdict(list)
    for r in rows:
        accepted[r.event.name].append(r.accepted)
    pieces: list[PartialColumns] = []
    for name, parts in accepted.items():
        if frames := [part for part in parts if isinstance(part, pl.DataFrame) and part.height]:
            pieces += lift(feature_set, events[name], pl.concat(frames) if len(frames) > 1 else frames[0])
        pieces += tiles_of(feature_set, name, (row for part in parts if isinstance(part, LiftedRows) for row in part.rows))
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


def letter_topic(pipeline: str, rejected: RecordRejected) -> str:
    """Where a rejected record is told of."""
    return late_topic(pipeline) if rejected.reason == Reason.LATE.value else dlq_topic(rejected.topic, GROUP)


def fitting(rejected: RecordRejected, value_bytes_max: int) -> RecordRejected:
    """A rejected record without its bytes where they would not go into a topic again; its origin stays."""
    size = len(rejected.value or b"")
    if size <= value_bytes_max:
        return rejected
    return replace(rejected, value=None, detail=f"{rejected.detail}; value of {size} bytes left out")


def _rejected(event: EventType, record: Record, verdict: Verdict, behind_ms: int, error: Poison | None) -> RecordRejected:
    """behind_ms: how far the event time lies below the largest seen."""
    lateness = None
    if verdict is Verdict.LATE:
        reason, detail = Reason.LATE, f"event time below the largest seen minus {event.lateness_ms} ms"
        lateness = behind_ms - event.lateness_ms
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
