"""Logs of two event types for streams over rows, played to an operator in any batches, and what must come out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import polars as pl

from headrace.plan.ir import Carried, Distinct, EventType, Field, Join, OutputField, Stream, StreamInput
from headrace.plan.streams import oracle_joins
from headrace.plan.streams.frames import GONE, OFFSET, PARTITION, TIME
from headrace.plan.streams.joins import operator
from headrace.plan.streams.operator import Batch, Outcome
from headrace.plan.streams.outputs import field_dtype
from headrace.plan.streams.prepare_rows import build_prepare
from headrace.plan.streams.rows import Tables

FIELDS = (
    Field("card", "string", nullable=True), Field("shop", "int", nullable=True), Field("at", "timestamp"),
    Field("amount", "decimal", nullable=True, scale=2), Field("rate", "double", nullable=True),
    Field("note", "string", nullable=True), Field("ok", "boolean", nullable=True),
    Field("tags", "array", item="string", items_max=5),
)  # fmt: skip
COLUMNS = ("amount", "rate", "note", "ok", "tags", "at")
LATENESS_MS = 4
END_MS = 1 << 40
KEYS = ("", "a", "b", "é", None)


def event(name: str, fields: Sequence[Field] = FIELDS) -> EventType:
    return EventType(name, name.title(), f"shop.{name}.v1", "card", "at", tuple(fields), LATENESS_MS, LATENESS_MS)


def side(name: str, **more: Any) -> StreamInput:
    carried = tuple(Carried(column, column) for column in COLUMNS)
    return replace(StreamInput(name, ("card",), columns=carried), **more)


def output_fields(sides: int) -> tuple[tuple[OutputField, Field], ...]:
    """Every column of every side, the key and the time."""
    declared = {f.name: f for f in FIELDS}
    found = [(OutputField("card", "key", -1), Field("card", "string")), (OutputField("at", "time"), Field("at", "timestamp"))]
    for index in range(sides):
        for column in COLUMNS:
            name = f"{'lr'[index]}_{column}"
            found.append((OutputField(name, "column", index, column), replace(declared[column], name=name, nullable=True)))
    return tuple(found)


def stream(
    join: Join | None = None, distinct: Distinct | None = None, inputs: Sequence[StreamInput] | None = None
) -> tuple[Stream, tuple[EventType, ...]]:
    """A stream over "payments" and "offers" that carries everything, and its events."""
    sides = 1 if join is None else 2
    if inputs is None:
        right = side("offers", table=join is not None and join.kind == "table")
        inputs = (side("payments"), right)[:sides]
    fields = output_fields(len(inputs))
    made = Stream("matched", "matches", tuple(inputs), tuple(o for o, _ in fields), join=join, distinct=distinct)
    return made, (event("payments"), event("offers"), event("matches", [f for _, f in fields]))


@dataclass(frozen=True, slots=True)
class Log:
    """Accepted records of one source partition, in offset order, and its watermark after each."""

    side: int
    records: list[dict[str, Any]]
    watermarks: list[int]


def record(rng: Random, time: int, partition: int, offset: int, gone: bool) -> dict[str, Any]:
    """One with nulls, zeros and empty texts in plenty."""
    return {
        "card": rng.choice(KEYS) if not gone else rng.choice(KEYS[:-1]),
        "shop": rng.choice((None, 0, 7)),
        "at": time,
        "amount": rng.choice((None, 0, -1, 10**12)),
        "rate": rng.choice((None, 0.0, -2.5, 1e300)),
        "note": rng.choice((None, "", "x")),
        "ok": rng.choice((None, False, True)),
        "tags": rng.choice(([], ["t"], ["", "u"])),
        TIME: time,
        PARTITION: partition,
        OFFSET: offset,
        GONE: gone,
    }


def make_logs(rng: Random, sides: int, table: bool = False, rows_max: int = 14) -> list[Log]:
    """Per side one to three partitions whose times tie, go back by up to the lateness, and rest."""
    logs: list[Log] = []
    for index in range(sides):
        for partition in range(rng.randint(1, 3)):
            log, top, offset = Log(index, [], []), rng.randint(-5, 5), 0
            for _ in range(rng.randint(0, rows_max)):
                time = top + rng.choice((-4, -3, -1, 0, 0, 0, 1, 1, 2, 9))
                offset += rng.choice((1, 1, 3))
                gone = table and index == 1 and rng.random() < 0.3
                log.records.append(record(rng, time, partition, offset, gone))
                top = max(top, time)
                log.watermarks.append(top - LATENESS_MS)
            logs.append(log)
    return logs


def frame_of(records: Sequence[Mapping[str, Any]], fields: Sequence[Field] = FIELDS) -> pl.DataFrame:
    """As the engine hands accepted records over."""
    schema = {f.name: field_dtype(f) for f in fields}
    marks = {TIME: pl.Int64(), PARTITION: pl.Int64(), OFFSET: pl.Int64(), GONE: pl.Boolean()}
    return pl.DataFrame([dict(r) for r in records], schema={**schema, **marks}, orient="row")


@dataclass
class Player:
    """Plays logs to an operator, and after each take compares all that came with the oracle."""

    stream: Stream
    events: Sequence[EventType]
    logs: Sequence[Log]
    tables: Tables
    came: Counter[tuple[Any, ...]] = field(default_factory=Counter)
    seen: list[list[dict[str, Any]]] = field(default_factory=list)
    watermark_ms: int | None = None
    tries: int = 40

    def __post_init__(self) -> None:
        self.prepares = [build_prepare(self.stream, i, self.events) for i in range(len(self.stream.inputs))]
        self.seen = [[] for _ in self.stream.inputs]
        self.at = [0] * len(self.logs)
        self.operator = operator(self.stream, self.events, self.tables)

    def restart(self, tables: Tables) -> None:
        """Go on with a new operator over tables that were restored."""
        self.tables = tables
        self.operator = operator(self.stream, self.events, tables)

    def left(self) -> bool:
        return any(at < len(log.records) for at, log in zip(self.at, self.logs, strict=True))

    def step(self, rng: Random) -> Outcome:
        """Some next records of some partitions, and where event time is then."""
        batches: list[Batch] = []
        for number, log in enumerate(self.logs):
            until = min(len(log.records), self.at[number] + rng.choice((0, 0, 1, 2, 5, 50)))
            records = log.records[self.at[number] : until]
            self.at[number] = until
            if records:
                self.seen[log.side] += records
                batches.append(Batch(log.side, self.prepares[log.side](frame_of(records))))
        marks = [log.watermarks[at - 1] if at else None for at, log in zip(self.at, self.logs, strict=True) if log.records]
        heard = [mark for mark in marks if mark is not None]
        self.watermark_ms = min(heard) if heard and len(heard) == len(marks) else None
        rng.shuffle(batches)
        return self.take(batches, self.watermark_ms)

    def take(self, batches: Sequence[Batch], watermark_ms: int | None) -> Outcome:
        outcome = self.operator.take(batches, watermark_ms)
        assert not len(outcome.refused)
        self.came.update(tuples(outcome.results))
        self.check(-(1 << 40) if watermark_ms is None else watermark_ms)
        return outcome

    def end(self) -> None:
        """Event time goes on past everything, and no sooner than `due_ms` says does anything happen."""
        while self.tries and (due := self.operator.due_ms()) is not None:
            self.tries -= 1
            if self.watermark_ms is None or due - 1 >= self.watermark_ms:
                assert self.take([], due - 1).results.is_empty()
                assert self.operator.due_ms() == due
            gave = self.take([], due).results
            self.watermark_ms = due
            assert len(gave) or self.operator.due_ms() != due
        self.take([], END_MS)
        assert self.operator.due_ms() is None

    def check(self, watermark_ms: int) -> None:
        sides = [oracle_joins.prepared(self.stream, i, self.events, self.seen[i]) for i in range(len(self.stream.inputs))]
        expected = oracle_joins.results(self.stream, sides, watermark_ms)
        names = [f.name for f in self.stream.fields]
        assert self.came == Counter(hashable([result[name] for name in names]) for result in expected)


def tuples(results: pl.DataFrame) -> Iterator[tuple[Any, ...]]:
    return map(hashable, results.rows())


def hashable(row: Sequence[Any]) -> tuple[Any, ...]:
    """True and 1 are not the same here."""
    return tuple((type(v).__name__, tuple(v) if isinstance(v, list) else v) for v in row)
