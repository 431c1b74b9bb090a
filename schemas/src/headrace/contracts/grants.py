"""Who may do what at the broker, as the topic files say it: nothing else is allowed to anybody.

A topic file names producers and consumers; from those words come the rights. A principal is a service's name, whatever the
replica; people at a command line (`operator`) and programs that publish events (`producer`) are the two outside. Pure: nothing
here talks to a broker. Rights on what a plan declares: headrace.plan.grants.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from headrace.contracts.catalogue import DLQ, SERVICES, describe, platform_topics
from headrace.contracts.errors import Fatal

Resource = Literal["topic", "group", "transactional-id", "cluster"]
Operation = Literal["READ", "WRITE", "CREATE", "DELETE", "ALTER", "DESCRIBE", "DESCRIBE_CONFIGS"]

OPERATOR = "operator"  # people at a command line: they look, and send dead letters again
PRODUCER = "producer"  # a program that is not ours and publishes events
GOVERNANCE = "svc-governance"  # makes topics and gives rights
OUTSIDE = {"people": OPERATOR, "callers": OPERATOR}  # words of the topic files for who is no service
TRANSACTIONAL = ("svc-stream", "svc-serve", GOVERNANCE)  # services whose transactional ids begin with their name
CLUSTER = "kafka-cluster"  # the one cluster resource, as Kafka calls it
ANY = "*"  # Kafka's literal for every name

_DEAD_LETTERS = re.compile(r".*\.(svc-[a-z]+)(?:\.[a-z-]+)?\.dlq")  # of a group: the service, and maybe a purpose


@dataclass(frozen=True, slots=True, order=True)
class Grant:
    """One right: allowed, from any host. READ and WRITE include DESCRIBE, as Kafka has it."""

    principal: str  # common name of the certificate, without Kafka's `User:`
    operation: Operation
    resource: Resource
    name: str
    prefixed: bool = False  # name is a prefix

    def __str__(self) -> str:
        return f"{self.principal} {self.operation} {self.resource} {self.name}{'*' if self.prefixed else ''}"


def platform_grants() -> list[Grant]:
    """Rights that hold before any plan: the platform's topics, groups, transactional ids. Sorted, each once."""
    found = {*_names(), *_administration()}
    for spec in platform_topics():
        found |= {*topic_grants(spec.name), *making_grants(spec.name)}
    return sorted(found)


def topic_grants(name: str) -> Iterator[Grant]:
    """What the topic file that holds for a topic gives on it. Fatal for a topic without a file: a user's event topic."""
    known = describe(name)
    if known is None:
        raise Fatal(f"no topic file says who may use {name}")
    if known.name == DLQ:
        yield from dead_letter_grants(name)
        return
    for who in known.producers:
        yield Grant(who, "WRITE", "topic", name)
    for who in (*known.consumers, *known.reads_back):
        yield Grant(OUTSIDE.get(who, who), "READ", "topic", name)
    for who in known.purges:
        yield Grant(who, "DELETE", "topic", name)  # of records before an offset; Kafka knows no lesser right for it


def dead_letter_grants(name: str) -> Iterator[Grant]:
    """Dead letters are written by the service whose group could not read the record, and read by people."""
    found = _DEAD_LETTERS.fullmatch(name)
    if found is None:
        raise Fatal(f"{name} is not named as dead letters of a service")
    service = found[1]
    yield Grant(service, "WRITE", "topic", name)
    yield Grant(OPERATOR, "READ", "topic", name)
    if service == "svc-ingest":
        yield Grant(service, "READ", "topic", name)  # after a crash it learns there what it had answered


def making_grants(name: str) -> Iterator[Grant]:
    """What svc-governance needs to make a topic and to compare what exists with what is declared."""
    yield Grant(GOVERNANCE, "CREATE", "topic", name)
    yield Grant(GOVERNANCE, "DESCRIBE", "topic", name)
    yield Grant(GOVERNANCE, "DESCRIBE_CONFIGS", "topic", name)


def _names() -> Iterator[Grant]:
    """Groups and transactional ids, by prefix of the service's name."""
    for service in SERVICES:
        yield Grant(service, "READ", "group", service)
        yield Grant(service, "READ", "group", f"{service}.", prefixed=True)
        # The client of a reader without a group asks for the coordinator of a name all the same.
        yield Grant(service, "DESCRIBE", "group", f"unused-{service}.", prefixed=True)
    for service in TRANSACTIONAL:
        yield Grant(service, "WRITE", "transactional-id", f"{service}.", prefixed=True)


def _administration() -> Iterator[Grant]:
    # Whoever gives rights can give them to itself: the key of svc-governance is worth the cluster. See infra/adr/0017.
    yield Grant(GOVERNANCE, "ALTER", "cluster", CLUSTER)
    yield Grant(GOVERNANCE, "DESCRIBE", "cluster", CLUSTER)
    yield Grant(GOVERNANCE, "DELETE", "group", "svc-stream.", prefixed=True)  # of sets nobody keeps up any more
    yield Grant(OPERATOR, "DESCRIBE", "cluster", CLUSTER)
    yield Grant(OPERATOR, "DESCRIBE", "topic", ANY)
    yield Grant(OPERATOR, "DESCRIBE_CONFIGS", "topic", ANY)
    yield Grant(OPERATOR, "DESCRIBE", "group", ANY)
    yield Grant(OPERATOR, "DESCRIBE", "transactional-id", ANY)
