"""Costs are bounds by hand-counted tiles, projections by really encoded blocks."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.contracts.codec import Codec, MemoryRegistry
from headrace.declare import compile, load
from headrace.declare.durations import bytes_of
from headrace.plan import report
from headrace.plan.blocks import record_of
from headrace.plan.costs import DAY_MS, SAMPLE_ENTITY, SAMPLE_TIME_MS, set_cost
from headrace.plan.hashes import sealed
from headrace.plan.ir import Plan
from headrace.plan.tiles import encode_key, levels
from headrace.plan.topics import state_topic
from headrace.plan.validate import PlanError, validate
from headrace.plan.view_sizes import _room
from headrace.testing import Driver

PIPELINES = Path(__file__).parents[3] / "schemas" / "pipelines"


@pytest.fixture(scope="module")
def cards() -> Plan:
    return compile(load(PIPELINES / "cards"))


@pytest.fixture(scope="module")
def flights() -> Plan:
    return compile(load(PIPELINES / "flights"))


def test_the_large_declaration_has_more_than_two_hundred_features_and_a_projected_size(cards: Plan) -> None:
    assert sum(len(item.features) for item in cards.feature_sets) == 212
    load = report.Load({"card": 60_000_000}, {"payments": 3.0}, {"payments": 22_000_000_000})
    text = report.text(cards, None, load)
    cost = set_cost(cards, cards.feature_sets[0])
    per_key = cost.projected_bytes_per_key({"payments": 3.0})
    assert f"card_velocity: projected {per_key:,} bytes per key with 3 payments a day, from bytes measured" in text
    assert "card_velocity: projected view of 60,000,000 keys: " in text
    assert "22,000,000,000 rows of payments" in text
    assert per_key < cost.bytes_per_key


def test_a_projection_is_what_the_blocks_of_such_a_key_really_take() -> None:
    """Three payments a day over the whole ttl, lifted by the engine and encoded as the state topic keeps them."""
    driver, rng = Driver(PIPELINES / "cards"), random.Random(7)
    feature_set = driver.plan.feature_sets[0]
    for number in range(32 * 3):
        driver.feed(
            "payments", payment_id=f"p{number}", card=SAMPLE_ENTITY, merchant="m", category="food", hour=number * 8 % 24,
            amount=rng.randrange(100, 20_000) / 100, abroad=False, online=number % 2 == 0, declined=False,
            paid_at=SAMPLE_TIME_MS + number * 8 * 3_600_000 + rng.randrange(7_200_000), partition=0,
        )  # fmt: skip
    driver.features("card_velocity", SAMPLE_ENTITY)
    codec, topic = Codec(MemoryRegistry()), state_topic(driver.plan, feature_set)
    blocks = driver.blocks("card_velocity")
    assert {key.hop_ms for key in blocks} == set(levels(feature_set, "payments"))
    real = sum(
        len(codec.encode(topic, record_of(key, block))) + len(encode_key(feature_set, key)) for key, block in blocks.items()
    )
    projected = set_cost(driver.plan, feature_set).projected_bytes_per_key({"payments": 3.0})
    assert 0.6 < projected / real < 1.7


@pytest.mark.parametrize("rate", [0.1, 1.0, 100.0, float("inf")])
def test_more_events_never_take_less_and_every_tile_is_the_most(flights: Plan, rate: float) -> None:
    for item in flights.feature_sets:
        cost = set_cost(flights, item)
        some = cost.projected_bytes_per_key(dict.fromkeys(item.events, rate))
        more = cost.projected_bytes_per_key(dict.fromkeys(item.events, rate * 2))
        assert 0 < some <= more <= cost.projected_bytes_per_key({})


def test_last_values_cost_one_tile_whatever_the_time_to_live(flights: Plan) -> None:
    tail = next(item for item in flights.feature_sets if item.name == "tail_state")
    longer = replace(tail, ttl_ms=tail.ttl_ms * 10)
    assert set_cost(flights, tail).tiles_per_key == set_cost(flights, longer).tiles_per_key == 2


def test_tiles_kept_long_and_read_briefly_are_warned_of(cards: Plan, flights: Plan) -> None:
    warning, other = [line for line in report.warnings(cards) if "keeps" in line]
    assert warning.startswith("card_velocity keeps 46,081 tiles of 1m per key for its ttl of 32d, read over 1h only")
    assert other.startswith("merchant_day keeps 2,305 tiles of 5m")
    assert not [line for line in report.warnings(flights) if "keeps" in line]
    assert cards.feature_sets[0].ttl_ms == 32 * DAY_MS


def test_freshness_bounds_the_commit_interval(flights: Plan) -> None:
    """Two commits on the way: an interval of a quarter of what is asked."""
    assert any("at most 1s250ms" in line for line in report.mode_lines(flights, 5_000))
    assert any(line.startswith("micro-batches: a transaction every 10 ms") for line in report.mode_lines(flights, 40))


def with_set(plan: Plan, name: str, **changes: Any) -> Plan:
    return sealed(replace(plan, feature_sets=tuple(replace(s, **changes) if s.name == name else s for s in plan.feature_sets)))


def projected(plan: Plan, name: str, keys: int, rate: float) -> int:
    item = next(s for s in plan.feature_sets if s.name == name)
    return keys * set_cost(plan, item).projected_bytes_per_key(dict.fromkeys(item.events, rate))


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_a_replicated_set_is_refused_one_byte_above_its_limit(flights: Plan, over: int) -> None:
    """Goal: a view too large for every replica never starts. Method: the limit is the projected size, give or take one."""
    item = next(s for s in flights.feature_sets if s.name == "origin_load")
    size = projected(flights, item.name, 1_000, 40.0)
    rates = tuple((event, "40") for event in item.events)
    plan = with_set(flights, item.name, keys_expected=1_000, events_a_day=rates, view_bytes_max=size - over)
    if over <= 0:
        validate(plan)
        return
    with pytest.raises(PlanError, match="state projected for 1,000 entities in every svc-serve replica") as refused:
        validate(plan)
    (problem,) = refused.value.problems
    assert problem.path == ("feature_set", "origin_load")
    assert 'placement="owned"' in problem.hint and "view_limit=" in problem.hint
    hint = re.search(r'view_limit="(\w+)"', problem.hint)
    assert hint is not None
    validate(with_set(plan, item.name, view_bytes_max=bytes_of(hint[1])))


def test_nothing_is_refused_of_unknown_size_and_an_owned_set_never_for_its_size(flights: Plan, cards: Plan) -> None:
    assert report.refusals(flights, report.Load()) == []
    assert "how large it is in every svc-serve replica is not known" in "\n".join(report.size_lines(flights, report.Load()))
    huge = with_set(cards, "card_velocity", keys_expected=60_000_000, view_bytes_max=1)
    assert [p.path[1] for p in report.refusals(huge, report.Load())] == []
    validate(huge)


def test_what_is_given_to_plan_stands_in_place_of_what_is_declared(cards: Plan) -> None:
    declared = with_set(cards, "merchant_day", keys_expected=10, view_bytes_max=1 << 24)
    validate(declared)
    assert [p.path for p in report.refusals(declared, report.Load(keys={"merchant": 2_000_000}))] == [
        ("feature_set", "merchant_day")
    ]
    assert report.refusals(declared, report.Load(keys={"merchant_day": 10}, events_a_day={"payments": 3.0})) == []
    assert "projected view of 10 keys" in "\n".join(report.size_lines(declared, report.Load()))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"keys_expected": 0}, "0 keys"),
        ({"events_a_day": (("departures", "0"),)}, "0 events of departures a day"),
        ({"events_a_day": (("departures", "many"),)}, "many events of departures a day"),
        ({"events_a_day": (("nothing", "1"),)}, "unknown event 'nothing'"),
        ({"view_bytes_max": 0}, "view_limit is not positive"),
        ({"freshness_ms": 0}, "freshness is not positive"),
    ],
)
def test_loads_and_promises_that_mean_nothing_are_refused(flights: Plan, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(PlanError, match=told):
        validate(with_set(flights, "origin_load", **changes))


def test_the_soonest_promise_of_the_sets_bounds_the_commit_interval_unless_another_is_given(flights: Plan) -> None:
    promised = with_set(flights, "origin_load", freshness_ms=40)
    assert "readable within 40ms needs a commit interval of at most 10ms" in report.text(promised)
    assert "readable within 1s needs" in report.text(promised, None, report.Load(freshness_ms=1_000))
    assert "readable within 5s needs" in report.text(flights)
    assert not [line for line in report.warnings(promised) if "promises" in line]
    (line,) = [line for line in report.warnings(with_set(flights, "origin_load", freshness_ms=20)) if "promises" in line]
    assert line == "origin_load promises 20ms at p99, but two commits one after the other take up to 32ms"


@given(st.integers(1, 1 << 50))
def test_the_limit_a_refusal_names_has_room(count: int) -> None:
    assert count <= bytes_of(_room(count)) < max(2 * count, 2) + 1
