"""The driver runs the streams of a declaration, each after those it reads, and the oracles agree."""

from __future__ import annotations

import random

import pytest

from headrace.testing import Driver, Mismatch
from headrace.testing import streams as running
from headrace_local import clone_root
from unit.svc_stream.stream_worlds import PLAN

MINUTE = 60_000
START = 1_767_225_600_000


def test_an_open_window_waits_for_event_time_and_is_told_at_the_end() -> None:
    driver = Driver(PLAN)
    for second, order in ((0, "a"), (10, "a"), (70, "a")):
        driver.feed("orders", order_id=order, line_id=f"l{second}", shop="s", cents=5, gift=False, at=START + second * 1_000)
    assert driver.results("order_minutes") == []
    driver.feed("orders", order_id="a", line_id="later", shop="s", cents=1, gift=True, at=START + 7 * MINUTE)
    (first, second) = driver.results("order_minutes")
    assert (first["window_start"], first["orders"], first["cents"]) == (START, 2, 10)
    assert (second["window_start"], second["orders"]) == (START + MINUTE, 1)
    assert len(driver.results("order_minutes", ended=True)) == 3
    with pytest.raises(ValueError, match="no stream makes it"):
        driver.results("orders")
    driver.check()


@pytest.mark.parametrize("seed", range(3))
def test_every_stream_of_a_declaration_equals_its_oracle(seed: int) -> None:
    driver, rng, at = Driver(PLAN), random.Random(seed), START
    for _ in range(80):
        at += rng.choice((0, 1_000, 20_000, MINUTE))
        kind, time = rng.random(), at - rng.choice((0, 0, 30_000, 4 * MINUTE))
        if kind < 0.6:
            shop, cents = rng.choice(("s", "t", None, "")), rng.choice((None, 0, 7))
            found = {"order_id": rng.choice("abc"), "line_id": f"l{rng.randrange(60)}", "shop": shop, "cents": cents}
            driver.feed("orders", {**found, "gift": rng.random() < 0.5, "at": time}, appended=at)
        elif kind < 0.9:
            driver.feed("shipments", order_id=rng.choice("abc"), weight=rng.choice((None, 0, 3)), at=time, appended=at)
        else:
            driver.feed("rates", shop=rng.choice("st"), cents=rng.choice((None, 0, 9)), at=time, appended=at)
    assert driver.check().verdicts == 80
    assert all(driver.results(s.output, ended=True) for s in PLAN.streams if s.name != "large_orders")


def test_streams_over_streams_run_in_their_order() -> None:
    driver = Driver(clone_root() / "schemas" / "pipelines" / "clicks")
    for i in range(6):
        driver.feed("clicks", click_id=f"c{i}", visitor="v", page=f"p{i % 2}", product="sku1", campaign=None, dwell=100 * i,
                    clicked_at=START + i * 1_000)  # fmt: skip
    driver.feed("products", sku="sku1", category="toys", price="600.00", changed_at=START)
    driver.feed(
        "purchases", purchase_id="b1", visitor="v", products=["sku1", "sku2"], amount="600.00", purchased_at=START + 9_000
    )
    assert [r["clicks"] for r in driver.results("Visit", ended=True)] == [6]
    assert [(r["product"], r["category"]) for r in driver.results("PricedLine", ended=True)] == [
        ("sku1", "toys"),
        ("sku2", None),
    ]
    assert [r["cents"] for r in driver.results("DearLine", ended=True)] == [6_000_000]
    assert [r["purchase_id"] for r in driver.results("ViewOutcome", ended=True)] == ["b1"]
    driver.check()


def test_a_broken_operator_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(PLAN)
    driver.feed("orders", order_id="a", line_id="l", shop="s", cents=5, gift=False, at=START)
    monkeypatch.setattr(running.Streams, "results", lambda *_: [])
    with pytest.raises(Mismatch, match="order_minutes in 1 batches lacks"):
        driver.check()
