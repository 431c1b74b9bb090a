"""`headrace plan` as people call it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headrace.cli.main import app
from headrace.declare import compile, load
from headrace.plan.hashes import from_json, to_json

FLIGHTS = Path(__file__).parents[3] / "schemas" / "pipelines" / "flights"


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["plan", str(FLIGHTS), *arguments], env={"COLUMNS": "250"})
    assert result.exit_code == code, result.output
    return result.output


def test_lineage_is_printed_as_text_json_dot_and_mermaid() -> None:
    assert "model late_arrival" in run("--lineage")
    assert {"nodes", "links"} == set(json.loads(run("--lineage", "--json")))
    assert run("--lineage", "--as", "dot").startswith("digraph")
    assert run("--as", "mermaid").startswith("flowchart")


def test_a_saved_plan_is_compared_and_nothing_differs(tmp_path: Path) -> None:
    saved = tmp_path / "plan.json"
    saved.write_bytes(to_json(compile(load(FLIGHTS))))
    assert "none" in run("--against", str(saved), "--plain")
    assert "changes against" in run("--against", str(saved))
    assert from_json(run("--json").strip().encode()).pipeline == "flights"


def test_a_changed_declaration_says_what_it_moves(tmp_path: Path) -> None:
    other = tmp_path / "pipeline.py"
    text = (FLIGHTS / "pipeline.py").read_text()
    other.write_text(text.replace('entity="origin", ttl="2d"', 'entity="origin", ttl="3d"'))
    text = run("--against", str(other))
    assert "origin_load" in text
    assert "goes when nothing uses it any more: origin_load" in text
    assert "stays as it is: origin_weather" in text


def test_loads_are_given_by_name_and_unknown_names_are_refused() -> None:
    text = run("--keys", "tail=4k", "--keys", "origin_load=3", "--rate", "departures=2.5", "--history", "departures=1M")
    assert "projected view of 4,000 keys" in text
    assert "1,000,000 rows of departures" in text
    assert "4,000" in run("--keys", "tail=4k", "--plain")
    for wrong in (("--keys", "tial=3"), ("--rate", "departures"), ("--history", "x=1"), ("--freshness", "soon")):
        run(*wrong, code=2)


def test_the_plan_in_force_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from headrace.client.governance import GovernanceClient

    plans: dict[str, bytes | None] = {"flights": to_json(compile(load(FLIGHTS)))}
    monkeypatch.setattr(GovernanceClient, "plan", lambda self, pipeline: plans[pipeline])
    assert ": none" in run("--live")
    plans["flights"] = None
    assert "everything is new" in run("--live")


def test_a_replicated_set_that_is_too_large_is_shown_and_refused() -> None:
    """The report comes first: it says what the refusal rests on."""
    for form in ((), ("--plain",)):
        text = run("--keys", "tail=60B", *form, code=2)
        assert "projected view of 60,000,000,000 keys" in text
        assert 'write placement="owned"' in text and "view_limit=" in text
