"""The declaration, run without a broker: `pytest`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headrace.plan.verdicts import Verdict
from headrace.testing import Driver

HERE = Path(__file__).parent


@pytest.fixture
def driver() -> Driver:
    return Driver(HERE)


def test_the_pace_of_a_shop_is_the_mean_of_its_deliveries(driver: Driver) -> None:
    for number, minutes in enumerate((4, 8, 30)):
        driver.feed(
            "deliveries", order_id=f"o{number}", delivered_at=f"2026-03-01T12:0{number}Z", shop="shop-1", courier="courier-7",
            minutes_late=minutes,
        )  # fmt: skip
    found = driver.features("shop_pace", "shop-1", at="2026-03-01T12:05Z")
    assert dict(found) == {"shop_deliveries_3h": 3, "shop_late_mean_3h": 14, "shop_late_share_1d": 1 / 3}
    assert driver.features("courier_pace", "courier-7")["courier_last_late"] == 30
    driver.check()  # the oracle says the same, to the last bit


def test_a_delivery_told_twice_counts_once(driver: Driver) -> None:
    told = {"order_id": "o1", "delivered_at": "2026-03-01T12:00Z", "shop": "shop-1", "courier": "c", "minutes_late": 5}
    assert [driver.feed("deliveries", told).verdict for _ in range(2)] == [Verdict.OK, Verdict.DUPLICATE]
    assert driver.features("shop_pace", "shop-1")["shop_deliveries_3h"] == 1


def test_rules_decide_until_there_is_a_model(driver: Driver) -> None:
    order = {
        "order_id": "o9", "ordered_at": "2026-03-01T12:10Z", "shop": "shop-1", "courier": "c", "distance": 2.5, "items": 1,
        "hour": 12, "ask": True,
    }  # fmt: skip
    first = driver.decide("late_delivery", order)
    assert first is not None
    assert first.source == "default"  # nothing is known of the shop
    driver.feed("deliveries", order_id="o1", delivered_at="2026-03-01T12:00Z", shop="shop-1", courier="c", minutes_late=9)
    ruled = driver.decide("late_delivery", order)
    assert ruled is not None
    assert (ruled.source, ruled.decision) == ("rules", True)
    modelled = driver.decide("late_delivery", order, scorer=lambda inputs: 0.1 if (inputs["distance"] or 0) < 3 else 0.9)
    assert modelled is not None
    assert (modelled.source, modelled.decision) == ("model", False)


def test_the_sample_is_accepted_whole_and_agrees_with_the_oracle(driver: Driver) -> None:
    for line in (HERE / "sample" / "events.jsonl").read_text().splitlines():
        event, row = json.loads(line)
        assert driver.feed(event, row).verdict is Verdict.OK
    assert driver.check().fresh > 100
