"""The rules a plan must keep, checked where it is written (declare) and again where it is admitted (svc-governance).

Each problem names the place in the plan as a path, so that the declaration can point at the user's line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from headrace.plan import hashes
from headrace.plan.ir import EventType, FeatureSet, Field, Plan
from headrace.plan.problems import NAME, Path, Problem, duration_text, known_as, partition_problems, repeated
from headrace.plan.validate_aggregates import (
    lowering_problems,
    measure_problems,
    slots_for,
    term_problems,
    windowed,
)
from headrace.plan.validate_events import array_problems, nesting_problems
from headrace.plan.validate_models import model_problems, scopes
from headrace.plan.validate_streams import stream_problems
from headrace.plan.view_sizes import promise_problems, view_problems

PIPELINE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
TOPIC = re.compile(r"[a-z][a-z0-9-]*(\.[a-z0-9-]+)+")
SAFE_INTEGER = 2**53 - 1  # what JSON can carry exactly

__all__ = ["Path", "PlanError", "Problem", "duration_text", "scopes", "slots_for", "validate"]


class PlanError(ValueError):
    """A plan that breaks rules. `problems` holds all of them."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def validate(plan: Plan, *, check_hashes: bool = True) -> None:
    """Raise PlanError listing every broken rule; silent for a sound plan."""
    problems = list(_problems(plan))
    if not problems and check_hashes and plan != hashes.sealed(plan):
        problems.append(Problem(("plan",), "its hashes do not match its content", "compile it again"))
    if problems:
        raise PlanError(problems)


def _problems(plan: Plan) -> Iterator[Problem]:
    here: Path = ("plan",)
    if not PIPELINE.fullmatch(plan.pipeline):
        yield Problem(here, f"pipeline name '{plan.pipeline}'", "lower case words joined by hyphens")
    for kind, names in (
        ("event", [event.name for event in plan.events]),
        ("topic", [event.topic for event in plan.events]),
        ("source", [source.name for source in plan.sources]),
        ("stream", [item.name for item in plan.streams]),
        ("feature_set", [item.name for item in plan.feature_sets]),
        ("model", [model.name for model in plan.models]),
    ):
        for name in repeated(names):
            yield Problem((kind, name), f"{kind} '{name}' is declared twice")
    events = {event.name: event for event in plan.events}
    for event in plan.events:
        yield from _event_problems(event)
    for source in plan.sources:
        yield from known_as(("source", source.name), "event", source.event, events)
        if source.event in events:
            fields = [field.name for field in events[source.event].fields]
            for field, _ in source.columns:
                yield from known_as(("source", source.name), "field", field, fields)
    yield from stream_problems(plan, events)
    for feature_set in plan.feature_sets:
        broken = list(_set_problems(feature_set, events))
        yield from broken or view_problems(plan, feature_set)
    sets = {item.name: item for item in plan.feature_sets}
    for model in plan.models:
        yield from model_problems(plan, model, events, sets)
    for version in plan.retained:
        at: Path = ("plan", f"retained {version.hash[:8]}")
        if version.retained or version.sources or not version.models:
            yield Problem(at, "a retained version holds models, what they read, and nothing else")
        if (version.pipeline, version.semantics_version) != (plan.pipeline, plan.semantics_version):
            yield Problem(at, "is of another pipeline, or of other engine semantics")
        inner = [Problem((*at, *problem.path[1:]), problem.detail, problem.hint) for problem in _problems(version)]
        if not inner and version != hashes.sealed(version):
            inner = [Problem(at, "its hashes do not match its content")]
        yield from inner


# Columns the archive and its recomputation put beside an event's own fields.
ARCHIVE_COLUMNS = frozenset({"part", "off", "append_ms", "decodable", "reason", "raw", "et", "m_before", "m_after", "verdict"})


def _event_problems(event: EventType) -> Iterator[Problem]:
    here: Path = ("event", event.name)
    fields = {field.name: field for field in event.fields}
    if not TOPIC.fullmatch(event.topic):
        yield Problem(here, f"topic '{event.topic}'", "write <domain>.<plural-noun>.v<major>, hyphens in words")
    for name in repeated([field.name for field in event.fields]):
        yield Problem((*here, name), f"field '{name}' is declared twice")
    for field in event.fields:
        yield from _field_problems((*here, field.name), field)
    yield from nesting_problems(here, event)
    for role, name in (("key", event.key), ("time", event.time), ("dedup id", event.dedup_id)):
        if name is not None:
            yield from known_as(here, f"{role} field", name, fields)
    if event.key in fields and (fields[event.key].type != "string" or fields[event.key].nullable):
        yield Problem((*here, event.key), f"key '{event.key}' is not a plain string", "keys are UTF-8 text and never null")
    if event.time in fields and (fields[event.time].type != "timestamp" or fields[event.time].nullable):
        yield Problem((*here, event.time), f"event time '{event.time}' is not a plain timestamp", "annotate it as Timestamp")
    if event.lateness_ms < 0 or event.dedup_horizon_ms < 0 or (event.available_after_ms or 0) < 0:
        yield Problem(here, "a duration is negative")
    if not 0 <= event.poison_bound_ms <= event.lateness_ms:
        detail = f"poison_bound {duration_text(event.poison_bound_ms)} is above lateness {duration_text(event.lateness_ms)}"
        yield Problem(here, detail, "a record may not be later than late before it is poison: lower it, or raise lateness")
    yield from partition_problems(here, event.partitions)


def _field_problems(here: Path, field: Field) -> Iterator[Problem]:
    if not all(NAME.fullmatch(part) for part in field.name.split(".")):
        yield Problem(here, f"field name '{field.name}'", "snake_case")
    if field.name.partition(".")[0] in ARCHIVE_COLUMNS:
        yield Problem(here, f"field name '{field.name}' is a column of the archive", "choose another name")
    yield from array_problems(here, field)
    if not 0 <= field.scale <= 12 or (field.scale and "decimal" not in (field.type, field.item)):
        yield Problem(here, f"scale {field.scale} of a {field.type}", "0 to 12, on decimals only")
    bounds = [bound for bound in (field.minimum, field.maximum) if bound is not None]
    if bounds and (field.item or field.type) in ("string", "boolean", "float", "double"):
        yield Problem(here, f"a range on a {field.item or field.type}")
    if len(bounds) == 2 and bounds[0] > bounds[1]:
        yield Problem(here, f"range {bounds[0]} to {bounds[1]} is empty")
    if any(abs(bound) > SAFE_INTEGER for bound in bounds):
        yield Problem(here, "a bound beyond 2**53", "leave it out")


def _set_problems(feature_set: FeatureSet, events: Mapping[str, EventType]) -> Iterator[Problem]:
    here: Path = ("feature_set", feature_set.name)
    if not NAME.fullmatch(feature_set.name):
        yield Problem(here, f"feature set name '{feature_set.name}'", "snake_case")
    if not feature_set.features:
        yield Problem(here, "no features")
    for name in repeated([feature.name for feature in feature_set.features]):
        yield Problem((*here, name), f"feature '{name}' is declared twice")
    if feature_set.events != tuple(sorted({measure.event for measure in feature_set.measures})):
        yield Problem(here, "events are not those of its measures, sorted")
    unknown = [name for name in feature_set.events if name not in events]
    for name in unknown:
        yield from known_as(here, "event", name, events)
    if unknown:
        return
    yield from _entity_problems(here, feature_set.entity, [events[name] for name in feature_set.events])
    yield from partition_problems(here, feature_set.partitions)
    if feature_set.placement == "owned":
        yield from _owned_problems(here, feature_set, [events[name] for name in feature_set.events])
    if [measure.id for measure in feature_set.measures] != [f"m{index}" for index in range(len(feature_set.measures))]:
        yield Problem(here, "measure ids are not m0, m1, ... in order")
    for measure in feature_set.measures:
        yield from measure_problems((*here, measure.id), measure, events[measure.event])
    yield from _window_problems(here, feature_set, events)
    if feature_set.stale_after_ms <= 0:
        yield Problem(here, "stale_after is not positive")
    yield from promise_problems(here, feature_set)


def _entity_problems(here: Path, entity: tuple[str, ...], events: list[EventType]) -> Iterator[Problem]:
    if not entity or repeated(entity):
        yield Problem(here, f"entity {entity}", "name one field or several different ones")
    for name in entity:
        types: set[str] = set()
        for event in events:
            fields = {field.name: field for field in event.fields}
            yield from known_as(here, "entity field", name, fields, f" of {event.record}")
            if name in fields:
                types.add(fields[name].type)
        if types - {"string", "int", "long"}:
            yield Problem(here, f"entity field '{name}' is a {', '.join(sorted(types))}", "strings and integers make entities")
        if len(types) > 1:
            yield Problem(
                here, f"entity field '{name}' has types {', '.join(sorted(types))}", "declare it alike in every event"
            )


def _owned_problems(here: Path, feature_set: FeatureSet, events: list[EventType]) -> Iterator[Problem]:
    """The owner of an entity reads one partition of each topic, so all of the entity must lie there."""
    for event in events:
        if feature_set.entity != (event.key,):
            detail = f"owned, but {event.record} is keyed by '{event.key}', not by the entity {', '.join(feature_set.entity)}"
            yield Problem(here, detail, 'key the event by the entity, or write placement="replicated"')
        if event.partitions != feature_set.partitions:
            detail = f"owned over {feature_set.partitions} partitions, but {event.record} has {event.partitions}"
            yield Problem(here, detail, "the set and its events have the same number of partitions")


def _window_problems(here: Path, feature_set: FeatureSet, events: Mapping[str, EventType]) -> Iterator[Problem]:
    measures = {measure.id: measure for measure in feature_set.measures}
    finest: dict[str, int] = {}
    for feature in feature_set.features:
        for term in feature.terms:
            if term.hop_ms > 0 and term.measure in measures:
                event = measures[term.measure].event
                finest[event] = min(finest.get(event, term.hop_ms), term.hop_ms)
    for feature in feature_set.features:
        place = (*here, feature.name)
        if not NAME.fullmatch(feature.name):
            yield Problem(place, f"feature name '{feature.name}'", "snake_case")
        yield from lowering_problems(place, feature)
        for term in feature.terms:
            if term.measure not in measures:
                yield Problem(place, f"unknown measure '{term.measure}'")
                continue
            measure = measures[term.measure]
            yield from term_problems(place, term, measure)
            if not windowed(term):
                yield Problem(
                    place,
                    f"{term.kind} over {duration_text(term.window_ms)} by {duration_text(term.hop_ms)}",
                    "windows and hops are positive",
                )
                continue
            if term.hop_ms and term.window_ms % term.hop_ms:
                hint = f'a window is a multiple of its hop, such as "{duration_text(_multiple(term.window_ms, term.hop_ms))}"'
                detail = f"hop {duration_text(term.hop_ms)} does not divide window {duration_text(term.window_ms)}"
                yield Problem(place, detail, hint)
            if term.hop_ms and term.hop_ms % finest[measure.event]:
                hint = (
                    f"hops over {measure.event} in one set are multiples of the finest, {duration_text(finest[measure.event])}"
                )
                yield Problem(place, f"hop {duration_text(term.hop_ms)} is no multiple of the finest", hint)
            needed = term.window_ms + term.hop_ms + events[measure.event].poison_bound_ms
            if feature_set.ttl_ms < needed:
                hint = f'at least window + hop + poison_bound: "{duration_text(needed)}", plus what requests lag'
                yield Problem(place, f"ttl {duration_text(feature_set.ttl_ms)} is too short", hint)


def _multiple(window: int, hop: int) -> int:
    return -(-window // hop) * hop
