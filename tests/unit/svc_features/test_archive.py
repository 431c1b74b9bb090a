"""The archive on the bus in memory and Delta tables in a temporary folder."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from headrace.chassis.bus import TopicPartition, TopicSpec
from headrace.chassis.errors import Fatal, Retryable
from headrace.contracts.catalogue import schemas
from headrace.contracts.events import DecodedEvents
from headrace.contracts.records import PredictionMade
from headrace.plan.ir import Field
from support.law_worlds import make_world
from svc_features.adapters.lake import DeltaLake, LakeReader
from svc_features.domain.columns import Place, event_columns, event_rows, frame_types, record_columns, record_rows
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


def made_anew(rig: Rig, topic: str, records: int) -> None:
    """Delete the topic and make it again, with that many records in each partition."""
    admin = rig.bus.admin()
    partitions = admin.partitions(topic) or 0
    admin.delete_topics([topic])
    admin.ensure_topics([TopicSpec(topic, partitions)])
    producer = rig.bus.producer("again")
    for number in range(records):
        for partition in range(partitions):
            producer.produce(topic, b"other %d" % number, partition=partition)
    producer.flush(1.0)


def test_a_topic_made_anew_is_refused_though_its_log_is_as_long_as_the_archived_one(tmp_path: Path) -> None:
    """Goal: offsets of two incarnations never meet in one table. Method: the new log is longer than the old one."""
    rig = played(make_world(SEED, 40), random.Random(SEED), asks=0)
    rig.archived(tmp_path)
    topic = EVENTS["departures"].topic
    before = places(tmp_path, topic)
    known = LakeReader(tmp_path).topic_id(topic)
    assert known == rig.bus.admin().topic_id(topic)
    made_anew(rig, topic, 100)
    with pytest.raises(Fatal, match=f"made anew: the lake holds records of {known}.*{EVENTS['departures'].topic[:-1]}2"):
        rig.archive(tmp_path)
    assert places(tmp_path, topic) == before


@pytest.mark.parametrize("taken", [False, True])
def test_a_topic_made_anew_under_a_running_archive_puts_no_row_into_the_lake(tmp_path: Path, taken: bool) -> None:
    """Goal: nothing is read over. Method: the topic goes before or after the archive takes records; the lake stays the same."""
    rig = played(make_world(SEED, 40), random.Random(SEED), asks=0)
    rig.archived(tmp_path)
    topic = EVENTS["departures"].topic
    before = places(tmp_path, topic)
    archive = rig.archive(tmp_path, interval_ms=50)
    rig.send(EVENTS["departures"], 0, rig.clock.now_ms(), None)
    if taken:
        assert archive.step() == 1
    made_anew(rig, topic, 100)
    with pytest.raises(Fatal, match="made anew"):
        for _ in range(4):
            archive.step()
            rig.clock.advance(100)
    assert places(tmp_path, topic) == before


def test_a_topic_that_does_not_show_is_waited_for_with_its_records_unwritten(tmp_path: Path) -> None:
    """Whose records they are is known only while the topic is there."""
    rig = played(make_world(SEED, 40), random.Random(SEED), asks=0)
    archive = rig.archive(tmp_path, interval_ms=50)
    rig.broker.fail("topic_ids", Retryable("away"), times=2)
    archive.step()
    for _ in range(4):
        rig.clock.advance(100)
        archive.step()
        rig.clock.advance(10_000)
    assert places(tmp_path, EVENTS["departures"].topic) == on_the_bus(rig, EVENTS["departures"].topic)


def test_a_table_older_than_topic_ids_takes_the_one_its_positions_fit(tmp_path: Path) -> None:
    """Goal: lakes that are there go on. Method: archive into tables that were never marked, over checkpoints of their log."""
    rig = played(make_world(SEED, 40), random.Random(SEED), asks=0)
    event = EVENTS["departures"]
    table = DeltaLake(tmp_path).open(event.topic, event_columns(event), event.partitions)
    assert (table.topic_id(), LakeReader(tmp_path).topic_id(event.topic)) == ("", "")
    rig.archived(tmp_path)
    assert LakeReader(tmp_path).topic_id(event.topic) == rig.bus.admin().topic_id(event.topic)
    with pytest.raises(Fatal, match="already"):
        DeltaLake(tmp_path).open(event.topic, event_columns(event), event.partitions).belong("another")
    assert LakeReader(tmp_path).topic_id("nothing.there.v1") == ""


def test_a_lake_that_cannot_be_read_for_a_while_is_waited_for_and_nothing_is_lost(tmp_path: Path) -> None:
    """A disk or store that is away ends nothing: the rows stay, and are there once when it is back.

    Method: the table's log is a file instead of a folder for some rounds; a new handle reads it whole, as after a start.
    """
    rig = played(make_world(SEED, 40), random.Random(SEED), asks=0)
    event = EVENTS["departures"]
    archive = rig.archive(tmp_path)
    log = tmp_path / event.topic / "_delta_log"
    away = log.with_name("away")
    log.rename(away)
    log.touch()
    with pytest.raises(Retryable):
        archive._tables[event.topic].append(archive._feeds[event.topic].rows([]), {0: 1})
    for _ in range(5):
        archive.step()
        rig.clock.advance(1_000)
    with pytest.raises(Retryable):
        DeltaLake(tmp_path).open(event.topic, event_columns(event), event.partitions)
    log.unlink()
    away.rename(log)
    for _ in range(60):
        archive.step()
        rig.clock.advance(10_000)
    archive.close()
    assert places(tmp_path, event.topic) == on_the_bus(rig, event.topic)


def test_passports_that_name_topics_lie_in_a_table_begun_before_they_did(tmp_path: Path) -> None:
    """Goal: an archive of older passports goes on and stays readable. Method: rows of the older shape, then of this one."""
    rig = played(make_world(SEED, 80), random.Random(SEED), asks=10)
    newest = record_columns(schemas()[PredictionMade.FULLNAME])
    older = without_topic_ids(newest)
    records = list(rig.broker.records(PREDICTIONS_TOPIC))
    place = Place([0, 0], [0, 1], [9, 9], [records[0].value, records[1].value])
    decoded = [rig.codec.decode(value, PredictionMade) for value in place.values]
    DeltaLake(tmp_path).open(PREDICTIONS_TOPIC, older, 64).append(record_rows(older, place, decoded), {0: 2})
    place = Place([0], [2], [9], [records[2].value])
    decoded = [rig.codec.decode(value, PredictionMade) for value in place.values]
    table = DeltaLake(tmp_path, files_max=2).open(PREDICTIONS_TOPIC, newest, 64)
    table.append(record_rows(newest, place, decoded), {0: 3})

    def ids() -> list[set[str | None]]:
        rows = LakeReader(tmp_path).batches(PREDICTIONS_TOPIC, ["off", "sets"]).read_all().to_pylist()
        return [{c["topic_id"] for s in row["sets"] for c in s["cut"]} for row in sorted(rows, key=lambda row: row["off"])]

    apart = ids()
    assert all(found <= {None} for found in apart[:2]) and apart[2] <= set(rig.topic_ids().values())
    table.append(record_rows(newest, Place([0], [3], [9], [records[2].value]), decoded), {0: 4})  # written together now
    assert ids() == [*apart, apart[2]]
    assert len(LakeReader(tmp_path).files(PREDICTIONS_TOPIC)[0]) == 1


def without_topic_ids(columns: pa.Schema) -> pa.Schema:
    """The table's columns before a cut named its topic."""

    def cut_down(kind: pa.DataType) -> pa.DataType:
        if pa.types.is_list(kind):
            return pa.list_(cut_down(kind.value_type))
        if pa.types.is_struct(kind):
            return pa.struct([pa.field(f.name, cut_down(f.type)) for f in kind if f.name != "topic_id"])
        return kind

    return pa.schema([pa.field(f.name, cut_down(f.type)) for f in columns])
