"""The archive on the bus in memory and Delta tables in a temporary folder."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest

from headrace.chassis.bus import TopicPartition
from headrace.chassis.errors import Fatal, Retryable
from headrace.contracts.events import DecodedEvents
from headrace.contracts.records import PredictionMade
from headrace.plan.ir import Field
from support.law_worlds import make_world
from svc_features.adapters.lake import DeltaLake, LakeReader
from svc_features.domain.columns import Place, event_columns, event_rows, frame_types
from svc_features.warehouse import load_raw
from unit.svc_features.worlds import EVENTS, GARBAGE, PLAN, PREDICTIONS_TOPIC, Rig, played

SEED = 4


def places(lake: Path, topic: str) -> list[tuple[int, int]]:
    rows = LakeReader(lake).batches(topic, ["part", "off"]).read_all().to_pydict()
    return sorted(zip(rows["part"], rows["off"], strict=True))


def inside(row: Any, path: str) -> Any:
    """A field of a record lies in its struct."""
    for part in path.split("."):
        row = None if row is None else row[part]
    return row


def on_the_bus(rig: Rig, topic: str) -> list[tuple[int, int]]:
    return sorted((r.partition, r.offset) for r in rig.broker.records(topic))


def test_every_record_lies_in_the_lake_with_its_fields_and_garbage_keeps_its_bytes(tmp_path: Path) -> None:
    """Goal: nothing lost. Method: compare table and log row by row."""
    rig = played(make_world(SEED, 80), random.Random(SEED), asks=10)
    rig.archived(tmp_path)
    for event in PLAN.events:
        rows = {(r["part"], r["off"]): r for r in LakeReader(tmp_path).batches(event.topic).read_all().to_pylist()}
        mine = [r for r in rig.log if r.event == event.name]
        assert len(rows) == len(mine)
        for raw in mine:
            row = rows[raw.partition, raw.offset]
            assert row["append_ms"] == raw.append_ms
            if raw.fields is None:
                assert (row["decodable"], row["raw"]) == (False, GARBAGE)
                assert row["reason"].startswith("bad_frame")
            else:
                assert row["decodable"] and row["raw"] is None
                assert {f.name: inside(row, f.name) for f in event.fields} == dict(raw.fields)


def test_a_passport_lies_there_as_columns_and_as_bytes(tmp_path: Path) -> None:
    rig = played(make_world(SEED, 80), random.Random(SEED), asks=10)
    rig.archived(tmp_path)
    rows = {r["request_id"]: r for r in LakeReader(tmp_path).batches(PREDICTIONS_TOPIC).read_all().to_pylist()}
    assert len(rows) == len(rig.passports) > 3
    for passport in rig.passports:
        row = rows[passport.request_id]
        assert rig.codec.decode(row["raw"], PredictionMade).request_id == passport.request_id
        assert row["sets"][0]["cut"] == [c.to_avro() for c in passport.sets[0].cut]
        assert row["sets"][1]["values"] == list(passport.sets[1].values)
        assert row["decision_source"] == "RULES"


def test_an_archive_killed_anywhere_goes_on_without_a_row_twice_or_lost(tmp_path: Path) -> None:
    """Goal: exactly once over crashes. Method: abandon the loop after any number of steps, its buffer with it; open another."""
    rig = played(make_world(SEED, 120), random.Random(SEED), asks=10)
    rng = random.Random(SEED)
    for _ in range(25):
        archive = rig.archive(tmp_path, interval_ms=rng.choice((1, 50)), rows_max=rng.choice((1, 7, 1000)))
        for _ in range(rng.randint(0, 3)):
            archive.step()
            rig.clock.advance(rng.choice((0, 10, 100)))
    rig.archived(tmp_path)
    for topic in (*(e.topic for e in PLAN.events), PREDICTIONS_TOPIC):
        assert places(tmp_path, topic) == on_the_bus(rig, topic)


def test_of_two_writers_one_is_refused_and_reads_on_where_the_other_is(tmp_path: Path) -> None:
    """Goal: a ghost that wakes up doubles nothing. Method: two archives take the same records, both flush."""
    rig = played(make_world(SEED, 60), random.Random(SEED), asks=5)
    ghost, heir = rig.archive(tmp_path), rig.archive(tmp_path)
    for archive in (ghost, heir):
        archive.step()
    rig.clock.advance(100)
    heir.step()
    ghost.step()
    rig.clock.advance(100_000)
    while ghost.step() or heir.step():
        rig.clock.advance(1000)
    for topic in (*(e.topic for e in PLAN.events), PREDICTIONS_TOPIC):
        assert places(tmp_path, topic) == on_the_bus(rig, topic)


def test_reached_means_that_everything_before_is_in_the_lake_markers_included(tmp_path: Path) -> None:
    """Goal: data sets may wait for an end that is a transaction marker. Method: compare with the ends before and after."""
    rig = Rig()
    producer = rig.bus.producer("loader", transactional_id="loader")
    producer.init_transactions()
    producer.begin()
    producer.produce(EVENTS["departures"].topic, GARBAGE, partition=0)
    producer.commit()
    archive = rig.archive(tmp_path, interval_ms=50)
    end = {TopicPartition(EVENTS["departures"].topic, 0): 2}  # the record and its marker
    reached = archive._reached
    archive.step()
    assert reached.missing(end) == end
    rig.clock.advance(100)
    archive.step()
    assert places(tmp_path, EVENTS["departures"].topic) == [(0, 0)]
    assert reached.missing(end) == {}


def test_a_log_that_starts_after_the_lake_is_a_loss_and_said_so(tmp_path: Path) -> None:
    rig = played(make_world(SEED, 40), random.Random(SEED), asks=0)
    archive = rig.archive(tmp_path, rows_max=1)
    archive.step()
    archive.close()
    topic = next(t for t in (e.topic for e in EVENTS.values()) if places(tmp_path, t))
    partition = places(tmp_path, topic)[0][0]
    rig.broker.truncate_before(TopicPartition(topic, partition), 5)
    with pytest.raises(Fatal, match="lost"):
        rig.archive(tmp_path)


def test_a_broker_that_does_not_answer_is_waited_out(tmp_path: Path) -> None:
    rig = played(make_world(SEED, 40), random.Random(SEED), asks=3)
    archive = rig.archive(tmp_path)
    rig.broker.fail("consume", Retryable("away"), times=3)
    for _ in range(12):
        archive.step()
        rig.clock.advance(1000)
    archive.close()
    assert places(tmp_path, EVENTS["departures"].topic) == on_the_bus(rig, EVENTS["departures"].topic)


def test_a_field_added_to_a_record_and_a_new_array_are_null_in_what_lay_there_before(tmp_path: Path) -> None:
    """The lake grows inside its structs; older declarations and newer ones read one table."""
    old = EVENTS["departures"]
    more = (Field("plane.year", "int", nullable=True), Field("gates", "array", nullable=True, item="long", items_max=3))
    new = replace(old, fields=(*old.fields, *more))
    row = {f.name: None for f in new.fields} | {"plane.model": "A320", "crew": ["Ann"]}
    given = [(old, row), (new, row | {"plane.year": 1999, "gates": [1, 2]}), (old, row | {"plane.model": None})]
    for offset, (event, fields) in enumerate(given):
        frame = pl.DataFrame([fields], schema=frame_types(new)).select(f.name for f in event.fields)
        rows = event_rows(event_columns(event), Place([0], [offset], [9], [b""]), DecodedEvents(frame, np.array([True]), {}))
        DeltaLake(tmp_path).open(event.topic, event_columns(event), 2).append(rows, {0: offset + 1})
    connection = duckdb.connect()
    load_raw(connection, LakeReader(tmp_path), new, None)
    read = connection.execute('select "plane.model", "plane.year", gates, crew from raw_departures order by off').fetchall()
    assert read == [("A320", None, None, ["Ann"]), ("A320", 1999, [1, 2], ["Ann"]), (None, None, None, ["Ann"])]
    load_raw(connection, LakeReader(tmp_path), old, None)
    assert connection.execute('select "plane.model" from raw_departures order by off').fetchall() == [
        ("A320",),
        ("A320",),
        (None,),
    ]
