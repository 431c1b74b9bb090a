"""What moves when one plan takes the place of another: which hashes, topics and models, and what stays as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

from headrace.plan.hashes import hash8
from headrace.plan.ir import EventType, FeatureSet, Model, Plan, Stream
from headrace.plan.stream_costs import keyed_already, stateless
from headrace.plan.topics import partials_topic, predictions_topic, rows_topic, segments_topic, state_topic

Fate = Literal["new", "stays", "goes"]


@dataclass(frozen=True, slots=True)
class Change:
    """One difference to another plan, and what it means."""

    kind: str  # event, stream, feature set, model
    name: str
    verb: str  # added, removed, changed
    what: tuple[str, ...]  # attributes that differ
    effect: str


@dataclass(frozen=True, slots=True)
class Impact:
    """What a plan does to what is there. Old and new versions of a set stand side by side: nothing is overwritten."""

    sets: dict[str, Fate]  # "origin_load 3f4f24d6"
    topics: dict[str, Fate]
    models: dict[str, Fate]  # goes: what was trained for it no longer fits the declared row
    streams: dict[str, Fate] = field(default_factory=dict[str, Fate])  # "visit 6c5645a7"

    def of(self, fate: Fate) -> list[str]:
        """Names with this fate: streams, then sets, models and topics."""
        models = {f"what is approved for {name}" if fate == "goes" else name: found for name, found in self.models.items()}
        return [
            name for part in (self.streams, self.sets, models, self.topics) for name, found in part.items() if found == fate
        ]


def topics(plan: Plan) -> list[tuple[str, int | None, str]]:
    """Topics that carry data of the plan (late and dead letters aside): name, partitions (None: as set), what it carries."""
    found: list[tuple[str, int | None, str]] = []
    makers = {item.output: f", made by {item.name}" for item in plan.streams}
    for event in plan.events:
        found.append((event.topic, event.partitions, f"{event.record} by {event.key}{makers.get(event.name, '')}"))
    for item in plan.feature_sets:
        found.append((partials_topic(plan, item), item.partitions, "PartialTiles"))
        found.append((state_topic(plan, item), item.partitions, "TileBlock, Progress; compacted"))
    for stream in (item for item in plan.streams if not stateless(item)):
        if not keyed_already(plan, stream):
            found.append((rows_topic(plan, stream), stream.partitions, "RekeyedRows"))
        found.append((segments_topic(plan, stream), stream.partitions, "StateSegment"))
    if plan.models:
        found.append((predictions_topic(plan.pipeline), None, "PredictionMade"))
    return found


def row_of(plan: Plan, name: str) -> tuple[object, ...] | None:
    """All that decides what a row of this model means: request, columns, hashes of the sets read. None: no such model."""
    model = next((item for item in plan.models if item.name == name), None)
    if model is None:
        return None
    used = {column.feature_set for column in model.inputs}
    asked = next(event for event in plan.events if event.name == model.request)
    return asked, model.inputs, tuple(item.hash for item in plan.feature_sets if item.name in used)


def impact(plan: Plan, live: Plan | None) -> Impact:
    """Fates of sets, topics and models when `plan` takes the place of `live`."""
    sets = _fates(_names(plan.feature_sets), [] if live is None else _names(live.feature_sets))
    streams = _fates(_names(plan.streams), [] if live is None else _names(live.streams))
    shown = _fates([name for name, _, _ in topics(plan)], [] if live is None else [name for name, _, _ in topics(live)])
    models: dict[str, Fate] = {}
    for model in plan.models:
        before = None if live is None else row_of(live, model.name)
        models[model.name] = "new" if before is None else "stays" if before == row_of(plan, model.name) else "goes"
    for model in () if live is None else live.models:
        models.setdefault(model.name, "goes")
    return Impact(sets, shown, models, streams)


def _names(items: Sequence[FeatureSet] | Sequence[Stream]) -> list[str]:
    return [f"{item.name} {hash8(item.hash)}" for item in items]


def _fates(after: list[str], before: list[str]) -> dict[str, Fate]:
    found: dict[str, Fate] = {name: "stays" if name in before else "new" for name in after}
    for name in before:
        found.setdefault(name, "goes")
    return found


def changes(plan: Plan, live: Plan | None) -> list[Change]:
    """What moves when `plan` takes the place of `live`; everything is new when there is none."""
    return [] if live is not None and live.hash == plan.hash else list(_changes(plan, live))


def _changes(plan: Plan, live: Plan | None) -> Iterator[Change]:
    before_events = {} if live is None else {event.name: event for event in live.events}
    for event in plan.events:
        old_event = before_events.pop(event.name, None)
        if old_event is None:
            yield Change("event", event.name, "added", (), "a new topic")
        elif old_event != event:
            yield Change("event", event.name, "changed", _differing(event, old_event), _event_effect(plan, live, event))
    yield from (Change("event", name, "removed", (), "its topic stays: it is not ours to delete") for name in before_events)
    before_streams = {} if live is None else {item.name: item for item in live.streams}
    for stream in plan.streams:
        old_stream = before_streams.pop(stream.name, None)
        if old_stream is None:
            yield Change("stream", stream.name, "added", (), "its results are made from the log on")
        elif old_stream != stream:
            yield Change("stream", stream.name, "changed", _differing(stream, old_stream), _stream_effect(old_stream, stream))
    for name in before_streams:
        yield Change("stream", name, "removed", (), "no results come any more; its topic stays with those it has")
    before_sets = {} if live is None else {item.name: item for item in live.feature_sets}
    for item in plan.feature_sets:
        old_set = before_sets.pop(item.name, None)
        if old_set is None:
            yield Change("feature set", item.name, "added", (), "state is built from the log")
        elif old_set != item:
            yield Change("feature set", item.name, "changed", _differing(item, old_set), _set_effect(old_set, item))
    for name in before_sets:
        yield Change("feature set", name, "removed", (), "its topics go when no model reads it and every service has said so")
    before_models = {} if live is None else {item.name: item for item in live.models}
    for model in plan.models:
        old_model = before_models.pop(model.name, None)
        if old_model is None:
            yield Change("model", model.name, "added", (), "the rules decide until a model is approved")
        elif old_model != model:
            yield Change("model", model.name, "changed", _differing(model, old_model), _model_effect(plan, live, model))
    yield from (Change("model", name, "removed", (), "nobody is answered any more") for name in before_models)


def _differing(new: object, old: object) -> tuple[str, ...]:
    names = [item.name for item in fields(new) if item.name != "hash"]  # type: ignore[arg-type]
    return tuple(name for name in names if getattr(new, name) != getattr(old, name))


def _event_effect(plan: Plan, live: Plan | None, event: EventType) -> str:
    old = {} if live is None else {item.name: item.hash for item in (*live.streams, *live.feature_sets)}
    readers = [item for item in plan.streams if any(read.event == event.name for read in item.inputs)]
    sets = [item for item in plan.feature_sets if event.name in item.events]
    moved = [item.name for item in (*readers, *sets) if old.get(item.name, item.hash) != item.hash]
    return f"values move in {', '.join(moved)}" if moved else "no value moves"


def _set_effect(old: FeatureSet, new: FeatureSet) -> str:
    if old.hash == new.hash:
        return "no value moves: state and models stay"
    return f"state of {hash8(new.hash)} is built beside {hash8(old.hash)}, which stays while a model reads it"


def _stream_effect(old: Stream, new: Stream) -> str:
    if old.hash == new.hash:
        return "no result moves: its state stays"
    return f"state of {hash8(new.hash)} is built anew from the log; {hash8(old.hash)} ends, its topic keeps what it wrote"


def _model_effect(plan: Plan, live: Plan | None, model: Model) -> str:
    if live is not None and row_of(live, model.name) == row_of(plan, model.name):
        return "its row is the same: what is approved goes on serving, the change holds for the next training"
    return "its row changes: what is approved serves rows of the old kind until a model of the new kind replaces it"
