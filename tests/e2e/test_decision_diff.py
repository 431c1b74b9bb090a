"""`headrace plan --against 30d` against the composed platform after two days of June: flips of real, archived decisions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable

from headrace.contracts.catalogue import predictions_topic
from headrace.declare import compile, load
from headrace.plan.assemble import Assembler
from headrace.plan.ir import FeatureSet, Plan
from headrace.plan.oracle import Oracle, RawRecord
from headrace.plan.tiles import entity_of
from headrace_demo.board import Board
from headrace_demo.waiting import until
from headrace_local import Stack, clone_root

FLIGHTS = clone_root() / "schemas" / "pipelines" / "flights" / "pipeline.py"
ARRIVAL_S_MAX = 60.0
RULE = '"origin_delay_mean_1h > 30"'
WINDOW = 'origin_delay_mean_1h = Departed.dep_delay.mean().over("1h", hop="5m")'

Row = dict[str, Any]


@pytest.fixture(scope="module")
def lake(platform: Stack, played: Board) -> Path:
    """The archive, once it holds every decision of the play."""
    folder = platform.layout.lake
    asked = {made.request_id for made in played.decisions}
    until("the decisions in the archive", lambda: asked <= {row["request_id"] for row in decisions(folder)}, ARRIVAL_S_MAX)
    return folder


def table(lake: Path, topic: str) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(DeltaTable(str(lake / topic)).to_pyarrow_table()))


def decisions(lake: Path) -> list[Row]:
    return list(table(lake, predictions_topic("flights")).iter_rows(named=True))


def edited(folder: Path, *changes: tuple[str, str]) -> Path:
    """The declaration with some of its text replaced, as a person edits it."""
    text = FLIGHTS.read_text()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (folder / "pipeline.py").write_text(text)
    return folder / "pipeline.py"


def diff(platform: Stack, path: Path, *arguments: str, code: int = 0) -> Row:
    """The command, asking svc-features; its JSON."""
    env = {
        **os.environ, "HEADRACE_FEATURES_URL": platform.url("svc-features"), "HEADRACE_PRINCIPAL": "ada",
        "HEADRACE_KEY": str(platform.layout.keys / "private" / "ada.pem"),
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }  # fmt: skip
    command = [sys.executable, "-m", "headrace.cli.main", "plan", str(path), "--against", "30d", "--json", "--most", "100000"]
    done = subprocess.run([*command, *arguments], env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def naive(lake: Path, plan: Plan) -> dict[str, bool]:
    """Each decision's rules under the plan, one by one: sets of another hash by the oracle over the archived raw log."""
    model, assembler = plan.models[0], Assembler(plan, plan.models[0])
    changed = [s for s in plan.feature_sets if s.hash not in {r["hash"] for r in decisions(lake)[0]["sets"]}]
    oracle = Oracle(list(plan.events), log(lake, plan, changed))
    out: dict[str, bool] = {}
    for row in decisions(lake):
        request = json.loads(row["request_body"])
        values = {r["set"]: r["values"] for r in row["sets"]}
        for item in changed:
            (read,) = [r for r in row["sets"] if r["set"] == item.name]
            cut = {(c["event"], c["partition"]): c["next_offset"] for c in read["cut"]}
            values[item.name] = oracle.answer(
                item, entity_of(item, request) or "\x00", row["t_ms"], cut, read["base_floor_ms"]
            )[0]
        made = assembler.assemble(request, values)
        out[row["request_id"]] = model.default_decision if made.rule_score is None else made.rule_decision
    return out


def log(lake: Path, plan: Plan, sets: list[FeatureSet]) -> list[RawRecord]:
    """The raw log of the events these sets read, as plain records."""
    records: list[RawRecord] = []
    for event in plan.events:
        if any(event.name in item.events for item in sets):
            names = [field.name for field in event.fields]
            for row in table(lake, event.topic).sort("part", "off").iter_rows(named=True):
                fields = {name: row[name] for name in names} if row["decodable"] else None
                records.append(RawRecord(event.name, row["part"], row["off"], row["append_ms"], fields))
    return records


def test_what_is_not_changed_flips_nothing(platform: Stack, lake: Path) -> None:
    page = diff(platform, FLIGHTS, "--fail-on", "flips>0", "--fail-on", "not_replayed>0")
    found = page["models"]["late_arrival"]
    assert (found["flips"], found["rows_moved"], page["flips"]) == (0, 0, [])
    assert found["replayed"] == len(decisions(lake)) > 300


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param([(RULE, '"origin_delay_mean_1h > 10"')], id="another bar of the rules"),
        pytest.param([(WINDOW, WINDOW.replace('"1h", hop', '"2h", hop'))], id="a longer window"),
    ],
)
def test_a_change_flips_exactly_what_the_oracle_predicts(
    platform: Stack, lake: Path, tmp_path: Path, changes: list[tuple[str, str]]
) -> None:
    """Goal: real decisions, made again by svc-features under an edited declaration. Method: the same, by plain Python."""
    path = edited(tmp_path, *changes)
    page = diff(platform, path, "--fail-on", "flips>0", code=1)
    before, after = {row["request_id"]: row["decision"] for row in decisions(lake)}, naive(lake, compile(load(path)))
    predicted = {request: decision for request, decision in after.items() if decision != before[request]}
    assert {flip["request_id"]: flip["new"]["decision"] for flip in page["flips"]} == predicted != {}
    assert page["models"]["late_arrival"]["flips"] == len(predicted)
    assert page["conditions"]["failing"] == ["flips>0 of late_arrival"]


def test_the_same_answer_comes_from_the_lake_with_the_stack_out_of_the_way(platform: Stack, lake: Path, tmp_path: Path) -> None:
    """`--lake` runs it beside the command: the pages differ in how long they took alone."""
    path = edited(tmp_path, (RULE, '"origin_delay_mean_1h > 10"'))
    asked, here = diff(platform, path), diff(platform, path, "--lake", str(lake))
    assert {**asked, "wall_s": 0} == {**here, "wall_s": 0}


def test_a_new_window_is_told_with_its_cost_and_its_plan_need_not_be_in_force(
    platform: Stack, lake: Path, tmp_path: Path
) -> None:
    page = diff(platform, edited(tmp_path, (WINDOW, WINDOW.replace('"1h", hop', '"2h", hop'))), "--by", "origin")
    assert [d["name"] for d in page["change"]["differences"]] == ["origin_load", "late_arrival"]
    reads = {side: {c["set"]: c["reads"] for c in page["change"]["costs"][side]} for side in ("old", "new")}
    assert reads["new"]["origin_load"] > reads["old"]["origin_load"]
    found = page["models"]["late_arrival"]
    assert set(found["groups"]["origin"]) == {"EWR", "JFK", "LGA"}
    assert sum(g["flips"] for g in found["groups"]["origin"].values()) == found["flips"]
    assert page["values"]["origin_load"]["as_served"] == found["replayed"]
