"""Plans as canonical JSON (RFC 8785) and Merkle hashes over all that can change a value.

A field equal to its default is left out of the JSON, so an additive field of the IR moves neither bytes nor hashes of
older plans; the semantics version is always written. Set hashes cover what state and vectors depend on, not who owns a
set, how fresh it should be or how it is documented; so a new trainer or owner leaves feature state alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import rfc8785

from headrace.plan import ir
from headrace.plan.expressions import parse

T = TypeVar("T")
ALWAYS_WRITTEN = frozenset({"semantics_version"})  # its default moves with the library
OUTSIDE_SET_HASH = frozenset({  # none of them changes a value
    "stale_after_ms", "owner", "hash", "keys_expected", "events_a_day", "view_bytes_max", "freshness_ms",
})  # fmt: skip
OUTSIDE_STREAM_HASH = frozenset({"owner", "hash", "store"})  # memory and disk give the same results
OUTSIDE_MODEL_HASH = frozenset({"owner", "team", "hash"})
DESCRIPTION_OF_FIELD = frozenset({"unit", "doc"})
DESCRIPTION_OF_RECORD = frozenset({"record", "doc"})


class PlanFormatError(ValueError):
    """Bytes that are not a plan: `path` says where."""

    def __init__(self, path: str, detail: str) -> None:
        super().__init__(f"{path or 'plan'}: {detail}")
        self.path, self.detail = path, detail


def to_json(plan: ir.Plan) -> bytes:
    """Canonical JSON, UTF-8, equal bytes for equal plans."""
    return rfc8785.dumps(encode(plan))


def from_json(data: bytes) -> ir.Plan:
    """Read a plan strictly: unknown keys, duplicate keys, wrong types and floats are refused.

    Raises: PlanFormatError with the path of the offender. Hashes are not checked here: see `validate`.
    """
    try:
        document = json.loads(data, object_pairs_hook=_without_duplicates, parse_float=_no_float, parse_constant=_no_float)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise PlanFormatError("", f"not JSON: {error}") from None
    return _decode(ir.Plan, document, "")


def set_hash(plan: ir.Plan, name: str, known: dict[str, str] | None = None) -> str:
    """SHA-256 hex of one feature set: its events' law and fields used, measures, windows, TTL, layout, semantics.

    Args:
        known: hashes of the plan's streams, kept from call to call.
    """
    feature_set = next(item for item in plan.feature_sets if item.name == name)
    events = {event.name: event for event in plan.events}
    material = {
        "semantics_version": plan.semantics_version,
        "set": encode(feature_set, OUTSIDE_SET_HASH),
        "events": [_event_material(events[event], fields_read(events[event], feature_set)) for event in feature_set.events],
        "slot_width": {kind: ir.SLOT_WIDTH[kind] for measure in feature_set.measures for kind in measure.slots},
    }
    return _digest(material | _derived(plan, feature_set.events, known))


def stream_hash(plan: ir.Plan, name: str, known: dict[str, str] | None = None) -> str:
    """SHA-256 hex of one stream: its inputs' law and fields read, key, operator, measures, results, partitions, semantics.

    Who owns it, where its state lies, and how late its results may be to those who read them, change no result. Streams
    that read each other, which the rules refuse, have hashes without meaning.
    """
    known = {} if known is None else known
    if name in known:
        return known[name]
    known[name] = ""
    stream = next(item for item in plan.streams if item.name == name)
    events = {event.name: event for event in plan.events}
    output = events[stream.output]
    material = {
        "semantics_version": plan.semantics_version,
        "stream": encode(stream, OUTSIDE_STREAM_HASH),
        "events": [_event_material(events[read.event], stream_reads(events[read.event], stream)) for read in stream.inputs],
        "output": {
            "topic": output.topic,
            "key": output.key,
            "time": output.time,
            "fields": [encode(field, DESCRIPTION_OF_FIELD) for field in output.fields],
        },
        "slot_width": {kind: ir.SLOT_WIDTH[kind] for measure in stream.measures for kind in measure.slots},
    }
    known[name] = _digest(material | _derived(plan, [read.event for read in stream.inputs], known))
    return known[name]


def _derived(plan: ir.Plan, names: Iterable[str], known: dict[str, str] | None) -> dict[str, Any]:
    """Hashes of the streams that make these events; nothing where producers make all of them."""
    makers = {item.output: item.name for item in plan.streams}
    found = {name: stream_hash(plan, makers[name], known) for name in sorted(set(names)) if name in makers}
    return {"streams": found} if found else {}


def model_hash(plan: ir.Plan, name: str, known: dict[str, str] | None = None) -> str:
    """SHA-256 hex of one model: its inputs with their set hashes, request, label, rules, gate, trainer, rollout."""
    model = next(item for item in plan.models if item.name == name)
    used = {item.feature_set for item in model.inputs if item.feature_set is not None}
    events = {event.name: event for event in plan.events}
    material = {
        "semantics_version": plan.semantics_version,
        "model": encode(model, OUTSIDE_MODEL_HASH),
        "sets": {name: set_hash(plan, name, known) for name in used},
        "request": _event_material(events[model.request]),
        "label": _event_material(events[model.label.event]),
    }
    return _digest(material | _derived(plan, [model.request, model.label.event], known))


def plan_hash(plan: ir.Plan) -> str:
    """SHA-256 hex of the canonical JSON with the plan's own hash left out."""
    return hashlib.sha256(to_json(replace(plan, hash=""))).hexdigest()


def sealed(plan: ir.Plan) -> ir.Plan:
    """The plan with stream, set, model and plan hashes filled in."""
    known: dict[str, str] = {}
    plan = replace(plan, streams=tuple(replace(item, hash=stream_hash(plan, item.name, known)) for item in plan.streams))
    sets = tuple(replace(item, hash=set_hash(plan, item.name, known)) for item in plan.feature_sets)
    plan = replace(plan, feature_sets=sets)
    models = tuple(replace(item, hash=model_hash(plan, item.name, known)) for item in plan.models)
    plan = replace(plan, models=models, hash="")
    return replace(plan, hash=plan_hash(plan))


def hash8(digest: str) -> str:
    """The first eight hex digits: what topic and group names carry."""
    return digest[:8]


def _event_material(event: ir.EventType, names: set[str] | None = None) -> dict[str, Any]:
    """The law of an event and the named fields (all by default) without their descriptions."""
    material = encode(event, frozenset({"fields", "records"}))
    shown = sorted((field for field in event.fields if names is None or field.name in names), key=lambda field: field.name)
    material |= {"fields": [encode(field, DESCRIPTION_OF_FIELD) for field in shown]}
    around = sorted((r for r in event.records if any(f.name.startswith(r.path + ".") for f in shown)), key=lambda r: r.path)
    return material | ({"records": [encode(record, DESCRIPTION_OF_RECORD) for record in around]} if around else {})


def fields_read(event: ir.EventType, feature_set: ir.FeatureSet) -> set[str]:
    """Fields that can change a value of this set; a field added elsewhere in the event leaves the set alone."""
    known = {field.name: field for field in event.fields}
    read = {*feature_set.entity, *_law_fields(event)}
    for measure in feature_set.measures:
        if measure.event == event.name:
            read.update(column for columns in columns_read(measure, known).values() for column in columns)
    return read


def stream_reads(event: ir.EventType, stream: ir.Stream) -> set[str]:
    """Fields that can change a result of this stream."""
    known = {field.name: field for field in event.fields}
    read = _law_fields(event)
    for item in stream.inputs:
        if item.event == event.name:
            read |= {*item.key, *(column for columns in input_columns(item, known).values() for column in columns)}
            read |= {item.each} if item.each is not None else set()
    for measure in stream.measures:
        if measure.event == event.name:
            read.update(column for columns in columns_read(measure, known).values() for column in columns)
    return read


def _law_fields(event: ir.EventType) -> set[str]:
    """Fields that decide about whole records."""
    named = {event.key, event.time} | ({event.dedup_id} if event.dedup_id else set())
    return named | {field.name for field in event.fields if ranged(field)}


def ranged(field: ir.Field) -> bool:
    """Whether a value of it can reject a whole record, so that it counts even when no expression reads it."""
    return field.minimum is not None or field.maximum is not None or field.type == "array"


def columns_read(measure: ir.Measure, known: Mapping[str, ir.Field]) -> dict[str, frozenset[str]]:
    """Fields a measure reads, by the part that reads them: `value`, `where`."""
    texts = {"value": measure.value, "where": measure.where}
    return {part: frozenset(parse(text, known).columns) for part, text in texts.items() if text is not None}


def input_columns(read: ir.StreamInput, known: Mapping[str, ir.Field]) -> dict[str, frozenset[str]]:
    """Fields an input reads, by the carried column that reads them; "" is its condition."""
    texts = {column.name: column.expression for column in read.columns}
    found = {name: frozenset(parse(text, known, allow_float=True).columns) for name, text in texts.items()}
    if read.where is not None:
        found[""] = frozenset(parse(read.where, known, allow_float=True).columns)
    return found


def _digest(material: dict[str, Any]) -> str:
    return hashlib.sha256(rfc8785.dumps(material)).hexdigest()


def encode(value: Any, without: frozenset[str] = frozenset()) -> Any:
    """Plain JSON of a dataclass tree, defaults left out; `without` names fields of the outermost only."""
    if is_dataclass(value) and not isinstance(value, type):
        shown = (field for field in fields(value) if field.name not in without)
        pairs = ((field, getattr(value, field.name)) for field in shown)
        return {
            f.name: encode(item) for f, item in pairs if f.name in ALWAYS_WRITTEN or f.default is MISSING or item != f.default
        }
    if isinstance(value, tuple):
        return [encode(item) for item in value]
    return value


@cache
def _schema(cls: type) -> dict[str, tuple[Field[Any], Any]]:
    hints = get_type_hints(cls)
    return {field.name: (field, hints[field.name]) for field in fields(cls)}


def _decode(cls: type[T], document: Any, path: str) -> T:
    if not isinstance(document, dict):
        raise PlanFormatError(path, f"expected an object, found {type(document).__name__}")
    schema = _schema(cls)
    if unknown := sorted(set(document) - set(schema)):
        raise PlanFormatError(path, f"unknown key '{unknown[0]}'")
    values: dict[str, Any] = {}
    for name, (field, hint) in schema.items():
        inner = f"{path}.{name}" if path else name
        if name in document:
            values[name] = _value(hint, document[name], inner)
        elif field.default is MISSING or name in ALWAYS_WRITTEN:
            raise PlanFormatError(inner, "missing")
    return cls(**values)


def _value(hint: Any, value: Any, path: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        return _value(next(item for item in arguments if item is not NoneType), value, path)
    if origin is Literal:
        if value not in arguments:
            raise PlanFormatError(path, f"{value!r} is none of {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise PlanFormatError(path, f"expected a list, found {type(value).__name__}")
        if arguments[-1] is ...:
            return tuple(_value(arguments[0], item, f"{path}[{index}]") for index, item in enumerate(value))
        if len(value) != len(arguments):
            raise PlanFormatError(path, f"expected {len(arguments)} items, found {len(value)}")
        return tuple(
            _value(inner, item, f"{path}[{index}]") for index, (inner, item) in enumerate(zip(arguments, value, strict=True))
        )
    if is_dataclass(hint) and isinstance(hint, type):
        return _decode(hint, value, path)
    if type(value) is not hint:  # bool is no int here
        raise PlanFormatError(path, f"expected {getattr(hint, '__name__', hint)}, found {type(value).__name__}")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise PlanFormatError(key, "key given twice")
        found[key] = value
    return found


def _no_float(text: str) -> Any:
    raise PlanFormatError("", f"{text}: plans hold no floats")
