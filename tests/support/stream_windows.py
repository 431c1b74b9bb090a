"""Windowed streams with everything in them, worlds of rows that arrive in disorder, and a life of the operator over them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from headrace.chassis.state import MemoryStore
from headrace.contracts.event_shapes import DTYPES
from headrace.plan.ir import AggregateKind, EventType, Field, Measure, OutputField, OutputSource, Stream, StreamInput, Window
from headrace.plan.oracle import RawRecord
from headrace.plan.streams.frames import DOUBTFUL, OFFSET, PARTITION, TIME
from headrace.plan.streams.memory_tables import MemoryTables
from headrace.plan.streams.operator import Batch, Operator, Table
from headrace.plan.streams.oracle_windows import WindowOracle
from headrace.plan.streams.vectors import Tables
from headrace.plan.streams.window_operators import operator
from headrace.plan.streams.window_prepare import build_prepare

LATENESS = 60
PAYMENTS = EventType(
    "payments", "Paid", "shop.payments.v1", "card", "paid_at",
    (
        Field("card", "string"), Field("shop", "int", nullable=True, minimum=-5, maximum=5), Field("paid_at", "timestamp"),
        Field("amount", "decimal", nullable=True, scale=2, minimum=-10**6, maximum=10**6),
        Field("refunded", "boolean", nullable=True),
        Field("note", "string", nullable=True), Field("prices", "array", item="long", items_max=5, minimum=-100, maximum=100),
    ),
    LATENESS, LATENESS,
)  # fmt: skip
_DTYPES: dict[str, Any] = {**DTYPES, "timestamp": pl.Int64(), "decimal": pl.Int64(), "array": pl.List(pl.Int64)}
WINDOWS = {
    "tumbling": Window("tumbling", size_ms=50),
    "hopping": Window("hopping", size_ms=60, hop_ms=25),
    "hopping with gaps": Window("hopping", size_ms=20, hop_ms=50),
    "sliding": Window("sliding", size_ms=40),
    "session": Window("session", gap_ms=8),
    "count": Window("count", rows=3),
}  # fmt: skip
EDGES = (-10_000, 0, 5, 10_000)
SIMPLE = (
    Measure("m0", "payments", None, None, ("rows",)),
    Measure("m1", "payments", "amount", None, ("nonnull", "sum", "min", "max"), scale=2),
    Measure("m2", "payments", None, "refunded", ("rows",)),
)
RICH = (
    *SIMPLE,
    Measure("m3", "payments", "amount", "NOT refunded", ("nonnull", "sum", "square_lo", "square_hi", "last", "first"), scale=2),
    Measure("m4", "payments", "amount", None, ("nonnull", "recent"), scale=2, size=3),
    Measure("m5", "payments", "note", None, ("nonnull", "distinct"), size=4),
    Measure("m6", "payments", "shop", None, ("nonnull", "registers"), size=16),
    Measure("m7", "payments", "amount", None, ("nonnull", "histogram"), scale=2, edges=EDGES),
    Measure("m8", "payments", "refunded", None, ("nonnull", "max", "last")),
)
Aggregates = tuple[tuple[Field, str, AggregateKind, int], ...]
_SIMPLE_FIELDS: Aggregates = (
    (Field("n", "long"), "m0", "count", 0),
    (Field("total", "decimal", nullable=True, scale=2), "m1", "sum", 0),
    (Field("least", "decimal", nullable=True, scale=2), "m1", "min", 0),
    (Field("most", "double", nullable=True), "m1", "max", 0),
    (Field("mean", "double", nullable=True), "m1", "mean", 0),
    (Field("valued", "long"), "m1", "count", 0),
    (Field("refunds", "long"), "m2", "count", 0),
)
_RICH_FIELDS: Aggregates = (
    *_SIMPLE_FIELDS,
    (Field("newest", "decimal", nullable=True, scale=2), "m3", "last", 0),
    (Field("oldest", "double", nullable=True), "m3", "first", 0),
    (Field("age", "long", nullable=True), "m3", "since", 10),
    (Field("variance", "double", nullable=True), "m3", "variance", 0),
    (Field("deviation", "double", nullable=True), "m3", "stddev", 0),
    (Field("one_before", "decimal", nullable=True, scale=2), "m4", "recent", 1),
    (Field("three", "decimal", nullable=True, scale=2), "m4", "recent_sum", 0),
    (Field("three_mean", "double", nullable=True), "m4", "recent_mean", 0),
    (Field("notes", "long"), "m5", "distinct", 0),
    (Field("shops", "long"), "m6", "distinct", 0),
    (Field("median", "double", nullable=True), "m7", "quantile", 5000),
    (Field("negative", "long"), "m7", "bucket", 1),
    (Field("usual", "long", nullable=True), "m7", "top", 0),
    (Field("any_refund", "boolean", nullable=True), "m8", "max", 0),
    (Field("last_refund", "boolean", nullable=True), "m8", "last", 0),
)


def stream_of(
    window: Window,
    *,
    rich: bool = False,
    key: tuple[str, ...] = ("card",),
    where: str | None = None,
    each: str | None = None,
) -> tuple[Stream, tuple[EventType, EventType]]:
    """A stream over payments, and the two event types."""
    measures = RICH if rich else SIMPLE
    aggregates: Aggregates = _RICH_FIELDS if rich else _SIMPLE_FIELDS
    if each is not None:
        measures += (Measure("m9", "payments", "EACH(prices)", None, ("nonnull", "sum", "last"), 0),)
        of_items: Aggregates = (
            (Field("paid", "long", nullable=True), "m9", "sum", 0),
            (Field("end", "long", nullable=True), "m9", "last", 0),
        )
        aggregates += of_items
    payments = {f.name: f for f in PAYMENTS.fields}
    fields = [(Field("text", "string"), OutputField("text", "key", -1))]
    fields += [(replace(payments[part], name=part), OutputField(part, "key", i)) for i, part in enumerate(key)]
    places: tuple[tuple[str, OutputSource], ...]
    places = (("start", "window_start"), ("end", "window_end"), ("at", "time"), ("final", "final"))
    for name, source in places:
        fields.append((Field(f"w_{name}", "boolean" if name == "final" else "timestamp"), OutputField(f"w_{name}", source)))
    fields += [(f, OutputField(f.name, "aggregate", measure=m, kind=kind, argument=a)) for f, m, kind, a in aggregates]
    output = EventType("sums", "Summed", "shop.sums.v1", "text", "w_at", tuple(f for f, _ in fields), 0, 0)
    given = StreamInput("payments", key, where=where, each=each)
    return Stream("sums", "sums", (given,), tuple(o for _, o in fields), window, measures=measures), (PAYMENTS, output)


@dataclass
class Step:
    """What one take is given: rows, those of them that are doubtful, the watermark."""

    rows: list[RawRecord]
    doubtful: set[tuple[int, int]]
    watermark_ms: int | None


@dataclass
class World:
    """Rows in the order in which batches come."""

    steps: list[Step] = field(default_factory=list[Step])


def make_world(
    rng: random.Random,
    *,
    partitions: int = 3,
    rows: int = 45,
    advances: bool = True,
    cards: Sequence[str] = ("", "a", "b\x1fc\x1e1", "ü"),
) -> World:
    """Partitions go on at random, out of order by up to the lateness, now and then advanced without rows; then most closes."""
    maxima: list[int | None] = [None] * partitions
    advanced: list[int | None] = [None] * partitions
    offsets, world, left = [0] * partitions, World(), rows
    base = rng.choice((0, -200, 1_000_000))
    jumps = rng.choice(((0, 3), (0, 30), (0, 5, 200)))
    while left > 0:
        step = Step([], set(), None)
        for _ in range(rng.choice((0, 1, 2, 5, 20))):
            p, left = rng.randrange(partitions), left - 1
            top = maxima[p]
            time = base if top is None else max(top + rng.choice(jumps), top) - rng.choice((0, 0, 1, rng.randint(0, LATENESS)))
            maxima[p] = time if top is None else max(top, time)
            floor = advanced[p]
            if floor is not None and time < floor:
                step.doubtful.add((p, offsets[p]))
            step.rows.append(RawRecord("payments", p, offsets[p], 0, _payment(rng, cards, time)))
            offsets[p] += 1
        if advances and rng.random() < 0.1:
            p = rng.randrange(partitions)
            known = [m for m in maxima if m is not None]
            if known:
                advanced[p] = max(m for m in (*known, advanced[p]) if m is not None)
        step.watermark_ms = _least(maxima, advanced)
        world.steps.append(step)
    known = [m for m in maxima if m is not None]
    if rng.random() < 0.7 and known:
        world.steps.append(Step([], set(), max(known) + rng.choice((40, 1000))))
    return world


def _least(maxima: Sequence[int | None], advanced: Sequence[int | None]) -> int | None:
    found = []
    for top, floor in zip(maxima, advanced, strict=True):
        mine = [w for w in (None if top is None else top - LATENESS, floor) if w is not None]
        if not mine:
            return None
        found.append(max(mine))
    return min(found)


def _payment(rng: random.Random, cards: Sequence[str], time: int) -> dict[str, Any]:
    return {
        "card": rng.choice(cards),
        "shop": rng.choice((None, 0, -1, 2)),
        "paid_at": time,
        "amount": rng.choice((None, 0, rng.randint(-20_000, 20_000))),
        "refunded": rng.choice((None, False, True)),
        "note": rng.choice((None, "", "x", str(rng.randint(0, 9)))),
        "prices": [rng.randint(-100, 100) for _ in range(rng.choice((0, 0, 1, 3)))],
    }


def frame_of(step: Step) -> pl.DataFrame:
    """As accepted rows reach `prepare`."""
    rows = [
        {**(r.fields or {}), TIME: (r.fields or {})["paid_at"], PARTITION: r.partition, OFFSET: r.offset} for r in step.rows
    ]
    schema = {f.name: _DTYPES[f.type] for f in PAYMENTS.fields} | dict.fromkeys((TIME, PARTITION, OFFSET), pl.Int64)
    frame = pl.DataFrame(rows, schema)
    if step.doubtful:
        frame = frame.with_columns(pl.Series(DOUBTFUL, [(r.partition, r.offset) in step.doubtful for r in step.rows]))
    return frame


@dataclass
class Life:
    """What came of a world: results by take, and rows refused."""

    taken: list[list[dict[str, Any]]]
    refused: list[tuple[int, int, int]]
    last: Operator


Opened = Callable[[MemoryStore], Tables]


def in_memory(store: MemoryStore) -> Tables:
    return MemoryTables()


def live(
    stream: Stream,
    events: Sequence[EventType],
    world: World,
    rng: random.Random,
    opened: Opened = in_memory,
    restores: float = 0.0,
) -> Life:
    """Every step prepared in random pieces, taken and committed; now and then another operator goes on from what was kept."""
    prepare, store, log = build_prepare(stream, 0, events), MemoryStore(), dict[str, list[pl.DataFrame]]()
    acting = operator(stream, events, opened(store))
    life = Life([], [], acting)
    for step in world.steps:
        pieces = [prepare(piece) for piece in _pieces(frame_of(step), rng)]
        outcome = acting.take([Batch(0, piece) for piece in pieces], step.watermark_ms)
        life.taken.append(outcome.results.to_dicts())
        life.refused += outcome.refused.select(PARTITION, OFFSET, "__item").rows()
        for name, table in acting.tables.items():
            changes = table.changes()
            if changes is not None:
                log.setdefault(name, []).append(changes)
            store.write(*table.settle())
        if rng.random() < restores:
            if opened is not in_memory and rng.random() < 0.4:
                acting = operator(stream, events, opened(store))
            else:
                old, store = acting, MemoryStore()
                acting = operator(stream, events, opened(store))
                restore(acting, store, old if rng.random() < 0.3 else None, log, rng)
    life.last = acting
    return life


def restore(
    fresh: Operator, store: MemoryStore, swept: Operator | None, log: dict[str, list[pl.DataFrame]], rng: random.Random
) -> None:
    """From a sweep of another, or from all changes."""
    for name, table in fresh.tables.items():
        frames = log.get(name, []) if swept is None else _swept(swept.tables[name], rng)
        for frame in frames:
            table.restore(frame)
            store.write(*table.settle())


def _swept(table: Table, rng: random.Random) -> Iterator[pl.DataFrame]:
    place = None
    while True:
        frame, place = table.sweep(place, rng.randint(1, 10))
        yield frame
        if place is None:
            return


def _pieces(frame: pl.DataFrame, rng: random.Random) -> list[pl.DataFrame]:
    if frame.is_empty():
        return [frame] if rng.random() < 0.5 else []
    cuts = sorted(rng.randint(0, len(frame)) for _ in range(rng.choice((0, 0, 1, 3))))
    return [frame[a:b] for a, b in zip([0, *cuts], [*cuts, len(frame)], strict=True)]


def expected(
    stream: Stream, events: Sequence[EventType], world: World
) -> tuple[list[list[dict[str, Any]]], list[tuple[int, int]]]:
    """Results of every take, and refused records, by the naive oracle."""
    oracle, rows = WindowOracle(stream, events), list[RawRecord]()
    mark: int | None = None
    seen, done = set[Any](), set[Any]()
    results, refused = [], []
    emit = oracle.window.emit
    for step in world.steps:
        late = [r for r in step.rows if mark is not None and (r.fields or {})["paid_at"] < mark]
        refused += [
            (r.partition, r.offset) for r in late if oracle.windows([r], (r.fields or {})["paid_at"] + 1)
        ]  # has a place
        rows += [r for r in step.rows if r not in late]
        mark = max((m for m in (mark, step.watermark_ms) if m is not None), default=None)
        found = []
        windows = oracle.windows(rows, mark)
        for window in windows:
            if emit != "close" and window.identity not in seen:
                found.append((max(r.time_ms for r in window.rows), window.key, window.start, False, window))
            told = (window.start, window.end, window.identity)  # windows of tied rows have one place, and others rows
            if emit != "update" and oracle.closed(window, mark) and told not in done:
                found.append((window.end - 1, window.key, window.start, True, window))
                done.add(told)
            seen.add(window.identity)
        found.sort(key=lambda one: one[:4])
        results.append([oracle.result(window, final) for *_, final, window in found])
    return results, refused


def shuffled(world: World, rng: random.Random) -> World:
    """The same partitions, each in its own order, interleaved and batched anew; without advances."""
    logs: dict[int, list[RawRecord]] = {}
    for row in (row for step in world.steps for row in step.rows):
        logs.setdefault(row.partition, []).append(row)
    maxima: dict[int, int | None] = dict.fromkeys(logs)
    steps: list[Step] = []
    while any(logs.values()):
        rows: list[RawRecord] = []
        for _ in range(rng.choice((1, 3, 30))):
            left = [p for p, log in logs.items() if log]
            if left:
                rows.append(logs[rng.choice(left)].pop(0))
        for row in rows:
            maxima[row.partition] = max(m for m in (maxima[row.partition], (row.fields or {})["paid_at"]) if m is not None)
        steps.append(Step(rows, set(), _least(list(maxima.values()), [None] * len(maxima))))
    return World(steps)
