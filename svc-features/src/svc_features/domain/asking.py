"""What a reader asks for: keys, sets, time. Pure; every refusal says what to write instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from headrace.plan.ir import FeatureSet, Plan
from headrace.plan.tiles import entity_of

NEWEST, NOW = "newest", "now"
_BODY = frozenset({"keys", "sets", "t_ms"})
_INTEGERS = frozenset({"int", "long", "timestamp", "decimal"})


class Unanswerable(Exception):
    """`status` as HTTP has it, what is wrong, and what to do."""

    def __init__(self, status: int, detail: str, hint: str) -> None:
        super().__init__(detail)
        self.status, self.detail, self.hint = status, detail, hint


@dataclass(frozen=True, slots=True)
class Asked:
    """One read of N keys. entities: by set name, each (N,). picked: by set name the features' positions, None for all."""

    keys: Sequence[Mapping[str, str]]
    entities: Mapping[str, Sequence[str]]
    picked: Mapping[str, list[int] | None]
    t_ms: int | Sequence[int] | Literal["newest", "now"]


def asked_of(plan: Plan, body: object, keys_max: int) -> Asked:
    """Check a call's JSON against the plan.

    Body: {"keys": [{field: value}], "sets": [name] or {name: [feature]}, "t_ms": ms, [ms per key], "newest" or "now"}.
    `sets` may be left out: every set whose entity the first key names.
    Raises: Unanswerable.
    """
    if not isinstance(body, dict):
        raise Unanswerable(400, f"the body is {type(body).__name__}", 'send an object such as {"keys": [{"origin": "EWR"}]}')
    unknown = sorted(set(body) - _BODY)
    if unknown:
        raise Unanswerable(422, f"unknown names {unknown}", f"a read has {sorted(_BODY)}")
    keys = _keys(body.get("keys"), keys_max)
    sets, picked = _sets(plan, body.get("sets"), keys)
    texts: dict[str, list[str]] = {}
    shown: list[dict[str, str]] = [{} for _ in keys]
    for feature_set in sets:
        texts[feature_set.name] = _entities(plan, feature_set, keys, shown)
    needed = {name for s in sets for name in s.entity}
    extra = sorted({name for key in keys for name in key} - needed)
    if extra:
        raise Unanswerable(422, f"key fields {extra} belong to none of the sets asked for", f"keys need {sorted(needed)}")
    return Asked(shown, texts, picked, _times(body.get("t_ms", NEWEST), len(keys)))


def _keys(given: object, keys_max: int) -> list[Mapping[str, Any]]:
    hint = 'give "keys": a list of objects such as {"origin": "EWR"}'
    if not isinstance(given, list) or not given:
        raise Unanswerable(422, "no keys", hint)
    if len(given) > keys_max:
        raise Unanswerable(413, f"{len(given)} keys, at most {keys_max} in one call", "split the keys over several calls")
    if not all(isinstance(key, dict) for key in given):
        raise Unanswerable(422, "a key is no object", hint)
    return given


def _sets(plan: Plan, given: object, keys: Sequence[Mapping[str, Any]]) -> tuple[list[FeatureSet], dict[str, list[int] | None]]:
    by_name = {s.name: s for s in plan.feature_sets}
    if given is None:
        found = [s for s in plan.feature_sets if s.placement == "replicated" and set(s.entity) <= set(keys[0])]
        if not found:
            entities = {s.name: list(s.entity) for s in plan.feature_sets}
            raise Unanswerable(422, f"no set has an entity within {sorted(keys[0])}", f"entities by set: {entities}")
        return found, dict.fromkeys([s.name for s in found])
    wanted: Mapping[str, object] = given if isinstance(given, dict) else dict.fromkeys(_names(given))
    picked: dict[str, list[int] | None] = {}
    for name, features in wanted.items():
        known = by_name.get(name)
        if known is None:
            raise Unanswerable(404, f"no feature set {name!r} in {plan.pipeline}", f"sets: {sorted(by_name)}")
        if known.placement != "replicated":
            raise Unanswerable(
                422, f"{name} is placed {known.placement}: it is answered where its stream runs", "ask for replicated sets"
            )
        places = {f.name: i for i, f in enumerate(known.features)}
        lacking = [] if features is None else [f for f in _names(features) if f not in places]
        if lacking:
            raise Unanswerable(404, f"{name} has no features {lacking}", f"features: {sorted(places)}")
        picked[name] = None if features is None else [places[f] for f in _names(features)]
    if not picked:
        raise Unanswerable(422, "no sets", f'leave "sets" out, or name some of {sorted(by_name)}')
    return [by_name[name] for name in picked], picked


def _names(given: object) -> list[str]:
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise Unanswerable(422, f"{str(given)[:100]!r} is no list of names", 'write "sets": ["origin_load"]')
    return list(given)


def _entities(
    plan: Plan, feature_set: FeatureSet, keys: Sequence[Mapping[str, Any]], shown: Sequence[dict[str, str]]
) -> list[str]:
    types = {f.name: f.type for e in plan.events if e.name in feature_set.events for f in e.fields}
    fields = feature_set.entity
    out: list[str] = []
    for number, key in enumerate(keys):
        part = {name: _text(name, types.get(name, "string"), key.get(name), number) for name in fields}
        shown[number].update(part)
        entity = entity_of(feature_set, part)
        assert entity is not None, "no part is null"
        out.append(entity)
    return out


def _text(name: str, kind: str, value: object, number: int) -> str:
    """A field's value as it stands in state keys."""
    if value is None:
        raise Unanswerable(422, f"key {number} has no {name}", f"give {name} in every key")
    if kind == "string" and isinstance(value, str):
        return value
    if kind == "boolean" and str(value).lower() in ("true", "false"):
        return str(value).lower()
    if kind in _INTEGERS and not isinstance(value, bool | float):
        try:
            return str(int(str(value)))
        except ValueError:
            pass
    raise Unanswerable(422, f"key {number}: {name} is {str(value)[:100]!r}", f"{name} is a {kind}")


def _times(given: object, keys: int) -> int | list[int] | Literal["newest", "now"]:
    if given in (NEWEST, NOW):
        return NEWEST if given == NEWEST else NOW
    if _is_time(given):
        return given  # type: ignore[return-value]
    if isinstance(given, list) and len(given) == keys and all(_is_time(t) for t in given):
        return given
    raise Unanswerable(
        422, f"t_ms is {str(given)[:100]!r}", f'give ms UTC, a list of one per key ({keys}), "{NEWEST}" or "{NOW}"'
    )


def _is_time(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53
