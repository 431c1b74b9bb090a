"""`headrace parity --engine spark` as a person runs it: a process that starts Java, and the page DuckDB gives."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import orjson
import typer
from typer.testing import CliRunner

from headrace.cli.parity import register
from headrace.plan.hashes import to_json
from support.lakes import alter
from support.law_worlds import make_world
from svc_features.adapters.lake import LakeReader
from unit.svc_features.worlds import PLAN, PREDICTIONS_TOPIC, played


def page(lake: Path, plan: Path, engine: str) -> tuple[int, dict[str, Any]]:
    """Exit code and what was printed, but for the time it took."""
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    asked = ["parity", str(plan), "--lake", str(lake), "--engine", engine, "--json"]
    ended = CliRunner().invoke(app, asked, env={"HEADRACE_SPARK_MASTER": "local[1]"})
    assert ended.exit_code in (0, 1), ended.output
    return ended.exit_code, {**orjson.loads(ended.stdout), "wall_s": 0}


def test_the_command_gives_the_same_page_and_verdict_on_either_engine(tmp_path: Path) -> None:
    """Goal: nothing differs, then exactly one altered value does. Method: the archived vector of one decision is changed."""
    rig, lake, plan = played(make_world(6, 120), random.Random(6), asks=30), tmp_path / "lake", tmp_path / "plan.json"
    rig.archived(lake)
    plan.write_bytes(to_json(PLAN))
    code, found = page(lake, plan, "spark")
    assert (code, found["differing"], found["checked"]) == (0, 0, len(rig.passports))
    assert (code, found) == page(lake, plan, "duckdb")
    row = LakeReader(lake).batches(PREDICTIONS_TOPIC, ["part", "off", "vector"]).read_all().to_pylist()[0]
    alter(lake, PREDICTIONS_TOPIC, row["part"], row["off"], {"vector": [0.25, *row["vector"][1:]]})
    code, found = page(lake, plan, "spark")
    assert (code, found["vector_differing"]) == (1, 1)
    assert (code, found) == page(lake, plan, "duckdb")
