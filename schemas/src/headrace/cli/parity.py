"""`headrace parity`: every decision recomputed from the archived raw log, bit for bit.

svc-features does the work, in a process of its own: the command line imports no service.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from headrace.cli.places import LAKE, Lake
from headrace.cli.plan import compiled
from headrace.cli.terminal import printer
from headrace.plan.hashes import PlanFormatError, from_json, to_json
from headrace.plan.ir import Plan

MODULE = "svc_features.parity"
CANNOT_JUDGE = 2

console = printer()
complaints = printer(stderr=True, highlight=False)


class Engine(StrEnum):
    """What recomputes; svc-features knows how."""

    DUCKDB = "duckdb"
    SPARK = "spark"


def register(root: typer.Typer) -> None:
    """Add the command."""
    root.command("parity")(parity)


def parity(
    path: Annotated[Path, typer.Argument(help="pipeline.py or its folder, or the admitted plan as JSON")],
    lake: Lake = LAKE,
    limit: Annotated[int | None, typer.Option(min=1, help="at most so many decisions, chosen by hash")] = None,
    sample_bp: Annotated[int, typer.Option(min=1, max=10_000, help="share of decisions by hash, in 1/10000")] = 10_000,
    wait: Annotated[float, typer.Option(help="seconds to wait for the archive to reach the decisions")] = 30.0,
    engine: Annotated[
        Engine, typer.Option(envvar="HEADRACE_OFFLINE_ENGINE", help="what recomputes; spark needs `make env-spark` and Java 17")
    ] = Engine.DUCKDB,
    spark_master: Annotated[
        str, typer.Option(envvar="HEADRACE_SPARK_MASTER", help="local[N] or spark://host:port")
    ] = "local[2]",
    spark_scratch: Annotated[
        Path | None, typer.Option(envvar="HEADRACE_SPARK_SCRATCH", help="folder that driver and executors see alike")
    ] = None,
    spark_settings: Annotated[str, typer.Option(envvar="HEADRACE_SPARK_SETTINGS", help="of the cluster, as JSON")] = "{}",
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Recompute decisions from the lake alone. Ends with 1 if a single bit differs, 2 if it cannot be judged."""
    if find_spec(MODULE.partition(".")[0]) is None:
        complaints.print(f"{MODULE} is not installed here: parity runs where svc-features does", style="red")
        raise typer.Exit(CANNOT_JUDGE)
    arguments = ["--lake", str(lake), "--sample-bp", str(sample_bp), "--wait-s", str(wait)]
    arguments += [] if limit is None else ["--limit", str(limit)]
    arguments += ["--engine", engine.value, "--spark-master", spark_master, "--spark-settings", spark_settings]
    arguments += [] if spark_scratch is None else ["--spark-scratch", str(spark_scratch)]
    with tempfile.TemporaryDirectory(prefix="headrace-parity-") as folder:
        file = Path(folder) / "plan.json"
        file.write_bytes(to_json(_plan(path)))
        command = [sys.executable, "-m", MODULE, "--plan", str(file), *arguments]
        code = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}  # what this process can import
        ended = subprocess.run(command, capture_output=True, check=False, env=code)
    if ended.returncode not in (0, 1):
        complaints.print(ended.stderr.decode(errors="replace").strip(), style="red")
        raise typer.Exit(CANNOT_JUDGE)
    if as_json:
        typer.echo(ended.stdout.decode(), nl=False)
    else:
        render(console, json.loads(ended.stdout))
    raise typer.Exit(ended.returncode)


def _plan(path: Path) -> Plan:
    if path.suffix != ".json":
        return compiled(path)
    try:
        return from_json(path.read_bytes())
    except (OSError, PlanFormatError) as error:
        complaints.print(f"{path}: {error}", style="red")
        raise typer.Exit(CANNOT_JUDGE) from None


def render(to: Console, page: dict[str, Any]) -> None:
    """The verdict, then evidence of what differs."""
    share = page["fresh"] / page["values"] if page["values"] else 0.0
    to.print(
        f"{page['checked']:,} decisions recomputed in {page['wall_s']} s: {page['values']:,} values, {share:.0%} fresh; "
        f"bits differing: [bold {'red' if page['bits_differing'] else 'green'}]{page['bits_differing']:,}[/], "
        f"statuses differing: {page['statuses_differing']:,}; {page['oracle_checked']:,} answers also by the naive oracle, "
        f"{page['oracle_differing']:,} differing",
        highlight=False,
    )
    if page["other_plans"]:
        to.print(f"{page['other_plans']:,} decisions of other plans were left out", highlight=False)
    if page["by_feature"]:
        to.print(by_set(page["by_feature"]))
    if page["mismatches"]:
        table = Table("kind", "decision", "set", "feature", "served", "recomputed", title="what differs (first ones)")
        for m in page["mismatches"]:
            table.add_row(m["kind"], m["request_id"], m["feature_set"], m["feature"], m["served"], m["recomputed"])
        to.print(table)


def by_set(features: list[dict[str, Any]]) -> Table:
    """One row per feature set; below it, each feature of which anything differs."""
    table = Table("set", "features", "values", "fresh", "values differing", "statuses differing", box=None)
    for name in dict.fromkeys(f["set"] for f in features):
        mine = [f for f in features if f["set"] == name]
        total = {k: sum(f[k] for f in mine) for k in ("values", "fresh", "values_differing", "statuses_differing")}
        table.add_row(name, str(len(mine)), *_row(total))
        for feature in mine:
            if feature["values_differing"] or feature["statuses_differing"]:
                table.add_row("", feature["feature"], *_row(feature))
    return table


def _row(counts: dict[str, Any]) -> tuple[str, ...]:
    share = counts["fresh"] / counts["values"] if counts["values"] else 0.0
    return f"{counts['values']:,}", f"{share:.0%}", f"{counts['values_differing']:,}", f"{counts['statuses_differing']:,}"
