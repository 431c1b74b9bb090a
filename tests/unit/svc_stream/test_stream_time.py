"""Event time where nothing comes: quiet partitions, silent streams, and rows that come after all."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.contracts.records import AdvanceCause
from headrace.declare import Event, Long, Pipeline, Timestamp, Tumbling, compile, stream
from svc_stream.streams.worker import StreamWorker
from unit.svc_stream.stream_rig import BEGIN, StreamRig

SECOND = 1_000


class Tapped(Event, topic="taps", key="meter", time="at", lateness="10s", poison_bound="5s"):
    meter: str
    litres: Long
    at: Timestamp


@stream(Tapped, by=(), window=Tumbling("10s"), partitions=1)
class AllTaps:
    taps = Tapped.count()


@stream(Tapped, window=Tumbling("10s"))
class MeterTaps:
    taps = Tapped.count()


@stream(Tapped, window=Tumbling("10s"), tick="20s")
class TickedTaps:
    taps = Tapped.count()


PLAN = compile(Pipeline("water", events=[Tapped], streams=[AllTaps, MeterTaps, TickedTaps], owner="ops"))
ALL, METER, TICKED = PLAN.streams


def tap(rig: StreamRig, partition: int, second: float, append: float | None = None) -> None:
    at = BEGIN + int(second * SECOND)
    rig.send("taps", partition, {"meter": "m", "litres": 1, "at": at}, at if append is None else BEGIN + int(append * SECOND))


def windows(rig: StreamRig, of: Any) -> list[tuple[int, int]]:
    """(start in s, taps) of each result."""
    return sorted(((row["window_start"] - BEGIN) // SECOND, row["taps"]) for row in rig.results(of))


def wait(rig: StreamRig, worker: StreamWorker, seconds: int) -> None:
    for _ in range(seconds):
        rig.clock.advance(SECOND)
        worker.step()


@pytest.fixture
def rig() -> StreamRig:
    return StreamRig(PLAN, idle_ms=30 * SECOND)


def test_a_partition_that_never_spoke_stalls_nobody_for_ever(rig: StreamRig) -> None:
    worker = rig.worker(ALL)
    for second in (1, 2, 15, 40):
        tap(rig, 0, second)
    rig.drain(worker)
    assert windows(rig, ALL) == [], "partition 1 may still have something to say"
    for second in (41, 75, 80):
        tap(rig, 0, second)
        wait(rig, worker, 16)
    assert windows(rig, ALL)[:2] == [(0, 2), (10, 1)]
    assert {(a.set, a.partition, a.cause) for a in rig.advances()} == {("all_taps", 1, AdvanceCause.IDLE)}


def test_a_row_that_comes_after_all_is_refused_and_reopens_nothing(rig: StreamRig) -> None:
    worker = rig.worker(ALL)
    for second in (1, 15, 60):
        tap(rig, 0, second)
        rig.drain(worker)
        wait(rig, worker, 16)
    tap(rig, 0, 70)
    wait(rig, worker, 20)
    before = windows(rig, ALL)
    assert (0, 1) in before
    tap(rig, 1, 2, append=120)  # in time by its own partition, which never had a record
    tap(rig, 1, 65, append=121)
    rig.drain(worker)
    wait(rig, worker, 3)
    late = rig.letters()
    assert [(x.topic, x.partition, x.reason) for x in late] == [("water.taps.v1", 1, "late")]
    assert "had gone on without" in late[0].detail
    assert worker.metrics.refusals == 1
    assert [w for w in windows(rig, ALL) if w[0] < 10] == [(0, 1)], "closed once, and never again"


def test_a_silent_stream_is_closed_by_the_clock_only_where_a_tick_is_declared(rig: StreamRig) -> None:
    plain, ticked = rig.worker(METER), rig.worker(TICKED)
    for second in (1, 2, 15):
        tap(rig, 0, second)
        tap(rig, 1, second)
    rig.drain(plain, ticked)
    for _ in range(60):
        wait(rig, plain, 1)
        ticked.step()
    assert windows(rig, METER) == []
    assert windows(rig, TICKED) == [(0, 2), (0, 2), (10, 1), (10, 1)]
    assert {a.cause for a in rig.advances() if a.set == "ticked_taps"} == {AdvanceCause.TICK}
    told = len(rig.advances())
    wait(rig, ticked, 300)
    assert len(rig.advances()) == told, "what was open is closed: no more transactions"


def test_an_advance_survives_its_worker(rig: StreamRig) -> None:
    worker = rig.worker(TICKED)
    tap(rig, 0, 1)
    rig.drain(worker)
    wait(rig, worker, 60)
    assert windows(rig, TICKED) == [(0, 1)]
    worker.close()
    again = rig.worker(TICKED, lose_disk=True)
    tap(rig, 0, 2, append=61)
    rig.drain(again)
    wait(rig, again, 60)
    assert windows(rig, TICKED) == [(0, 1)], "below what had closed: refused"
    assert [x.reason for x in rig.letters()] == ["late"]
