"""Data sets on Spark equal those on DuckDB: every row, status, label, count, profile, and so the checksum."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest

from headrace.plan.hashes import sealed, to_json
from headrace.plan.ir import Input, Label, Plan, Watch
from support.law_sets import random_set
from support.law_worlds import DEPARTURES, HOUR, make_world
from svc_features.adapters.lake import LakeReader
from svc_features.adapters.spark import SparkSession
from svc_features.building import Builder, Dataset, Splits, Window
from svc_features.spark_building import SparkBuilder
from svc_features.warehouse import connect
from unit.svc_features.test_datasets import EVERYTHING, whole
from unit.svc_features.worlds import EVENTS, MODEL, PLAN, played

from .flights_lake import flights_plan, write_lake

DAYS = int(os.environ.get("HEADRACE_TEST_SPARK_DAYS", "31"))


def by_duckdb(lake: Path, plan: Plan, window: Window, splits: Splits | None = None) -> Dataset:
    return Builder(connect(1, 500, lake / "spill"), LakeReader(lake), plan, plan.models[0], EVERYTHING).build(window, splits)


def by_spark(spark: SparkSession, lake: Path, plan: Plan, window: Window, splits: Splits | None = None) -> Dataset:
    """Groups of a few dozen records, so that every request reads across their borders."""
    path, scratch = lake / "spark.parquet", lake / "scratch"
    builder = SparkBuilder(spark, LakeReader(lake), plan, plan.models[0], EVERYTHING, path, scratch, records_max=40)
    return builder.build(window, splits)


def assert_same(ours: Dataset, other: Dataset) -> None:
    assert other.frame.equals(ours.frame)
    assert (other.counts(), other.profile) == (ours.counts(), ours.profile)


@pytest.mark.parametrize(("seed", "unlabelled"), [(4, "drop"), (6, "negative"), (9, "keep")])
def test_a_data_set_of_a_random_world_is_the_same(tmp_path: Path, spark: SparkSession, seed: int, unlabelled: str) -> None:
    """Late, poison, duplicate, undecodable, null and tied records; half the requests decided, so both modes appear."""
    rig = played(make_world(seed, 200), random.Random(seed), asks=120, decided=0.5)
    rig.archived(tmp_path)
    label = replace(MODEL.label, unlabelled=unlabelled, mature_ms=2 * HOUR)  # type: ignore[arg-type]
    plan = sealed(replace(PLAN, models=(replace(MODEL, label=label),)))
    window = whole(rig)
    ours = by_duckdb(tmp_path, plan, window)
    assert 0 < ours.as_served_rows < ours.rows
    assert_same(ours, by_spark(spark, tmp_path, plan, window))
    times = ours.frame["t_ms"]
    splits = Splits(times[len(times) // 2], times[len(times) * 3 // 4] + 1, 2 * HOUR)
    assert_same(by_duckdb(tmp_path, plan, window, splits), by_spark(spark, tmp_path, plan, window, splits))


def inside_plan(seed: int) -> Plan:
    """A model whose requests hold arrays and a nested record, over random sets that draw on both."""
    entities = (("origin",), ("origin", "plane.model"))
    sets = tuple(replace(random_set(seed, 40, entity=e), name=f"drawn_{i}") for i, e in enumerate(entities))
    asked = {"crew": "ARRAY_LENGTH(crew)", "seats": "plane.seats", "bags": "ARRAY_SUM(bags)"}
    inputs = [Input(f"{s.name}_{f.name}", "feature", s.name, f.name) for s in sets for f in s.features]
    inputs += [Input(name, "request", expression=text) for name, text in asked.items()]
    label = Label("departures", "ARRAY_CONTAINS(crew, 'Bo')", "flight_id", HOUR, exclude="plane.model = 'B737'")
    model = replace(
        MODEL, request="departures", label=label, inputs=tuple(inputs), rules="crew > 1", rules_score="seats",
        watch=Watch(("crew", "seats"), 24 * HOUR, 200, 500),
    )  # fmt: skip
    fields = tuple(
        replace(f, minimum=None, maximum=None) if f.name == "fare" else f for f in DEPARTURES.fields
    )  # JSON's are short
    events = (replace(DEPARTURES, topic=EVENTS["departures"].topic, fields=fields), EVENTS["weather"])
    return sealed(replace(PLAN, events=events, feature_sets=sets, models=(model,)))


@pytest.mark.parametrize("seed", [4, 9])
def test_a_data_set_over_items_arrays_and_nested_fields_is_the_same(tmp_path: Path, spark: SparkSession, seed: int) -> None:
    """In requests, labels, entities and measures."""
    played(make_world(seed, 240), random.Random(seed), asks=20, decided=0.5).archived(tmp_path)
    plan, window = inside_plan(seed), Window(-(2**53), 2**53, 2**53)
    written = " ".join(f"{m.value} {m.where}" for s in plan.feature_sets for m in s.measures)
    assert [word for word in ("EACH(bags)", "EACH(crew)", "ARRAY_", "plane.") if word not in written] == []
    ours = by_duckdb(tmp_path, plan, window)
    inputs = ours.frame.select(pl.selectors.float()).fill_nan(None)
    assert 0 < ours.positives < ours.rows
    assert sum(inputs.count().row(0)) > inputs.width * ours.rows // 4, "values are there to be compared"
    assert_same(ours, by_spark(spark, tmp_path, plan, window))


def test_what_cannot_be_built_is_said_in_the_same_words(tmp_path: Path, spark: SparkSession) -> None:
    rig = played(make_world(4, 60), random.Random(4), asks=20, decided=0.0)
    rig.archived(tmp_path)
    with pytest.raises(ValueError, match="no labelled request") as ours:
        by_duckdb(tmp_path, PLAN, Window(0, 1, 1))
    with pytest.raises(ValueError, match="no labelled request") as other:
        by_spark(spark, tmp_path, PLAN, Window(0, 1, 1))
    assert str(other.value) == str(ours.value)


def test_a_lake_that_spark_cannot_read_is_a_result_and_not_a_crash(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    played(make_world(4, 60), random.Random(4), asks=20, decided=0.0).archived(lake)
    for file in (lake / EVENTS["departures"].topic).glob("*.parquet"):
        file.write_bytes(b"not Parquet")
        file.with_name(f".{file.name}.crc").unlink(missing_ok=True)
    (tmp_path / "job").mkdir()
    window = {"from_ms": 0, "until_ms": 2**53, "mature_until_ms": 2**53}
    assert job(tmp_path / "job", PLAN, lake, EVERYTHING, window, "spark")["error"].startswith("Spark failed: ")


def test_real_flights_give_the_same_data_set_as_a_job_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Goal: what the service does with HEADRACE_OFFLINE_ENGINE. Method: its job on each engine, a month of flights.

    Prints how many rows a second each gave, start of the process and of the session included.
    """
    plan, lake = flights_plan(), tmp_path / "lake"
    cut = write_lake(lake, plan, DAYS, seed=1)
    window = {"from_ms": 0, "until_ms": 2**53, "mature_until_ms": 2**53}
    results, took_s = {}, {}
    for engine in ("duckdb", "spark"):
        folder = tmp_path / engine
        folder.mkdir()
        started = time.perf_counter()
        results[engine] = job(folder, plan, lake, cut, window, engine)
        took_s[engine] = time.perf_counter() - started
    ours, other = results["duckdb"], results["spark"]
    assert other["content_checksum"] == ours["content_checksum"]
    assert other == ours
    frames = [pl.read_parquet(tmp_path / engine / "data.parquet") for engine in results]
    assert frames[1].equals(frames[0])
    assert json.loads((tmp_path / "spark" / "profile.json").read_bytes()) == json.loads(
        (tmp_path / "duckdb" / "profile.json").read_bytes()
    )
    inputs = frames[0].select(pl.selectors.float()).fill_nan(None)
    assert len(frames[0]) > 700 * DAYS, "about 850 flights a day have an outcome"
    assert min(inputs.count().row(0)) > len(inputs) // 6, "values are there to be compared"
    with capsys.disabled():
        print("\n" + rates(len(inputs), took_s))


def rates(rows: int, took_s: dict[str, float]) -> str:
    """One line: rows a second of each engine's job."""
    spark, duckdb = (f"{name} {rows / took_s[name]:,.0f} rows/s ({took_s[name]:.1f} s)" for name in ("spark", "duckdb"))
    return f"data set of {rows:,} flights in {DAYS} days: {spark} against {duckdb}"


def job(
    folder: Path, plan: Plan, lake: Path, cut: dict[str, dict[int, int]], window: dict[str, Any], engine: str
) -> dict[str, Any]:
    (folder / "plan.json").write_bytes(to_json(plan))
    asked = {
        "model": plan.models[0].name, "cut": cut, "lake": str(lake), "threads": 2, "memory_mb": 1_000, "window": window,
        "engine": engine, "spark": {"master": "local[2]", "settings": {}, "scratch": None},
    }  # fmt: skip
    (folder / "job.json").write_bytes(orjson.dumps(asked, option=orjson.OPT_NON_STR_KEYS))
    command = [sys.executable, "-m", "svc_features.dataset_job", str(folder)]
    subprocess.run(command, check=True, timeout=280, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    found: dict[str, Any] = orjson.loads((folder / "result.json").read_bytes())
    return found
