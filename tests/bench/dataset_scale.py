"""Peak memory and speed of building a data set, by rows: `make bench-datasets [ARGS="ROWS... --engine spark"]`.

Each size gets a lake of its own in a temporary folder: ROWS requests, an outcome for nine in ten of them, and as many
events to read features from, spread over a year and 20,000 entities. The build runs in a process of its own, as in
svc-features, with the same memory limit at every size; what is reported is that process's peak resident set (on Spark
that of its driver's Python; Java and the workers take spark.*.memory). Prints one JSON line each and writes
.headrace/reports/bench-datasets.json."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / p) for p in ("tests", "schemas/src", "svc-features/src")]

from headrace.plan import ir  # noqa: E402
from headrace.plan.hashes import sealed, to_json  # noqa: E402
from headrace.plan.ir import EventType, Feature, FeatureSet, Field, Input, Measure, Plan, Term  # noqa: E402
from svc_features.domain.columns import event_columns  # noqa: E402

HOUR, DAY = 3_600_000, 86_400_000
START, SPAN = 1_357_000_000_000 // DAY * DAY, 365 * DAY
ENTITIES, CHUNK = 20_000, 250_000
THREADS = 2
LAW: dict[str, Any] = {
    "lateness_ms": 2 * HOUR,
    "poison_bound_ms": HOUR,
    "dedup_horizon_ms": 6 * HOUR,
    "partitions": 2,
    "available_after_ms": 60_000,
}


def event(name: str, *more: Field) -> EventType:
    fields = (Field("id", "string"), Field("card", "string"), Field("at", "timestamp"), *more)
    return EventType(name, name.title(), f"scale.{name}.v1", "card", "at", fields, dedup_id="id", **LAW)


def plan() -> Plan:
    paid, asked, outcome = event("paid", Field("amount", "long", minimum=0, maximum=10**6)), event("asked"), event("outcomes")
    outcome = replace(outcome, fields=(*outcome.fields, Field("bad", "boolean")))
    measures = (Measure("m0", "paid", None, None, ("rows",)), Measure("m1", "paid", "amount", None, ("nonnull", "sum")))
    features = (
        Feature("paid_1h", (Term("m0", "count", HOUR, 5 * 60_000),)),
        Feature("paid_7d", (Term("m0", "count", 7 * DAY, HOUR),)),
        Feature("amount_mean_7d", (Term("m1", "mean", 7 * DAY, HOUR),)),
    )
    cards = FeatureSet("cards", ("card",), ("paid",), measures, features, 9 * DAY, HOUR)
    inputs = tuple(Input(f.name, "feature", "cards", f.name) for f in features)
    model = ir.Model(
        name="fraud", request="asked", sample_bp=10_000, routing_key="card", request_id="id", when=None,
        label=ir.Label("outcomes", "bad", "id", DAY, unlabelled="negative"), inputs=inputs, trainer="gradient_boosting",
        trainer_parameters=(), threshold="0.5", gate=(), deadline_ms=50, rules="paid_1h > 9", rules_score="paid_1h",
        default_decision=False, explain_top=0, rollout=ir.Rollout((100,), 10),
        watch=ir.Watch(("paid_1h",), DAY, 200, 500), owner="x",
    )  # fmt: skip
    return sealed(Plan("scale", "x", (paid, asked, outcome), (), (cards,), (model,)))


def fill(lake: Path, made: Plan, rows: int) -> None:
    """In order of time, as an archive writes; a chunk at a time."""
    rng = np.random.default_rng(1)
    for start in range(0, rows, CHUNK):
        n = min(CHUNK, rows - start)
        times = START + SPAN * start // rows + np.sort(rng.integers(0, max(1, SPAN * n // rows), n))
        for e in made.events:
            share = np.ones(n, bool) if e.name != "outcomes" else rng.random(n) < 0.9
            at = times[share] + (0 if e.name != "outcomes" else 12 * HOUR)
            write_deltalake(str(lake / e.topic), chunk(e, rng, start, np.flatnonzero(share), at), mode="append")


def chunk(e: EventType, rng: np.random.Generator, start: int, kept: np.ndarray, at: np.ndarray) -> pa.Table:
    n = len(at)
    offsets = start + kept
    columns = {
        "part": offsets % 2, "off": offsets // 2, "append_ms": at + 1_000, "decodable": np.ones(n, bool), "reason": [None] * n,
        "raw": [None] * n, "id": [f"i{i}" for i in offsets.tolist()],
        "card": [f"c{i}" for i in rng.integers(0, ENTITIES, n).tolist()], "at": at,
        "amount": rng.integers(0, 10**6, n), "bad": rng.random(n) < 0.02,
    }  # fmt: skip
    schema = event_columns(e)
    return pa.table([pa.array(columns[f.name], f.type) for f in schema], schema=schema)


def cut_of(lake: Path, made: Plan) -> dict[str, dict[str, int]]:
    """The ends of the lake, as the service pins them."""
    out: dict[str, dict[str, int]] = {}
    for e in made.events:
        found = DeltaTable(str(lake / e.topic)).to_pyarrow_dataset().to_table(columns=["part", "off"])
        ends = found.group_by("part").aggregate([("off", "max")]).to_pylist()
        out[e.topic] = {str(row["part"]): row["off_max"] + 1 for row in ends}
    return out


def measure(rows: int, engine: str, memory_mb: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="headrace-scale-", dir=os.environ.get("HEADRACE_TEST_SCRATCH")) as name:
        folder, made = Path(name), plan()
        started = time.monotonic()
        fill(folder / "lake", made, rows)
        filled_s = time.monotonic() - started
        (folder / "plan.json").write_bytes(to_json(made))
        job = {
            "model": "fraud", "cut": cut_of(folder / "lake", made), "lake": str(folder / "lake"), "threads": THREADS,
            "memory_mb": memory_mb, "engine": engine,
            "spark": {"master": f"local[{THREADS}]", "settings": {}, "scratch": None},
            "window": {"from_ms": START, "until_ms": START + SPAN, "mature_until_ms": START + SPAN + 2 * DAY},
        }  # fmt: skip
        (folder / "job.json").write_bytes(orjson.dumps(job))
        command = [sys.executable, "-m", "svc_features.dataset_job", name]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[:3])}
        started = time.monotonic()
        process = subprocess.Popen(command, env=env)
        _, status, used = os.wait4(process.pid, 0)
        build_s = time.monotonic() - started
        result = json.loads((folder / "result.json").read_bytes()) if status == 0 else {"error": f"ended with {status}"}
        if "error" in result:
            raise SystemExit(f"the build of {rows} rows: {result['error']}")
        return {
            "rows": rows, "built": result["rows"], "engine": engine, "build_s": round(build_s, 1),
            "rows_s": round(rows / build_s), "peak_rss_mb": used.ru_maxrss // 1024, "memory_limit_mb": memory_mb,
            "fill_s": round(filled_s, 1), "parquet_mb": round((folder / "data.parquet").stat().st_size / 1e6, 1),
            "content_checksum": result["content_checksum"],
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench-datasets", description=__doc__)
    parser.add_argument("rows", type=int, nargs="*", default=[1_000_000, 5_000_000])
    parser.add_argument("--engine", choices=("duckdb", "spark"), default="duckdb")
    parser.add_argument("--memory-mb", type=int, default=400, help="low enough that every size meets it")
    parser.add_argument("--out", type=Path, default=ROOT / ".headrace" / "reports" / "bench-datasets.json")
    options = parser.parse_args()
    found = []
    for rows in options.rows:
        found.append(measure(rows, options.engine, options.memory_mb))
        print(json.dumps(found[-1]), flush=True)
    report = {"bench": "datasets", "machine": platform.machine(), "cpus": os.cpu_count(), "threads": THREADS, "sizes": found}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2) + b"\n")
    print(options.out)


if __name__ == "__main__":
    main()
