"""Collects what the report is made of, once the play is over and the archive has everything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import polars as pl

from headrace.client.governance import GovernanceClient
from headrace.client.passports import lake_rows
from headrace.declare import compile, load
from headrace.plan.hashes import to_json
from headrace.plan.ir import Plan
from headrace_demo import evidence
from headrace_demo.doors import PIPELINE
from headrace_demo.findings import Findings
from headrace_demo.story import Story
from headrace_demo.waiting import GaveUp, until

ARCHIVE_TIMEOUT_S = 120.0
EVENT_TOPICS = ("flights.scheduled.v1", "flights.departures.v1", "flights.arrivals.v1", "flights.weather.v1")
PREDICTIONS = "flights.predictions.v1"


def gather(story: Story, *, null: bool) -> Findings:
    """Everything the report needs. Raises GaveUp, FileNotFoundError, RuntimeError when something of it cannot be had."""
    stack, board, year = story.stack, story.board, story.year
    lake, reports = stack.layout.lake, stack.layout.reports
    sent = _sent(story)
    _await_archive(lake, len(board.decisions), sent)
    plan = compile(load(story.root / "schemas" / "pipelines" / PIPELINE))
    plan_file = reports / "flights-plan.json"
    plan_file.write_bytes(to_json(plan))
    governance = _governance(story)
    decisions, late = evidence.passports(lake, PIPELINE), evidence.outcomes(lake)
    trained_until = {view["model_digest"]: int(view["until_ms"]) for view in governance["candidates"]}
    in_play = decisions.filter((pl.col("t_ms") >= year.play_ms) & (pl.col("door") == "event"))
    latency = (in_play["append_ms"] - in_play["request_append_ms"]).drop_nulls().to_list()
    return Findings(
        null=null, seed=year.seed, wall_s=board.elapsed_s, facts=board.facts, decisions=decisions, outcomes=late,
        months=evidence.auc_by_month(decisions, late, trained_until), latency_ms=latency, rest_ms=list(board.rest_ms),
        letters=evidence.dead_letters(story.bus, story.codec, _letter_topics(plan)),
        parity=_parity(lake, plan_file, story.root), audit=_audit(story), governance=governance,
        followed=_followed(story, plan, decisions, late), sent=sent, archived=_archived(lake), asked=_asked(story),
        peak_memory_mb=board.peak_memory_mb,
        first_decision_s=None if board.first_decision_s is None else board.first_decision_s - (board.stack_ready_s or 0.0),
        play_s=board.play_s, feature_lag_ms=board.feature_lag_ms_max, duplicates_in=_duplicates(story),
        weights=list(board.weights), looks=list(board.looks),
    )  # fmt: skip


def _ingest(story: Story) -> dict[str, Any]:
    answer = httpx.get(story.stack.url("svc-ingest") + "/v1/status", timeout=10.0, trust_env=False)
    return answer.raise_for_status().json()["sources"]


def _sent(story: Story) -> int:
    """Events acknowledged: over HTTP, from files, and by the producer that is not ours."""
    board = story.board
    weather = _ingest(story)[f"{PIPELINE}/flights-weather"]["accepted"]
    return sum(board.accepted.values()) + board.published + weather


def _duplicates(story: Story) -> int:
    return story.board.duplicates + _ingest(story)[f"{PIPELINE}/flights-weather"]["duplicates"]


def _archived(lake: Path) -> int:
    return sum(evidence.count_archived(lake, topic) for topic in EVENT_TOPICS)


def _await_archive(lake: Path, decisions: int, sent: int) -> None:
    """Until the archive holds every passport and event there is; what it lacks then, the checks say."""

    def complete() -> bool:
        return evidence.count_archived(lake, PREDICTIONS) >= decisions and _archived(lake) >= sent

    try:
        until("the archive to hold every passport", complete, ARCHIVE_TIMEOUT_S, every_s=0.5)
    except GaveUp:
        return


def _governance(story: Story) -> dict[str, Any]:
    with GovernanceClient(story.stack.url("svc-governance")) as client:
        return {
            "candidates": [view for view in client.candidates() if view["pipeline"] == PIPELINE],
            "findings": client.findings(),
            "trainings": client.trainings(),
            "rollouts": client.rollouts(),
        }


def _letter_topics(plan: Plan) -> list[str]:
    from headrace.contracts.catalogue import plan_topics

    return [spec.name for spec in plan_topics(plan)]


def _parity(lake: Path, plan: Path, root: Path) -> dict[str, Any]:
    try:
        return evidence.parity(lake, plan, root)
    except RuntimeError as error:
        return {"error": str(error)}


def _audit(story: Story) -> dict[str, Any]:
    layout = story.stack.layout
    export = layout.reports / "audit.jsonl"
    with GovernanceClient(story.stack.url("svc-governance")) as client, export.open("w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in client.export())
    return evidence.audit(export, layout.state / "svc-governance" / "audit-heads.jsonl", layout.keys / "trusted")


def _asked(story: Story) -> set[str]:
    """Flights the play has asked for."""
    part = story.year.streams["scheduled"].between(story.year.play_ms, story.board.asked_ms)
    return set(part.filter(pl.col("ask"))["flight_id"].to_list())


def _followed(story: Story, plan: Plan, decisions: pl.DataFrame, late: pl.DataFrame) -> dict[str, Any]:
    """The latest traced flight a model decided and that has arrived; one the rules decided if there is none."""
    traced = decisions.filter(pl.col("trace_id") != "").join(late, left_on="request_id", right_on="flight_id")
    by_model = traced.filter(pl.col("decision_source") == "model")
    chosen = (by_model if by_model.height else traced).sort("t_ms")
    if not chosen.height:
        return {}
    row = chosen.row(-1, named=True)
    lake = story.stack.layout.lake
    passport = lake_rows(lake, PREDICTIONS, "request_id", row["request_id"])[0]
    return {
        "flight": row["request_id"],
        "trace_id": row["trace_id"],
        "passport": passport,
        "arrival": lake_rows(lake, "flights.arrivals.v1", "flight_id", row["request_id"])[0],
        "departure": (lake_rows(lake, "flights.departures.v1", "flight_id", row["request_id"]) or [None])[0],
        "spans": evidence.trace(story.stack.zipkin_url, row["trace_id"]),
        "plan": plan,
    }
