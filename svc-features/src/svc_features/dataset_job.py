"""One data set in a process of its own: `python -m svc_features.dataset_job FOLDER`.

Reads FOLDER/job.json and plan.json, writes data.parquet, profile.json and result.json. The service stays responsive
meanwhile, its memory small, and a killed job leaves nothing half done. What cannot be built is a result too.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from headrace.contracts.errors import Fatal
from headrace.plan.hashes import from_json
from headrace.plan.ir import Model, Plan
from svc_features.adapters.lake import LakeReader
from svc_features.adapters.spark import session
from svc_features.building import Builder, Cut, Dataset, Splits, Window
from svc_features.warehouse import connect

IN_MEMORY_RECORDS_MAX = 3_000_000  # some 100 bytes each; beyond the memory limit they spill
PARTITION_RECORDS, PARTITIONS_MAX = 500_000, 4_000  # of a shuffle

Job: TypeAlias = dict[str, Any]  # as the service writes it


def run(folder: Path) -> None:
    """Build and lay out."""
    job = orjson.loads((folder / "job.json").read_bytes())
    plan = from_json((folder / "plan.json").read_bytes())
    model = next(m for m in plan.models if m.name == job["model"])
    cut = {topic: {int(p): n for p, n in parts.items()} for topic, parts in job["cut"].items()}
    splits = Splits(**job["splits"]) if job.get("splits") else None
    window = Window(**job["window"])
    build = _on_spark if job.get("engine") == "spark" else _on_duckdb
    try:
        made = build(folder, job, plan, model, cut, window, splits)
    except (ValueError, Fatal) as error:
        (folder / "result.json").write_bytes(orjson.dumps({"error": str(error)}))
        return
    (folder / "profile.json").write_bytes(orjson.dumps(made.profile))
    (folder / "result.json").write_bytes(orjson.dumps(made.counts()))


def _on_duckdb(
    folder: Path, job: Job, plan: Plan, model: Model, cut: Cut, window: Window, splits: Splits | None
) -> Dataset:  # fmt: skip
    records = sum(sum(parts.values()) for parts in cut.values())
    # A file holds any number of them, at half as much time again.
    database = None if records <= IN_MEMORY_RECORDS_MAX else folder / "build.duckdb"
    connection = connect(job["threads"], job["memory_mb"], folder / "spill", database)
    return Builder(connection, LakeReader(Path(job["lake"])), plan, model, cut, folder / "data.parquet").build(window, splits)


def _on_spark(
    folder: Path, job: Job, plan: Plan, model: Model, cut: Cut, window: Window, splits: Splits | None
) -> Dataset:  # fmt: skip
    from svc_features.spark_building import SparkBuilder  # here alone, since it starts Java

    asked, records = job["spark"], sum(sum(parts.values()) for parts in cut.values())
    partitions = max(2 * job["threads"], min(PARTITIONS_MAX, records // PARTITION_RECORDS))
    with (
        tempfile.TemporaryDirectory(prefix="headrace-spark-", dir=asked["scratch"] or folder) as scratch,
        session(asked["master"], job["memory_mb"], str(folder / "spill"), partitions, asked["settings"]) as spark,
    ):
        reader, path = LakeReader(Path(job["lake"])), folder / "data.parquet"
        return SparkBuilder(spark, reader, plan, model, cut, path, Path(scratch)).build(window, splits)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
