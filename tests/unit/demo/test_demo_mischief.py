"""The malformed rows of the demo, asked of the code that must answer them."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.contracts.errors import Poison
from headrace.declare import compile, load
from headrace_demo.mischief import BadLine, bad_lines
from svc_ingest.adapters.json_lines import json_rows
from svc_ingest.domain.normalise import Normaliser, compile_source

FLIGHTS = Path(__file__).parents[3] / "schemas" / "pipelines" / "flights"
NOW_MS = 1_800_000_000_000
EVENT_MS = 1_370_000_000_000


@pytest.fixture(scope="module")
def departures() -> Normaliser:
    plan = compile(load(FLIGHTS))
    (source,) = (source for source in plan.sources if source.name == "flights-departures")
    (event,) = (event for event in plan.events if event.name == source.event)
    return compile_source(plan.pipeline, event, source, "json")


@pytest.mark.parametrize("bad", bad_lines(EVENT_MS), ids=lambda bad: bad.what)
def test_each_malformed_row_is_given_the_reason_it_is_sent_for(departures: Normaliser, bad: BadLine) -> None:
    (row,) = json_rows(bad.line)
    with pytest.raises(Poison) as refused:
        if isinstance(row.values, Poison):
            raise row.values
        departures.normalise(row.values, NOW_MS)
    assert refused.value.reason is bad.reason
