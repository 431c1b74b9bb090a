"""The law on Spark: verdicts, as served and as of over random worlds and random feature sets, against DuckDB.

DuckDB is held against the naive oracle by tests/unit/plan over the same worlds, so equality here reaches it too.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from headrace.plan import ir, offline
from headrace.plan.spark_sql import admitted_sql, as_of_sql, measures_of, verdicts_sql
from support.law_sets import random_set
from support.law_worlds import EVENTS, HOUR, MIN, World, database, frame_of, make_world, register, serve
from svc_features.adapters.lake import LakeReader
from svc_features.adapters.spark import SparkSession
from svc_features.recompute import Choice, Recomputation
from svc_features.spark_recompute import SparkServed, as_served
from svc_features.spark_tasks import ENTITY, EVENT, SERVED, T, answer, statuses_column, values_column
from svc_features.warehouse import connect
from unit.svc_features.worlds import PLAN, played

SEEDS = range(100, 100 + int(os.environ.get("HEADRACE_TEST_SPARK_WORLDS", "6")))
FEATURES = 130  # of one random set, those over arrays and nested records left out: a few sets hold every kind
INSIDE = ("EACH", "ARRAY", "plane.")


def plain_set(seed: int) -> ir.FeatureSet:
    """A random set without what Spark refuses."""
    drawn = random_set(seed, FEATURES)
    kept = {m.id for m in drawn.measures if not any(word in f"{m.value} {m.where}" for word in INSIDE)}
    features = tuple(f for f in drawn.features if all(t.measure in kept for t in f.terms))
    return replace(drawn, features=features, measures=tuple(m for m in drawn.measures if m.id in kept))


def judged(spark: SparkSession, world: World) -> None:
    """CREATE verdict_<event> from the world's log."""
    for event in EVENTS.values():
        frame = frame_of(event, [r for r in world.log if r.event == event.name])
        frame = frame.drop(f.name for f in event.fields if f.item is not None or "." in f.name)
        names = {"__partition": "part", "__offset": "off", "__append": "append_ms", "__decodable": "decodable"}
        view(spark, f"raw_{event.name}", frame.rename(names).drop("__time"))
        spark.sql(verdicts_sql(event)).cache().createOrReplaceTempView(f"verdict_{event.name}")


def plain(frame: pl.DataFrame) -> pa.Table:
    table = frame.to_arrow()
    views = (pa.string_view(), pa.large_string())
    return table.cast(pa.schema([pa.field(f.name, pa.string() if f.type in views else f.type) for f in table.schema]))


def view(spark: SparkSession, name: str, frame: pl.DataFrame) -> None:
    spark.createDataFrame(plain(frame)).createOrReplaceTempView(name)


@pytest.mark.parametrize("seed", SEEDS)
def test_verdicts_and_what_was_served_are_those_of_duckdb(spark: SparkSession, seed: int) -> None:
    """Every aggregate, combination and step; random cuts, floors and times, events before 1970 among them."""
    world, feature_set = make_world(seed, 120), plain_set(seed)
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
    world, feature_set, rng = make_world(seed, 120), plain_set(seed), random.Random(seed)
    asked = []
    for i in range(40):
        origin, t = rng.choice(("EWR", "JFK", "LGA", "never")), world.start_ms + rng.randint(-HOUR, world.span_ms + HOUR)
        entity = origin if len(feature_set.entity) == 1 else f"{origin}\x1f{rng.randint(0, 2)}"
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
    kinds = Counter(t.kind for seed in SEEDS for f in plain_set(seed).features for t in f.terms)
    assert set(kinds) == set(ir.AggregateKind.__args__)


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
