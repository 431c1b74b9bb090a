"""The rights a plan brings along: on its events, its feature sets, its decisions, its dead letters. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from headrace.contracts.catalogue import describe, dlq_topic
from headrace.contracts.grants import GOVERNANCE, OPERATOR, PRODUCER, Grant, dead_letter_grants, making_grants, topic_grants
from headrace.plan.ir import EventType, FeatureSet, Model, Plan, Stream
from headrace.plan.topics import partials_topic, plan_topics, rows_topic, segments_topic, state_topic

Reads = Callable[[Plan, EventType], bool]

# Services that may read an event topic, and whether a plan has them read this one.
EVENT_READERS: dict[str, Reads] = {
    "svc-ingest": lambda plan, event: any(source.event == event.name for source in plan.sources),  # reads back its own
    "svc-stream": lambda plan, event: (
        any(event.name in item.events for item in plan.feature_sets)
        or any(event.name in (part.event, item.output) for item in plan.streams for part in item.inputs)
    ),
    "svc-features": lambda plan, event: event in plan.events,  # the archive is of all
    "svc-serve": lambda plan, event: any(model.request == event.name for model in plan.models),
    "svc-monitor": lambda plan, event: any(model.label.event == event.name for model in plan.models),
}


def plan_grants(plan: Plan) -> list[Grant]:
    """Every right that services, people and producers need for one plan, beside the platform's. Sorted, each once.

    Versions that the plan retains got theirs when they were admitted.
    """
    found = {*set_grants(plan, plan.feature_sets), *stream_grants(plan, plan.streams)}
    of_events = {dlq_topic(event.topic, service) for event in plan.events for service in EVENT_READERS}
    for spec in plan_topics(plan):
        found |= {*making_grants(spec.name)}
        if describe(spec.name) is not None and spec.name not in of_events:
            found |= {*topic_grants(spec.name)}
    for event in plan.events:
        found |= {*_event_grants(plan, event)}
    return sorted(found)


def set_grants(plan: Plan, sets: Iterable[FeatureSet]) -> list[Grant]:
    """The part that goes when feature sets go: rights on topics that no other set will ever have, named by their hash."""
    found: set[Grant] = set()
    for feature_set in sets:
        partials = partials_topic(plan, feature_set)
        for name in (partials, state_topic(plan, feature_set)):
            found |= {*topic_grants(name), *making_grants(name), Grant(GOVERNANCE, "DELETE", "topic", name)}
        # A state imported from the archive is written in a transaction named after the topic.
        found.add(Grant("svc-stream", "WRITE", "transactional-id", f"{partials}.base.", prefixed=True))
    return sorted(found)


def stream_grants(plan: Plan, streams: Iterable[Stream]) -> list[Grant]:
    """The part that goes when streams go."""
    found: set[Grant] = set()
    for stream in streams:
        for name in (rows_topic(plan, stream), segments_topic(plan, stream)):
            found |= {*topic_grants(name), *making_grants(name), Grant(GOVERNANCE, "DELETE", "topic", name)}
    return sorted(found)


def _event_grants(plan: Plan, event: EventType) -> Iterator[Grant]:
    """No file describes an event topic: the plan says who reads it, and a source that svc-ingest writes it."""
    readers = {name for name, reads in EVENT_READERS.items() if reads(plan, event)}
    for service in sorted(readers):
        yield Grant(service, "READ", "topic", event.topic)
        yield from dead_letter_grants(dlq_topic(event.topic, service))
    if "svc-ingest" in readers:
        yield Grant("svc-ingest", "WRITE", "topic", event.topic)
    if any(_asks_an_owner(plan, model) for model in plan.models if model.request == event.name):
        yield Grant("svc-serve", "WRITE", "topic", event.topic)  # a question over REST becomes a request event
    if any(stream.output == event.name for stream in plan.streams):
        yield Grant("svc-stream", "WRITE", "topic", event.topic)  # and nobody else: it is made of other events
        return
    yield Grant(PRODUCER, "WRITE", "topic", event.topic)
    yield Grant(OPERATOR, "WRITE", "topic", event.topic)  # a dead letter is sent again to where it came from


def _asks_an_owner(plan: Plan, model: Model) -> bool:
    owned = {item.name for item in plan.feature_sets if item.placement == "owned"}
    return any(column.feature_set in owned for column in model.inputs)
