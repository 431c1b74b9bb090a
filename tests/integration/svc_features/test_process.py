"""svc-features as a process of its own on a real broker and registry, killed -9 while it archives."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from headrace.chassis.objects import FolderObjectStore
from headrace.contracts.catalogue import DATASET_REQUESTS
from headrace.contracts.records import AckStatus, DatasetRequested
from integration.svc_features.town import Town, eventually
from support.law_worlds import HOUR, make_world
from svc_features.adapters.lake import LakeReader
from unit.svc_features.worlds import EVENTS, GARBAGE, MODEL, PIPELINE, PLAN, Rig, played

SEED = 4
KILLS = 5


@pytest.fixture
def town(tmp_path: Path, kafka: str, registry_url: str) -> Iterator[Town]:
    town = Town(tmp_path, kafka, registry_url, PLAN)
    yield town
    town.kill()


def test_killed_while_it_archives_it_loses_and_doubles_nothing_and_its_lake_proves_every_decision(town: Town) -> None:
    """Goal: exactly once over kill -9; then parity over HTTP and a data set over Kafka, both from that lake.
    Method: a small world is produced while the service dies again and again; aborted transactions leave holes, some
    records do not decode; rows are compared with what was produced."""
    town.admit()
    town.start()
    eventually(lambda: town.acks() == [("svc-features", AckStatus.APPLIED)])
    killed: list[int] = []

    luck, holes = random.Random(SEED), 0

    def meanwhile(share: float) -> None:
        """At each sixth: die once something of this life is in the lake. At any time: a transaction that aborts."""
        nonlocal holes
        if luck.random() < 0.08:
            event = luck.choice(PLAN.events)
            town.abort(event.topic, luck.randrange(event.partitions), luck.randint(1, 3))
            holes += 1
        if share * (KILLS + 1) >= len(killed) + 1:
            eventually(lambda: len(town.archived()) > (killed[-1] if killed else 0))
            town.kill()
            killed.append(len(town.archived()))
            town.start()

    rig = played(make_world(SEED), random.Random(SEED), asks=40, rig=Rig(codec=town.codec, real=town.bus), meanwhile=meanwhile)
    assert len(killed) == KILLS
    assert holes > 5
    expected = sorted((r.event, r.partition, r.offset) for r in rig.log)
    eventually(lambda: len(town.archived()) >= len(expected) and town.passports() >= len(rig.passports))
    assert town.archived() == expected
    assert town.passports() == len(rig.passports) > 10

    for event in EVENTS.values():
        rows = LakeReader(town.lake).batches(event.topic, ["part", "off", "decodable", "raw"]).read_all().to_pylist()
        raw = {(r["part"], r["off"]): (r["decodable"], r["raw"]) for r in rows}
        sent = {
            (r.partition, r.offset): (r.fields is not None, None if r.fields else GARBAGE)
            for r in rig.log
            if r.event == event.name
        }
        assert raw == sent, "undecodable records keep their bytes"
    assert any(r.fields is None for r in rig.log)

    page = town.page(f"/v1/parity?pipeline={PIPELINE}")
    assert (page["checked"], page["differing"], page["bits_differing"]) == (len(rig.passports), 0, 0)
    assert page["oracle_checked"] == 2 * len(rig.passports)

    skews = town.page(f"/v1/lateness?pipeline={PIPELINE}&model={MODEL.name}")
    assert {s["feature"] for s in skews} >= {"departures_1h", "gust"}
    assert all(s["reads"] + s["unusable"] == len(rig.passports) for s in skews)

    times = [r.fields["asked_at"] for r in rig.log if r.event == "asks" and r.fields]
    request = DatasetRequested(
        request_id="one", pipeline=PIPELINE, model=MODEL.name, plan_hash=PLAN.hash,
        from_ms=min(times), until_ms=max(times) + 1, mature_until_ms=max(times) + 24 * HOUR,
    )  # fmt: skip
    town.send(DATASET_REQUESTS, f"{PIPELINE}/{MODEL.name}", request)
    (built,) = town.built("one", 1)
    assert built.ok, built.error
    frame = pl.read_parquet(FolderObjectStore(town.objects).get(built.reference, built.digest))
    assert len(frame) == built.rows == built.as_served_rows > 3
    town.send(DATASET_REQUESTS, f"{PIPELINE}/{MODEL.name}", request)
    assert town.built("one", 2) == [built, built]
    assert town.page("/v1/status")["plans"] == {PIPELINE: PLAN.hash}
