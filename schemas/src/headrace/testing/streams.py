"""Streams of a declaration in a test: the operators that run in svc-stream, and the naive oracles beside them.

Results are a function of the log: they are worked out anew from all of it when they are asked for. A partition nobody fed
holds nothing back, as one that has been quiet for long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from headrace.contracts.event_shapes import DTYPES
from headrace.contracts.partition import partition_for
from headrace.plan.ir import EventType, Plan, Stream
from headrace.plan.oracle import Oracle, RawRecord
from headrace.plan.stream_costs import stateless
from headrace.plan.streams import oracle_joins
from headrace.plan.streams.build import operator_of, prepare_of
from headrace.plan.streams.frames import GONE, KEY, OFFSET, PARTITION, TIME
from headrace.plan.streams.memory_tables import MemoryTables
from headrace.plan.streams.operator import Batch
from headrace.plan.streams.oracle_windows import WindowOracle
from headrace.plan.streams.outputs import field_dtype
from headrace.plan.streams.prepare_rows import RowResults
from headrace.plan.verdicts import Verdict

Result = dict[str, Any]
END_OF_TIME_MS = 253_402_300_799_999  # as if nothing could come any more
_MOVING = (Verdict.OK, Verdict.LATE, Verdict.DUPLICATE)


@dataclass(slots=True)
class Streams:
    """All streams of a plan over one log.

    ended: no record is still to come: everything that waits for event time is told.
    """

    plan: Plan
    log: Sequence[RawRecord]
    now_ms: int
    ended: bool = False
    _made: dict[str, list[RawRecord]] = field(default_factory=dict)

    def results(self, stream: Stream, batches: int = 1) -> list[Result]:
        """What it writes: final results by event time, and updates as so many batches of the log would give them."""
        if stateless(stream):
            rows = prepare_of(stream, 0, self.plan.events)(self._frame(stream, 0))
            return RowResults(stream, self.plan.events)(rows).to_dicts()
        operator = operator_of(stream, self.plan.events, MemoryTables())
        frames = [self._frame(stream, index) for index in range(len(stream.inputs))]
        prepares = [prepare_of(stream, index, self.plan.events) for index in range(len(stream.inputs))]
        found: list[Result] = []
        for part in range(batches):
            taken = [
                Batch(i, prepares[i](frame[frame.height * part // batches : frame.height * (part + 1) // batches]))
                for i, frame in enumerate(frames)
            ]
            mark = self.watermark_ms(stream) if part == batches - 1 else None
            found += operator.take([b for b in taken if b.rows.height], mark).results.to_dicts()
        return found

    def expected(self, stream: Stream) -> list[Result]:
        """Final results, by the naive oracle."""
        mark = self.watermark_ms(stream)
        if stream.window is not None:
            records = [j for j in self._log_of(stream.inputs[0].event) if self._verdicts(j.event)[_place(j)] == Verdict.OK]
            oracle = WindowOracle(stream, self.plan.events)
            if stream.window.emit == "update":
                return [oracle.result(window, False) for window in oracle.windows(records, mark)]
            return oracle.finals(records, mark)
        sides = [oracle_joins.prepared(stream, i, self.plan.events, self._rows(p.event)) for i, p in enumerate(stream.inputs)]
        found = oracle_joins.results(stream, sides, -(1 << 62) if mark is None else mark)
        return [{name: value for name, value in row.items() if name not in (KEY, TIME)} for row in found]

    def watermark_ms(self, stream: Stream) -> int | None:
        """The least of all partitions that something came from; None if nothing came at all."""
        if self.ended:
            return END_OF_TIME_MS
        found: list[int] = []
        for event in {part.event for part in stream.inputs}:
            declared, verdicts = self._event(event), self._verdicts(event)
            newest: dict[int, int] = {}
            for raw in self._log_of(event):
                if raw.fields is not None and verdicts[_place(raw)] in _MOVING:
                    newest[raw.partition] = max(raw.fields[declared.time], newest.get(raw.partition, -(1 << 62)))
            found += [at - declared.lateness_ms for at in newest.values()]
        return min(found, default=None)

    def _frame(self, stream: Stream, index: int) -> pl.DataFrame:
        event = self._event(stream.inputs[index].event)
        schema = {f.name: field_dtype(f) for f in event.fields} | dict.fromkeys((PARTITION, OFFSET, TIME), DTYPES["long"])
        names = [*schema, *([GONE] if stream.inputs[index].table else [])]
        rows = [[row[name] for name in names] for row in self._rows(event.name)]
        return pl.DataFrame(rows, pl.Schema({**schema, GONE: pl.Boolean()} if GONE in names else schema), orient="row")

    def _rows(self, event: str) -> list[dict[str, Any]]:
        declared, verdicts = self._event(event), self._verdicts(event)
        return [
            {**raw.fields, TIME: raw.fields[declared.time], PARTITION: raw.partition, OFFSET: raw.offset, GONE: False}
            for raw in self._log_of(event)
            if raw.fields is not None and verdicts[_place(raw)] == Verdict.OK
        ]

    def _verdicts(self, event: str) -> Mapping[tuple[str, int, int], Verdict]:
        return Oracle(self.plan.events, self._log_of(event)).verdicts()

    def _log_of(self, event: str) -> Sequence[RawRecord]:
        """What was fed, or what another stream makes."""
        maker = next((s for s in self.plan.streams if s.output == event), None)
        if maker is None:
            return [raw for raw in self.log if raw.event == event]
        if event not in self._made:
            self._made[event] = _written(self._event(event), self.results(maker), self.now_ms)
        return self._made[event]

    def _event(self, name: str) -> EventType:
        return next(event for event in self.plan.events if event.name == name)


def _place(raw: RawRecord) -> tuple[str, int, int]:
    return raw.event, raw.partition, raw.offset


def _written(event: EventType, results: Sequence[Result], now_ms: int) -> list[RawRecord]:
    """Results as records of their topic."""
    made: list[RawRecord] = []
    for row in results:
        partition = partition_for(row[event.key], event.partitions)
        offset = sum(raw.partition == partition for raw in made)
        made.append(RawRecord(event.name, partition, offset, max(now_ms, row[event.time]), row))
    return made


def differences(streams: Streams) -> list[str]:
    """Where the operators and the oracles disagree, or one batching and another."""
    found: list[str] = []
    for stream in streams.plan.streams:
        if stream.window is not None and stream.window.emit == "update" and stream.window.kind in ("session", "count"):
            continue  # windows that became others leave updates behind
        wanted = _texts(streams.expected(stream))
        for batches in (1, 7):
            said = _texts(_last(stream, streams.results(stream, batches)))
            where = f"{stream.name} in {batches} batches"
            found += [f"{where} gives {row}, the oracle does not" for row in said if row not in wanted]
            found += [f"{where} lacks {row} of the oracle" for row in wanted if row not in said]
    return found


def _last(stream: Stream, rows: Sequence[Result]) -> Sequence[Result]:
    """Final results; where there are only updates, the last of each window."""
    if stream.window is None or stream.window.emit == "close":
        return rows
    if stream.window.emit == "both":
        final = next(f.name for f in stream.fields if f.source == "final")
        return [row for row in rows if row[final]]
    names = [f.name for f in stream.fields if f.source in ("key", "window_start")]
    return list({tuple(row[name] for name in names): row for row in rows}.values())


def _texts(rows: Sequence[Result]) -> list[str]:
    return sorted(repr(sorted(row.items())) for row in rows)
