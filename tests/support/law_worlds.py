"""Seeded raw worlds and the online path over them: what the tests of the law share.

A world is a raw log of two events over a few partitions with late, poison, duplicate, undecodable, null and tied
records. `serve` reads it in random batches through verdicts, tiles and blocks and writes down passports.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import polars as pl

from headrace.plan import tiles, verdicts
from headrace.plan.ir import EventType, Feature, FeatureSet, Field, Measure, NestedRecord, SlotKind, Term
from headrace.plan.offline import verdicts_sql
from headrace.plan.oracle import RawRecord
from headrace.plan.read import read_features

MIN, HOUR = 60_000, 3_600_000
CARRIERS = ("AA", "AA", "UA", "Zürich", "", None, "DL", "UA", "AA")

DEPARTURES = EventType(
    name="departures",
    record="Departed",
    topic="flights.departures.v1",
    key="flight_id",
    time="departed_at",
    fields=(
        Field("flight_id", "string", nullable=True),
        Field("origin", "string", nullable=True),
        Field("gate", "long"),
        Field("departed_at", "timestamp"),
        Field("delay", "long", nullable=True, minimum=-(2**39), maximum=2**39),
        Field("fare", "decimal", scale=2, minimum=-(2**54), maximum=2**54),
        Field("carrier", "string", nullable=True),
        Field("crew", "array", nullable=True, item="string", items_max=8),
        Field("bags", "array", nullable=True, item="decimal", scale=1, minimum=-1000, maximum=1000, items_max=6),
        Field("plane.model", "string", nullable=True),
        Field("plane.seats", "int", nullable=True, minimum=0, maximum=900),
    ),
    records=(NestedRecord("plane", "Plane", nullable=True, required=("plane.model",)),),
    lateness_ms=2 * HOUR,
    poison_bound_ms=30 * MIN,
    dedup_id="flight_id",
    dedup_horizon_ms=6 * HOUR,
    partitions=3,
    available_after_ms=5 * MIN,
)
WEATHER = EventType(
    name="weather",
    record="WeatherObserved",
    topic="flights.weather.v1",
    key="origin",
    time="observed_at",
    fields=(
        Field("origin", "string", nullable=True),
        Field("gate", "long"),
        Field("observed_at", "timestamp"),
        Field("gust", "long", nullable=True, minimum=-1000, maximum=1000),
    ),
    lateness_ms=HOUR,
    poison_bound_ms=HOUR,
    partitions=2,
)
EVENTS = {e.name: e for e in (DEPARTURES, WEATHER)}

FULL: tuple[SlotKind, ...] = ("rows", "nonnull", "sum", "square_lo", "square_hi", "min", "max", "last")
ORIGIN_LOAD = FeatureSet(
    name="origin_load",
    entity=("origin",),
    events=("departures", "weather"),
    measures=(
        Measure("m0", "departures", None, None, ("rows",)),
        Measure("m1", "departures", "delay", None, FULL),
        Measure("m2", "departures", None, "delay > 15", ("rows",)),
        Measure("m3", "departures", "fare", "delay > 15", ("nonnull", "sum"), scale=2),
        Measure("m4", "weather", "gust", None, ("last",)),
        Measure("m5", "weather", "gust", "gust > 0", ("nonnull", "sum", "min", "max")),
    ),
    features=(
        Feature("departures_1h", (Term("m0", "count", HOUR, 5 * MIN),)),
        Feature("late_share_3h", (Term("m2", "count", 3 * HOUR, 15 * MIN), Term("m0", "count", 3 * HOUR, 15 * MIN)), "ratio"),
        Feature("delay_mean_1h", (Term("m1", "mean", HOUR, 5 * MIN),)),
        Feature("delay_variance_6h", (Term("m1", "variance", 6 * HOUR, 5 * MIN),)),
        Feature("delay_min_1d", (Term("m1", "min", 24 * HOUR, HOUR),)),
        Feature("delay_max_1d", (Term("m1", "max", 24 * HOUR, HOUR),), impute="-0.1"),
        Feature("delay_last_3h", (Term("m1", "last", 3 * HOUR, 15 * MIN),)),
        Feature("fare_sum_1d", (Term("m3", "sum", 24 * HOUR, HOUR),)),
        Feature("fare_mean_3h", (Term("m3", "mean", 3 * HOUR, 15 * MIN),), impute="0"),
        Feature("delays_known_1h", (Term("m1", "count", HOUR, 5 * MIN),)),
        Feature("gust", (Term("m4", "last", 2 * HOUR, 0),), impute="0"),
        Feature("gust_ratio", (Term("m5", "sum", 3 * HOUR, 15 * MIN), Term("m5", "min", 24 * HOUR, HOUR)), "ratio"),
    ),
    ttl_ms=30 * HOUR,
    stale_after_ms=20 * MIN,
)
GATE_LOAD = FeatureSet(
    name="gate_load",
    entity=("origin", "gate"),
    events=("departures",),
    measures=(Measure("m0", "departures", "delay", None, ("nonnull", "sum", "last")),),
    features=(
        Feature("delay_sum_12h", (Term("m0", "sum", 12 * HOUR, HOUR),)),
        Feature("delay_last", (Term("m0", "last", 24 * HOUR, 0),)),
    ),
    ttl_ms=30 * HOUR,
    stale_after_ms=HOUR,
)


@dataclass(frozen=True, slots=True)
class World:
    seed: int
    start_ms: int
    span_ms: int
    log: tuple[RawRecord, ...]
    base_floor_ms: int | None

    def partitions(self) -> list[tuple[str, int]]:
        return [(e.name, p) for e in EVENTS.values() for p in range(e.partitions)]

    def records(self, event: str, partition: int) -> list[RawRecord]:
        return [r for r in self.log if r.event == event and r.partition == partition]


@dataclass(frozen=True, slots=True)
class Passport:
    """What was served: request, cut (event, partition) -> next offset, values as float.hex, statuses."""

    entity: str
    t: int
    cut: dict[tuple[str, int], int]
    values: list[str | None]
    statuses: list[int]


def hexed(values: Sequence[float | None]) -> list[str | None]:
    return [None if v is None else float(v).hex() for v in values]


def make_world(seed: int, records: int = 160) -> World:
    rng = random.Random(seed)
    start, span = rng.choice((-31 * HOUR, 1_370_000_000_000 // HOUR * HOUR)), 48 * HOUR
    log: list[RawRecord] = []
    for event in EVENTS.values():
        log += _event_log(rng, event, start, span, records)
    return World(seed, start, span, tuple(log), rng.choice((None, None, start + rng.randint(0, 20 * HOUR))))


def _event_log(rng: random.Random, event: EventType, start: int, span: int, records: int) -> Iterator[RawRecord]:
    offsets = [rng.choice((0, 7)) for _ in range(event.partitions)]
    past: list[dict[str, Any]] = []
    newest = start
    for append in sorted(start + rng.randint(0, span) for _ in range(records)):
        partition = rng.randrange(event.partitions)
        x = rng.random()
        time = append - (
            rng.randint(0, 2 * MIN) if x < 0.5
            else rng.randint(0, event.lateness_ms) if x < 0.75
            else rng.randint(event.lateness_ms, 4 * HOUR) if x < 0.85
            else -rng.randint(0, event.poison_bound_ms) if x < 0.94
            else -event.poison_bound_ms if x < 0.96
            else -event.poison_bound_ms - rng.choice((1, 10 * HOUR))
        )  # fmt: skip
        if rng.random() < 0.2:
            time = newest - event.lateness_ms - rng.randint(0, 1)  # at the edge of late
        if rng.random() < 0.3:
            time = time // (5 * MIN) * (5 * MIN)
        again = past and rng.random() < 0.25
        old = rng.choice(past[-40:]) if again else None
        if past and rng.random() < 0.1:
            time = past[-1][event.time]
        fields = _fields(rng, event, time, len(past), old)
        past.append(fields)
        if time <= append + event.poison_bound_ms:
            newest = max(newest, time)
        yield RawRecord(event.name, partition, offsets[partition], append, None if rng.random() < 0.05 else fields)
        offsets[partition] += rng.choice((1, 1, 1, 3))


def _fields(rng: random.Random, event: EventType, time: int, number: int, old: dict[str, Any] | None) -> dict[str, Any]:
    origin = rng.choice(("EWR", "EWR", "EWR", "JFK", "LGA", None))
    if event is WEATHER:
        return {
            "origin": origin,
            "gate": rng.randint(0, 2),
            "observed_at": time,
            "gust": rng.choice((None, 0, rng.randint(-50, 90))),
        }
    delay = None if rng.random() < 0.15 else rng.randint(-9, 60) if rng.random() < 0.6 else rng.randint(-(2**39), 2**39)
    flight = None if rng.random() < 0.05 else f"F{number}" if old is None else old["flight_id"]
    fare = rng.randint(-(2**54), 2**54) if rng.random() < 0.3 else rng.randint(0, 99_999)
    if old is not None and rng.random() < 0.5:
        time = old["departed_at"]
    return {
        "flight_id": flight, "origin": origin, "gate": rng.randint(0, 2), "departed_at": time, "delay": delay, "fare": fare,
        "carrier": CARRIERS[fare % len(CARRIERS)], **_inside(random.Random(fare)),
    }  # fmt: skip


def _inside(rng: random.Random) -> dict[str, Any]:
    """Arrays and a record: their own draws, so that those of the other fields stay as they are."""
    model = rng.choice((None, "A320", "A320", "B737", "Ж"))
    return {
        "crew": rng.choices(("Ann", "Bo", "", "Zoë"), k=rng.choice((0, 1, 3, 3))),
        "bags": rng.choice((None, [], [rng.randint(-1000, 1000) for _ in range(rng.randint(1, 6))])),
        "plane.model": model,
        "plane.seats": None if model is None else rng.choice((None, 0, 180)),
    }


def frame_of(event: EventType, records: Sequence[RawRecord]) -> pl.DataFrame:
    """Records as the engine holds them; undecodable ones as nulls."""
    types = {"string": pl.String, "boolean": pl.Boolean}
    columns = {
        f.name: pl.Series(
            f.name,
            [(r.fields or {}).get(f.name) for r in records],
            pl.List(types.get(f.item or "", pl.Int64)) if f.item else types.get(f.type, pl.Int64),
        )
        for f in event.fields
    }
    columns["__partition"] = pl.Series("__partition", [r.partition for r in records], pl.Int64)
    columns["__offset"] = pl.Series("__offset", [r.offset for r in records], pl.Int64)
    columns["__append"] = pl.Series("__append", [r.append_ms for r in records], pl.Int64)
    columns["__decodable"] = pl.Series("__decodable", [r.fields is not None for r in records], pl.Boolean)
    return pl.DataFrame(columns).with_columns(pl.col(event.time).fill_null(0).alias("__time"))


def judge_frame(state: verdicts.SourceState, event: EventType, frame: pl.DataFrame) -> verdicts.Judged:
    ids = None if event.dedup_id is None else frame[event.dedup_id].to_list()
    offsets, times, appended, decodable = (frame[n].to_numpy() for n in ("__offset", "__time", "__append", "__decodable"))
    return verdicts.judge(state, event, offsets, times, appended, ids, decodable)


def serve(world: World, feature_set: FeatureSet, rng: random.Random, requests: int = 60) -> list[Passport]:
    """The online path in random batches, asked at random moments of it."""
    source = {key: verdicts.SourceState() for key in world.partitions()}
    waiting = {key: world.records(*key) for key in world.partitions()}
    cut: dict[tuple[str, int], int] = {}
    blocks: dict[tiles.BlockKey, tiles.Block] = {}
    out: list[Passport] = []
    now = world.start_ms
    while any(waiting.values()):
        key = rng.choice([k for k, records in waiting.items() if records])
        batch, waiting[key] = _split(waiting[key], rng.choice((1, 2, 5, 20, 80)))
        event, frame = EVENTS[key[0]], frame_of(EVENTS[key[0]], batch)
        accepted = frame.filter(pl.Series(judge_frame(source[key], event, frame).accepted))
        for partial in tiles.lift(feature_set, event, accepted):
            tiles.apply(feature_set, partial, blocks)
        cut[key], now = batch[-1].offset + 1, max(now, batch[-1].append_ms)
        maxima = _maxima(source)
        if rng.random() < 0.3:
            _expire(feature_set, blocks, maxima, world.base_floor_ms)
        if rng.random() < 0.5 and len(out) < requests:
            out += _ask(world, feature_set, rng, now, dict(cut), blocks, maxima)
    return out


def _split(records: list[RawRecord], n: int) -> tuple[list[RawRecord], list[RawRecord]]:
    return records[:n], records[n:]


def _maxima(source: dict[tuple[str, int], verdicts.SourceState]) -> dict[str, int | None]:
    out: dict[str, int | None] = {}
    for (event, _), state in source.items():
        known = [m for m in (out.get(event), state.maximum_ms) if m is not None]
        out[event] = max(known, default=None)
    return out


def _expire(
    feature_set: FeatureSet, blocks: dict[tiles.BlockKey, tiles.Block], maxima: dict[str, int | None], base: int | None
) -> None:
    for key, block in list(blocks.items()):
        kept = tiles.expire(block, tiles.floor_ms(feature_set, key.event, maxima, base), endless=not key.hop_ms)
        if len(kept.starts_ms):
            blocks[key] = kept
        else:
            del blocks[key]


def _ask(
    world: World, feature_set: FeatureSet, rng: random.Random, now: int, cut: dict[tuple[str, int], int],
    blocks: dict[tiles.BlockKey, tiles.Block], maxima: dict[str, int | None],
) -> list[Passport]:  # fmt: skip
    n = rng.choice((1, 1, 4))
    origins = [rng.choice(("EWR", "EWR", "JFK", "LGA", "never")) for _ in range(n)]
    entities = [some_entity(rng, feature_set, o) for o in origins]
    times = []
    for _ in range(n):
        x = rng.random()
        t = now + (
            rng.randint(-40 * MIN, MIN)
            if x < 0.6
            else -rng.randint(0, 30 * HOUR)
            if x < 0.75
            else rng.randint(-4 * HOUR, 3 * HOUR)
        )
        times.append(t // (5 * MIN) * (5 * MIN) if rng.random() < 0.4 else t)
    rows = read_features(feature_set, entities, times, lambda keys: [blocks.get(k) for k in keys], maxima, world.base_floor_ms)
    return [
        Passport(e, t, cut, hexed(v), s)
        for e, t, v, s in zip(entities, times, rows.rows(), rows.statuses.tolist(), strict=True)
    ]


def some_entity(rng: random.Random, feature_set: FeatureSet, origin: str) -> str:
    """One that the set may know, at this origin if it knows origins."""
    draws = {"gate": lambda: str(rng.randint(0, 2)), "plane.model": lambda: rng.choice(("A320", "A320", "B737", "Ж"))}
    return tiles.ENTITY_SEPARATOR.join(origin if name == "origin" else draws[name]() for name in feature_set.entity)


def database(world: World, passports: Sequence[Passport] = ()) -> duckdb.DuckDBPyConnection:
    """Raw tables, verdict tables, passports and cuts in DuckDB."""
    connection = duckdb.connect()
    connection.execute("set threads = 1")
    for event in EVENTS.values():
        frame = frame_of(event, [r for r in world.log if r.event == event.name])
        frame = frame.rename({"__partition": "part", "__offset": "off", "__append": "append_ms", "__decodable": "decodable"})
        register(connection, f"raw_{event.name}", frame.drop("__time"))
        connection.execute(verdicts_sql(event))
    asked = [(i, p.entity, p.t) for i, p in enumerate(passports)]
    register(
        connection, "passports", pl.DataFrame(asked, schema={"pid": pl.Int64, "entity": pl.String, "t": pl.Int64}, orient="row")
    )
    cuts = [(i, e, p, next_) for i, x in enumerate(passports) for (e, p), next_ in x.cut.items()]
    schema = {"pid": pl.Int64, "event": pl.String, "part": pl.Int64, "next_offset": pl.Int64}
    register(connection, "cuts", pl.DataFrame(cuts, schema=schema, orient="row"))
    return connection


def register(connection: duckdb.DuckDBPyConnection, name: str, frame: pl.DataFrame) -> None:
    connection.register("incoming", frame.to_arrow())
    connection.execute(f'create or replace table "{name}" as select * from incoming')
    connection.unregister("incoming")
