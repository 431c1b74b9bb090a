"""Do the broker's topics look as the catalogue and the admitted plans say? What is missing, extra, or set otherwise.

Declared are the platform's topics and those of every plan in force with the versions it retains. A topic is ours by its
first word: a platform domain, or a pipeline that was ever admitted. Ours and named by no plan ever admitted is extra; named
by an earlier one is left over, and nothing is wrong with it. Topics of others are counted, not judged.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AdminClient,
    ConfigResource,  # pyright: ignore[reportPrivateImportUsage]
    ResourceType,  # pyright: ignore[reportPrivateImportUsage]
)

from headrace.chassis.admin_confluent import topic_config
from headrace.chassis.logs import kafka_log
from headrace.client.governance import GovernanceClient
from headrace.contracts.audit import read_export
from headrace.contracts.catalogue import PLATFORM_DOMAINS, describe, plan_topics, platform_topics
from headrace.contracts.errors import Fatal, Retryable
from headrace.contracts.topics import COMPACTION_LAG, TopicSpec
from headrace.plan.hashes import from_json
from headrace.plan.ir import Plan
from headrace.plan.retained import versions

REQUEST_S = 10.0
MISSING, EXTRA, PARTITIONS = "missing", "extra", "partitions"
# More than was declared does no harm here.
AT_LEAST = frozenset({COMPACTION_LAG, "max.message.bytes"})
INTERNAL = "__"  # the broker's own topics begin so


@dataclass(frozen=True, slots=True)
class Declared:
    """A topic as it must be. adopted: a company's own, which keeps its settings and may grow its partitions."""

    spec: TopicSpec
    by: str  # "platform", or the pipeline
    adopted: bool = False


@dataclass(frozen=True, slots=True)
class Actual:
    """A topic as the broker has it."""

    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference. what: missing, extra, partitions, or the name of a setting."""

    topic: str
    what: str
    declared: str
    found: str
    hint: str


@dataclass(frozen=True, slots=True)
class Plans:
    """Plans in force, and every plan that ever was."""

    in_force: Sequence[Plan] = ()
    ever: Sequence[Plan] = ()


@dataclass(frozen=True, slots=True)
class Checked:
    """drift: what is wrong. left_over: topics of earlier plans. foreign: how many topics are nobody's of ours."""

    topics: int
    drift: Sequence[Drift]
    left_over: Sequence[str]
    foreign: int


def declared_topics(plans: Iterable[Plan]) -> dict[str, Declared]:
    """Every topic there must be, by name."""
    found = {spec.name: Declared(spec, "platform") for spec in platform_topics()}
    for plan in plans:
        for version in versions(plan):
            events = {event.topic for event in version.events}
            for spec in plan_topics(version):
                adopted = spec.name in events and not spec.name.startswith(f"{plan.pipeline}.")
                found.setdefault(spec.name, Declared(spec, plan.pipeline, adopted))
    return found


def compare(declared: Mapping[str, Declared], actual: Mapping[str, Actual], plans: Plans) -> Checked:
    """What differs, by topic. Pure."""
    drift = [item for name, topic in sorted(declared.items()) for item in _of_topic(topic, actual.get(name))]
    known_once = set(declared_topics(plans.ever))
    domains = PLATFORM_DOMAINS | {plan.pipeline for plan in (*plans.ever, *plans.in_force)}
    left_over: list[str] = []
    foreign = 0
    for name in sorted(set(actual) - set(declared)):
        if name.startswith(INTERNAL):
            continue
        if name in known_once:
            left_over.append(name)
        elif name.partition(".")[0] in domains:
            what = "no plan ever named it" if describe(name) is None else "it looks like one of ours, and no plan ever named it"
            hint = f"{what}: delete it, or ask who made it"
            drift.append(Drift(name, EXTRA, "-", f"{actual[name].partitions} partitions", hint))
        else:
            foreign += 1
    return Checked(len(declared), drift, left_over, foreign)


def _of_topic(topic: Declared, found: Actual | None) -> list[Drift]:
    spec = topic.spec
    if found is None:
        way = "svc-governance makes it when it starts" if topic.by == "platform" else f"apply {topic.by} again"
        return [Drift(spec.name, MISSING, f"{spec.partitions} partitions", "-", way)]
    drift: list[Drift] = []
    if found.partitions < spec.partitions or (found.partitions > spec.partitions and not topic.adopted):
        moved = "keys have moved: open a new topic version and replay into it"
        hint = "grow it to what the plan says" if topic.adopted else moved
        drift.append(Drift(spec.name, PARTITIONS, str(spec.partitions), str(found.partitions), hint))
    for key, wanted in topic_config(spec).items():
        if topic.adopted and key != "cleanup.policy":
            continue
        has = found.config.get(key, "")
        if not _fits(key, wanted, has):
            hint = f"kafka-configs --alter --entity-type topics --entity-name {spec.name} --add-config {key}={wanted}"
            drift.append(Drift(spec.name, key, wanted, has or "not told", hint))
    return drift


def _fits(key: str, wanted: str, found: str) -> bool:
    if key in AT_LEAST:
        return found.lstrip("-").isdigit() and int(found) >= int(wanted)
    return set(found.split(",")) == set(wanted.split(","))


def actual_topics(bootstrap: str, access: Mapping[str, Any] | None = None) -> dict[str, Actual]:
    """All topics of a broker with their settings; access as of any client. Raises: Retryable if it does not answer."""
    admin = AdminClient({"bootstrap.servers": bootstrap, **(access or {})}, logger=kafka_log)
    try:
        known = admin.list_topics(timeout=REQUEST_S).topics
        names = [name for name in known if not name.startswith(INTERNAL)]
        asked = [ConfigResource(ResourceType.TOPIC, name) for name in names]
        answers: dict[Any, Any] = dict(admin.describe_configs(asked, request_timeout=REQUEST_S)) if asked else {}
        return {
            resource.name: Actual(
                len(known[resource.name].partitions), {key: entry.value or "" for key, entry in answer.result().items()}
            )
            for resource, answer in answers.items()
        }
    except KafkaException as error:
        raise Retryable(f"no answer from {bootstrap}: {error}; is the stack up?") from error


def admitted_plans(url: str) -> Plans:
    """As the audit chain tells them. Raises: Refused, Unreachable, HeadraceError."""
    in_force: dict[str, Plan] = {}
    ever: list[Plan] = []
    with GovernanceClient(url) as client:
        for entry in read_export(client.export()):
            if entry.action == "pipeline.admitted":
                try:
                    in_force[entry.subject] = from_json(json.loads(entry.body)["plan"].encode())
                except (ValueError, KeyError) as error:
                    raise Fatal(f"audit entry {entry.sequence} holds no plan: {error}") from error
                ever.append(in_force[entry.subject])
            elif entry.action == "pipeline.retired":
                in_force.pop(entry.subject, None)
    return Plans(tuple(in_force.values()), tuple(ever))
