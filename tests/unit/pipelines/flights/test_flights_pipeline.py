"""The declaration and its data source must speak of the same events."""

from __future__ import annotations

from pathlib import Path

import pytest
from pipelines.flights import source

from headrace.declare import compile, load
from headrace.plan.ir import Plan
from support.flights_files import year

FOLDER = Path(__file__).parents[4] / "schemas" / "pipelines" / "flights"


@pytest.fixture(scope="module")
def plan() -> Plan:
    return compile(load(FOLDER / "pipeline.py"))


def test_each_stream_has_the_key_time_and_fields_its_event_declares(plan: Plan, tmp_path: Path) -> None:
    streams = source.event_streams(year(tmp_path))
    events = {event.name: event for event in plan.events}
    assert events.keys() == streams.keys()
    for name, event in events.items():
        assert set(streams[name].frame.columns) == {field.name for field in event.fields}
        assert (event.time, event.key, event.dedup_id) == (
            source.TIME_FIELDS[name],
            source.ID_FIELDS[name],
            source.ID_FIELDS[name],
        )


def test_only_fields_declared_nullable_hold_nulls(plan: Plan, tmp_path: Path) -> None:
    streams = source.event_streams(year(tmp_path))
    for event in plan.events:
        nulls = {column.name for column in streams[event.name].frame if column.null_count()}
        assert nulls <= {field.name for field in event.fields if field.nullable}


def test_weather_scales_are_the_declared_ones(plan: Plan) -> None:
    (weather,) = (event for event in plan.events if event.name == "weather")
    assert {field.name: field.scale for field in weather.fields if field.type == "decimal"} == source.WEATHER_SCALES


def test_watched_inputs_read_departures_of_at_most_three_hours(plan: Plan) -> None:
    """Longer windows or arrivals would carry one day's delays into the next day's evidence."""
    (model,) = plan.models
    sets = {each.name: each for each in plan.feature_sets}
    inputs = {each.name: each for each in model.inputs}
    assert model.watch.inputs
    for name in model.watch.inputs:
        owner = sets[inputs[name].feature_set or ""]
        (feature,) = (each for each in owner.features if each.name == inputs[name].feature)
        events = {measure.id: measure.event for measure in owner.measures}
        assert {events[term.measure] for term in feature.terms} == {"departures"}
        assert max(term.window_ms for term in feature.terms) <= 3 * source.HOUR_MS
        assert feature.impute is None  # missing has its own bin


def test_a_request_can_be_read_although_it_is_asked_before_everything_it_predicts(plan: Plan) -> None:
    (model,) = plan.models
    assert (model.request, model.request_id, model.routing_key) == ("scheduled", "flight_id", "flight_id")
    assert model.rollout.steps[-1] == 100
    assert model.watch.window_ms % (7 * source.DAY_MS) == 0
