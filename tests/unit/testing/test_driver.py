"""The driver runs a declaration as the services do, and its check can fail."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from headrace.declare import (
    Annotated,
    Decimal,
    Event,
    Int,
    Minutes,
    Nullable,
    Pipeline,
    Range,
    Scale,
    Text,
    Timestamp,
    feature_set,
)
from headrace.plan import tiles, verdicts
from headrace.plan.lower import Status
from headrace.plan.verdicts import Verdict
from headrace.testing import Driver, Mismatch, replica

FLIGHTS = Path(__file__).parents[3] / "schemas" / "pipelines" / "flights"
NINE = 1_370_077_200_000  # 2013-06-01T09:00Z


class Departed(Event, topic="departures", key="flight_id", time="departed_at", lateness="1h", dedup=("flight_id", "6h")):
    flight_id: Text
    origin: Nullable[Text]
    departed_at: Timestamp
    dep_delay: Nullable[Minutes]


class Paid(Event, topic="payments", key="card", time="paid_at", lateness="10m", partitions=3):
    card: Text
    amount: Annotated[Decimal, Scale(2), Range(0, 10_000)]
    items: Annotated[Int, Range(0, 100)]
    shop: Int
    paid_at: Timestamp


@feature_set(entity="origin", ttl="1d", stale_after="2h")
class OriginLoad:
    departures_1h = Departed.count().over("1h", hop="5m")
    delay_mean_1h = Departed.dep_delay.mean().over("1h", hop="5m")
    last_delay = Departed.dep_delay.last(max_age="2h")


@feature_set(entity=("card", "shop"), ttl="2d")
class CardSpend:
    spent_1d = Paid.amount.sum().over("1d", hop="1h")
    highest_1d = Paid.amount.max(where=Paid.items > 1).over("1d", hop="1h")


toys = Pipeline("toys", owner="ops", events=[Departed, Paid], feature_sets=[OriginLoad, CardSpend])


def test_any_declaration_runs_in_ten_lines() -> None:
    driver = Driver(toys)
    driver.feed(Departed, flight_id="A", origin="EWR", departed_at="2013-06-01T09:00Z", dep_delay=20)
    driver.feed(Departed, flight_id="B", origin="EWR", departed_at="2013-06-01T09:10Z", dep_delay=40)
    found = driver.features(OriginLoad, "EWR", at="2013-06-01T09:15Z")
    assert dict(found) == {"departures_1h": 2, "delay_mean_1h": 30, "last_delay": 40}
    assert set(found.statuses.values()) == {Status.FRESH}
    assert driver.features(OriginLoad, "JFK")["delay_mean_1h"] is None
    assert driver.check().values > 6


def test_every_verdict_can_be_provoked_and_seen() -> None:
    driver = Driver(toys)
    first = driver.feed(Departed, flight_id="A", origin="EWR", departed_at=NINE, dep_delay=1, partition=0)
    again = driver.feed(Departed, flight_id="A", origin="EWR", departed_at=NINE, dep_delay=1, partition=0)
    early = driver.feed(Departed, flight_id="B", departed_at=NINE + 6 * 60_000, partition=0, appended=NINE)
    late = driver.feed(Departed, flight_id="C", departed_at=NINE - 3_600_001, partition=0)
    elsewhere = driver.feed(Departed, flight_id="C", departed_at=NINE - 3_600_001, partition=1)
    outside = driver.feed("Departed", flight_id="D", departed_at=NINE, dep_delay=1_000_000)
    null = driver.feed("departures", flight_id=None, departed_at=NINE, partition=1)
    raw = driver.feed_bytes(Departed)
    found = [fed.verdict for fed in (first, again, early, late, elsewhere, outside, null, raw)]
    bad = Verdict.UNDECODABLE
    assert found == [Verdict.OK, Verdict.DUPLICATE, Verdict.POISON, Verdict.LATE, Verdict.OK, bad, bad, bad]
    assert (driver.late(), driver.duplicates(), driver.dead_letters()) == ([late], [again], [early, outside, null, raw])
    assert outside.reason.startswith("out_of_range: dep_delay is 1000000")
    assert raw.reason.startswith("unknown_schema")
    assert null.reason
    assert first.reason == ""
    driver.check()


def test_append_times_never_fall_and_the_clock_is_moved_by_hand() -> None:
    driver = Driver(toys)
    driver.feed(Departed, flight_id="A", origin="EWR", departed_at=NINE)
    driver.advance("30m")
    assert driver.feed(Departed, flight_id="B", origin="EWR", departed_at=NINE).append_ms == NINE + 1_800_000
    assert driver.features(OriginLoad, "EWR").t_ms == NINE + 1_800_000
    driver.advance(to="2013-06-01T10:00Z")
    assert driver.now_ms == NINE + 3_600_000
    with pytest.raises(ValueError, match="never goes back"):
        driver.advance(to=NINE)
    with pytest.raises(ValueError, match="append times never fall"):
        driver.feed(Departed, flight_id="C", departed_at=NINE, appended=NINE)
    with pytest.raises(ValueError, match="partitions 0 to 1"):
        driver.feed(Departed, flight_id="C", departed_at=NINE, partition=2)


def test_values_are_written_as_people_say_them() -> None:
    driver = Driver(toys)
    driver.feed(Paid, card="c", amount="12.50", items=2, shop=7, paid_at="2013-06-01T05:00-04:00")
    driver.feed(Paid, {"card": "c", "amount": 0.25, "items": 1, "shop": 7, "paid_at": NINE})
    found = driver.features(CardSpend, ("c", 7))
    assert dict(found) == {"spent_1d": 12.75, "highest_1d": 12.5}
    assert driver.features(CardSpend, {"shop": 7, "card": "c"}).entity == found.entity == "c\x1f7"
    for wrong, message in (
        ({"amount": "1.005"}, "more than 2 digits"),
        ({"amount": "much"}, "not a number"),
        ({"paid_at": "2013-06-01T09:00"}, "no zone"),
        ({"paid_at": "yesterday"}, "not a time"),
        ({"amuont": 1}, "Paid has no field amuont"),
    ):
        with pytest.raises(ValueError, match=message):
            driver.feed(Paid, **wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="no feature set 'origin'"):
        driver.features("origin", "EWR")
    with pytest.raises(ValueError, match="no event 'x'"):
        driver.feed("x")


def request(**changed: Any) -> dict[str, Any]:
    return {
        "flight_id": "X", "requested_at": "2013-06-01T09:15Z", "carrier": "UA", "flight": 1, "tail": "N1", "origin": "EWR",
        "dest": "SFO", "distance": 2565, "sched_dep": "2013-06-01T11:15Z", "sched_arr": "2013-06-01T17:15Z", "hour": 7,
        "ask": True,
    } | changed  # fmt: skip


def test_a_decision_is_the_rules_until_a_scorer_stands_for_a_model() -> None:
    driver = Driver(FLIGHTS)
    unknown = driver.decide("late_arrival", request())
    assert unknown is not None
    assert (unknown.source, unknown.decision) == ("default", False)
    flight = {"carrier": "UA", "tail": "N1", "origin": "EWR", "dest": "SFO", "outcome": "departed"}
    driver.feed("departures", flight, flight_id="A", departed_at="2013-06-01T09:00Z", dep_delay=31)
    ruled = driver.decide("late_arrival", request())
    assert ruled is not None
    assert (ruled.source, ruled.decision, ruled.rule_score, ruled.inputs["distance"]) == ("rules", True, 31, 2565)
    assert ruled.features["tail_state"]["tail_last_dep_delay"] == 31
    scored = driver.decide("late_arrival", request(), scorer=lambda inputs: (inputs["origin_delay_mean_1h"] or 0) / 100)
    assert scored is not None
    assert (scored.source, scored.decision, scored.score) == ("model", False, 0.31)  # below the threshold of 0.4
    assert driver.decide("late_arrival", request(ask=False)) is None
    driver.check()


@pytest.mark.parametrize("seed", range(8))
def test_random_logs_read_as_the_oracle_says(seed: int) -> None:
    """Late, duplicate, null, tied, poison and undecodable records, asked on the way."""
    rng, driver = random.Random(seed), Driver(toys)
    _wander(rng, driver, 60)
    checked = driver.check()
    assert checked.verdicts == 60
    assert checked.fresh > 0
    assert {verdict for _, verdict in driver.verdicts()} >= {Verdict.OK, Verdict.LATE}


def _wander(rng: random.Random, driver: Driver, records: int) -> None:
    now = NINE
    for number in range(records):
        now += rng.choice((0, 1, 60_000, 900_000))
        time = now - rng.choice((0, 0, 0, 60_000, 3_700_000)) + rng.choice((0, 0, 0, 0, 360_000))
        if rng.random() < 0.05:
            driver.feed_bytes(Departed, appended=max(now, driver.now_ms), partition=rng.randrange(2))
        elif rng.random() < 0.6:
            driver.feed(
                Departed, flight_id=f"f{rng.randrange(number + 1)}", origin=rng.choice(("EWR", "JFK", None)), departed_at=time,
                dep_delay=rng.choice((None, -3, 0, 15, 16, 400)), appended=now,
            )  # fmt: skip
        else:
            driver.feed(
                Paid, card=rng.choice("ab"), amount=f"{rng.randrange(100_000) / 100:.2f}", items=rng.randrange(3),
                shop=rng.randrange(2), paid_at=time, appended=now,
            )  # fmt: skip
        if rng.random() < 0.2:
            driver.features(OriginLoad, rng.choice(("EWR", "JFK", "never")), at=now - rng.choice((0, 1, 3_600_000)))
            driver.features(CardSpend, (rng.choice("ab"), 1), at=now)


def test_check_catches_a_tile_too_far(monkeypatch: pytest.MonkeyPatch) -> None:
    read = replica.read_features
    monkeypatch.setattr(replica, "read_features", lambda s, e, t, *more: read(s, e, [x - 300_000 for x in t], *more))
    driver = Driver(toys)
    driver.feed(Departed, flight_id="A", origin="EWR", departed_at=NINE, dep_delay=20)
    with pytest.raises(Mismatch, match=r"origin_load.departures_1h of 'EWR'.*the oracle"):
        driver.check()


def test_check_catches_a_maximum_per_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lateness judged against the largest event time of the whole batch, later records included."""

    def per_batch(maximum_ms: int | None, times: verdicts.Int64s, valid: verdicts.Bools) -> tuple[Any, Any]:
        before, after = honest(maximum_ms, times, valid)
        before[:] = after[-1]
        return before, after

    honest = verdicts.running_maximum
    driver = Driver(toys)
    driver.feed(Departed, flight_id="A", origin="EWR", departed_at=NINE, dep_delay=20, partition=0)
    driver.feed(Departed, flight_id="B", origin="EWR", departed_at=NINE + 7_200_000, dep_delay=20, partition=0)
    driver.check()
    monkeypatch.setattr(verdicts, "running_maximum", per_batch)
    with pytest.raises(Mismatch, match="LATE, in one batch; the oracle says OK"):
        driver.check()


def test_check_catches_a_lift_that_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(toys)
    monkeypatch.setattr(replica, "lift", lambda s, e, frame: tiles.lift(s, e, frame.head(1)))
    for name in ("A", "B"):
        driver.feed(Departed, flight_id=name, origin="EWR", departed_at=NINE, dep_delay=20, partition=0)
    with pytest.raises(Mismatch, match="departures_1h"):
        driver.check()
