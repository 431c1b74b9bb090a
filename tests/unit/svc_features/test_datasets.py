"""Data sets from small lakes: rows, labels and vectors as a naive reader of the log would have them."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
import polars as pl
import pytest
from deltalake import DeltaTable
from prometheus_client import CollectorRegistry

from headrace.chassis.bus import Record, TopicPartition, TopicSpec
from headrace.chassis.objects import FolderObjectStore
from headrace.contracts.catalogue import DATASETS
from headrace.contracts.errors import Retryable
from headrace.contracts.records import DatasetBuilt, DatasetRequested
from headrace.plan.assemble import Assembler
from headrace.plan.hashes import sealed
from headrace.plan.ir import Label, Plan
from headrace.plan.oracle import Oracle
from headrace.plan.profile import from_json
from headrace.plan.tiles import entity_of
from support.law_worlds import HOUR, make_world
from svc_features.adapters.lake import LakeReader
from svc_features.archive import Reached
from svc_features.building import Builder, Dataset, Splits, Window
from svc_features.datasets import Datasets
from svc_features.domain.dataset import Checksum, content_checksum
from svc_features.settings import FeaturesSettings
from svc_features.telemetry import FeaturesMetrics
from svc_features.warehouse import connect
from unit.svc_features.worlds import EVENTS, MODEL, PIPELINE, PLAN, PREDICTIONS_TOPIC, SETS, Rig, played

EVERYTHING = {topic: dict.fromkeys(range(4), 10**9) for topic in (PREDICTIONS_TOPIC, *(e.topic for e in PLAN.events))}


def build(lake: Path, window: Window, plan: Plan = PLAN) -> Dataset:
    return Builder(connect(1, 500, lake / "spill"), LakeReader(lake), plan, plan.models[0], EVERYTHING).build(window)


def naive_rows(rig: Rig, window: Window) -> dict[str, tuple[list[float], bool, str]]:
    """Request id -> vector, label, mode, straight from the log."""
    oracle = Oracle(list(EVENTS.values()), rig.log)
    seen = [j for j in oracle.log if j.verdict.name not in ("UNDECODABLE", "POISON")]
    outcomes: dict[str, tuple[int, int, int, dict[str, object]]] = {}
    asks: dict[str, tuple[int, int, dict[str, object]]] = {}
    for j in seen:
        fields = dict(j.raw.fields or {})
        place = (j.raw.offset, j.raw.partition)
        if j.raw.event == "departures" and fields["flight_id"] is not None:
            key = str(fields["flight_id"])
            outcomes[key] = min(outcomes.get(key, (*place, 0, fields)), (*place, 0, fields), key=lambda x: x[:2])
        if j.raw.event == "asks":
            key = str(fields["flight_id"])
            asks[key] = min(asks.get(key, (*place, fields)), (*place, fields), key=lambda x: x[:2])
    passports = {p.request_id: p for p in rig.passports}
    assembler, out = Assembler(PLAN, MODEL), {}
    for key, (_, _, ask) in asks.items():
        t, outcome = int(str(ask["asked_at"])), outcomes.get(key)
        if not window.from_ms <= t < window.until_ms or outcome is None:
            continue
        fields = outcome[3]
        if int(str(fields["departed_at"])) > window.mature_until_ms or fields["gate"] == 2:
            continue
        delay = fields["delay"]
        label = delay is not None and int(str(delay)) > 15
        passport = passports.get(key)
        if passport is not None and passport.t_ms == t:  # else the id was used again, and another request decided
            values, mode = {r.set: list(r.values) for r in passport.sets}, "as_served"
            if any(s == 3 for r in passport.sets for s in r.statuses):
                continue
        else:
            values, mode = {s.name: oracle.as_of(s, entity_of(s, ask) or "\x00", t)[0] for s in SETS}, "as_of"
        out[key] = (assembler.row(ask, values).tolist(), label, mode)
    return out


def same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


def whole(rig: Rig) -> Window:
    times = [r.fields["asked_at"] for r in rig.log if r.event == "asks" and r.fields]
    return Window(min(times), max(times) - HOUR, max(times))


@pytest.mark.parametrize("seed", (4, 6, 9))
def test_rows_labels_and_vectors_are_those_of_a_naive_reader(tmp_path: Path, seed: int) -> None:
    """Half the passports are missing from the log, so both modes appear; labels by offset, excluded, immature, null."""
    rig = played(make_world(seed, 200), random.Random(seed), asks=120, decided=0.5)
    rig.archived(tmp_path)
    window = whole(rig)
    made, expected = build(tmp_path, window), naive_rows(rig, window)
    rows = {r["request_id"]: r for r in made.frame.to_dicts()}
    assert rows.keys() == expected.keys()
    assert len(rows) > 3
    assert made.frame.equals(made.frame.sort("t_ms", "request_id"))
    for key, (vector, label, mode) in expected.items():
        assert [same(rows[key][c.name], v) for c, v in zip(MODEL.inputs, vector, strict=True)] == [True] * len(vector)
        assert (rows[key]["label"], rows[key]["mode"]) == (label, mode)
    assert made.as_served_rows == sum(mode == "as_served" for _, _, mode in expected.values())
    assert made.positives == sum(label for _, label, _ in expected.values())


def test_deleting_every_event_after_t_leaves_the_vector_of_t_unchanged(tmp_path: Path) -> None:
    """Goal: no leak from the future. Method: labels on the request itself; the other events lose all at or after t."""
    label = Label("asks", "gate = 1", "flight_id", HOUR)
    plan = sealed(replace(PLAN, models=(replace(MODEL, label=label),)))
    rig = played(make_world(6, 200), random.Random(6), asks=40, decided=0.0)
    rig.archived(tmp_path)
    window = Window(0, 10**15, 10**15)
    before = build(tmp_path, window, plan).frame
    t = before["t_ms"].sort()[len(before) // 2]
    for name in ("departures", "weather"):
        event = EVENTS[name]
        assert DeltaTable(str(tmp_path / event.topic)).delete(f"{event.time} >= {t}")["num_deleted_rows"] > 0
    after = build(tmp_path, window, plan).frame
    assert after.filter(pl.col("t_ms") <= t).equals(before.filter(pl.col("t_ms") <= t))
    assert not after.equals(before)


def labelled_naively(rig: Rig, window: Window, label: Label) -> dict[str, bool | None]:
    """Request id -> label as declared, straight from the log."""
    oracle = Oracle(list(EVENTS.values()), rig.log)
    seen = [j.raw for j in oracle.log if j.verdict.name not in ("UNDECODABLE", "POISON")]
    firsts: dict[tuple[str, str], dict[str, Any]] = {}
    for raw in sorted(seen, key=lambda r: (r.offset, r.partition)):
        fields = dict(raw.fields or {})
        if fields.get("flight_id") is not None:
            firsts.setdefault((raw.event, fields["flight_id"]), fields)
    out: dict[str, bool | None] = {}
    for (event, key), ask in firsts.items():
        if event != "asks" or not window.from_ms <= ask["asked_at"] < window.until_ms:
            continue
        ripe, outcome = ask["asked_at"] + label.mature_ms, firsts.get(("departures", key))
        if outcome is not None and outcome["departed_at"] <= min(ripe, window.mature_until_ms):
            if outcome["gate"] != 2:
                out[key] = outcome["delay"] is not None and outcome["delay"] > 15
        elif ripe <= window.mature_until_ms:
            out[key] = False if label.unlabelled == "negative" else None
    return out


@pytest.mark.parametrize("unlabelled", ["negative", "keep"])
@pytest.mark.parametrize("seed", (4, 6))
def test_requests_without_an_outcome_mean_what_is_declared_once_they_are_mature(
    tmp_path: Path, seed: int, unlabelled: Literal["negative", "keep"]
) -> None:
    label = replace(MODEL.label, unlabelled=unlabelled, mature_ms=8 * HOUR)
    plan = sealed(replace(PLAN, models=(replace(MODEL, label=label),)))
    rig = played(make_world(seed, 200), random.Random(seed), asks=120, decided=0.0)
    rig.archived(tmp_path)
    times = [r.fields["asked_at"] for r in rig.log if r.event == "asks" and r.fields]
    window = Window(min(times), max(times), max(times) - 4 * HOUR)
    made = build(tmp_path, window, plan)
    expected = labelled_naively(rig, window, label)
    assert dict(made.frame.select("request_id", "label").rows()) == expected
    without = False if unlabelled == "negative" else None
    assert 0 < made.unlabelled_rows <= sum(v is without for v in expected.values())
    assert made.dropped_unlabelled > 0, "some are not mature yet"


@pytest.mark.parametrize("seed", (4, 9))
def test_slices_and_shares_of_any_size_give_the_same_data_set(tmp_path: Path, seed: int) -> None:
    """Goal: what bounds memory changes no bit. Method: slices of 1 to 9 rows, shares of a few records, against one slice."""
    rig = played(make_world(seed, 200), random.Random(seed), asks=120, decided=0.3)
    rig.archived(tmp_path)
    whole_, rng = build(tmp_path, whole(rig)), random.Random(seed)
    for _ in range(2):
        builder = Builder(
            connect(1, 500, tmp_path / "spill"), LakeReader(tmp_path), PLAN, MODEL, EVERYTHING, slice_rows=rng.randint(1, 9)
        )
        builder._past._records_max = rng.randint(5, 60)
        made = builder.build(whole(rig))
        assert made.frame.equals(whole_.frame)
        assert (made.counts(), made.profile) == (whole_.counts(), whole_.profile)


def test_splits_by_time_leave_a_gap_no_label_crosses(tmp_path: Path) -> None:
    rig = played(make_world(6, 200), random.Random(6), asks=120, decided=0.0)
    rig.archived(tmp_path)
    plan = sealed(replace(PLAN, models=(replace(MODEL, label=replace(MODEL.label, mature_ms=2 * HOUR)),)))
    window = whole(rig)
    every = build(tmp_path, window, plan).frame
    times = every["t_ms"].sort()
    splits = Splits(times[len(times) // 2], times[len(times) * 3 // 4], 2 * HOUR)
    builder = Builder(connect(1, 500, tmp_path / "spill"), LakeReader(tmp_path), plan, plan.models[0], EVERYTHING, slice_rows=5)
    made = builder.build(window, splits)
    edges = {"validation": splits.validation_from_ms, "test": splits.test_from_ms}
    for name, begin in edges.items():
        earlier = made.frame.filter(pl.col("t_ms") < begin)
        assert max(earlier["t_ms"].to_list()) < begin - 2 * HOUR, "matured before the next split begins"
        assert set(earlier["split"]) <= {"train", "validation"} - {name}
    assert (made.train_rows, made.validation_rows, made.test_rows) == tuple(
        len(made.frame.filter(pl.col("split") == name)) for name in ("train", "validation", "test")
    )
    assert made.rows + made.embargoed_rows == len(every)
    assert min(made.train_rows, made.validation_rows, made.test_rows, made.embargoed_rows) > 0
    with pytest.raises(ValueError, match="it leaks"):
        builder.build(window, replace(splits, embargo_ms=HOUR))


def test_the_checksum_is_of_the_values_not_of_the_file() -> None:
    """Same values in other chunks, or through Parquet: equal. One bit, one null, one name, two rows swapped: not."""
    frame = pl.DataFrame({"x": [1.5, math.nan, -0.0], "label": [True, False, None], "id": ["a", "bc", ""], "n": [1, None, 3]})
    frame = frame.with_columns(pl.col("x").cast(pl.Float32))
    file = io.BytesIO()
    frame.write_parquet(file)
    file.seek(0)
    first = content_checksum(frame)
    assert content_checksum(pl.concat([frame[:1], frame[1:]], rechunk=False)) == first
    assert content_checksum(pl.read_parquet(file)) == first
    others = [
        frame.with_columns(pl.Series("x", np.array([1.5, math.nan, 0.0], np.float32))),
        frame.with_columns(pl.Series("id", ["ab", "c", ""])),
        frame.with_columns(pl.Series("n", [1, 0, 3])),
        frame.rename({"x": "y"}),
        frame[[1, 0, 2]],
    ]
    assert len({first, *map(content_checksum, others)}) == 6


def test_the_checksum_does_not_depend_on_the_pieces_rows_come_in() -> None:
    """More rows than are digested at a time, added in pieces that do not fit them."""
    n, rng = 150_000, random.Random(1)
    frame = pl.DataFrame({"x": np.arange(n, dtype=np.float32), "id": [str(i % 97) for i in range(n)]})
    whole_, start = Checksum(), 0
    while start < n:
        size = rng.randint(1, 40_000)
        whole_.add(frame[start : start + size])
        start += size
    assert whole_.hexdigest() == content_checksum(frame)
    assert content_checksum(frame[:-1]) != content_checksum(frame)


class Desk:
    """The handler over a rig, its lake and a folder of objects."""

    def __init__(self, rig: Rig, folder: Path, find: Callable[[str, str], Plan | None]) -> None:
        rig.bus.admin().ensure_topics([TopicSpec(DATASETS, 1)])
        self.rig, self.reached, self.lake = rig, Reached(), folder / "lake"
        self.objects = FolderObjectStore(folder / "objects")
        self.archive = rig.archive(self.lake, reached=self.reached)
        settings = FeaturesSettings(lake=self.lake, object_store=folder / "objects", job_threads=1, dataset_wait_s=1)
        metrics = FeaturesMetrics(CollectorRegistry())
        self.handler = Datasets(rig.codec, rig.bus, find, self.reached, self.objects, settings, metrics)

    def catch_up(self) -> None:
        while self.archive.step():
            self.rig.clock.advance(10)
        self.archive.flush()

    async def ask(self, request: DatasetRequested) -> DatasetBuilt:
        value = self.rig.codec.encode("features.dataset-requests.v1", request)
        (answer,) = await self.handler.requested(Record("features.dataset-requests.v1", 0, 0, 0, b"k", value))
        producer = self.rig.bus.producer("answers")
        producer.produce(answer.topic, answer.value, answer.key)
        producer.flush(1.0)
        assert answer.value is not None
        return self.rig.codec.decode(answer.value, DatasetBuilt)


def request_for(rig: Rig, request_id: str) -> DatasetRequested:
    window = whole(rig)
    return DatasetRequested(
        request_id=request_id, pipeline=PIPELINE, model=MODEL.name, plan_hash=PLAN.hash,
        from_ms=window.from_ms, until_ms=window.until_ms, mature_until_ms=window.mature_until_ms,
    )  # fmt: skip


async def test_one_request_one_data_set_and_the_same_answer_for_ever(tmp_path: Path) -> None:
    """The second answer is the first, byte for byte, although the log has gone on; bodies verify by digest."""
    rig = played(make_world(4, 120), random.Random(4), asks=60, decided=0.5)
    desk = Desk(rig, tmp_path, lambda _, digest: PLAN if digest == PLAN.hash else None)
    desk.catch_up()
    request = request_for(rig, "r1")
    built = await desk.ask(request)
    assert (built.ok, built.error) == (True, "")
    frame = pl.read_parquet(desk.objects.get(built.reference, built.digest))
    assert (len(frame), content_checksum(frame)) == (built.rows, built.content_checksum)
    assert frame.columns[: len(built.columns)] == [c.name for c in MODEL.inputs]
    profile = from_json(orjson.loads(desk.objects.get(built.profile_reference, built.profile_digest)))
    assert sum(map(profile.rows, profile.counts)) == built.rows
    assert {c.event for c in built.cut} == {"asks", "departures", "weather", PREDICTIONS_TOPIC}
    consumer = rig.bus.consumer(None, "ends")
    ends = {(e.name, p): consumer.watermarks(TopicPartition(e.topic, p))[1] for e in PLAN.events for p in range(e.partitions)}
    assert {(c.event, c.partition): c.next_offset for c in built.cut if "." not in c.event} == ends
    rig.send(EVENTS["departures"], 0, rig.clock.now_ms(), None)
    assert await desk.ask(request) == built


async def test_a_data_set_waits_for_the_archive(tmp_path: Path) -> None:
    rig = played(make_world(4, 40), random.Random(4), asks=10)
    desk = Desk(rig, tmp_path, lambda *_: PLAN)
    with pytest.raises(Retryable, match="has not reached"):
        await desk.ask(request_for(rig, "r1"))


async def test_what_cannot_be_built_is_an_answer_too(tmp_path: Path) -> None:
    rig = played(make_world(4, 40), random.Random(4), asks=10)
    desk = Desk(rig, tmp_path, lambda *_: PLAN)
    desk.catch_up()
    built = await desk.ask(replace(request_for(rig, "r2"), from_ms=1, until_ms=2))
    assert not built.ok
    assert "no labelled request" in built.error
