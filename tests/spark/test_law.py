"""The law on Spark: verdicts, as served and as of over random worlds and random feature sets, against DuckDB.

DuckDB is held against the naive oracle by tests/unit/plan over the same worlds, so equality here reaches it too.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from headrace.plan import ir, offline
from headrace.plan.lower import Status
from headrace.plan.spark_sql import admitted_sql, as_of_sql, measures_of, verdicts_sql
from support.law_sets import random_set
from support.law_worlds import (
    DEPARTURES,
    EVENTS,
    HOUR,
    MIN,
    World,
    database,
    frame_of,
    make_world,
    register,
    serve,
    some_entity,
)
from svc_features.adapters.lake import LakeReader
from svc_features.adapters.spark import SparkSession
from svc_features.recompute import Choice, Recomputation
from svc_features.spark_recompute import SparkServed, as_served
from svc_features.spark_tasks import ENTITY, EVENT, SERVED, T, answer, statuses_column, values_column
from svc_features.warehouse import connect, load_verdicts
from unit.svc_features.worlds import EVENTS as ARCHIVED
from unit.svc_features.worlds import PLAN, played

from .tables import plain, view

SEEDS = range(100, 100 + int(os.environ.get("HEADRACE_TEST_SPARK_WORLDS", "6")))
FEATURES = 80  # of one random set: a few sets hold every kind
NESTED = (("plane.model",), ("origin", "plane.model"))
INSIDE = ("EACH(bags)", "EACH(crew)", "ARRAY_SUM(", "ARRAY_LENGTH(", "ARRAY_CONTAINS(", "plane.seats", "plane.model")


def drawn(seed: int) -> ir.FeatureSet:
    """A random set, over items, arrays and nested fields too; every third of an entity that lies in a nested record."""
    return random_set(seed, FEATURES, entity=NESTED[seed // 3 % 2] if seed % 3 == 2 else ())


def judged(spark: SparkSession, world: World) -> None:
    """CREATE verdict_<event> from the world's log."""
    for event in EVENTS.values():
        frame = frame_of(event, [r for r in world.log if r.event == event.name])
        names = {"__partition": "part", "__offset": "off", "__append": "append_ms", "__decodable": "decodable"}
        view(spark, f"raw_{event.name}", frame.rename(names).drop("__time"))
        spark.sql(verdicts_sql(event)).cache().createOrReplaceTempView(f"verdict_{event.name}")


@pytest.mark.parametrize("seed", SEEDS)
def test_verdicts_and_what_was_served_are_those_of_duckdb(spark: SparkSession, seed: int) -> None:
    """Every aggregate, combination and step; random cuts, floors and times, events before 1970 among them."""
    world, feature_set = make_world(seed, 120), drawn(seed)
    passports = serve(world, feature_set, random.Random(seed), 30)
    connection = database(world, passports)
    judged(spark, world)
    for name in EVENTS:
        columns = "part, off, et, m_before, m_after, verdict"
        found = spark.sql(f"SELECT {columns} FROM verdict_{name} ORDER BY part, off").toArrow().to_pylist()
        expected = connection.sql(f"select {columns} from verdict_{name} order by part, off").pl().to_dicts()
        assert found == expected
    ours = offline.as_served(connection, feature_set, EVENTS, world.base_floor_ms)
    asked, cuts = connection.sql("from passports").pl(), connection.sql("from cuts").pl()
    other = as_served(spark, feature_set, EVENTS, asked, cuts, world.base_floor_ms)
    assert other.pids.tolist() == ours.pids.tolist()
    assert other.features.statuses.tolist() == ours.features.statuses.tolist()
    assert other.features.values.tobytes() == ours.features.values.tobytes()


@pytest.mark.parametrize("seed", SEEDS)
def test_point_in_time_is_that_of_duckdb(spark: SparkSession, seed: int) -> None:
    """Over loaded history and a live source: what Spark's SQL admits, answered by the function its workers run."""
    world, feature_set, rng = make_world(seed, 120), drawn(seed), random.Random(seed)
    asked = []
    for i in range(40):
        origin, t = rng.choice(("EWR", "JFK", "LGA", "never")), world.start_ms + rng.randint(-HOUR, world.span_ms + HOUR)
        entity = some_entity(rng, feature_set, origin)
        asked.append((i, entity, t // (5 * MIN) * (5 * MIN) if rng.random() < 0.3 else t))
    requests = pl.DataFrame(asked, schema=["pid", "entity", "t"], orient="row")
    connection = database(world)
    register(connection, "requests", requests)
    ours = offline.as_of(connection, feature_set, EVENTS).features
    judged(spark, world)
    renamed = requests.rename({"entity": ENTITY, "t": T}).with_columns(pl.lit(False).alias(SERVED))
    answered = answer(feature_set, 0, plain(renamed), records(spark, feature_set))
    values = np.frombuffer(b"".join(answered[values_column(0)].to_pylist()))
    statuses = np.frombuffer(b"".join(answered[statuses_column(0)].to_pylist()), np.int8)
    assert statuses.tolist() == ours.statuses.ravel().tolist()
    assert values.tobytes() == ours.values.tobytes()


def records(spark: SparkSession, feature_set: ir.FeatureSet) -> pa.Table:
    parts = []
    for index, name in enumerate(feature_set.events):
        spark.sql(admitted_sql(EVENTS[name])).createOrReplaceTempView("admitted")
        found = spark.sql(as_of_sql(feature_set, EVENTS[name], "admitted")).toArrow()
        parts.append(found.append_column(EVENT, pa.array([index] * len(found), pa.int64())))
        assert {f"v_{m.id}" for m in measures_of(feature_set, name)} <= set(found.column_names)
    return pa.concat_tables(parts, promote_options="default")


def test_the_random_sets_hold_every_kind_of_aggregate() -> None:
    """Else the tests above could pass without having looked."""
    sets = [drawn(seed) for seed in SEEDS]
    kinds = Counter(t.kind for s in sets for f in s.features for t in f.terms)
    assert set(kinds) == set(ir.AggregateKind.__args__)
    written = " ".join(f"{m.value} {m.where}" for s in sets for m in s.measures)
    assert [word for word in INSIDE if word not in written] == []
    assert {s.entity for s in sets} >= set(NESTED)


def test_lists_and_structs_of_a_lake_are_judged_and_recomputed_alike(tmp_path: Path, spark: SparkSession) -> None:
    """As archived, in Parquet; two fields are younger than the table. Every verdict's row, then random cuts and times."""
    rng, reader = random.Random(7), LakeReader(tmp_path)
    played(make_world(7, 200), rng, asks=5, decided=0.0).archived(tmp_path)
    younger = (ir.Field("plane.engines", "int", nullable=True), ir.Field("tags", "array", True, item="string", items_max=4))
    departures = replace(DEPARTURES, topic=ARCHIVED["departures"].topic, fields=(*DEPARTURES.fields, *younger))
    feature_set = random_set(7, 60, entity=("origin", "plane.model"))
    plan = replace(PLAN, events=(departures,), feature_sets=(feature_set,), models=())
    connection = connect(1, 500, tmp_path / "spill")
    load_verdicts(connection, reader, departures)
    served = SparkServed(spark, reader, plan, tmp_path / "verdicts")
    names = ", ".join(f'"{f.name}"' for f in departures.fields)
    rows = f"select part, off, m_before, m_after, verdict, {names} from verdict_departures order by part, off"
    judged_rows = connection.sql(rows).pl().to_dicts()
    assert {row["verdict"] for row in judged_rows} >= {"ok", "late", "poison", "duplicate", "undecodable"}
    passports, cuts = random_passports(rng, feature_set, judged_rows)
    for name, frame in (("passports", passports), ("cuts", cuts)):
        register(connection, name, frame)
    ours = offline.as_served(connection, feature_set, {"departures": departures})
    other = served(feature_set, passports, cuts, None)
    assert other.features.statuses.tolist() == ours.features.statuses.tolist()
    assert other.features.values.tobytes() == ours.features.values.tobytes()
    assert spark.sql(rows).toArrow().to_pylist() == judged_rows
    assert (ours.features.statuses == Status.FRESH).sum() > ours.features.statuses.size // 10


def random_passports(
    rng: random.Random, feature_set: ir.FeatureSet, rows: Sequence[dict[str, Any]]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Passports and cuts at random places of a log, their times close to what was known there."""
    ends = {part: max(row["off"] for row in rows if row["part"] == part) + 1 for part in {row["part"] for row in rows}}
    passports, cuts = [], []
    for pid in range(60):
        cut = {part: rng.randint(end // 3, end) for part, end in ends.items()}
        known = max(row["m_after"] or 0 for row in rows if row["off"] < cut[row["part"]])
        passports.append((pid, some_entity(rng, feature_set, "EWR"), known + rng.randint(-10 * MIN, 10 * MIN)))
        cuts += [(pid, "departures", part, next_offset) for part, next_offset in cut.items()]
    return (
        pl.DataFrame(passports, schema={"pid": pl.Int64, "entity": pl.String, "t": pl.Int64}, orient="row"),
        pl.DataFrame(
            cuts, schema={"pid": pl.Int64, "event": pl.String, "part": pl.Int64, "next_offset": pl.Int64}, orient="row"
        ),
    )


def test_parity_of_a_lake_is_judged_alike_on_spark(tmp_path: Path, spark: SparkSession) -> None:
    """The decisions of a small world, recomputed by both engines: the same page, nothing differs."""
    rig = played(make_world(4, 200), random.Random(4), asks=60, decided=0.7)
    rig.archived(tmp_path)
    pages = []
    for engine in (None, SparkServed(spark, LakeReader(tmp_path), PLAN, tmp_path / "verdicts")):
        run = Recomputation(connect(1, 500, tmp_path / "spill"), LakeReader(tmp_path), PLAN, Choice(), engine=engine)
        run.run()
        pages.append(run.page())
    assert pages[0] == pages[1]
    assert run.findings.differing == 0 < run.findings.checked
