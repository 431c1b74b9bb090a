"""Batches of one transaction: what is judged, lifted, split over destinations and rejected."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from headrace.chassis.bus import Record
from headrace.contracts.errors import Fatal
from headrace.contracts.partition import partition_for
from headrace.contracts.records import PartialTiles, RecordRejected, SourceRange
from headrace.plan.oracle import RawRecord
from headrace.plan.topics import partials_topic
from headrace.plan.verdicts import Verdict
from support.law_worlds import DEPARTURES, HOUR, MIN
from svc_stream.app import reporters
from svc_stream.domain.entity import EntityState
from svc_stream.domain.source import JudgedRows, SourceTask
from svc_stream.handlers import fitting, judge_batch, lifted, partials_of
from unit.svc_stream.rig import GATE, ORIGIN, PLAN, Rig, by_append, world

NOW = 1_000 * HOUR
BAD = {
    "poison": {"departed_at": NOW + DEPARTURES.poison_bound_ms + 10 * MIN},
    "late": {"departed_at": NOW - DEPARTURES.lateness_ms - 10 * MIN},
    "undecodable": None,
}


def departure(number: int, **fields: object) -> RawRecord:
    row = {"flight_id": f"F{number}", "origin": "EWR", "gate": 1, "departed_at": NOW, "delay": number, "fare": 100}
    return RawRecord("departures", 0, number, NOW + number, row | fields)


PLACES = [(k, p) for k in BAD for p in range(5) if (k, p) != ("late", 0)]  # the first record of a log is never late


@pytest.mark.parametrize(("kind", "position"), PLACES)
def test_a_bad_record_at_any_place_of_a_batch_harms_no_other(kind: str, position: int) -> None:
    rig, bad = Rig(), BAD[kind]
    log = [departure(n) for n in range(5)]
    log[position] = RawRecord("departures", 0, position, NOW + position, None) if bad is None else departure(position, **bad)
    rig.send(log)
    rig.drain(rig.worker(ORIGIN))
    assert list(rig.letters()) == [("departures", 0, position)]
    assert set(rig.letters()) == set(rig.expected_letters())
    rig.compare(ORIGIN, random.Random(position))


def test_an_entity_of_no_characters_is_an_entity_and_null_is_none() -> None:
    rig = Rig()
    rig.send([departure(0, origin=""), departure(1, origin=None), departure(2, origin="")])
    rig.drain(rig.worker(ORIGIN))
    view = rig.view(ORIGIN, partition_for("", ORIGIN.partitions))
    assert rig.read(ORIGIN, view, "", NOW)[0][0] == (2.0).hex()
    assert {key.entity for key in rig.state(ORIGIN)} == {""}


def judged(rig: Rig, seed: int) -> tuple[SourceTask, list[JudgedRows], list[RecordRejected]]:
    """One partition of a generated log, judged as one batch."""
    rig.send([r for r in by_append(world(seed, 120)) if (r.event, r.partition) == ("departures", 1)])
    records = rig.broker.records(DEPARTURES.topic)
    task = SourceTask(DEPARTURES, 1, 0, 0)
    outcome = judge_batch(task, rig.schemas["departures"], rig.codec, records)
    return task, [outcome.rows(task)], outcome.rejected


def partials_to_all(rows: list[JudgedRows], encode: Callable[[PartialTiles], bytes], bytes_max: int) -> list[tuple[int, bytes]]:
    """Everything by the log, to every destination."""
    events = {e.name: e for e in PLAN.events}
    pieces = lifted(ORIGIN, events, rows)
    return partials_of(ORIGIN, events, rows, pieces, [], range(ORIGIN.partitions), encode, bytes_max)


@pytest.mark.parametrize("bytes_max", [100_000, 800, 500])
def test_partials_too_large_for_a_record_become_shorter_ranges_with_the_same_state(bytes_max: int) -> None:
    rig = Rig()
    task, rows, _ = judged(rig, 5)

    def encode(partial: PartialTiles) -> bytes:
        return rig.codec.encode(partials_topic(PLAN, ORIGIN), partial)

    values = partials_to_all(rows, encode, bytes_max)
    assert max(len(v) for _, v in values) <= bytes_max
    assert (len(values) > ORIGIN.partitions) is (bytes_max < 100_000)
    states = [EntityState(ORIGIN, p, lambda keys: [None] * len(keys), None, {}, 10_000) for p in range(ORIGIN.partitions)]
    whole = [EntityState(ORIGIN, p, lambda keys: [None] * len(keys), None, {}, 10_000) for p in range(ORIGIN.partitions)]
    for offset, (partition, value) in enumerate(values):
        assert states[partition].apply(rig.codec.decode(value, PartialTiles), offset)
    for partition, value in partials_to_all(rows, encode, 1 << 30):
        assert whole[partition].apply(rig.codec.decode(value, PartialTiles), 0)
    for a, b in zip(states, whole, strict=True):
        left, right = a.commit(), b.commit()
        assert left.progress.cut == right.progress.cut
        assert left.progress.cut[0].next_offset == task.next_offset
        assert left.progress.cut[0].maximum_ms == task.state.maximum_ms
        assert {k: (v.starts_ms.tolist(), v.slots.tolist()) for k, v in left.blocks.items()} == {
            k: (v.starts_ms.tolist(), v.slots.tolist()) for k, v in right.blocks.items()
        }


def test_a_single_record_that_fits_nowhere_is_fatal() -> None:
    rig = Rig()
    _, rows, _ = judged(rig, 5)
    with pytest.raises(Fatal, match="one record"):
        partials_to_all(rows, lambda _: b"x" * 100, 99)


def test_a_gap_in_a_chain_of_ranges_is_fatal_and_a_repeat_is_skipped() -> None:
    rig = Rig()
    _, rows, _ = judged(rig, 5)

    def encode(partial: PartialTiles) -> bytes:
        return rig.codec.encode(partials_topic(PLAN, ORIGIN), partial)

    values = partials_to_all(rows, encode, 500)
    mine = [rig.codec.decode(v, PartialTiles) for p, v in values if p == 0]
    state = EntityState(ORIGIN, 0, lambda keys: [None] * len(keys), None, {}, 10_000)
    assert state.apply(mine[0], 0) and not state.apply(mine[0], 1)
    with pytest.raises(Fatal, match="gap"):
        state.apply(mine[2], 2)


def test_an_empty_range_tells_of_time_alone_and_never_moves_the_cut_back() -> None:
    """Where the state stands it is taken, however often; below it is old news; above it is a gap."""
    state = EntityState(ORIGIN, 0, lambda keys: [None] * len(keys), None, {}, 10_000)

    def partial(*ranges: tuple[int, int, int]) -> PartialTiles:
        told = [
            SourceRange(event="weather", partition=0, from_offset=a, to_offset=b, maximum_ms=m, watermark_ms=m)
            for a, b, m in ranges
        ]
        return PartialTiles(set_hash=ORIGIN.hash, ranges=tuple(told), columns=())

    state.apply(partial((0, 5, 10)), 0)
    assert state.apply(partial((5, 5, 20)), 1) and state.apply(partial((5, 5, 20)), 1)
    assert state.commit().progress.cut[0].watermark_ms == 20
    assert not state.apply(partial((0, 5, 10), (3, 3, 10)), 2)
    state.apply(partial((3, 3, 10), (5, 9, 30)), 3)
    assert state.cut() == {("weather", 0): 9}
    with pytest.raises(Fatal, match="gap"):
        state.apply(partial((11, 11, 40)), 4)


def test_a_rejected_record_too_large_to_write_again_leaves_its_bytes_behind() -> None:
    rig = Rig()
    _, _, rejected = judged(rig, 5)
    size = len(rejected[0].value or b"")
    assert fitting(rejected[0], size) is rejected[0]
    smaller = fitting(rejected[0], size - 1)
    assert smaller.value is None and smaller.origin_id == rejected[0].origin_id and "left out" in smaller.detail


def test_each_event_has_one_reporter() -> None:
    of = reporters(PLAN)
    assert sorted(e for events in of.values() for e in events) == ["departures", "weather"]
    assert of[GATE.hash] == frozenset() and of[ORIGIN.hash] == {"departures", "weather"}


def test_a_null_value_is_undecodable_not_a_crash() -> None:
    rig = Rig()
    record = Record(DEPARTURES.topic, 0, 0, NOW, b"k", None)
    outcome = judge_batch(SourceTask(DEPARTURES, 0, 0, 0), rig.schemas["departures"], rig.codec, [record])
    assert outcome.counts == {Verdict.UNDECODABLE.name.lower(): 1}
    assert outcome.rejected[0].reason == "bad_frame"
