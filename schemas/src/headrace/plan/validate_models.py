"""The rules of a model in a plan: request, label, inputs, fallback, rollout, watch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise

from headrace.plan.expressions import ExpressionError, parse
from headrace.plan.ir import EventType, FeatureSet, Field, Input, Model, Plan
from headrace.plan.problems import NAME, Path, Problem, condition, decimal_of, known_as, of_one_row, repeated

WHOLE = 10_000  # basis points
GATE_RULE = re.compile(r">= (?:\d+(?:\.\d+)?|(?:champion|rule)(?: [+-] \d+(?:\.\d+)?)?)")


def scopes(plan: Plan, model: Model) -> list[dict[str, Field]]:
    """What each input's expression may name, in order, and last what `rules` may.

    Request fields, and every input before it as a nullable double in its natural unit.
    """
    request = next(event for event in plan.events if event.name == model.request)
    found: list[dict[str, Field]] = [{field.name: field for field in request.fields}]
    for item in model.inputs:
        found.append({**found[-1], item.name: Field(item.name, "double", nullable=True)})
    return found


def model_problems(
    plan: Plan, model: Model, events: Mapping[str, EventType], sets: Mapping[str, FeatureSet]
) -> Iterator[Problem]:
    here: Path = ("model", model.name)
    if not NAME.fullmatch(model.name):
        yield Problem(here, f"model name '{model.name}'", "snake_case")
    if model.request not in events or model.label.event not in events:
        yield from known_as(here, "request event", model.request, events)
        yield from known_as((*here, "label"), "label event", model.label.event, events)
        return
    request = {field.name: field for field in events[model.request].fields}
    yield from known_as(here, "routing key", model.routing_key, request, f" of {events[model.request].record}")
    yield from known_as(here, "request id", model.request_id, request, f" of {events[model.request].record}")
    yield from _label_problems((*here, "label"), model, request, events[model.label.event])
    yield from _input_problems(here, plan, model, request, sets)
    yield from _serving_problems(here, model)


def _label_problems(here: Path, model: Model, request: Mapping[str, Field], event: EventType) -> Iterator[Problem]:
    fields = {field.name: field for field in event.fields}
    label = model.label
    for text in (label.where, label.exclude):
        if text is not None:
            yield from condition(here, text, fields, allow_float=True)
    yield from known_as(here, "join field", label.join, fields, f" of {event.record}")
    yield from known_as(here, "join field", label.join, request, " of the request")
    if label.join in fields and label.join in request and fields[label.join].type != request[label.join].type:
        yield Problem(here, f"join field '{label.join}' has different types on the two sides")
    if label.mature_ms <= 0:
        yield Problem(here, "mature is not positive")


def _input_problems(
    here: Path, plan: Plan, model: Model, request: Mapping[str, Field], sets: Mapping[str, FeatureSet]
) -> Iterator[Problem]:
    used = sorted({item.feature_set for item in model.inputs if item.feature_set is not None})
    owned = [name for name in used if name in sets and sets[name].placement == "owned"]
    if len(owned) > 1:
        yield Problem((*here, "inputs"), f"owned sets {', '.join(owned)}", "one owner answers a request: one owned set")
    for name in owned:
        if model.request not in sets[name].events:
            detail = f"{name} is owned, but does not read the request event {model.request}"
            yield Problem((*here, "inputs"), detail, "its owner answers as it comes to the request in its own log")
        elif (model.request_id,) == sets[name].entity:
            detail = f"request id '{model.request_id}' is the entity of {name}, so each entity would be decided once"
            yield Problem(here, detail, 'name the field that is new with each request: request_id="..."')
    names = [item.name for item in model.inputs]
    for name in repeated(names):
        yield Problem((*here, "inputs"), f"input '{name}' comes twice", "feature names of a model differ across its sets")
    scope = scopes(plan, model)
    for item, known in zip(model.inputs, scope, strict=False):
        place = (*here, "inputs", item.name)
        if item.kind != "request" and item.name in request:
            yield Problem(place, f"input '{item.name}' has the name of a request field", "rename it")
        if item.kind == "feature":
            yield from _feature_input_problems(place, item, request, sets)
            continue
        try:
            expression = parse(item.expression or "", known, allow_float=True)
        except ExpressionError as error:
            yield Problem(place, str(error))
            continue
        yield from of_one_row(place, expression)
        kind = expression.type.kind
        if kind not in ("integer", "float", "boolean"):
            yield Problem(place, f"`{item.expression}` is a {kind}", "inputs are numbers and booleans")
    yield from condition((*here, "rules"), model.rules, scope[-1], allow_float=True)
    if model.when is not None:
        yield from condition((*here, "when"), model.when, request, allow_float=True)
    yield from known_as((*here, "rules"), "rules score", model.rules_score, names)
    for name in model.watch.inputs:
        yield from known_as((*here, "watch"), "watched input", name, names)


def _feature_input_problems(
    place: Path, item: Input, request: Mapping[str, Field], sets: Mapping[str, FeatureSet]
) -> Iterator[Problem]:
    yield from known_as(place, "feature set", item.feature_set or "", sets)
    used = sets.get(item.feature_set or "")
    if used is None:
        return
    yield from known_as(place, "feature", item.feature or "", [feature.name for feature in used.features])
    for name in used.entity:
        yield from known_as(place, "entity field", name, request, f" of the request, which set '{used.name}' is read by")


def _serving_problems(here: Path, model: Model) -> Iterator[Problem]:
    threshold = decimal_of(model.threshold)
    if threshold is None or not 0 < threshold < 1:
        yield Problem(here, f"threshold '{model.threshold}'", "a decimal between 0 and 1")
    if not 0 < model.sample_bp <= WHOLE:
        yield Problem(here, f"sample of {model.sample_bp} basis points", "1 to 10000")
    if model.deadline_ms <= 0 or not 0 <= model.explain_top <= len(model.inputs):
        yield Problem(here, "deadline or explain out of range")
    steps = model.rollout.steps
    if not steps or steps[-1] != 100 or steps[0] <= 0 or any(a >= b for a, b in pairwise(steps)):
        yield Problem((*here, "rollout"), f"steps {list(steps)}", "growing per cents that end in 100, such as [5, 20, 100]")
    if model.rollout.dwell_decisions <= 0 or not 0 < model.rollout.alpha_bp < WHOLE:
        yield Problem((*here, "rollout"), "dwell or alpha out of range")
    if model.watch.window_ms <= 0 or model.watch.psi_permille <= 0 or not 0 < model.watch.alpha_bp < WHOLE:
        yield Problem((*here, "watch"), "window, psi or alpha out of range")
    for measure, rule in model.gate:
        if rule != "exact" and not GATE_RULE.fullmatch(rule):
            yield Problem((*here, "gate"), f"{measure} '{rule}'", "such as '>= champion - 0.002', '>= rule', '>= 0.7', 'exact'")
