"""The source task: verdicts on one source partition, and the partial tiles of one transaction."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headrace.contracts.formats import FORMAT, check
from headrace.contracts.partition import partition_for, partitions_for
from headrace.contracts.records import PartialTiles, SourceRange, TileColumns
from headrace.plan.ir import EventType, FeatureSet
from headrace.plan.rows import Row
from headrace.plan.tiles import PartialColumns
from headrace.plan.verdicts import NO_MAXIMUM, SourceState, rewind_point

TILES_FEW = 32  # up to so many their homes are looked up one by one, most of them remembered
HOMES_KEPT = 65_536  # some 10 MB
_home = lru_cache(HOMES_KEPT)(partition_for)
Numbers: TypeAlias = NDArray[np.int64] | list[int]


def watermark(maximum_ms: int | None, lateness_ms: int, advanced_ms: int | None) -> int | None:
    """The larger of what records and what advances say."""
    known = [w for w in (None if maximum_ms is None else maximum_ms - lateness_ms, advanced_ms) if w is not None]
    return max(known, default=None)


@dataclass(slots=True)
class SourceTask:
    """Verdict state of one source partition: a fold over its log, nothing else.

    next_offset: first offset not yet judged. told_offset: where the last range ended that partials carry.
    base: digest of what the state started from, empty if from nothing. advanced_ms: how far its watermark went on without
    a record, None if never.
    """

    event: EventType
    partition: int
    next_offset: int
    told_offset: int
    state: SourceState = field(default_factory=SourceState)
    base: str = ""
    advanced_ms: int | None = None

    def watermark_ms(self) -> int | None:
        """What records to come are promised not to be below, late ones aside."""
        return watermark(self.state.maximum_ms, self.event.lateness_ms, self.advanced_ms)

    def standstill(self) -> SourceRange:
        """A range without records: tells of the watermark alone."""
        at = self.next_offset
        return SourceRange(
            event=self.event.name, partition=self.partition, from_offset=at, to_offset=at, maximum_ms=self.state.maximum_ms,
            watermark_ms=self.watermark_ms(),
        )  # fmt: skip

    def metadata(self) -> str:
        """Goes with the committed offset: enough to rebuild the verdict state after a restart."""
        rewind = rewind_point(self.state)
        page = {"format": FORMAT, "maximum_ms": self.state.maximum_ms, "rewind": list(rewind) if rewind else None}
        page |= {"base": self.base} if self.base else {}
        page |= {} if self.advanced_ms is None else {"advanced_ms": self.advanced_ms}
        return json.dumps(page, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class SourcePosition:
    """A committed source offset, read back: where to go on, and from where the ids must be read again."""

    next_offset: int
    maximum_ms: int | None
    rewind_offset: int | None
    rewind_maximum_ms: int | None
    base: str = ""
    advanced_ms: int | None = None

    @classmethod
    def parse(cls, offset: int, metadata: str) -> SourcePosition:
        """Raises: Fatal for a format this version does not know."""
        found = json.loads(metadata) if metadata else {}
        check("the metadata of a source offset", found.get("format", FORMAT))  # the first ones did not say
        rewind = found.get("rewind") or (None, None)
        return cls(offset, found.get("maximum_ms"), rewind[0], rewind[1], found.get("base", ""), found.get("advanced_ms"))


@dataclass(frozen=True, slots=True)
class LiftedRows:
    """Records that passed and have an entity, each lifted by itself. offsets: of the rows, in their order."""

    offsets: list[int]
    rows: list[Row]


@dataclass(frozen=True, slots=True)
class JudgedRows:
    """Judged records of one source partition, in offset order: what a range of the chain is made from.

    offsets, maxima_ms: n >= 1; the largest event time after each record, NO_MAXIMUM where there is none.
    accepted: the rows that passed, as a frame with `__partition`, `__offset`, `__time`, or lifted already.
    """

    event: EventType
    partition: int
    from_offset: int
    offsets: Numbers
    maxima_ms: Numbers
    accepted: pl.DataFrame | LiftedRows
    advanced_ms: int | None = None  # see SourceTask

    def range(self) -> SourceRange:
        """What these records add to the chain."""
        top = int(self.maxima_ms[-1])
        maximum = None if top == NO_MAXIMUM else top
        return SourceRange(
            event=self.event.name,
            partition=self.partition,
            from_offset=self.from_offset,
            to_offset=int(self.offsets[-1]) + 1,
            maximum_ms=maximum,
            watermark_ms=watermark(maximum, self.event.lateness_ms, self.advanced_ms),
        )

    def halves(self) -> tuple[JudgedRows, JudgedRows]:
        """Two shorter ranges that chain; needs at least two records."""
        middle = len(self.offsets) // 2
        edge = int(self.offsets[middle - 1]) + 1
        low, high = _parted(self.accepted, edge)
        first = replace(self, offsets=self.offsets[:middle], maxima_ms=self.maxima_ms[:middle], accepted=low)
        second = replace(
            self, from_offset=edge, offsets=self.offsets[middle:], maxima_ms=self.maxima_ms[middle:], accepted=high
        )
        return first, second


def _parted(accepted: pl.DataFrame | LiftedRows, edge: int) -> tuple[pl.DataFrame | LiftedRows, pl.DataFrame | LiftedRows]:
    """What lies below an offset, and the rest."""
    if isinstance(accepted, LiftedRows):
        at, offsets, rows = bisect_left(accepted.offsets, edge), accepted.offsets, accepted.rows
        return LiftedRows(offsets[:at], rows[:at]), LiftedRows(offsets[at:], rows[at:])
    below = pl.col("__offset") < edge
    return accepted.filter(below), accepted.filter(~below)


def halve(rows: Sequence[JudgedRows]) -> tuple[list[JudgedRows], list[JudgedRows]] | None:
    """The work of a transaction as two in a row; None if every range is a single record."""
    if all(len(r.offsets) < 2 for r in rows):
        return None
    first: list[JudgedRows] = []
    second: list[JudgedRows] = []
    for r in rows:
        if len(r.offsets) < 2:
            first.append(r)
        else:
            a, b = r.halves()
            first.append(a)
            second.append(b)
    return first, second


def split(feature_set: FeatureSet, pieces: Sequence[PartialColumns]) -> dict[int, list[PartialColumns]]:
    """Partial tiles by the partition their entity lives in."""
    out: dict[int, list[PartialColumns]] = defaultdict(list)
    for piece in pieces:
        home = _homes(piece.entities, feature_set.partitions)
        if (home == home[0]).all():
            out[int(home[0])].append(piece)
            continue
        for partition in np.unique(home).tolist():
            rows = np.flatnonzero(home == partition)
            entities = [piece.entities[i] for i in rows]
            out[partition].append(PartialColumns(piece.event, piece.hop_ms, entities, piece.starts_ms[rows], piece.slots[rows]))
    return out


def _homes(entities: Sequence[str], partitions: int) -> NDArray[np.int64]:
    if len(entities) > TILES_FEW:
        return partitions_for(entities, partitions)
    return np.array([_home(entity, partitions) for entity in entities], np.int64)


def partial_records(
    feature_set: FeatureSet,
    ranges: Sequence[SourceRange],
    pieces: Mapping[int, Sequence[PartialColumns]],
    traceparents: Sequence[str],
    destinations: Iterable[int],
) -> dict[int, PartialTiles]:
    """One record per destination, each with all ranges: the record is its own progress.

    Every one of the destinations gets one, with or without tiles, so that its chain has no gap.
    """
    return {
        partition: PartialTiles(
            set_hash=feature_set.hash,
            ranges=tuple(ranges),
            columns=tuple(
                TileColumns(
                    event=p.event,
                    hop_ms=p.hop_ms,
                    entities=tuple(p.entities),
                    starts_ms=tuple(p.starts_ms.tolist()),
                    slots=tuple(p.slots.ravel().tolist()),
                )
                for p in pieces.get(partition, ())
            ),
            traceparents=tuple(traceparents),
        )
        for partition in destinations
    }
