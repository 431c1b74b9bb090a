"""One decision's trace as people see it: the way told in the terminal, the store's JSON, and its page in a real browser."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from headrace_observe.trace_page import NAME, NotDrawn, browser, draw, keep, page_url, services_of
from typer.testing import CliRunner

from headrace.cli.main import app
from headrace.client.way import fetch, of_trace, slowest
from headrace_demo import evidence
from headrace_demo.board import Board
from headrace_demo.waiting import until
from headrace_local import Stack

TRACE_S_MAX = 60.0


@pytest.fixture(scope="module")
def decision(platform: Stack, played: Board) -> tuple[str, str]:
    """(request id, trace id) of a traced decision all of whose services have sent their spans."""
    made = next(made for made in played.decisions if made.trace_id)
    wanted = set(evidence.SERVICES_OF_A_TRACE)
    until(
        f"spans of {made.trace_id}",
        lambda: evidence.services_of(evidence.trace(platform.zipkin_url, made.trace_id)) >= wanted,
        TRACE_S_MAX,
    )
    return made.request_id, made.trace_id


def test_why_tells_the_way_of_a_decision_and_its_slowest_hop(platform: Stack, decision: tuple[str, str]) -> None:
    request_id, trace_id = decision
    places = [
        *("--lake", str(platform.layout.home / "no-lake"), "--bootstrap", platform.bootstrap, "--zipkin", platform.zipkin_url),
        *("--registry", platform.registry_url, "--url", platform.url("svc-governance")),
    ]
    told = CliRunner().invoke(app, ["why", request_id, *places], env={"COLUMNS": "200"})
    assert told.exit_code == 0, told.output
    longest = slowest(of_trace(fetch(platform.zipkin_url, trace_id), request_id))
    assert longest is not None
    assert "its way, by its trace" in told.output, told.output
    assert "slowest hop:" in told.output
    assert page_url(platform.zipkin_url, trace_id) in told.output
    for service in ("svc-ingest", "svc-serve", "svc-monitor"):
        assert service in told.output.partition("its way")[2], told.output


def test_the_page_of_the_trace_is_drawn_with_every_service_in_it(
    platform: Stack, decision: tuple[str, str], tmp_path: Path
) -> None:
    """HEADRACE_TEST_DOCS names a folder to keep JSON and picture in."""
    try:
        browser()
    except NotDrawn as missing:
        pytest.skip(str(missing))
    into = Path(os.environ.get("HEADRACE_TEST_DOCS") or tmp_path)
    told, drawn = keep(platform.zipkin_url, decision[1], into)
    assert (told.name, drawn.name) == (f"{NAME}.json", f"{NAME}.png")
    assert set(evidence.SERVICES_OF_A_TRACE) <= set(services_of(json.loads(told.read_text())))
    assert drawn.stat().st_size > 20_000, "an empty page is smaller"


def test_a_page_without_the_trace_is_not_believed(platform: Stack, tmp_path: Path) -> None:
    try:
        browser()
    except NotDrawn as missing:
        pytest.skip(str(missing))
    with pytest.raises(NotDrawn, match="svc-serve"):
        draw(page_url(platform.zipkin_url, "0" * 32), tmp_path / "x.png", ["svc-serve"])
