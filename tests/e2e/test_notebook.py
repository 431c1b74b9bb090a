"""The README's notebook session, and `headrace why`, against the composed platform after two days of June."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

import polars as pl
import pytest

import headrace
from headrace_demo.board import Board
from headrace_demo.waiting import until
from headrace_local import Stack, clone_root

ARRIVAL_S_MAX = 60.0  # the archive follows within seconds


@pytest.fixture(scope="module")
def environment(platform: Stack, played: Board) -> dict[str, str]:
    """What a notebook elsewhere sets; the archive holds what was played."""
    env = {
        "HEADRACE_FEATURES_URL": platform.url("svc-features"), "HEADRACE_GOVERNANCE_URL": platform.url("svc-governance"),
        "HEADRACE_LAKE": str(platform.layout.lake), "HEADRACE_PRINCIPAL": "ada",
        "HEADRACE_KEY": str(platform.layout.keys / "private" / "ada.pem"), "HEADRACE_BOOTSTRAP": platform.bootstrap,
        "HEADRACE_REGISTRY_URL": platform.registry_url,
    }  # fmt: skip
    assert played.decisions
    return env


def session() -> str:
    text = (clone_root() / "README.md").read_text()
    (found,) = re.findall(r"## In a notebook.*?```python\n(.*?)```", text, re.DOTALL)
    return found


def test_the_readme_session_runs_as_it_stands(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: what the README shows works, line for line. Method: it is run in a process; then here, to look at the frames."""
    code = session()
    assert len([line for line in code.splitlines() if line]) <= 10
    script = code + "\nassert why.outcome['label'][0] in (True, False), why\nassert now.height == 1 and noon.height == 3\n"
    whole = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    request_id = re.findall(r'why\("(.*?)"\)', code)[0]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    until("the arrival in the archive", lambda: not headrace.why(request_id).outcome.is_empty(), ARRIVAL_S_MAX)
    ended = subprocess.run([sys.executable, "-c", script], env=whole, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert "as_served" in ended.stdout


def test_what_is_read_by_http_is_what_a_decision_was_served(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, platform: Stack
) -> None:
    """A notebook's read at a decision's t gives the passport's values wherever nothing came in between."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    request_id = re.findall(r'why\("(.*?)"\)', session())[0]
    why = headrace.why(request_id)
    t = why.decision["t_ms"][0]
    weather = why.features.filter(pl.col("set") == "origin_weather")
    row = headrace.read({"origin": weather["entity"][0]}, ["origin_weather"], at=t, statuses=True)
    statuses = [row[f"{name}.status"][0] for name in weather["feature"]]
    assert row["t_ms"].to_list() == [t] and len(statuses) == 5
    unchanged = [
        (mine, served)
        for name, served, before in weather.select("feature", "value", "status").iter_rows()
        if (mine := row[name][0]) is not None and row[f"{name}.status"][0] == before == "fresh"
    ]
    assert all(mine == served for mine, served in unchanged)


def test_why_names_features_who_admitted_and_what_happened(
    environment: dict[str, str], platform: Stack, played: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command with svc-governance up: names instead of numbers, approvals, the arrival and its label."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    request_id = re.findall(r'why\("(.*?)"\)', session())[0]

    def told() -> str:
        done = subprocess.run(
            [sys.executable, "-m", "headrace.cli.main", "why", request_id, "--lake", environment["HEADRACE_LAKE"],
             "--url", environment["HEADRACE_GOVERNANCE_URL"]],
            env={**os.environ, **environment, "COLUMNS": "160", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    until("the outcome", lambda: "what happened" in told(), ARRIVAL_S_MAX)
    text = told()
    assert "origin_delay_mean_1h" in text and "#0" not in text
    assert "admitted by ada" in text and "audit entry" in text
    assert "what happened: Arrived" in text and "arr_delay > 15: " in text


def test_continuous_proof_has_checked_decisions_of_the_play_and_found_nothing(platform: Stack, played: Board) -> None:
    """`GET /parity` of svc-features, at the sample the e2e stack sets."""
    import httpx

    def proven() -> dict[str, Any] | None:
        page = httpx.get(platform.url("svc-features") + "/parity", trust_env=False).json().get("flights", {})
        return page if page.get("checked") else None

    page = until("a round of proof", proven, ARRIVAL_S_MAX)
    assert page["differing"] == {} and page["lateness_skew"]
