"""What a declaration may say of a source, and what the encoder makes of a typed row."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headrace.contracts.codec import Codec, MemoryRegistry
from headrace.contracts.errors import PipelineFault
from headrace.plan.ir import EventType, Source
from svc_ingest.adapters.avro import event_encoder
from svc_ingest.domain.normalise import compile_source
from svc_ingest.routes import compile_routes
from unit.svc_ingest.rig import DEPARTED, NOW_MS, PLAN, departure

SOURCE = Source("departures", "departures", "http_json_lines")


@pytest.mark.parametrize(
    ("event", "source", "why"),
    [
        (DEPARTED, replace(SOURCE, columns=(("gate", "Gate"),)), "gate is no field"),
        (DEPARTED, replace(SOURCE, columns=(("hour", "origin"),)), "two fields are read from one column"),
        (replace(DEPARTED, key="gate"), SOURCE, "gate is no field"),
        (replace(DEPARTED, time="origin"), SOURCE, "must be a timestamp"),
        (replace(DEPARTED, dedup_id="gate"), SOURCE, "gate is no field"),
    ],
)
def test_a_source_that_does_not_hold_together_parks_its_pipeline(event: EventType, source: Source, why: str) -> None:
    with pytest.raises(PipelineFault, match=why):
        compile_source("flights", event, source, "json")


def test_a_plan_whose_source_feeds_no_event_parks_its_pipeline() -> None:
    plan = replace(PLAN, sources=(replace(SOURCE, event="trains"),))
    with pytest.raises(PipelineFault, match="no event of the plan"):
        compile_routes(plan, lambda schema: event_encoder(Codec(MemoryRegistry()), schema))


def test_the_quick_encoder_writes_the_bytes_of_the_checking_one() -> None:
    codec = Codec(MemoryRegistry())
    route = compile_routes(PLAN, lambda schema: event_encoder(codec, schema))["departures"]
    rows = [
        departure(1),
        departure(2, dep_delay=None, gust=None, ratio=0.5, diverted=False, hour=-1),
        departure(3, origin="é\0"),
    ]
    for raw in rows:
        row = route.rows.normalise(raw, NOW_MS).row
        assert route.encode(row) == codec.encode_event(route.schema, row)
        assert codec.decode_event(route.schema, route.encode(row)) == row


def test_a_row_is_not_changed_and_every_declared_field_is_there() -> None:
    raw = departure(1)
    before = dict(raw)
    found = compile_source("flights", DEPARTED, SOURCE, "json").normalise(raw, NOW_MS)
    assert raw == before
    assert list(found.row) == [field.name for field in DEPARTED.fields]
    assert (found.key, found.event_id, found.event_time_ms) == (b"UA-1", "UA-1", raw["departed_at"])
