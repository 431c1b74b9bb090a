"""Orders of backfills: what is refused, what a death in between leaves, what is announced."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from headrace.chassis.bus import TopicSpec
from headrace.chassis.objects import FolderObjectStore
from headrace.contracts.catalogue import BASES
from headrace.contracts.records import StateImported
from headrace.plan.bases import from_json
from headrace.plan.hashes import encode, sealed
from headrace.plan.ir import Plan
from support.law_worlds import make_world
from svc_features.backfills import Backfills
from svc_features.settings import FeaturesSettings
from unit.svc_features.worlds import PIPELINE, PLAN, Rig, played

NEW = sealed(replace(PLAN, feature_sets=(*PLAN.feature_sets, replace(PLAN.feature_sets[1], name="gate_again")), hash=""))


class Office:
    """The part over a rig and its lake, and its HTTP edge."""

    def __init__(self, folder: Path, rig: Rig) -> None:
        self.rig, self.objects = rig, FolderObjectStore(folder / "objects")
        rig.bus.admin().ensure_topics([TopicSpec(BASES, 1)])
        settings = FeaturesSettings(
            lake=folder / "lake", object_store=folder / "objects", state_dir=folder / "state", job_threads=1
        )
        self.part = Backfills(rig.codec, rig.bus, {PIPELINE: PLAN}, settings, rig.clock, rig.bus.producer("bases"))
        http = FastAPI()
        self.part.add_routes(http)
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(http), base_url="http://features")

    async def order(self, plan: Plan, feature_set: str) -> httpx.Response:
        return await self._client.post("/v1/backfills", json={"plan": encode(plan), "feature_set": feature_set})

    async def pages(self) -> list[dict[str, Any]]:
        return (await self._client.get("/v1/backfills")).json()

    async def ended(self) -> list[dict[str, Any]]:
        await self.part.work_off()
        return await self.pages()

    def announced(self) -> list[StateImported]:
        return [self.rig.codec.decode(r.value, StateImported) for r in self.rig.broker.records(BASES)]


@pytest.fixture
def office(tmp_path: Path) -> Office:
    rig = played(make_world(3), random.Random(3), asks=5)
    rig.archived(tmp_path / "lake")
    return Office(tmp_path, rig)


@pytest.mark.parametrize(
    ("plan", "feature_set", "why"),
    [
        (NEW, "nobody", "no feature set nobody"),
        (
            sealed(replace(NEW, feature_sets=tuple(replace(s, placement="owned") for s in NEW.feature_sets), hash="")),
            "gate_again",
            "is owned",
        ),
        (replace(NEW, hash="0" * 64), "gate_again", "hashes do not match"),
        (sealed(replace(NEW, pipeline="other", hash="")), "gate_again", "no plan of other is in force"),
        (
            sealed(replace(NEW, events=tuple(replace(e, partitions=e.partitions + 1) for e in NEW.events), hash="")),
            "gate_again",
            "declared otherwise than it was archived",
        ),
    ],
)
async def test_an_order_the_archive_cannot_answer_is_refused(office: Office, plan: Plan, feature_set: str, why: str) -> None:
    reply = await office.order(plan, feature_set)
    assert reply.status_code == 409
    assert why in reply.json()["error"]
    assert await office.pages() == []


async def test_an_order_survives_its_service_and_is_announced_with_its_cut(office: Office, tmp_path: Path) -> None:
    """The first life takes the order and dies; asked again, it is the same order; the second life ends it."""
    first = await office.order(NEW, "gate_again")
    assert first.status_code == 202
    assert (await office.order(NEW, "gate_again")).json() == first.json()
    assert [p["state"] for p in await office.pages()] == ["waiting"]
    second = Office(tmp_path, office.rig)
    (page,) = await second.ended()
    assert page["state"] == "done", page
    (announced,) = second.announced()
    assert (announced.set_hash, announced.digest, announced.blocks) == (
        NEW.feature_sets[2].hash,
        page["digest"],
        page["blocks"],
    )
    base = from_json(second.objects.get(announced.reference, announced.digest))
    ends = {
        (s.event, s.partition): max(r.offset for r in second.rig.log if (r.event, r.partition) == (s.event, s.partition)) + 1
        for s in base.sources
    }
    assert {(s.event, s.partition): s.next_offset for s in base.sources} == ends
    assert {(c["event"], c["partition"]): c["next_offset"] for c in page["cut"]} == ends
    left = {p.name for p in (tmp_path / "state" / "backfills" / page["id"]).iterdir()}
    assert left == {"order.json", "plan.json", "progress.json", "result.json", "announced"}


async def test_a_lake_that_holds_a_record_twice_fails_the_order_and_announces_nothing(office: Office, tmp_path: Path) -> None:
    from deltalake import DeltaTable, write_deltalake

    table = DeltaTable(str(tmp_path / "lake" / PLAN.events[1].topic))
    write_deltalake(table, table.to_pyarrow_table()[:1], mode="append")
    await office.order(NEW, "gate_again")
    (page,) = await office.ended()
    assert page["state"] == "failed"
    assert "twice" in page["error"]
    assert office.announced() == []
