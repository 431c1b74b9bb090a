"""The check of dashboards: what it calls trouble, and what it lets wait for an event."""

from __future__ import annotations

from dataclasses import replace

from headrace_observe.boards import BOARDS
from headrace_observe.check import Asked, awaited, legend_of, troubles
from headrace_observe.panels import Panel

PANEL = Panel("Title", "Says.", {"x": "up"}, "ServiceDown", "svc-serve")
GOOD = Asked("board", PANEL, "x", "up", "", (("x", (1.0,), (2.0,)),))


def test_a_query_that_is_valid_and_has_data_is_no_trouble() -> None:
    assert troubles([GOOD]) == awaited([GOOD]) == []


def test_no_promql_is_trouble_whatever_is_awaited() -> None:
    wrong = replace(GOOD, fault="parse error", series=(), panel=replace(PANEL, awaits="an event"))
    assert troubles([wrong]) == ["board / Title: parse error"]


def test_no_data_is_trouble_unless_an_event_is_awaited() -> None:
    empty = replace(GOOD, series=())
    assert troubles([empty]) == ["board / Title: no data: up"]
    waiting = replace(empty, panel=replace(PANEL, awaits="a finding"))
    assert troubles([waiting]) == []
    assert awaited([waiting]) == ["board / Title: awaits a finding"]


def test_a_legend_takes_the_values_of_labels() -> None:
    assert legend_of("{{model}} of {{pipeline}}", {"model": "m", "pipeline": "p"}) == "m of p"


def test_panels_have_titles_of_their_own_within_a_dashboard() -> None:
    for board in BOARDS:
        titles = [panel.title for panel in board.panels]
        assert len(set(titles)) == len(titles)
