"""Plans as canonical JSON, and hashes that move exactly with what can change a value."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from headrace.declare import compile, load
from headrace.plan import hashes
from headrace.plan.hashes import PlanFormatError, from_json, model_hash, sealed, set_hash, to_json
from headrace.plan.ir import EventType, Feature, FeatureSet, Field, Model, Plan, Step
from headrace.plan.validate import PlanError, validate

FLIGHTS = compile(load(Path(__file__).parents[3] / "schemas" / "pipelines" / "flights"))

Change = Callable[[Plan], Plan]


def on_set(name: str, change: Callable[[FeatureSet], FeatureSet]) -> Change:
    return lambda plan: replace(plan, feature_sets=tuple(change(s) if s.name == name else s for s in plan.feature_sets))


def on_event(name: str, change: Callable[[EventType], EventType]) -> Change:
    return lambda plan: replace(plan, events=tuple(change(e) if e.name == name else e for e in plan.events))


def on_model(change: Callable[[Model], Model]) -> Change:
    return lambda plan: replace(plan, models=tuple(change(m) for m in plan.models))


def first_feature(change: Callable[[Feature], Feature]) -> Callable[[FeatureSet], FeatureSet]:
    return lambda s: replace(s, features=(change(s.features[0]), *s.features[1:]))


def set_hashes(plan: Plan) -> dict[str, str]:
    return {item.name: item.hash for item in plan.feature_sets}


def moved(change: Change) -> tuple[set[str], bool]:
    """Names of the sets whose hash a change moves, and whether the model's moves."""
    after = sealed(change(FLIGHTS))
    before = set_hashes(FLIGHTS)
    sets = {name for name, digest in set_hashes(after).items() if digest != before[name]}
    return sets, after.models[0].hash != FLIGHTS.models[0].hash


def test_a_plan_survives_its_json() -> None:
    assert from_json(to_json(FLIGHTS)) == FLIGHTS
    validate(from_json(to_json(FLIGHTS)))


def test_the_json_is_canonical_and_holds_no_floats() -> None:
    data = to_json(FLIGHTS)
    assert data == rfc8785.dumps(json.loads(data))

    def refuse(text: str) -> Any:
        raise AssertionError(text)

    json.loads(data, parse_float=refuse)


@pytest.mark.parametrize(
    "change",
    [
        on_model(lambda m: replace(m, trainer_parameters=(("rounds", "5"),))),
        on_model(lambda m: replace(m, threshold="0.3")),
        on_model(lambda m: replace(m, rules="origin_delay_mean_1h > 20")),
        on_model(lambda m: replace(m, label=replace(m.label, mature_ms=1))),
    ],
)
def test_a_change_of_the_model_disturbs_no_state(change: Change) -> None:
    assert moved(change) == (set(), True)


@pytest.mark.parametrize(
    "change",
    [
        on_set("route_week", lambda s: replace(s, owner="someone")),
        on_set("route_week", lambda s: replace(s, stale_after_ms=1)),
        on_set("route_week", lambda s: replace(s, freshness_ms=5_000)),
        on_set("route_week", lambda s: replace(s, keys_expected=1_000, events_a_day=(("arrivals", "2.5"),))),
        on_set("route_week", lambda s: replace(s, view_bytes_max=1 << 40)),
        on_event("arrivals", lambda e: replace(e, fields=tuple(replace(f, doc="x", unit="y") for f in e.fields))),
        on_event("weather", lambda e: replace(e, fields=(*e.fields, Field("extra", "string", nullable=True)))),
        on_model(lambda m: replace(m, owner="someone", team="other")),
    ],
)
def test_owner_docs_freshness_and_unused_fields_move_no_set_or_model(change: Change) -> None:
    assert moved(change) == (set(), False)
    assert sealed(change(FLIGHTS)).hash != FLIGHTS.hash  # the plan as a whole is another


@pytest.mark.parametrize(
    "change",
    [
        on_event("weather", lambda e: replace(e, lateness_ms=e.lateness_ms + 1)),
        on_event("weather", lambda e: replace(e, poison_bound_ms=e.poison_bound_ms - 1)),
        on_event("weather", lambda e: replace(e, dedup_horizon_ms=1)),
        on_event("weather", lambda e: replace(e, dedup_id=None)),
        on_event("weather", lambda e: replace(e, available_after_ms=None)),
        on_event("weather", lambda e: replace(e, topic="flights.weather.v2")),
        on_event("weather", lambda e: replace(e, fields=tuple(replace(f, scale=3) if f.scale == 2 else f for f in e.fields))),
        on_event(
            "weather",
            lambda e: replace(e, fields=tuple(replace(f, maximum=1) if f.name == "humid" else f for f in e.fields)),
        ),
        on_set("origin_weather", lambda s: replace(s, ttl_ms=s.ttl_ms + 1)),
        on_set("origin_weather", lambda s: replace(s, partitions=4)),
        on_set("origin_weather", first_feature(lambda f: replace(f, impute="1"))),
        on_set("origin_weather", first_feature(lambda f: replace(f, steps=(Step("clip", "0"),)))),
        on_set("origin_weather", first_feature(lambda f: replace(f, terms=(replace(f.terms[0], argument=1),)))),
        on_set("origin_weather", lambda s: replace(s, measures=(replace(s.measures[0], size=1), *s.measures[1:]))),
        on_set("origin_weather", lambda s: replace(s, measures=(replace(s.measures[0], edges=(1,)), *s.measures[1:]))),
        on_set("origin_weather", first_feature(lambda f: replace(f, terms=(replace(f.terms[0], window_ms=1),)))),
        on_set("origin_weather", first_feature(lambda f: replace(f, terms=(replace(f.terms[0], hop_ms=1),)))),
        on_set("origin_weather", lambda s: replace(s, measures=(replace(s.measures[0], where="temp > 1"), *s.measures[1:]))),
        on_set("origin_weather", lambda s: replace(s, measures=(replace(s.measures[0], slots=("nonnull",)), *s.measures[1:]))),
    ],
)
def test_what_can_change_a_value_moves_that_set_and_its_model_and_nothing_else(change: Change) -> None:
    assert moved(change) == ({"origin_weather"}, True)


def test_the_semantics_version_moves_everything() -> None:
    sets, model = moved(lambda plan: replace(plan, semantics_version=plan.semantics_version + 1))
    assert (sets, model) == ({item.name for item in FLIGHTS.feature_sets}, True)


def test_the_layout_of_a_slot_moves_the_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(hashes.ir.SLOT_WIDTH, "last", 6)
    assert set_hash(FLIGHTS, "origin_weather") != next(s.hash for s in FLIGHTS.feature_sets if s.name == "origin_weather")


def test_hashes_are_stable_across_releases() -> None:
    """Golden: if this moves without a change of the pipeline, live feature state would be orphaned."""
    small = Plan(
        pipeline="golden",
        owner="ops",
        events=(
            EventType("clicks", "Clicked", "golden.clicks.v1", "user", "at",
                      (Field("user", "string"), Field("at", "timestamp"),
                       Field("cost", "decimal", scale=2, minimum=0, maximum=100)),
                      60_000, 1_000),
        ),
        sources=(),
        feature_sets=(
            FeatureSet("user_load", ("user",), ("clicks",),
                       (hashes.ir.Measure("m0", "clicks", "cost", None, ("nonnull", "sum"), 2),),
                       (Feature("cost_1h", (hashes.ir.Term("m0", "mean", 3_600_000, 60_000),)),), 86_400_000, 60_000),
        ),
        models=(),
        semantics_version=1,
    )  # fmt: skip
    assert sealed(small).feature_sets[0].hash == "47e73263b8410e534cbc63578d4e473dd2a55d43bd0d963796f378bad20057e7"
    assert sealed(small).hash == "d402822587d1afe4f383792ce171122c2306ee912a091862d69afa72b903f312"


def altered(change: Callable[[dict[str, Any]], object]) -> bytes:
    document = json.loads(to_json(FLIGHTS))
    change(document)
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("data", "path", "detail"),
    [
        (b"{", "", "not JSON"),
        (b"[]", "", "expected an object"),
        (altered(lambda d: d.update(surprise=1)), "", "unknown key 'surprise'"),
        (altered(lambda d: d["events"][1].update(latenes_ms=1)), "events[1]", "unknown key 'latenes_ms'"),
        (altered(lambda d: d.pop("owner")), "owner", "missing"),
        (altered(lambda d: d.pop("semantics_version")), "semantics_version", "missing"),
        (altered(lambda d: d["events"][0].update(lateness_ms="2h")), "events[0].lateness_ms", "expected int, found str"),
        (altered(lambda d: d["events"][0].update(lateness_ms=True)), "events[0].lateness_ms", "expected int, found bool"),
        (altered(lambda d: d["events"][0].update(lateness_ms=1.5)), "", "no floats"),
        (altered(lambda d: d["feature_sets"][0].update(placement="moon")), "feature_sets[0].placement", "none of"),
        (altered(lambda d: d["models"][0].update(gate=[["auc"]])), "models[0].gate[0]", "expected 2 items"),
        (b'{"pipeline":"a","pipeline":"b"}', "pipeline", "given twice"),
        (b"\xff", "", "not JSON"),
    ],
)
def test_what_is_not_a_plan_is_refused_with_its_place(data: bytes, path: str, detail: str) -> None:
    with pytest.raises(PlanFormatError) as caught:
        from_json(data)
    assert caught.value.path == path
    assert detail in caught.value.detail


def test_a_plan_altered_after_sealing_is_refused() -> None:
    with pytest.raises(PlanError, match="hashes do not match"):
        validate(on_set("route_week", lambda s: replace(s, ttl_ms=s.ttl_ms + 1))(FLIGHTS))


def test_a_model_hash_covers_only_the_sets_it_reads() -> None:
    model = FLIGHTS.models[0]
    fewer = replace(FLIGHTS, models=(replace(model, inputs=tuple(i for i in model.inputs if i.feature_set != "route_week")),))
    longer = on_set("route_week", lambda s: replace(s, ttl_ms=s.ttl_ms + 1))(fewer)
    assert model_hash(fewer, model.name) == model_hash(longer, model.name)
