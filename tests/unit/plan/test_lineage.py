"""Lineage names every field a value depends on, and hashes move with every leaf that can change a value."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from headrace.declare import compile, load
from headrace.plan import lineage
from headrace.plan.hashes import OUTSIDE_MODEL_HASH, OUTSIDE_SET_HASH, model_hash, set_hash
from headrace.plan.ir import EventType, FeatureSet, Plan

PIPELINES = Path(__file__).parents[3] / "schemas" / "pipelines"
TEMPLATE = PIPELINES.parent / "src" / "headrace" / "cli" / "template"
PLANS = {name: compile(load(folder)) for name, folder in {"flights": PIPELINES / "flights", "template": TEMPLATE}.items()}
DESCRIPTIONS = ("unit", "doc")  # of a field: no value follows from them


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if is_dataclass(value) and not isinstance(value, type):
        for item in fields(value):
            yield from leaves(getattr(value, item.name), (*path, item.name))
    elif isinstance(value, tuple) and value:
        for number, item in enumerate(value):
            yield from leaves(item, (*path, number))
    else:
        yield path


def changed(value: Any, path: tuple[Any, ...]) -> Any:
    """The tree with one leaf changed to something else, expressions to other expressions."""
    if not path:
        return other(value)
    head, *rest = path
    if not isinstance(value, tuple):
        inner = getattr(value, head)
        if not rest and head in ("value", "where") and inner is not None:
            return replace(value, **{head: f"CASE WHEN {inner} > 0 THEN 1 END" if head == "value" else f"NOT ({inner})"})
        return replace(value, **{head: changed(inner, tuple(rest))})
    items: list[Any] = [*value]
    items[head] = changed(items[head], tuple(rest))
    return tuple(items)


def other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if value is None:
        return None  # an expression or a bound that may be added is changed by hand below
    return () if value == () else f"{value}x"


def with_set(plan: Plan, name: str, new: FeatureSet) -> Plan:
    return replace(plan, feature_sets=tuple(new if item.name == name else item for item in plan.feature_sets))


def with_event(plan: Plan, new: EventType) -> Plan:
    return replace(plan, events=tuple(new if item.name == new.name else item for item in plan.events))


@pytest.mark.parametrize("name", PLANS)
def test_every_leaf_of_a_set_moves_its_hash_but_those_that_change_no_value(name: str) -> None:
    plan, tried = PLANS[name], 0
    for feature_set in plan.feature_sets:
        for path in leaves(feature_set):
            new = changed(feature_set, path)
            if path[0] == "measures" and path[2] == "slots":
                new = replace(feature_set, measures=tuple(replace(m, slots=(*m.slots, "rows")) for m in feature_set.measures))
            if new == feature_set or path[0] in ("name", "events") or path[-1] == "event":
                continue  # names that others look up: so changed it is another set, or none
            moves = set_hash(with_set(plan, feature_set.name, new), feature_set.name) != feature_set.hash
            assert moves == (path[0] not in OUTSIDE_SET_HASH), (feature_set.name, path)
            tried += 1
    assert tried > 60


@pytest.mark.parametrize("name", PLANS)
def test_a_set_depends_on_a_field_exactly_if_lineage_says_so(name: str) -> None:
    """Every field of every event: its type moves the hash of a set if and only if the set lies downstream."""
    plan = PLANS[name]
    graph = lineage.lineage(plan)
    for feature_set in plan.feature_sets:
        above = frozenset[str]().union(*(graph.fields(f"feature:{feature_set.name}.{f.name}") for f in feature_set.features))
        for event in plan.events:
            for number, field in enumerate(event.fields):
                parts = (*event.fields[:number], replace(field, nullable=not field.nullable), *event.fields[number + 1 :])
                digest = set_hash(with_event(plan, replace(event, fields=parts)), feature_set.name)
                assert (digest != feature_set.hash) == (f"{event.name}.{field.name}" in above), (feature_set.name, field.name)
                told = replace(field, unit="other", doc="told otherwise")
                parts = (*event.fields[:number], told, *event.fields[number + 1 :])
                assert set_hash(with_event(plan, replace(event, fields=parts)), feature_set.name) == feature_set.hash


@pytest.mark.parametrize("name", PLANS)
def test_every_leaf_of_an_events_law_moves_the_sets_that_read_it(name: str) -> None:
    plan = PLANS[name]
    for event in plan.events:
        for path in leaves(event):
            if path[0] in ("fields", "name"):
                continue
            new = replace(event, available_after_ms=7) if path == ("available_after_ms",) else changed(event, path)
            for feature_set in plan.feature_sets:
                moves = set_hash(with_event(plan, new), feature_set.name) != feature_set.hash
                assert moves == (event.name in feature_set.events and new != event), (event.name, feature_set.name, path)


@pytest.mark.parametrize("name", PLANS)
def test_every_leaf_of_a_model_moves_its_hash_but_who_owns_it(name: str) -> None:
    plan = PLANS[name]
    (model,) = plan.models
    for path in leaves(model):
        new = changed(model, path)
        if new == model or path[0] in ("name", "request") or path in (("label", "event"),) or path[-1] == "feature_set":
            continue
        moves = model_hash(replace(plan, models=(new,)), model.name) != model.hash
        assert moves == (path[0] not in OUTSIDE_MODEL_HASH), path


def test_an_input_is_followed_to_its_fields_and_sources() -> None:
    graph = lineage.lineage(PLANS["flights"])
    share = "input:late_arrival.origin_late_share_3h"
    assert graph.fields(share) == {
        "departures.departed_at", "departures.dep_delay", "departures.flight_id", "departures.origin", "scheduled.origin",
    }  # fmt: skip
    assert {"source:flights-departures", "topic:flights.departures.v1"} <= graph.upstream(share)
    pressure = graph.upstream("input:late_arrival.origin_pressure")
    assert {share, "feature:origin_load.origin_delay_mean_1h"} <= pressure
    assert graph.fields("input:late_arrival.distance") == {"scheduled.distance"}
    roles = {(link.source, link.role) for link in graph.into["model:late_arrival"]}
    assert {
        ("field:arrivals.arr_delay", "label"),
        ("field:arrivals.outcome", "label excluded"),
        ("field:scheduled.ask", "when"),
        ("input:late_arrival.origin_delay_mean_1h", "rules"),
    } <= roles


@pytest.mark.parametrize("name", PLANS)
def test_every_form_holds_every_node_and_link(name: str) -> None:
    graph = lineage.lineage(PLANS[name])
    told = json.loads(lineage.as_json(graph))
    assert [node["id"] for node in told["nodes"]] == list(graph.node)
    assert len(told["links"]) == len(graph.links)
    assert all(link.source in graph.node and link.target in graph.node for link in graph.links)
    dot, flow = lineage.as_dot(graph), lineage.as_mermaid(graph)
    assert dot.count(" -> ") == len(graph.links) == flow.count("-->")
    assert dot.count("shape=") == len(graph.nodes) == flow.count('["')
    text = lineage.as_text(graph)
    assert all(item.name in text for model in PLANS[name].models for item in model.inputs)
    assert all(event.topic in text for event in PLANS[name].events)
