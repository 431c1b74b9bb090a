"""Recompute decisions from the lake alone: `python -m svc_features.parity --lake DIR --plan plan.json`.

Prints one JSON object; exit code 0 if every bit agrees, 1 if anything differs, 2 if it cannot be judged.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import orjson

from headrace.contracts.errors import HeadraceError
from headrace.plan.hashes import from_json, sealed
from headrace.plan.ir import Plan
from headrace.plan.retained import declared
from svc_features.adapters.lake import LakeReader
from svc_features.adapters.spark import SparkSession, session
from svc_features.domain.findings import Findings
from svc_features.recompute import Choice, NotReached, Recomputation
from svc_features.warehouse import connect

POLL_S = 0.5
SPARK_CHUNK = 200_000  # passports of one query: a query on Spark costs seconds, however few it answers


def main(arguments: list[str] | None = None) -> int:
    """Run and print."""
    options = _options().parse_args(arguments)
    try:
        plan = from_json(options.plan.read_bytes())
        if plan != sealed(plan):
            raise ValueError("the plan's hashes do not match its content: give the admitted plan, byte for byte")
        if options.pipeline not in (None, plan.pipeline):
            raise ValueError(f"the plan is of pipeline {plan.pipeline}, not {options.pipeline}")
        if not options.lake.is_dir():
            raise ValueError(f"no lake at {options.lake}")
        with _spark(options) as spark:
            page = _judge(options, plan, spark) if plan.retained else _run(options, plan, spark)
    except (HeadraceError, ValueError, OSError, duckdb.Error) as error:
        print(f"parity cannot be judged: {error}", file=sys.stderr)
        return 2
    sys.stdout.buffer.write(orjson.dumps(page, option=orjson.OPT_INDENT_2) + b"\n")
    return 1 if page["differing"] else 0


def _judge(options: argparse.Namespace, plan: Plan, spark: SparkSession | None) -> dict[str, Any]:
    """The plan as declared; then each older version it retains, under `retained`, with the decisions made for its rows."""
    page = _run(options, declared(plan), spark)
    older = [_run(options, version, spark) for version in plan.retained]
    return page | {"retained": older, "differing": page["differing"] + sum(each["differing"] for each in older)}


def _run(options: argparse.Namespace, plan: Plan, spark: SparkSession | None) -> dict[str, Any]:
    choice = Choice(options.limit, options.sample_bp, options.oracle)
    started, deadline = time.monotonic(), time.monotonic() + options.wait_s
    while True:
        with tempfile.TemporaryDirectory(prefix="headrace-parity-") as spill:
            connection = connect(options.threads, options.memory_mb, Path(spill))
            run = Recomputation(connection, LakeReader(options.lake), plan, choice, tell=_tell if options.verbose else _silent)
            run.findings.mismatches_max = options.mismatches
            try:
                findings = run.run() if spark is None else _on_spark(options, run, spark, Path(spill))
            except NotReached:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(POLL_S)
                continue
            finally:
                connection.close()
        return run.page() | {"differing": findings.differing, "wall_s": round(time.monotonic() - started, 2)}


@contextmanager
def _spark(options: argparse.Namespace) -> Iterator[SparkSession | None]:
    """One session for all versions of the plan and however often the archive is looked at; None on DuckDB."""
    if options.engine != "spark":
        yield None
        return
    settings = orjson.loads(options.spark_settings)
    with (
        tempfile.TemporaryDirectory(prefix="headrace-parity-") as spill,
        session(options.spark_master, options.memory_mb, spill, 2 * options.threads, settings) as spark,
    ):
        yield spark


def _on_spark(options: argparse.Namespace, run: Recomputation, spark: SparkSession, scratch: Path) -> Findings:
    """Verdicts, windows and accumulators on Spark; what is compared, and with what, stays here."""
    from svc_features.spark_recompute import SparkServed

    with tempfile.TemporaryDirectory(prefix="headrace-parity-", dir=options.spark_scratch or scratch) as verdicts:
        run.chunk, run.engine = SPARK_CHUNK, SparkServed(spark, run.reader, run.plan, Path(verdicts))
        return run.run()


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="svc_features.parity", description=__doc__)
    parser.add_argument("--lake", type=Path, required=True, help="folder of the lake")
    parser.add_argument("--plan", type=Path, required=True, help="the admitted plan, canonical JSON")
    parser.add_argument("--pipeline", help="refuse a plan of another pipeline")
    parser.add_argument("--limit", type=int, help="at most so many passports, chosen by hash")
    parser.add_argument("--sample-bp", type=int, default=10_000, help="share of passports by hash, in 1/10000")
    parser.add_argument("--oracle", type=int, default=300, help="passports asked of the naive oracle too")
    parser.add_argument("--mismatches", type=int, default=20, help="mismatches told with evidence")
    parser.add_argument("--wait-s", type=float, default=30.0, help="how long to wait for the archive to reach the passports")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory-mb", type=int, default=2_000)
    parser.add_argument("--engine", choices=("duckdb", "spark"), default="duckdb", help="what recomputes")
    parser.add_argument("--spark-master", default="local[2]", help="local[N] or spark://host:port")
    parser.add_argument("--spark-scratch", type=Path, help="folder that driver and executors see alike, on a cluster")
    parser.add_argument("--spark-settings", default="{}", help='of the cluster, as JSON: {"spark.executor.cores": "4"}')
    parser.add_argument("--verbose", action="store_true", help="tell progress on stderr")
    return parser


def _tell(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def _silent(_: str) -> None: ...


if __name__ == "__main__":
    raise SystemExit(main())
