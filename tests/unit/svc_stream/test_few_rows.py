"""Rounds of a few records go row by row, larger ones as frames: nobody who reads what they write can tell which."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from headrace.chassis.bus import Record
from headrace.contracts.codec import Codec, EventSchema
from headrace.contracts.records import PartialTiles
from headrace.plan.ir import FeatureSet
from headrace.plan.oracle import RawRecord
from headrace.plan.rows import lifter_of
from headrace.plan.topics import partials_topic, state_topic
from support.law_sets import random_set
from support.law_worlds import EVENTS
from svc_stream import engine
from svc_stream.domain import entity
from svc_stream.domain.source import JudgedRows, SourceTask
from svc_stream.handlers import Pronounced, judge_batch, judge_rows, lifted, partials_of
from unit.svc_stream.rig import GATE, ORIGIN, PLAN, Rig, by_append, committed, world

ALL = 1_000_000
Told = dict[str, list[tuple[int, bytes | None, bytes | None]]]


def life(feature_set: FeatureSet, seed: int, path: random.Random | None) -> tuple[Told, object, object]:
    """One worker's life over a generated log, always by frames or by what `path` says: all that it writes."""
    rng, rig = random.Random(seed), Rig(plan=replace(PLAN, feature_sets=(feature_set,)))
    worker, waiting = rig.worker(feature_set), by_append(world(seed, 90))
    while waiting:
        size = rng.choice((1, 3, 20, 60))
        batch, waiting = waiting[:size], waiting[size:]
        rig.send(batch)
        for _ in range(rng.choice((1, 1, 3))):
            worker.rows_path_max = path.choice((0, 2, 9, ALL)) if path else 0
            rig.round(worker, rng.choice((2, 7, ALL)))
    for _ in range(100):
        worker.rows_path_max = path.choice((0, 2, 9, ALL)) if path else 0
        rig.round(worker)
    written = {
        topic: [(r.partition, r.key, r.value) for r in rig.broker.records(topic)]
        for topic in (state_topic(rig.plan, feature_set), partials_topic(rig.plan, feature_set))
    }
    return written, rig.letters(), committed(rig, worker)


@pytest.mark.parametrize("seed", range(12))
def test_any_mixture_of_rows_and_frames_writes_the_same_bytes(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks, Progress, rejected records, offsets and their metadata, in their order."""
    feature_set = (ORIGIN, GATE, replace(random_set(seed), hash="4" * 64))[seed % 3]
    monkeypatch.setattr(entity, "FEW_TILES", 0)
    frames = life(feature_set, seed, None)
    assert len(next(iter(frames[0].values()))) > 20
    for few_tiles in (3, ALL):
        monkeypatch.setattr(entity, "FEW_TILES", few_tiles)
        assert life(feature_set, seed, random.Random(seed + few_tiles)) == frames


Batch = tuple[Pronounced, JudgedRows, str]


def judged_both(
    rig: Rig, feature_set: FeatureSet, tasks: tuple[SourceTask, SourceTask], batch: list[Record]
) -> tuple[Batch, Batch]:
    by_frame, by_row = tasks
    schema = rig.schemas[by_frame.event.name]
    frame, rows = judge_batch(by_frame, schema, rig.codec, batch), judge_rows(by_row, schema, rig.codec, batch)
    one = frame, frame.rows(by_frame), by_frame.metadata()
    return one, (rows, rows.rows(by_row, lifter_of(feature_set, by_row.event)), by_row.metadata())


@pytest.mark.parametrize("bytes_max", [1 << 30, 2_000, 700])
@pytest.mark.parametrize("seed", range(6))
def test_rows_and_frames_make_the_same_partials_and_their_halves_too(seed: int, bytes_max: int) -> None:
    """What goes by the log: the very bytes, split at the same places where they are too large for a record."""
    rig, rng, feature_set = Rig(), random.Random(seed), (ORIGIN, GATE)[seed % 2]
    rig.send(by_append(world(seed, 150)))
    events = {name: EVENTS[name] for name in feature_set.events}
    tasks = {
        (e.name, p): (SourceTask(e, p, 0, 0), SourceTask(e, p, 0, 0)) for e in events.values() for p in range(e.partitions)
    }
    logs = {place: [r for r in rig.broker.records(events[place[0]].topic) if r.partition == place[1]] for place in tasks}

    def values(rows: list[JudgedRows]) -> list[tuple[int, bytes]]:
        def encode(partial: PartialTiles) -> bytes:
            return rig.codec.encode(partials_topic(PLAN, feature_set), partial)

        pieces, homes = lifted(feature_set, events, rows), range(feature_set.partitions)
        return partials_of(feature_set, events, rows, pieces, ["t"], homes, encode, bytes_max)

    while any(logs.values()):
        frames: list[JudgedRows] = []
        few: list[JudgedRows] = []
        for place, log in sorted(logs.items()):
            size = rng.choice((0, 1, 9, 30))
            batch, logs[place] = log[:size], log[size:]
            if batch:
                one, other = judged_both(rig, feature_set, tasks[place], batch)
                assert (one[0].rejected, one[0].counts, one[0].sampled) == (
                    other[0].rejected,
                    other[0].counts,
                    other[0].sampled,
                )
                assert (one[1].range(), one[2]) == (other[1].range(), other[2])
                frames.append(one[1])
                few.append(other[1])
        assert values(frames) == values(few)


def test_a_topic_is_taken_row_by_row_only_if_all_that_came_of_it_is_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else tiles of one entity would be written in two pieces."""
    rig = Rig()
    worker = rig.worker(ORIGIN)
    rig.drain(worker)
    seen: set[tuple[str, str]] = set()

    def noting(name: str) -> None:
        judge = getattr(engine, name)

        def noted(task: SourceTask, schema: EventSchema, codec: Codec, records: list[Record]) -> Pronounced:
            seen.add((task.event.name, name))
            return judge(task, schema, codec, records)

        monkeypatch.setattr(engine, name, noted)

    noting("judge_batch")
    noting("judge_rows")
    worker.rows_path_max = 5
    at = 10_000_000
    rows = [{"flight_id": f"F{n}", "origin": "EWR", "gate": 1, "departed_at": at + n, "delay": 1, "fare": 1} for n in range(6)]
    rig.send([RawRecord("departures", n % 3, 0, at, row) for n, row in enumerate(rows)])
    rig.send([RawRecord("weather", 0, 0, at, {"origin": "EWR", "gate": 1, "observed_at": at, "gust": 5})])
    rig.drain(worker)
    assert seen == {("departures", "judge_batch"), ("weather", "judge_rows")}
