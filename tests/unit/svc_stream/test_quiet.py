"""Source partitions nobody writes to: event time goes on, is logged, survives, and no verdict hears of it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from headrace.chassis.bus import TopicPartition
from headrace.contracts.records import AdvanceCause, TimeAdvanced
from headrace.plan.oracle import Oracle, RawRecord
from headrace.plan.topics import time_advances_topic
from support.law_worlds import DEPARTURES, HOUR, MIN
from svc_stream.domain.quiet import Advance, Quiet, Standing
from svc_stream.engine import SetWorker
from unit.svc_stream.rig import GATE, ORIGIN, Rig, by_append, world
from unit.svc_stream.test_handlers import NOW, departure

LATENESS = DEPARTURES.lateness_ms
OWN = frozenset({("a", 0), ("a", 1)})


def standings(*at: tuple[int, int, int | None]) -> dict[tuple[str, int], Standing]:
    return {("a", p): Standing(offset, watermark) for p, offset, watermark in at}


def test_a_quiet_partition_follows_the_slowest_that_is_not() -> None:
    quiet = Quiet(10.0)
    assert list(quiet.advances(standings((0, 5, 100), (1, 5, 300), (2, 5, 200)), OWN, 0.0)) == []
    moved = standings((0, 5, 100), (1, 6, 310), (2, 9, 210))
    assert list(quiet.advances(moved, OWN, 9.0)) == [], "not quiet for long enough"
    assert list(quiet.advances(moved, OWN, 10.0)) == [Advance(("a", 0), 210, 10.0)]
    assert list(quiet.advances(moved, OWN - {("a", 0)}, 10.0)) == [], "another worker decides about it"
    assert list(quiet.advances(moved, OWN, 30.0)) == [], "all are quiet: there is nobody to follow"


def test_a_partition_that_never_had_a_record_is_quiet_and_one_that_is_read_but_says_nothing_holds_back() -> None:
    quiet = Quiet(10.0)
    list(quiet.advances(standings((0, 0, None), (1, 5, 300)), OWN, 0.0))
    assert list(quiet.advances(standings((0, 0, None), (1, 6, 300)), OWN, 10.0)) == [Advance(("a", 0), 300, 10.0)]
    quiet = Quiet(10.0)
    list(quiet.advances(standings((0, 5, 100), (1, 5, 300), (2, 0, None)), OWN, 0.0))
    assert list(quiet.advances(standings((0, 5, 100), (1, 6, 300), (2, 3, None)), OWN, 10.0)) == []


def told(rig: Rig) -> list[TimeAdvanced]:
    return [rig.codec.decode(r.value, TimeAdvanced) for r in rig.broker.records(time_advances_topic(rig.plan.pipeline))]


def advances(rig: Rig) -> list[tuple[str, int, int, int]]:
    return [(a.event, a.partition, a.next_offset, a.watermark_ms) for a in told(rig)]


def watermarks(rig: Rig, partition: int) -> dict[tuple[str, int], int]:
    view = rig.view(ORIGIN, partition)
    cuts = view.progress.cut if view.progress else ()
    return {(c.event, c.partition): c.watermark_ms for c in cuts if c.watermark_ms is not None}


def in_partition(number: int, partition: int, time_ms: int) -> RawRecord:
    raw = departure(number, departed_at=time_ms)
    return RawRecord("departures", partition, number, NOW + number * MIN, raw.fields)


def pass_time(rig: Rig, workers: Sequence[SetWorker], steps: int) -> None:
    """Two seconds each."""
    for _ in range(steps):
        rig.clock.advance(2_000)
        for worker in workers:
            worker.step()


def checked(rig: Rig) -> None:
    """Each state says of time what the oracle says, which reads the log and the advances."""
    oracle = Oracle(rig.plan.events, rig.log)
    for partition in range(ORIGIN.partitions):
        view = rig.view(ORIGIN, partition)
        assert watermarks(rig, partition) == oracle.watermarks(rig.cut(view), advances(rig))


@pytest.mark.parametrize("names", ["a", "ab"])
def test_a_partition_that_goes_quiet_is_logged_carried_by_progress_and_survives_a_lost_disk(names: str) -> None:
    rig = Rig()
    rig.send([in_partition(0, 0, NOW), in_partition(1, 1, NOW)])
    workers = [rig.worker(ORIGIN, name) for name in names]
    rig.drain(*workers)
    for minute in range(2, 42):  # partition 1 goes on, 0 is quiet, 2 never had a record
        rig.send([in_partition(minute, 1, NOW + minute * MIN)])
        pass_time(rig, workers, 1)  # there is always something to read
    rig.drain(*workers)  # what was told by the log arrives
    found = told(rig)
    assert {(a.event, a.partition) for a in found} == {("departures", 0), ("departures", 2)}
    assert {a.cause for a in found} == {AdvanceCause.IDLE} and min(a.quiet_ms for a in found) >= 30_000
    checked(rig)
    reached = watermarks(rig, 0)["departures", 0]
    assert NOW < reached + LATENESS < NOW + 42 * MIN
    before = rig.state(ORIGIN)
    for worker in workers:
        worker.close()
    again = rig.worker(ORIGIN, "a", lose_disk=True)
    rig.drain(again)
    rig.send([in_partition(50, 0, NOW + MIN)])
    rig.drain(again)
    assert watermarks(rig, 0)["departures", 0] == reached, "nothing lowers a watermark"
    checked(rig)
    assert rig.letters() == {}, "what comes below it is late only by its own partition's log"
    assert len(rig.state(ORIGIN)) >= len(before)
    rig.compare(ORIGIN, random.Random(1), questions=20)


def test_a_source_that_is_quiet_as_a_whole_and_one_that_is_never_quiet_write_nothing() -> None:
    rig = Rig()
    rig.send(by_append(world(3, 60)))
    worker = rig.worker(GATE)
    rig.drain(worker)
    sequence = [rig.view(GATE, p).progress for p in range(GATE.partitions)]
    pass_time(rig, [worker], 120)
    assert told(rig) == []
    assert [rig.view(GATE, p).progress for p in range(GATE.partitions)] == sequence


def test_a_partition_that_is_only_behind_is_not_quiet() -> None:
    """Goal: records lie there unread. Method: the consumer does not fetch them."""
    rig = Rig()
    rig.send([in_partition(0, 0, NOW), in_partition(1, 1, NOW)])
    worker = rig.worker(ORIGIN)
    rig.drain(worker)
    rig.send([in_partition(2, 0, NOW + HOUR)])
    worker._consumer.pause([TopicPartition(DEPARTURES.topic, 0)])
    for minute in range(3, 43):
        rig.send([in_partition(minute, 1, NOW + minute * MIN)])
        pass_time(rig, [worker], 1)
    assert {(a.event, a.partition) for a in told(rig)} == {("departures", 2)}
