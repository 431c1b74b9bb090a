"""The source half of a stream: judge what came, prepare it, and send each row to the partition of its key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from headrace.contracts.partition import partitions_for
from headrace.contracts.records import RekeyedRows, RowColumns, SourceRange
from headrace.plan.ir import Plan, Stream
from headrace.plan.streams.build import prepare_of
from headrace.plan.streams.frames import DOUBTFUL, KEY, OFFSET, TIME
from headrace.plan.streams.operator import Batch
from svc_stream.domain.source import JudgedRows
from svc_stream.streams.columns import FORMAT, PART_BYTES_MAX, packed, parts


@dataclass(frozen=True, slots=True)
class Prepared:
    """Judged and prepared rows, by input: what one transaction takes from the sources."""

    ranges: list[SourceRange]
    batches: list[Batch]


class Preparing:
    """The inputs of a stream, ready to be asked for."""

    def __init__(self, plan: Plan, stream: Stream) -> None:
        self._stream = stream
        self._prepares = [prepare_of(stream, index, plan.events) for index in range(len(stream.inputs))]

    def of(self, judged: Sequence[JudgedRows]) -> Prepared:
        """Rows of all inputs; an event that two inputs read is prepared for each."""
        frames: dict[str, list[pl.DataFrame]] = {}
        for j in judged:
            assert isinstance(j.accepted, pl.DataFrame)
            if j.accepted.height:
                frames.setdefault(j.event.name, []).append(j.accepted)
        joined = {name: _concat(part) if len(part) > 1 else part[0] for name, part in frames.items()}
        batches = [
            Batch(index, self._prepares[index](joined[part.event]))
            for index, part in enumerate(self._stream.inputs)
            if part.event in joined
        ]
        return Prepared([j.range() for j in judged], [b for b in batches if b.rows.height])


def doubting(judged: JudgedRows, again_below: int) -> JudgedRows:
    """The same, with the rows marked that may come too late.

    Those are below where their source once went on without a record, or are read again and perhaps counted already.
    """
    marks: list[pl.Expr] = []
    if judged.advanced_ms is not None:
        marks.append(pl.col(TIME) < judged.advanced_ms)
    if judged.from_offset < again_below:
        marks.append(pl.col(OFFSET) < again_below)
    if not marks or not isinstance(judged.accepted, pl.DataFrame):
        return judged
    return replace(judged, accepted=judged.accepted.with_columns(pl.any_horizontal(marks).alias(DOUBTFUL)))


def _concat(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """One of them may know of doubtful rows and another not."""
    if any(DOUBTFUL in frame.columns for frame in frames):
        frames = [f if DOUBTFUL in f.columns else f.with_columns(pl.lit(False).alias(DOUBTFUL)) for f in frames]
    return pl.concat(frames)


def routed(batches: Sequence[Batch], partitions: int) -> dict[int, list[Batch]]:
    """Rows by the partition of their key."""
    if partitions == 1:
        return {0: list(batches)}
    found: dict[int, list[Batch]] = {}
    for batch in batches:
        keys = batch.rows[KEY]
        distinct = keys.unique()
        homes = pl.Series(partitions_for(distinct.to_list(), partitions))
        home = keys.replace_strict(distinct, homes, return_dtype=pl.Int64).to_numpy()
        order = np.argsort(home, kind="stable")
        edges = np.searchsorted(home[order], np.arange(partitions + 1))
        rows = batch.rows[order]
        for partition in range(partitions):
            low, high = int(edges[partition]), int(edges[partition + 1])
            if high > low:
                found.setdefault(partition, []).append(Batch(batch.input, rows[low:high]))
    return found


def rekeyed(
    stream_hash: str, ranges: Sequence[SourceRange], batches: Sequence[Batch], traceparents: Sequence[str]
) -> Iterator[RekeyedRows]:
    """Records for one destination: parts with rows, of which the last one carries the ranges."""
    columns: list[RowColumns] = []
    size = 0
    for batch in batches:
        for piece in parts(batch.rows):
            raw = packed(piece)
            if columns and size + len(raw) > PART_BYTES_MAX:
                yield _record(stream_hash, False, (), columns, ())
                columns, size = [], 0
            columns.append(RowColumns(input=batch.input, rows=piece.height, columns=raw))
            size += len(raw)
    yield _record(stream_hash, True, ranges, columns, traceparents)


def _record(
    stream_hash: str, last: bool, ranges: Sequence[SourceRange], columns: Sequence[RowColumns], traceparents: Sequence[str]
) -> RekeyedRows:
    return RekeyedRows(
        format=FORMAT, stream_hash=stream_hash, last=last, ranges=tuple(ranges), batches=tuple(columns),
        traceparents=tuple(traceparents),
    )  # fmt: skip


def by_partition(judged: Sequence[JudgedRows]) -> Mapping[int, list[JudgedRows]]:
    """Of fused sources: each partition's for itself."""
    found: dict[int, list[JudgedRows]] = {}
    for j in judged:
        found.setdefault(j.partition, []).append(j)
    return found
