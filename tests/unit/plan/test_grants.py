"""Rights a plan brings along: who reads and writes what it declares, and what goes with its feature sets."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from headrace.contracts.catalogue import SERVICES
from headrace.contracts.grants import OPERATOR, PRODUCER, Grant
from headrace.declare import compile, load
from headrace.plan.grants import plan_grants, set_grants
from headrace.plan.ir import Plan
from headrace.plan.topics import partials_topic, plan_topics, state_topic

PIPELINES = Path(__file__).parents[3] / "schemas" / "pipelines"


@cache
def flights() -> Plan:
    return compile(load(PIPELINES / "flights"))


@cache
def cards() -> Plan:
    return compile(load(PIPELINES / "cards"))


TABLE = [
    ("svc-ingest", "WRITE", "flights.departures.v1", True),
    ("svc-ingest", "READ", "flights.departures.v1", True),  # reads back what it wrote before a crash
    ("svc-stream", "READ", "flights.departures.v1", True),
    ("svc-stream", "WRITE", "flights.departures.v1", False),
    ("svc-features", "READ", "flights.departures.v1", True),
    ("svc-serve", "READ", "flights.departures.v1", False),  # it answers requests, and reads no other events
    ("svc-serve", "READ", "flights.scheduled.v1", True),
    ("svc-serve", "WRITE", "flights.scheduled.v1", False),
    ("svc-monitor", "READ", "flights.arrivals.v1", True),  # the label
    ("svc-monitor", "READ", "flights.weather.v1", False),
    ("svc-train", "READ", "flights.departures.v1", False),
    (PRODUCER, "WRITE", "flights.departures.v1", True),
    (PRODUCER, "READ", "flights.departures.v1", False),
    (PRODUCER, "WRITE", "flights.predictions.v1", False),
    (OPERATOR, "WRITE", "flights.departures.v1", True),  # a dead letter, sent again
    (OPERATOR, "READ", "flights.predictions.v1", True),
    ("svc-serve", "WRITE", "flights.predictions.v1", True),
    ("svc-serve", "READ", "flights.predictions.v1", True),
    ("svc-stream", "WRITE", "flights.predictions.v1", False),
    ("svc-stream", "WRITE", "flights.departures.v1.svc-stream.dlq", True),
    ("svc-features", "WRITE", "flights.departures.v1.svc-stream.dlq", False),
    ("svc-ingest", "READ", "flights.departures.v1.svc-ingest.dlq", True),
    ("svc-serve", "WRITE", "flights.departures.v1.svc-serve.dlq", False),  # what it does not read it cannot reject
    (OPERATOR, "READ", "flights.departures.v1.svc-stream.dlq", True),
    ("svc-governance", "CREATE", "flights.departures.v1", True),
    ("svc-governance", "READ", "flights.departures.v1", False),
    ("svc-governance", "DELETE", "flights.departures.v1", False),
]


@pytest.mark.parametrize(("principal", "operation", "name", "may"), TABLE)
def test_who_may_do_what_on_the_topics_of_flights(principal: str, operation: str, name: str, may: bool) -> None:
    assert (Grant(principal, operation, "topic", name) in plan_grants(flights())) is may  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("plan", [flights, cards])
def test_every_topic_of_a_plan_has_a_writer_a_maker_and_no_right_is_on_another(plan: object) -> None:
    """Or a service would find out in production."""
    grants, names = plan_grants(plan()), {spec.name for spec in plan_topics(plan())}  # pyright: ignore[reportCallIssue]
    made = {g.name for g in grants if g.principal == "svc-governance" and g.operation == "CREATE"}
    assert made == names
    assert {g.name for g in grants if g.resource == "topic"} == names
    unwritten = names - {g.name for g in grants if g.operation == "WRITE"}
    assert all(name.endswith(".dlq") for name in unwritten)


@pytest.mark.parametrize("plan", [flights, cards])
def test_a_service_of_one_plan_gets_no_prefix_but_that_of_imported_states(plan: object) -> None:
    prefixed = [g for g in plan_grants(plan()) if g.prefixed]  # pyright: ignore[reportCallIssue]
    assert prefixed
    assert {(g.principal, g.resource) for g in prefixed} == {("svc-stream", "transactional-id")}
    assert all(".base." in g.name for g in prefixed)


def test_rights_of_two_plans_share_no_topic() -> None:
    one, other = ({g.name for g in plan_grants(plan) if g.resource == "topic"} for plan in (flights(), cards()))
    assert not one & other


def test_a_model_that_reads_an_owned_set_lets_svc_serve_put_its_questions_to_the_owner() -> None:
    """Only the request event's topic, and only there."""
    written = {g.name for g in plan_grants(cards()) if (g.principal, g.operation) == ("svc-serve", "WRITE")}
    asked = {event.topic for event in cards().events if event.name in {m.request for m in cards().models}}
    owned = any(item.placement == "owned" for item in cards().feature_sets)
    events = {event.topic for event in cards().events}
    assert written & events == (asked if owned else set())


def test_what_is_taken_back_with_a_set_is_on_its_own_two_topics() -> None:
    plan = flights()
    first, *rest = plan.feature_sets
    gone, kept = set_grants(plan, [first]), {*set_grants(plan, rest)}
    assert not {*gone} & kept
    assert {g.name for g in gone if g.resource == "topic"} == {partials_topic(plan, first), state_topic(plan, first)}
    assert {*gone} <= {*plan_grants(plan)}


def test_only_services_and_the_two_outside_ever_hold_a_right() -> None:
    assert {g.principal for g in plan_grants(flights())} <= {*SERVICES, OPERATOR, PRODUCER}
