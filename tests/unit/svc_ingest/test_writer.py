"""Once and only once: what the writer leaves in the topics over kills, repeats and a broker that does not say."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.chassis.bus_memory import MemoryBus
from headrace.chassis.clock import ManualClock
from headrace.chassis.errors import Retryable
from svc_ingest.adapters.json_lines import json_rows
from svc_ingest.ports import Batch, Receipt
from unit.svc_ingest.rig import HOLD_MS, HOUR_MS, NOW_MS, Rig, departure, lines

SAMPLED = f"00-{'a' * 32}-{'b' * 16}-01"


def batch(rig: Rig, body: bytes, origin: str = "o", source: str = "departures", traceparent: str | None = None) -> Batch:
    return Batch(rig.route(source), origin, json_rows(body), traceparent, len(body))


def write(rig: Rig, body: bytes, origin: str = "o") -> Receipt:
    (receipt,) = rig.writer.write([batch(rig, body, origin)])
    assert isinstance(receipt, Receipt), receipt
    return receipt


@pytest.mark.parametrize("keep_disk", [True, False], ids=["same disk", "lost disk"])
def test_a_kill_between_produce_and_record_writes_nothing_twice(keep_disk: bool) -> None:
    rig = Rig(bus := MemoryBus())
    write(rig, lines(departure(0)), "first")
    bus.broker.fail("flush", Retryable("killed here"), after=True)
    body = lines(departure(1), b"{broken", departure(2))
    with pytest.raises(Retryable):
        rig.writer.write([batch(rig, body)])
    assert len(rig.events()) == 3, "the dead process's records are in the topic"
    receipt = write(rig.reborn(keep_disk=keep_disk), body)
    assert (receipt.accepted, receipt.duplicates, receipt.rejected) == (0, 2, 1)
    assert len(rig.events()) == 3
    assert len(rig.letters()) == 1


def test_the_same_process_looks_before_it_writes_again_after_an_unknown_delivery() -> None:
    rig = Rig(bus := MemoryBus())
    bus.broker.fail("flush", Retryable("timed out"), after=True)
    with pytest.raises(Retryable):
        rig.writer.write([batch(rig, lines(departure(0), departure(1)))])
    assert write(rig, lines(departure(0), departure(1), departure(2))).accepted == 1
    assert len(rig.events()) == 3


def test_nothing_is_written_while_the_tails_cannot_be_read_back() -> None:
    rig = Rig(bus := MemoryBus())
    bus.broker.fail("flush", Retryable("timed out"), after=True)
    bus.broker.fail("watermarks", Retryable("still away"))
    for _ in range(2):
        with pytest.raises(Retryable):
            rig.writer.write([batch(rig, lines(departure(0)))])
    assert len(rig.events()) == 1
    assert write(rig, lines(departure(0))).duplicates == 1


def test_two_batches_of_one_round_share_their_names() -> None:
    rig = Rig()
    body = lines(departure(0), b"{broken")
    first, second = rig.writer.write([batch(rig, body), batch(rig, body)])
    assert isinstance(first, Receipt)
    assert isinstance(second, Receipt)
    assert (first.accepted, second.accepted, second.duplicates) == (1, 0, 1)
    assert len(rig.letters()) == 1


def test_a_batch_that_spans_more_than_a_horizon_repeats_whole() -> None:
    rig = Rig()
    body = lines(*(departure(n, departed_at=NOW_MS - 1000 * HOUR_MS + n * HOUR_MS) for n in range(100)))
    assert write(rig, body).accepted == 100
    assert write(rig, body).duplicates == 100


def test_an_id_used_again_after_its_horizon_is_a_new_event() -> None:
    rig = Rig()
    times = [NOW_MS - 100 * HOUR_MS, NOW_MS - 95 * HOUR_MS, NOW_MS - 93 * HOUR_MS]
    receipts = [write(rig, lines(departure(0, departed_at=time)), f"o{time}") for time in times]
    assert [receipt.accepted for receipt in receipts] == [1, 0, 1]


def test_names_past_horizon_and_hold_are_forgotten_and_no_others() -> None:
    clock = ManualClock(NOW_MS)
    rig = Rig(clock=clock)
    write(rig, lines(departure(0, departed_at=NOW_MS - 50 * HOUR_MS), b"{broken"), "old")
    clock.advance(HOLD_MS + 1)
    write(rig, lines(departure(1, departed_at=NOW_MS)), "new")  # moves the largest event time past the horizon
    for n in range(60):  # rounds of the sweep
        write(rig, lines(departure(10 + n, departed_at=NOW_MS)), f"later{n}")
        clock.advance(HOLD_MS // 20)
    names = {key.rpartition(b"\0")[2].decode() for key, _ in rig.store.range(b"i")}
    assert names == {"UA-1", *(f"UA-{10 + n}" for n in range(60))}
    assert not list(rig.store.range(b"d"))


def test_events_of_a_foreign_producer_in_the_tail_are_left_alone() -> None:
    rig = Rig()
    producer = rig.bus.producer("foreign")
    producer.produce("flights.departures.v1", b"not avro at all", b"k", headers=[("event-id", b"x")])
    producer.produce(
        "flights.departures.v1", rig.route().encode(departure(7, gust=None, hour=None, ratio=None, diverted=None)), b"UA-7"
    )
    producer.flush(1)
    again = rig.reborn(keep_disk=False)
    assert write(again, lines(departure(7))).accepted == 1


def test_a_fault_of_ours_costs_one_batch_only() -> None:
    rig = Rig()

    def explode():
        yield next(json_rows(lines(departure(0))))
        raise ZeroDivisionError

    bad = Batch(rig.route(), "bad", explode())
    fault, receipt = rig.writer.write([bad, batch(rig, lines(departure(1)))])
    assert isinstance(fault, ZeroDivisionError)
    assert isinstance(receipt, Receipt)
    assert [event["flight_id"] for event in rig.events()] == ["UA-1"]


def test_offsets_of_a_receipt_lie_behind_its_events() -> None:
    rig = Rig()
    write(rig, lines(*(departure(n) for n in range(50))), "a")
    receipt = write(rig, lines(*(departure(n) for n in range(50, 100))), "b")
    ends = {}
    for record in rig.records("flights.departures.v1"):
        ends[record.partition] = record.offset + 1
    assert receipt.offsets == ends


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), flaws=st.lists(st.sampled_from(["none", "flush", "lost", "kill", "disk"]), max_size=12))
def test_whatever_fails_each_row_ends_in_the_topics_once(seed: int, flaws: list[str]) -> None:
    """A sender that repeats each batch until it hears a receipt, against a writer that is hit in between; the oracle is
    the set of what was sent."""
    rng = random.Random(seed)
    rig = Rig(bus := MemoryBus())
    sent_events, sent_letters = set(), set()
    for number, flaw in enumerate([*flaws, "none"]):
        rows = [departure(rng.randrange(40), departed_at=NOW_MS - HOUR_MS) for _ in range(rng.randrange(1, 6))]
        broken = [b"{broken %d" % rng.randrange(3) for _ in range(rng.randrange(2))]
        body = lines(*rows, *broken)
        sent_events |= {row["flight_id"] for row in rows}
        sent_letters |= {f"b{number}:{len(rows) + place}" for place in range(len(broken))}
        if flaw in ("flush", "lost"):
            bus.broker.fail("flush", Retryable(flaw), after=flaw == "lost")
        for _ in range(3):
            if flaw in ("kill", "disk"):
                rig = rig.reborn(keep_disk=flaw == "kill")
            try:
                write(rig, body, f"b{number}")
                break
            except Retryable:
                continue
    assert sorted(event["flight_id"] for event in rig.events()) == sorted(sent_events)
    assert sorted(letter.origin_id.rpartition(":")[0] for letter in rig.letters()) == sorted(sent_letters)
