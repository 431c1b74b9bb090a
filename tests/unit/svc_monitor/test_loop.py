"""The loop on the in-memory bus, with a clock of its own: reads everything again, speaks once."""

from __future__ import annotations

import pytest

from headrace.chassis.errors import PipelineFault
from headrace.contracts.catalogue import FINDINGS
from headrace.contracts.records import RolloutState, Verdict
from headrace.plan.profile import DAY_MS
from headrace.plan.topics import predictions_topic
from svc_monitor.watching import ModelWatch
from unit.svc_monitor.worlds import DAY0, HOUR, MODEL, PIPELINE, Shop, delivery, passport, profile, rollout

NOON = DAY0 * DAY_MS + 12 * HOUR


def a_canary(shop: Shop, epoch: int = 7, pairs: int = 6) -> None:
    """PAIRS decisions of each arm over both partitions, all labelled and matured."""
    for number in range(2 * pairs):
        arm = "challenger" if number % 2 else "champion"
        shop.decided(passport(number, NOON + number, arm=arm, epoch=epoch, score=0.1), partition=number // 2 % 2)
        shop.delivered(delivery(number, NOON + HOUR, 0), partition=number // 3 % 2)
    shop.decided(passport(900, NOON + 3 * DAY_MS, epoch=0))
    shop.delivered(delivery(901, NOON + 3 * DAY_MS, 0))


def test_nothing_is_said_before_the_log_as_of_the_start_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in small bites; the rollout is known from the first round on, yet the verdict waits for the whole log."""
    monkeypatch.setattr("svc_monitor.loop.CONSUME_RECORDS", 5)
    shop = Shop()
    a_canary(shop)
    loop = shop.life()
    loop.rollouts.put((rollout(7), None))
    shop.go(loop, 2)
    assert shop.spoken() == []
    shop.go(loop, 8)
    assert [(v.verdict, v.challenger_decisions) for v in shop.verdicts()] == [(Verdict.PASS, 6)]
    assert loop.watches[MODEL].join.open_decisions == 1


def test_a_restart_says_nothing_twice() -> None:
    """Verdict, finding and figures of the first life are read back by the second, which reads all inputs again."""
    shop = Shop()
    a_canary(shop)
    for day in range(8):
        shop.decided(*(passport(1000 + day * 40 + n, NOON + day * DAY_MS + n, amount=5.0, epoch=0) for n in range(40)))
    shop.delivered(delivery(5000, NOON + 9 * DAY_MS, 0))
    shop.decided(passport(5001, NOON + 9 * DAY_MS, epoch=0))
    said = shop.spoken()
    for life in range(2):
        loop = shop.life()
        loop.rollouts.put((rollout(7, champion="A"), profile(DAY0)))
        shop.go(loop)
        loop.close()
        if life == 0:
            said = shop.spoken()
    assert (len(shop.verdicts()), [f.kind for f in shop.findings()]) == (1, ["drift"])
    assert shop.performance()
    assert shop.spoken() == said


def test_rollouts_that_come_before_the_log_is_read_wait_and_later_ones_act_at_once() -> None:
    shop = Shop()
    loop = shop.life()
    loop.rollouts.put((rollout(6), None))
    loop.rollouts.put((rollout(7), None))
    a_canary(shop)
    shop.go(loop)
    assert [v.epoch for v in shop.verdicts()] == [7]
    loop.rollouts.put((rollout(8, 100, RolloutState.PROMOTED, "A"), profile(DAY0)))
    shop.go(loop)
    assert loop.watches[MODEL].watched.model_digest == "A"


def test_an_undecodable_record_is_counted_and_nothing_else() -> None:
    shop = Shop()
    shop.put("shop.deliveries.v1", b"\x00\x00\x00\x00\x63 not avro")
    shop.put(predictions_topic(PIPELINE), b"no frame")
    shop.put(FINDINGS, b"no frame")
    a_canary(shop)
    loop = shop.life()
    loop.rollouts.put((rollout(7), None))
    shop.go(loop)
    assert len(shop.verdicts()) == 1
    text = {"pipeline": PIPELINE, "reason": "bad_frame"}
    assert shop.metrics.registry.get_sample_value("monitor_unreadable_records_total", text) == 1


def test_repeated_passports_count_once() -> None:
    shop = Shop()
    a_canary(shop)
    a_canary(shop)
    loop = shop.life()
    loop.rollouts.put((rollout(7), None))
    shop.go(loop)
    (verdict,) = shop.verdicts()
    assert (verdict.challenger_decisions, verdict.control_decisions) == (6, 6)
    counted = {"pipeline": PIPELINE, "model": MODEL, "outcome": "duplicates"}
    assert shop.metrics.registry.get_sample_value("monitor_labels_total", counted) == 13


def test_a_partition_read_to_its_end_does_not_hold_time_back() -> None:
    """Partition 1 last saw an order a week ago; that it is read to its end is asked of the broker."""
    shop = Shop()
    shop.decided(passport(1, NOON), partition=1)
    shop.decided(passport(2, NOON + 7 * DAY_MS), partition=0)
    shop.delivered(delivery(3, NOON + 7 * DAY_MS, 0))
    loop = shop.life()
    shop.go(loop)
    assert loop.watches[MODEL].watermark_ms == NOON + 7 * DAY_MS - HOUR


def test_questions_are_answered_between_rounds() -> None:
    shop = Shop()
    loop = shop.life()
    watch: ModelWatch = loop.watches[MODEL]
    good, bad = loop.ask(watch.weekly.report), loop.ask(lambda: 1 // 0)
    assert not good.done()
    shop.go(loop, 1)
    assert good.result(0) == []
    with pytest.raises(ZeroDivisionError):
        bad.result(0)


def test_a_plan_without_its_topics_parks() -> None:
    shop = Shop()
    shop.bus.admin().delete_topics([predictions_topic(PIPELINE)])
    with pytest.raises(PipelineFault, match="is not there"):
        shop.life()
