"""What `headrace plan` says before anything runs: topics, state per key, reads per request, and what a change invalidates.

Everything is computed from the plan alone; sizes are upper bounds of the state, without the store's own overhead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from headrace.plan.expressions import parse
from headrace.plan.hashes import hash8
from headrace.plan.ir import FeatureSet, Plan, slot_width
from headrace.plan.tiles import BLOCK_TILES
from headrace.plan.topics import partials_topic, predictions_topic, state_topic
from headrace.plan.validate import scopes

BYTES_PER_SLOT = 8
TILE_HEADER_BYTES = 16  # start and newest event time beside the slots


@dataclass(frozen=True, slots=True)
class SetCost:
    """State and reads of one feature set, per entity."""

    name: str
    entity: tuple[str, ...]
    placement: str
    features: int
    tiles_per_key: int  # all levels, over the time to live
    bytes_per_key: int
    reads_per_request: int  # blocks
    hash: str

    @property
    def numbers(self) -> tuple[int, int, int, int]:
        return self.features, self.tiles_per_key, self.bytes_per_key, self.reads_per_request


@dataclass(frozen=True, slots=True)
class Edge:
    """One arrow of the topology."""

    source: str
    target: str
    what: str


@dataclass(frozen=True, slots=True)
class Change:
    """One difference to another plan, and what it costs."""

    kind: str  # event, feature set, model
    name: str
    verb: str  # added, removed, changed
    what: tuple[str, ...]  # attributes that differ
    effect: str


def set_cost(plan: Plan, feature_set: FeatureSet) -> SetCost:
    """Tiles live for the set's TTL at each hop in use; a `last` keeps one value per key and event."""
    levels = _levels(feature_set)
    tiles = size = reads = 0
    for event in feature_set.events:
        width = sum(slot_width(m, slot) for m in feature_set.measures if m.event == event for slot in m.slots)
        for hop_ms, window_ms in levels.get(event, {}).items():
            count = -(-feature_set.ttl_ms // hop_ms) + 1 if hop_ms else 1
            tiles += count
            size += count * (TILE_HEADER_BYTES + width * BYTES_PER_SLOT)
            reads += _blocks(window_ms, hop_ms)
    entity, name = feature_set.entity, feature_set.name
    return SetCost(name, entity, feature_set.placement, len(feature_set.features), tiles, size, reads, feature_set.hash)


def topology(plan: Plan) -> list[Edge]:
    """Sources to events to feature sets to models, in plan order."""
    events = {event.name: event for event in plan.events}
    edges = [Edge(source.name, events[source.event].topic, source.kind.replace("_", " ")) for source in plan.sources]
    for feature_set in plan.feature_sets:
        entity = ", ".join(feature_set.entity)
        edges += [Edge(events[event].topic, feature_set.name, f"by {entity}") for event in feature_set.events]
    for model in plan.models:
        edges.append(Edge(events[model.request].topic, model.name, "requests"))
        used = dict.fromkeys(item.feature_set for item in model.inputs if item.feature_set is not None)
        edges += [Edge(name, model.name, f"{sum(i.feature_set == name for i in model.inputs)} features") for name in used]
        edges.append(Edge(events[model.label.event].topic, model.name, f"label `{model.label.where}`"))
    return edges


def topics(plan: Plan) -> list[tuple[str, int | None, str]]:
    """Topics that carry data of the plan (late and dead letters aside): name, partitions (None: as set), what it carries."""
    found: list[tuple[str, int | None, str]] = []
    found += [(event.topic, event.partitions, f"{event.record} by {event.key}") for event in plan.events]
    for item in plan.feature_sets:
        found.append((partials_topic(plan, item), item.partitions, "PartialTiles"))
        found.append((state_topic(plan, item), item.partitions, "TileBlock, Progress; compacted"))
    if plan.models:
        found.append((predictions_topic(plan.pipeline), None, "PredictionMade"))
    return found


def changes(plan: Plan, live: Plan | None) -> list[Change]:
    """What moves when `plan` takes the place of `live`; everything is new when there is none."""
    return [] if live is not None and live.hash == plan.hash else list(_changes(plan, live))


def _changes(plan: Plan, live: Plan | None) -> Iterator[Change]:
    yield from _differences("event", plan.events, () if live is None else live.events)
    yield from _differences("feature set", plan.feature_sets, () if live is None else live.feature_sets)
    yield from _differences("model", plan.models, () if live is None else live.models)


def _differences(kind: str, new: tuple[object, ...], old: tuple[object, ...]) -> Iterator[Change]:
    before = {_name(item): item for item in old}
    after = {_name(item): item for item in new}
    for name, item in after.items():
        if name not in before:
            yield Change(kind, name, "added", (), _effect(kind, None, item))
        elif item != before[name]:
            shown = [field.name for field in fields(item) if field.name != "hash"]  # type: ignore[arg-type]
            differing = tuple(part for part in shown if getattr(item, part) != getattr(before[name], part))
            yield Change(kind, name, "changed", differing, _effect(kind, before[name], item))
    for name in before:
        if name not in after:
            yield Change(kind, name, "removed", (), "its topics go after every service has acknowledged")


def _effect(kind: str, old: object | None, new: object) -> str:
    if kind == "event":
        return "a new topic" if old is None else "feature sets that read it are listed when their values move"
    if old is None:
        return "state is built from the log" if kind == "feature set" else "the rules decide until a model is approved"
    if getattr(old, "hash", "") == getattr(new, "hash", ""):
        return "no value moves: state and models stay"
    before, after = hash8(getattr(old, "hash", "")), hash8(getattr(new, "hash", ""))
    if kind == "feature set":
        return f"state is rebuilt beside the old one ({before} -> {after}); models that read it are retrained"
    return f"models trained for {before} do not fit {after}: a new one is trained, the old one serves until then"


def _name(item: object) -> str:
    return str(getattr(item, "name", ""))


def _levels(feature_set: FeatureSet) -> dict[str, dict[int, int]]:
    """event -> hop -> longest window read at it."""
    measures = {measure.id: measure for measure in feature_set.measures}
    found: dict[str, dict[int, int]] = {}
    for feature in feature_set.features:
        for term in feature.terms:
            level = found.setdefault(measures[term.measure].event, {})
            level[term.hop_ms] = max(level.get(term.hop_ms, 0), term.window_ms)
    return found


def _blocks(window_ms: int, hop_ms: int) -> int:
    if not hop_ms:
        return 1
    tiles = window_ms // hop_ms + 1  # both edges
    return (tiles + BLOCK_TILES - 2) // BLOCK_TILES + 1  # worst alignment


def text(plan: Plan, live: Plan | None = None) -> str:
    """The report as plain text, stable from run to run."""
    lines = [f"pipeline {plan.pipeline}  plan {hash8(plan.hash)}  semantics {plan.semantics_version}  owner {plan.owner}", ""]
    lines += ["topology", *(f"  {edge.source} -> {edge.target}  ({edge.what})" for edge in topology(plan)), ""]
    lines.append("topics")
    for name, partitions, what in topics(plan):
        lines.append(f"  {name}  {f'{partitions} partitions  ' if partitions else ''}{what}")
    lines.append("")
    lines.append("feature sets, per key")
    for cost in (set_cost(plan, item) for item in plan.feature_sets):
        lines.append(
            f"  {cost.name} {hash8(cost.hash)}  by {', '.join(cost.entity)}  {cost.placement}  {cost.features} features  "
            f"at most {cost.tiles_per_key} tiles, {cost.bytes_per_key} bytes  {cost.reads_per_request} reads a request"
        )
    lines += ["", *_model_lines(plan), "", *_warning_lines(plan)]
    lines.append("changes" if live is None else f"changes against {hash8(live.hash)}")
    found = changes(plan, live)
    for change in found:
        what = f" ({', '.join(change.what)})" if change.what else ""
        lines.append(f"  {change.kind} {change.name} {change.verb}{what}: {change.effect}")
    return "\n".join(lines if found else [*lines, "  none"]) + "\n"


def _model_lines(plan: Plan) -> list[str]:
    costs = {item.name: set_cost(plan, item).reads_per_request for item in plan.feature_sets}
    lines = ["models"]
    for model in plan.models:
        used = {item.feature_set for item in model.inputs if item.feature_set is not None}
        reads = sum(costs[name] for name in used)
        lines.append(
            f"  {model.name} {hash8(model.hash)}  {len(model.inputs)} inputs from {len(used)} sets  "
            f"{reads} reads a request  deadline {model.deadline_ms} ms  {model.sample_bp / 100:g}% of requests"
        )
    return lines


def warnings(plan: Plan) -> list[str]:
    """What works but may surprise."""
    found = []
    for event in plan.events:
        if not event.topic.startswith(f"{plan.pipeline}."):
            found.append(f"topic {event.topic} is adopted: append time is its Kafka timestamp, whatever the timestamp's type")
    for model in plan.models:
        set_of = {item.name: item.feature_set for item in model.inputs if item.feature_set is not None}
        for item, scope in zip(model.inputs, scopes(plan, model), strict=False):
            if item.kind != "on_demand" or item.expression is None:
                continue
            columns = parse(item.expression, scope, allow_float=True).columns
            touched = sorted({set_of[column] for column in columns if column in set_of})
            if len(touched) > 1:
                found.append(f"input {item.name} mixes sets {', '.join(touched)}: each is read at its own cut")
    return found


def _warning_lines(plan: Plan) -> list[str]:
    found = warnings(plan)
    return ["warnings", *(f"  {line}" for line in found), ""] if found else []
