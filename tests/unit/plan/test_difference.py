"""What a change moves is what its hashes say, and what does not move is said to stay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from headrace.declare import compile, load
from headrace.plan import difference, report
from headrace.plan.hashes import hash8, sealed
from headrace.plan.ir import Plan

FLIGHTS = compile(load(Path(__file__).parents[3] / "schemas" / "pipelines" / "flights"))


def longer_ttl(plan: Plan) -> Plan:
    first, *rest = plan.feature_sets
    return sealed(replace(plan, feature_sets=(replace(first, ttl_ms=first.ttl_ms * 2), *rest)))


def trained_longer(plan: Plan) -> Plan:
    return sealed(replace(plan, models=tuple(replace(m, trainer_parameters=(("rounds", "9"),)) for m in plan.models)))


def test_a_changed_window_puts_one_new_set_beside_the_old_one() -> None:
    new = longer_ttl(FLIGHTS)
    before, after = FLIGHTS.feature_sets[0], new.feature_sets[0]
    found = difference.impact(new, FLIGHTS)
    assert [name for name, fate in found.sets.items() if fate == "new"] == [f"origin_load {hash8(after.hash)}"]
    assert [name for name, fate in found.sets.items() if fate == "goes"] == [f"origin_load {hash8(before.hash)}"]
    going = {name for name, fate in found.topics.items() if fate == "goes"}
    assert going == {f"flights.origin-load-{what}.{hash8(before.hash)}" for what in ("state", "partials")}
    assert "flights.departures.v1" in found.of("stays")
    assert found.models == {"late_arrival": "goes"}
    (set_change, model_change) = difference.changes(new, FLIGHTS)
    assert set_change.what == ("ttl_ms",)
    assert "which stays while a model reads it" in set_change.effect
    assert "serves rows of the old kind" in model_change.effect
    text = report.text(new, FLIGHTS)
    assert f"origin_load {hash8(after.hash)} reads all departures in the log" in text
    assert "carrier_day" not in text.partition("backfill")[2].partition("models")[0]


def test_a_changed_trainer_moves_no_state_and_no_row() -> None:
    found = difference.impact(trained_longer(FLIGHTS), FLIGHTS)
    assert found.of("goes") == found.of("new") == []
    (change,) = difference.changes(trained_longer(FLIGHTS), FLIGHTS)
    assert "what is approved goes on serving" in change.effect
    assert difference.row_of(trained_longer(FLIGHTS), "late_arrival") == difference.row_of(FLIGHTS, "late_arrival")
    assert difference.row_of(FLIGHTS, "other") is None


def test_a_changed_event_names_the_sets_it_moves() -> None:
    events = tuple(replace(e, lateness_ms=e.lateness_ms * 2) if e.name == "weather" else e for e in FLIGHTS.events)
    change = difference.changes(sealed(replace(FLIGHTS, events=events)), FLIGHTS)[0]
    assert (change.kind, change.what, change.effect) == ("event", ("lateness_ms",), "values move in origin_weather")


def test_what_is_removed_goes_and_a_first_plan_is_all_new() -> None:
    fewer = sealed(replace(FLIGHTS, models=(), feature_sets=FLIGHTS.feature_sets[:1], sources=(), events=FLIGHTS.events[:2]))
    found = difference.impact(fewer, FLIGHTS)
    assert found.models == {"late_arrival": "goes"}
    assert sum(fate == "goes" for fate in found.sets.values()) == 4
    assert {c.verb for c in difference.changes(fewer, FLIGHTS)} == {"removed"}
    assert set(difference.impact(FLIGHTS, None).sets.values()) == {"new"}
    assert difference.changes(FLIGHTS, FLIGHTS) == []
