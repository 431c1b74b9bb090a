"""Data sets on Spark equal those on DuckDB: every row, status, label, count, profile, and so the checksum."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest

from headrace.plan.hashes import sealed, to_json
from headrace.plan.ir import Plan
from support.law_worlds import HOUR, make_world
from svc_features.adapters.lake import LakeReader
from svc_features.adapters.spark import SparkSession
from svc_features.building import Builder, Dataset, Splits, Window
from svc_features.spark_building import SparkBuilder
from svc_features.warehouse import connect
from unit.svc_features.test_datasets import EVERYTHING, whole
from unit.svc_features.worlds import MODEL, PLAN, played

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


def test_what_cannot_be_built_is_said_in_the_same_words(tmp_path: Path, spark: SparkSession) -> None:
    rig = played(make_world(4, 60), random.Random(4), asks=20, decided=0.0)
    rig.archived(tmp_path)
    with pytest.raises(ValueError, match="no labelled request") as ours:
        by_duckdb(tmp_path, PLAN, Window(0, 1, 1))
    with pytest.raises(ValueError, match="no labelled request") as other:
        by_spark(spark, tmp_path, PLAN, Window(0, 1, 1))
    assert str(other.value) == str(ours.value)


def test_real_flights_give_the_same_data_set_as_a_job_of_its_own(tmp_path: Path) -> None:
    """Goal: what the service does with HEADRACE_OFFLINE_ENGINE. Method: its job on each engine, a month of flights."""
    plan, lake = flights_plan(), tmp_path / "lake"
    cut = write_lake(lake, plan, DAYS, seed=1)
    window = {"from_ms": 0, "until_ms": 2**53, "mature_until_ms": 2**53}
    results = {}
    for engine in ("duckdb", "spark"):
        folder = tmp_path / engine
        folder.mkdir()
        results[engine] = job(folder, plan, lake, cut, window, engine)
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
