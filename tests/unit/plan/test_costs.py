"""Costs are bounds by hand-counted tiles, projections by really encoded blocks."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.contracts.codec import Codec, MemoryRegistry
from headrace.declare import compile, load
from headrace.plan import report
from headrace.plan.blocks import record_of
from headrace.plan.costs import DAY_MS, SAMPLE_ENTITY, SAMPLE_TIME_MS, set_cost
from headrace.plan.ir import Plan
from headrace.plan.tiles import encode_key, levels
from headrace.plan.topics import state_topic
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
