"""Placement `owned`: source and entity task of one partition are one, so a request is answered at its own row.

    row i of the batch:  answer from what rows 0..i-1 and the state say  ->  then the row itself counts

The events of the set are keyed by the entity and have as many partitions as the state: all that an entity's features
are made of lies in one partition of each topic. Rows are merged late: a row waits until the entity it belongs to is
read, or the batch ends.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import polars as pl

from headrace.contracts.records import ScoringCut
from headrace.plan.ir import EventType, FeatureSet
from headrace.plan.lower import FeatureRows
from headrace.plan.rows import Lifter
from headrace.plan.tiles import PartialColumns, lift
from headrace.plan.verdicts import NO_MAXIMUM, Verdict
from svc_stream.domain.entity import EntityState
from svc_stream.domain.source import SourceTask

_ROW = "__row"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the log prefix at one row says. row: place in the batch. The cut excludes the row itself."""

    row: int
    entity: str
    t_ms: int
    cut: tuple[ScoringCut, ...]
    base_floor_ms: int | None
    commit_sequence: int
    statuses: tuple[int, ...]
    values: tuple[float | None, ...]


class Waiting(Protocol):
    """Accepted rows not merged yet: a row waits until the entity it belongs to is read, or the batch ends."""

    entities: set[str]

    def add(self, row: int, entity: str) -> None: ...
    def merge_into(self, state: EntityState) -> None:
        """Those that wait; they wait no longer."""
        ...


class WaitingFrame:
    """Rows of a frame. Lifted in one go, and only when the first must be merged: answers go first."""

    def __init__(self, feature_set: FeatureSet, event: EventType, frame: pl.DataFrame, accepted: list[int]) -> None:
        self._lift, self._accepted = (replace(feature_set, entity=(_ROW,)), event, frame), accepted
        self._lifted: tuple[list[PartialColumns], dict[int, int]] | None = None  # tiles, and which of them is a row's
        self._rows: list[int] = []
        self._names: list[str] = []
        self.entities: set[str] = set()

    def add(self, row: int, entity: str) -> None:
        self._rows.append(row)
        self._names.append(entity)
        self.entities.add(entity)

    def merge_into(self, state: EntityState) -> None:
        if not self._rows:
            return
        pieces, number = self._tiles()
        at, names = [number[row] for row in self._rows], self._names
        self._rows, self._names, self.entities = [], [], set()
        for p in pieces:
            state.merge(replace(p, entities=names, starts_ms=p.starts_ms[at], slots=p.slots[at]))

    def _tiles(self) -> tuple[list[PartialColumns], dict[int, int]]:
        """With the row's number as its entity every row keeps a tile of its own."""
        if self._lifted is None:
            by_row, event, frame = self._lift
            names = pl.Series(_ROW, [str(row) for row in self._accepted], pl.String)
            pieces = lift(by_row, event, frame[self._accepted].with_columns(names))
            rows = pieces[0].entities if pieces else names.to_list()
            self._lifted = pieces, {int(name): at for at, name in enumerate(rows)}
        return self._lifted


class WaitingRows:
    """Rows each by itself."""

    def __init__(self, lifter: Lifter, fields: Sequence[Mapping[str, Any] | None], batch: Batch) -> None:
        self._lifter, self._fields, self._batch = lifter, fields, batch
        self._rows: list[int] = []
        self.entities: set[str] = set()

    def add(self, row: int, entity: str) -> None:
        self._rows.append(row)
        self.entities.add(entity)

    def merge_into(self, state: EntityState) -> None:
        rows, batch = self._rows, self._batch
        self._rows, self.entities = [], set()
        for row in rows:
            fields = self._fields[row]
            assert fields is not None, "an accepted row was decoded"
            lifted = self._lifter.row(fields, batch.partition, batch.offsets[row], batch.times_ms[row])
            if lifted is not None:
                state.merge_row(lifted)


@dataclass(frozen=True, slots=True)
class Batch:
    """Judged records of one source partition, in offset order, as lists. maxima_ms: NO_MAXIMUM where there is none.

    entities and times_ms mean nothing where the verdict is undecodable.
    """

    event: EventType
    partition: int
    offsets: list[int]
    maxima_ms: list[int]
    verdicts: list[int]
    entities: Sequence[str | None]
    times_ms: list[int]


def take_rows(state: EntityState, batch: Batch, waiting: Waiting, asked: bool) -> Iterator[Answer]:
    """Put a judged batch into the state, row by row; yields an answer per decodable row if these are requests.

    The state has taken the whole batch only when the iterator is exhausted.
    """
    event, partition = batch.event, batch.partition
    for row, (offset, top) in enumerate(zip(batch.offsets, batch.maxima_ms, strict=True)):
        verdict, entity = batch.verdicts[row], batch.entities[row]
        if verdict != Verdict.UNDECODABLE:
            assert entity is not None, "an event of an owned set is keyed by its entity, which is never null"
            if asked:
                if entity in waiting.entities:
                    waiting.merge_into(state)
                t_ms = batch.times_ms[row]
                yield _answer(state, state.read(entity, t_ms), row, entity, t_ms, (event.name, partition), offset)
            if verdict == Verdict.OK:
                waiting.add(row, entity)
        maximum = None if top == NO_MAXIMUM else top
        state.advance(event.name, partition, offset + 1, maximum, None if maximum is None else maximum - event.lateness_ms)
    waiting.merge_into(state)


def _answer(
    state: EntityState, read: FeatureRows, row: int, entity: str, t_ms: int, own: tuple[str, int], offset: int
) -> Answer:
    cut = state.cut() | {own: offset}
    return Answer(
        row=row,
        entity=entity,
        t_ms=t_ms,
        cut=tuple(
            ScoringCut(event=e, partition=p, next_offset=n, topic_id=state.topic_id(e)) for (e, p), n in sorted(cut.items())
        ),
        base_floor_ms=state.base_floor_ms,
        commit_sequence=state.commit_sequence,
        statuses=tuple(read.statuses[0].tolist()),
        values=tuple(None if math.isnan(v) else v for v in read.values[0].tolist()),
    )


def metadata_with(task: SourceTask, commit_sequence: int) -> str:
    """What goes with a committed source offset here: the commit of the state that holds everything below it."""
    return json.dumps(json.loads(task.metadata()) | {"sequence": commit_sequence}, separators=(",", ":"))


def sequence_of(metadata: str) -> int:
    found = json.loads(metadata) if metadata else {}
    return int(found.get("sequence", 0))
