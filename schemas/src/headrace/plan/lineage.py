"""Column-level lineage, from the plan alone: model <- input <- feature <- measure <- field <- topic <- source or stream.

Fields that no expression names still decide values: the entity groups, the event time places, the message key partitions,
the duplicate id drops, a declared range rejects. They reach every feature of a set through the node of the set.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property

from headrace.plan.expressions import parse
from headrace.plan.hashes import columns_read, hash8
from headrace.plan.ir import EventType, Feature, FeatureSet, Model, Plan, Term
from headrace.plan.lineage_streams import Kind, Link, Node, law_of, measure_text, stream_nodes
from headrace.plan.validate import duration_text, scopes


@dataclass(frozen=True)
class Lineage:
    """The graph of one plan: nodes and links in plan order, sources first."""

    nodes: tuple[Node, ...]
    links: tuple[Link, ...]

    @cached_property
    def node(self) -> dict[str, Node]:
        return {node.id: node for node in self.nodes}

    @cached_property
    def into(self) -> dict[str, list[Link]]:
        """Links by target."""
        found: dict[str, list[Link]] = defaultdict(list)
        for link in self.links:
            found[link.target].append(link)
        return found

    def upstream(self, target: str) -> frozenset[str]:
        """Ids of everything the node is made from."""
        seen: set[str] = set()
        todo = [target]
        while todo:
            for link in self.into.get(todo.pop(), ()):
                if link.source not in seen:
                    seen.add(link.source)
                    todo.append(link.source)
        return frozenset(seen)

    def fields(self, target: str) -> frozenset[str]:
        """Fields the node depends on, as `event.field`."""
        return frozenset(self.node[name].name for name in self.upstream(target) if self.node[name].kind == "field")


def lineage(plan: Plan) -> Lineage:
    """The graph of a sound plan."""
    nodes: dict[str, Node] = {}
    links: dict[Link, None] = {}
    for item in _walk(plan):
        if isinstance(item, Node):
            nodes.setdefault(item.id, item)
        else:
            links.setdefault(item, None)
    return Lineage(tuple(nodes.values()), tuple(links))


def _walk(plan: Plan) -> Iterator[Node | Link]:
    events = {event.name: event for event in plan.events}
    for source in plan.sources:
        yield Node(f"source:{source.name}", "source", source.name, source.kind.replace("_", " "))
        yield Link(f"source:{source.name}", f"topic:{events[source.event].topic}", "sends")
    for event in plan.events:
        yield Node(f"topic:{event.topic}", "topic", event.topic, event.record)
        for item in event.fields:
            name = f"{event.name}.{item.name}"
            yield Node(
                f"field:{name}",
                "field",
                name,
                f"{f'array of {item.item}' if item.item else item.type}{f' in {item.unit}' if item.unit else ''}",
            )
            yield Link(f"topic:{event.topic}", f"field:{name}", "carries")
    for stream in plan.streams:
        yield from stream_nodes(stream, events)
    for feature_set in plan.feature_sets:
        yield from _set(feature_set, events)
    for model in plan.models:
        yield from _model(plan, model, events[model.request], events[model.label.event])


def _set(feature_set: FeatureSet, events: dict[str, EventType]) -> Iterator[Node | Link]:
    here = f"set:{feature_set.name}"
    yield Node(here, "set", feature_set.name, f"by {', '.join(feature_set.entity)}, {hash8(feature_set.hash)}")
    for name in feature_set.events:
        for column, role in [*((column, "entity") for column in feature_set.entity), *law_of(events[name])]:
            yield Link(f"field:{name}.{column}", here, role)
    for measure in feature_set.measures:
        at = f"measure:{feature_set.name}.{measure.id}"
        yield Node(at, "measure", f"{feature_set.name}.{measure.id}", measure_text(measure))
        yield Link(f"topic:{events[measure.event].topic}", at, "rows")
        known = {item.name: item for item in events[measure.event].fields}
        for role, columns in columns_read(measure, known).items():
            yield from (Link(f"field:{measure.event}.{column}", at, role) for column in sorted(columns))
    for feature in feature_set.features:
        name = f"{feature_set.name}.{feature.name}"
        yield Node(f"feature:{name}", "feature", name, feature_text(feature_set, feature))
        yield Link(here, f"feature:{name}", "law")
        for term in feature.terms:
            yield Link(f"measure:{feature_set.name}.{term.measure}", f"feature:{name}", term_text(term))


def _model(plan: Plan, model: Model, request: EventType, outcome: EventType) -> Iterator[Node | Link]:
    here = f"model:{model.name}"
    yield Node(here, "model", model.name, f"asked by {request.record}, {hash8(model.hash)}")
    typed, asked = scopes(plan, model), {item.name for item in request.fields}
    inputs: set[str] = set()

    def read(text: str, scope: int) -> Iterator[str]:
        """Ids of what an expression reads: inputs before it, else fields of the request."""
        for column in sorted(parse(text, typed[scope], allow_float=True).columns):
            yield f"input:{model.name}.{column}" if column in inputs else f"field:{request.name}.{column}"

    for number, item in enumerate(model.inputs):
        at = f"input:{model.name}.{item.name}"
        yield Node(at, "input", f"{model.name}.{item.name}", item.expression or item.kind)
        if item.kind == "feature":
            yield Link(f"feature:{item.feature_set}.{item.feature}", at, "value")
            entity = next(known.entity for known in plan.feature_sets if known.name == item.feature_set)
            yield from (Link(f"field:{request.name}.{column}", at, "entity asked") for column in entity)
        else:
            yield from (Link(source, at, item.kind.replace("_", " ")) for source in read(item.expression or "", number))
        inputs.add(item.name)
        yield Link(at, here, "input")
    yield from (Link(source, here, "rules") for source in read(model.rules, -1))
    yield Link(f"input:{model.name}.{model.rules_score}", here, "rule score")
    for column, role in ((request.time, "t"), (model.routing_key, "routing key"), (model.request_id, "request id")):
        if column in asked:
            yield Link(f"field:{request.name}.{column}", here, role)
    if model.when:
        columns = parse(model.when, {item.name: item for item in request.fields}, allow_float=True).columns
        yield from (Link(f"field:{request.name}.{column}", here, "when") for column in sorted(columns))
    known = {item.name: item for item in outcome.fields}
    yield Link(f"field:{outcome.name}.{model.label.join}", here, "label joined by")
    yield Link(f"field:{outcome.name}.{outcome.time}", here, "label known at")
    for text, role in ((model.label.where, "label"), (model.label.exclude, "label excluded")):
        columns = parse(text, known, allow_float=True).columns if text else ()
        yield from (Link(f"field:{outcome.name}.{column}", here, role) for column in sorted(columns))


def term_text(term: Term) -> str:
    """Such as `mean over 1h by 5m`."""
    age = duration_text(term.window_ms)
    return f"{term.kind} over {age} by {duration_text(term.hop_ms)}" if term.hop_ms else f"{term.kind} within {age}"


def feature_text(feature_set: FeatureSet, feature: Feature) -> str:
    """The whole formula on one line."""
    measures = {measure.id: measure for measure in feature_set.measures}
    parts = [f"{term_text(term)} of {measure_text(measures[term.measure])}" for term in feature.terms]
    text = parts[0] if len(parts) == 1 else f"({') / ('.join(parts)})"
    return f"{text}, else {feature.impute}" if feature.impute is not None else text


def as_json(graph: Lineage) -> str:
    """`{"nodes": [...], "links": [...]}`, one line."""
    shown = {"nodes": [asdict(node) for node in graph.nodes], "links": [asdict(link) for link in graph.links]}
    return json.dumps(shown, ensure_ascii=False)


def as_text(graph: Lineage) -> str:
    """Per model each input with its formula, and the fields and topics it comes from; then what decides for whole sets."""
    lines: list[str] = []
    made = {link.target for link in graph.links if link.target.startswith("field:") and link.role != "carries"}
    for model in (node for node in graph.nodes if node.kind == "model"):
        lines.append(f"model {model.name} ({model.detail})")
        for link in graph.into[model.id]:
            origin = graph.node[link.source]
            lines.append(f"  {link.role}: {origin.name.removeprefix(f'{model.name}.')}")
            if origin.kind == "input" and link.role == "input":
                lines += [f"    <- {line}" for line in _input_lines(graph, origin)]
    for node in (node for node in graph.nodes if node.kind == "stream"):
        lines.append(f"every result of {node.name} ({node.detail})")
        lines += [f"  {link.role}: {graph.node[link.source].name}" for link in graph.into[node.id]]
    for node in (node for node in graph.nodes if node.kind == "field" and node.id in made):
        lines.append(f"field {node.name}")
        lines += [f"  {line}" for line in _field_lines(graph, node)]
    for node in (node for node in graph.nodes if node.kind == "set"):
        lines.append(f"every feature of {node.name} ({node.detail})")
        lines += [f"  {link.role}: {graph.node[link.source].name}" for link in graph.into[node.id]]
    for node in (node for node in graph.nodes if node.kind == "topic"):
        origins = ", ".join(f"{graph.node[link.source].name}" for link in graph.into.get(node.id, ()))
        lines.append(f"topic {node.name} <- {origins or 'producers of its own'}")
    return "\n".join(lines) + "\n"


def _input_lines(graph: Lineage, node: Node) -> Iterator[str]:
    for link in graph.into[node.id]:
        origin = graph.node[link.source]
        if link.role == "entity asked":
            yield f"  {origin.name} ({link.role})"
        elif origin.kind != "feature":
            yield f"{origin.name} ({link.role}: {node.detail})"
        else:
            yield f"{origin.name} = {origin.detail}"
            for term in graph.into[origin.id]:
                columns = [one for one in graph.into[term.source] if one.role != "rows"] if term.role != "law" else []
                yield from (f"  {graph.node[one.source].name} ({one.role})" for one in columns)


def _field_lines(graph: Lineage, node: Node) -> Iterator[str]:
    """Where the value of a stream's result comes from."""
    for link in graph.into[node.id]:
        origin = graph.node[link.source]
        if origin.kind == "measure":
            columns = ", ".join(graph.node[one.source].name for one in graph.into[origin.id] if one.role != "rows")
            yield f"<- {link.role} of {origin.detail}{f' ({columns})' if columns else ''}"
        elif link.role != "carries":
            yield f"<- {origin.name} ({link.role})"


_SHAPES: dict[Kind, str] = {
    "source": "cds", "topic": "cylinder", "field": "plain", "measure": "box", "stream": "cds", "set": "folder",
    "feature": "box", "input": "oval", "model": "doubleoctagon",
}  # fmt: skip


def as_dot(graph: Lineage) -> str:
    """Graphviz, left to right."""
    lines = ["digraph lineage {", "  rankdir=LR;"]
    for node in graph.nodes:
        shown = f"label={_quoted(node.name)}, tooltip={_quoted(node.detail)}, shape={_SHAPES[node.kind]}"
        lines.append(f"  {_quoted(node.id)} [{shown}];")
    lines += [f"  {_quoted(one.source)} -> {_quoted(one.target)} [label={_quoted(one.role)}];" for one in graph.links]
    return "\n".join([*lines, "}"]) + "\n"


def as_mermaid(graph: Lineage) -> str:
    """A flowchart, as Markdown viewers draw it."""
    number = {node.id: f"n{at}" for at, node in enumerate(graph.nodes)}
    lines = ["flowchart LR", *(f'  {number[node.id]}["{_escaped(node.name)}"]' for node in graph.nodes)]
    lines += [f'  {number[one.source]} -->|"{_escaped(one.role)}"| {number[one.target]}' for one in graph.links]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
