"""Which engine judges parity on demand: how it is asked for at each door, and what is said where Spark is not installed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import typer
from fastapi import FastAPI
from typer.testing import CliRunner

from headrace.cli import parity as command
from headrace.plan.hashes import to_json
from support.law_worlds import make_world
from svc_features import parity, routes
from svc_features.archive import Reached
from svc_features.jobs import Ended
from svc_features.settings import FeaturesSettings
from unit.svc_features.worlds import EVENTS, PIPELINE, PLAN, played

NOTHING = {
    "checked": 0, "wall_s": 0, "values": 0, "fresh": 0, "bits_differing": 0, "statuses_differing": 0, "oracle_checked": 0,
    "oracle_differing": 0, "other_plans": 0, "by_feature": [], "mismatches": [],
}  # fmt: skip


class Door:
    """The service's route over nothing but settings; `asked` are the arguments of its jobs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.asked: list[dict[str, str]] = []
        monkeypatch.setattr(routes, "run_module", self._run)
        http = FastAPI()
        routes.add_routes(http, Reached(), {PIPELINE: PLAN}, FeaturesSettings(**settings), dict)
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(http), base_url="http://features")

    async def _run(self, _module: str, arguments: list[str], _timeout_s: float) -> Ended:
        self.asked.append(dict(zip(arguments[::2], arguments[1::2], strict=True)))
        return Ended(0, orjson.dumps(NOTHING), "")

    async def judge(self, **asked: str) -> httpx.Response:
        return await self._client.get("/v1/parity", params={"pipeline": PIPELINE, **asked})


@pytest.mark.parametrize(("engine", "setting"), [("spark", "duckdb"), (None, "spark")])
async def test_the_request_or_else_the_setting_chooses_the_engine_of_the_service(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: str | None, setting: str
) -> None:
    """And the job gets what the service knows of the cluster."""
    monkeypatch.setattr(routes.spark, "lacking", lambda: None)
    cluster = {"spark.executor.cores": "4"}
    door = Door(
        monkeypatch, offline_engine=setting, spark_master="spark://host:7077", spark_scratch=tmp_path, spark_settings=cluster
    )
    assert (await door.judge(**({} if engine is None else {"engine": engine}))).status_code == 200
    (job,) = door.asked
    options = parity._options().parse_args([word for pair in job.items() for word in pair])
    assert (options.engine, options.spark_master, options.spark_scratch) == ("spark", "spark://host:7077", tmp_path)
    assert json.loads(options.spark_settings) == cluster


async def test_a_service_without_spark_refuses_and_says_what_to_install_or_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """No job is started for it; DuckDB is there all the same; what is no engine is the caller's mistake."""
    monkeypatch.setattr(routes.spark, "lacking", lambda: "pyspark")
    door = Door(monkeypatch)
    refused = await door.judge(engine="spark")
    assert (refused.status_code, door.asked) == (501, [])
    page = refused.json()
    assert "pyspark is not installed here" in page["error"]
    assert "make env-spark" in page["hint"]
    assert "HEADRACE_OFFLINE_ENGINE=duckdb" in page["hint"]
    assert (await door.judge()).status_code == 200
    assert [job["--engine"] for job in door.asked] == ["duckdb"]
    assert (await door.judge(engine="excel")).status_code == 422


def test_recomputation_where_spark_is_not_installed_is_not_judged_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At once, not after waiting for an archive; never with 1, which means that bits differ."""
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    plan = tmp_path / "plan.json"
    plan.write_bytes(to_json(PLAN))
    asked = ["--lake", str(tmp_path), "--plan", str(plan), "--wait-s", "600", "--engine", "spark"]
    assert parity.main(asked) == 2
    complaint = capsys.readouterr().err
    assert "not installed" in complaint
    assert "make env-spark" in complaint
    assert parity.main([*asked, "--spark-settings", "{not json"]) == 2


def test_a_lake_whose_files_cannot_be_read_is_not_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Never with 1: nothing was compared."""
    lake, plan = tmp_path / "lake", tmp_path / "plan.json"
    played(make_world(4, 60), random.Random(4), asks=10).archived(lake)
    plan.write_bytes(to_json(PLAN))
    for file in (lake / EVENTS["departures"].topic).glob("*.parquet"):
        file.write_bytes(b"not Parquet")
    assert parity.main(["--lake", str(lake), "--plan", str(plan), "--wait-s", "0"]) == 2
    assert "cannot be judged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "environment", "engine", "master"),
    [
        ([], {}, "duckdb", "local[2]"),
        (["--engine", "spark"], {}, "spark", "local[2]"),
        ([], {"HEADRACE_OFFLINE_ENGINE": "spark", "HEADRACE_SPARK_MASTER": "spark://host:7077"}, "spark", "spark://host:7077"),
        (["--engine", "duckdb"], {"HEADRACE_OFFLINE_ENGINE": "spark"}, "duckdb", "local[2]"),
    ],
)
def test_the_command_line_hands_the_engine_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], environment: dict[str, str], engine: str, master: str
) -> None:
    ran: list[list[str]] = []

    def run(arguments: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        ran.append(arguments)
        return subprocess.CompletedProcess(arguments, 0, orjson.dumps(NOTHING), b"")

    monkeypatch.setattr(command.subprocess, "run", run)
    plan = tmp_path / "plan.json"
    plan.write_bytes(to_json(PLAN))
    app = typer.Typer()
    app.callback()(lambda: None)
    command.register(app)
    ended = CliRunner().invoke(app, ["parity", str(plan), *arguments], env=environment)
    assert ended.exit_code == 0, ended.output
    ((_, _, _, *passed),) = ran
    options = parity._options().parse_args(passed)
    assert (options.engine, options.spark_master, options.spark_scratch) == (engine, master, None)


def test_an_engine_that_is_none_is_refused_by_the_command_line(tmp_path: Path) -> None:
    app = typer.Typer()
    app.callback()(lambda: None)
    command.register(app)
    ended = CliRunner().invoke(app, ["parity", str(tmp_path), "--engine", "excel"])
    assert ended.exit_code == 2
    assert "excel" in ended.output
