"""Rights of the platform: from the topic files, nothing beside them."""

from __future__ import annotations

import pytest

from headrace.contracts import catalogue
from headrace.contracts.errors import Fatal
from headrace.contracts.grants import OPERATOR, PRODUCER, TRANSACTIONAL, Grant, platform_grants, topic_grants

ALL = platform_grants()
WRITERS = {g.name: {o.principal for o in ALL if o.operation == "WRITE" and o.name == g.name} for g in ALL}
READERS = {g.name: {o.principal for o in ALL if o.operation == "READ" and o.name == g.name} for g in ALL}


@pytest.mark.parametrize("name", sorted(n for n, t in catalogue.topics().items() if not t.is_pattern))
def test_writers_and_readers_of_a_topic_are_those_its_file_names(name: str) -> None:
    """The oracle is the file itself; people and callers are the operator."""
    topic = catalogue.topics()[name]
    services = {*topic.consumers, *topic.reads_back} & {*catalogue.SERVICES}
    people = {OPERATOR} if {*topic.consumers} - {*catalogue.SERVICES} else set()
    assert WRITERS[name] == {*topic.producers}
    assert READERS[name] == services | people


TABLE = [
    ("svc-governance", "WRITE", "governance.rollouts.v1", True),
    ("svc-serve", "WRITE", "governance.rollouts.v1", False),
    ("svc-train", "WRITE", "governance.rollouts.v1", False),
    (OPERATOR, "WRITE", "governance.rollouts.v1", False),
    ("svc-serve", "READ", "governance.rollouts.v1", True),
    ("svc-ingest", "READ", "governance.rollouts.v1", False),
    ("svc-train", "WRITE", "train.model-candidates.v1", True),
    ("svc-monitor", "WRITE", "train.model-candidates.v1", False),
    ("svc-monitor", "READ", "platform.findings.v1", True),  # what it said in an earlier life
    ("svc-serve", "READ", "platform.findings.v1", False),
    ("svc-features", "READ", "features.datasets.v1", True),
    (OPERATOR, "READ", "monitor.performance.v1", True),
    (OPERATOR, "WRITE", "train.requests.v1", False),  # people ask svc-governance
    ("svc-train", "WRITE", "train.requests.v1.svc-train.dlq", True),
    ("svc-governance", "WRITE", "train.requests.v1.svc-train.dlq", False),
    (OPERATOR, "READ", "train.requests.v1.svc-train.dlq", True),
]


@pytest.mark.parametrize(("principal", "operation", "name", "may"), TABLE)
def test_who_may_do_what_on_the_platforms_topics(principal: str, operation: str, name: str, may: bool) -> None:
    assert (Grant(principal, operation, "topic", name) in ALL) is may  # pyright: ignore[reportArgumentType]


def test_every_service_may_use_groups_of_its_own_name_and_no_others() -> None:
    for service in catalogue.SERVICES:
        own = {(g.name, g.prefixed) for g in ALL if g.principal == service and g.resource == "group" and g.operation == "READ"}
        assert own == {(service, False), (f"{service}.", True)}


def test_transactional_ids_are_prefixed_by_their_services_name() -> None:
    found = {(g.principal, g.name, g.prefixed) for g in ALL if g.resource == "transactional-id" and g.operation == "WRITE"}
    assert found == {(service, f"{service}.", True) for service in TRANSACTIONAL}


def test_no_one_but_people_may_even_see_every_topic() -> None:
    """A wildcard would outlive the topic file that once justified it."""
    assert {(g.principal, g.operation) for g in ALL if g.name == "*"} == {
        (OPERATOR, "DESCRIBE"), (OPERATOR, "DESCRIBE_CONFIGS"),
    }  # fmt: skip


def test_nobody_may_change_the_cluster_but_who_gives_the_rights() -> None:
    assert {g.principal for g in ALL if g.resource == "cluster" and g.operation != "DESCRIBE"} == {"svc-governance"}


def test_a_producer_from_outside_has_no_right_before_there_is_a_plan() -> None:
    assert not [g for g in ALL if g.principal == PRODUCER]


def test_the_platforms_rights_are_sorted_and_each_is_there_once() -> None:
    assert sorted(set(ALL)) == ALL


def test_a_topic_without_a_file_gives_nobody_a_right() -> None:
    with pytest.raises(Fatal, match="no topic file says who may use"):
        list(topic_grants("flights.departures.v1"))
