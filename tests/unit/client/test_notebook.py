"""What a notebook gets, over the real door of svc-features without a port, and from a real lake."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from fastapi import FastAPI

import headrace
from headrace.chassis.objects import FolderObjectStore
from headrace.client import explain as explaining
from headrace.client import notebook
from headrace.client.connection import Connection
from headrace.client.features import FeaturesClient, Refused, Unreachable
from headrace.contracts.audit import export_line, next_entry
from headrace.contracts.records import DatasetBuilt, DatasetRequested
from headrace.plan.hashes import to_json
from support.law_worlds import make_world
from svc_features.dataset_door import DatasetDesk, add_dataset_route
from unit.svc_features.reading_rig import Desk, desk_of
from unit.svc_features.worlds import MODEL, PIPELINE, PLAN, PREDICTIONS_TOPIC, SETS, played


class Bridge(httpx.BaseTransport):
    """An ASGI app for a blocking client."""

    def __init__(self, app: FastAPI) -> None:
        self._inner = httpx.ASGITransport(app)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        async def answered() -> httpx.Response:
            inner = httpx.Request(request.method, request.url, headers=request.headers, content=request.read())
            answer = await self._inner.handle_async_request(inner)
            return httpx.Response(answer.status_code, headers=answer.headers, content=await answer.aread())

        return asyncio.run(answered())


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Desk], Connection]:
    """A connection to a desk; its pipeline must be said, as no status page is mounted."""

    def connected(desk: Desk) -> Connection:
        to = Connection(principal="ada", key=desk.folder / "ada.pem", pipeline=PIPELINE, lake=tmp_path / "lake")
        make = FeaturesClient
        monkeypatch.setattr(notebook, "FeaturesClient", lambda url, who, key: make(url, who, key, Bridge(desk.http)))
        return to

    return connected


def test_read_returns_the_values_of_each_key_in_order(tmp_path: Path, at: Callable[[Desk], Connection]) -> None:
    """Goal: names, nulls, statuses, several calls for many keys. Method: the same keys read directly from the views."""
    desk = desk_of(make_world(3), tmp_path)
    to = at(desk)
    keys = [{"origin": o, "gate": g} for g in range(200) for o in ("EWR", "JFK", "LGA")]
    frame = headrace.read(keys, statuses=True, connection=to)
    assert frame.columns[:3] == ["origin", "gate", "t_ms"] and len(frame) == 600
    t = frame["t_ms"][0]
    assert frame["t_ms"].unique().to_list() == [t]
    for feature_set in SETS:
        entities = ["\x1f".join(str(key[name]) for name in feature_set.entity) for key in keys]
        rows = desk.readers[feature_set.name].read(entities, [t] * len(keys)).rows
        for i, feature in enumerate(feature_set.features):
            assert frame[feature.name].to_list() == pl.Series(rows.values[:, i]).fill_nan(None).to_list()
            assert frame[f"{feature.name}.status"].to_physical().to_list() == rows.statuses[:, i].tolist()


def test_a_frame_of_keys_with_times_is_read_row_by_row(tmp_path: Path, at: Callable[[Desk], Connection]) -> None:
    world = make_world(4)
    to = at(desk_of(world, tmp_path))
    times = [world.start_ms + h * 3_600_000 for h in (5, 20, 40)]
    asked = pl.DataFrame({"origin": ["EWR", "JFK", "EWR"], "t_ms": times})
    frame = headrace.read(asked, {"origin_load": ["departures_1h"]}, connection=to)
    assert frame.columns == ["origin", "t_ms", "departures_1h"] and frame["t_ms"].to_list() == times
    one = headrace.read({"origin": "JFK"}, ["origin_load"], at=datetime.fromtimestamp(times[1] / 1000, UTC), connection=to)
    assert one["departures_1h"][0] == frame["departures_1h"][1]


def test_a_refusal_and_a_silent_address_say_what_to_do(tmp_path: Path, at: Callable[[Desk], Connection]) -> None:
    to = at(desk_of(make_world(1, 20), tmp_path))
    with pytest.raises(Refused, match=r"sets:.*gate_load"):
        headrace.read({"origin": "EWR"}, ["other"], connection=to)
    with FeaturesClient("http://127.0.0.1:9") as nobody, pytest.raises(Unreachable, match="is the stack up"):
        nobody.read(PIPELINE, {"origin": "EWR"})


@pytest.mark.parametrize(
    ("given", "ms"),
    [
        (5, 5), ("2013-06-01", 1_370_044_800_000), ("2013-06-01T12:00:00-04:00", 1_370_102_400_000),
        (date(2013, 6, 1), 1_370_044_800_000), (datetime(2013, 6, 1), 1_370_044_800_000), ("1969-12-31T23:59:59.999", -1),
    ],
)  # fmt: skip
def test_times_are_taken_as_people_write_them(given: Any, ms: int) -> None:
    assert notebook._ms(given) == ms


def test_the_environment_says_where_and_who(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_FEATURES_URL", "http://f")
    monkeypatch.setenv("HEADRACE_PRINCIPAL", "bo")
    to = headrace.Connection.from_environment()
    assert (to.features_url, to.key_file) == ("http://f", Path(".headrace/keys/private/bo.pem"))


def test_a_data_set_comes_as_a_frame_and_a_failed_build_as_its_reason(tmp_path: Path, at: Callable[[Desk], Connection]) -> None:
    desk = desk_of(make_world(1, 20), tmp_path)
    objects, rows = FolderObjectStore(tmp_path / "objects"), pl.DataFrame({"departures_1h": [1.0], "label": [True]})
    asked: list[DatasetRequested] = []

    async def build(request: DatasetRequested) -> DatasetBuilt:
        asked.append(request)
        about: dict[str, Any] = {"pipeline": PIPELINE, "model": MODEL.name, "plan_hash": PLAN.hash}
        about["request_id"] = request.request_id
        if request.until_ms > 1_000_000:
            return DatasetBuilt(**about, ok=False, error="no labelled request")
        rows.write_parquet(tmp_path / "rows")
        put = objects.put((tmp_path / "rows").read_bytes(), ".parquet")
        return DatasetBuilt(**about, ok=True, reference=put.reference, digest=put.digest, rows=1)

    add_dataset_route(desk.http, desk.door, DatasetDesk({PIPELINE: PLAN}, build, objects))
    to = at(desk)
    assert headrace.dataset(MODEL.name, 5, 1_000, connection=to).equals(rows)
    assert (asked[0].from_ms, asked[0].until_ms, asked[0].mature_until_ms) == (5, 1_000, 1_000 + MODEL.label.mature_ms)
    with pytest.raises(Refused, match="no labelled request"):
        headrace.dataset(f"{PIPELINE}/{MODEL.name}", 5, 2_000_000, connection=to)
    with pytest.raises(Refused, match="window is empty"):
        headrace.dataset(MODEL.name, 5, 5, connection=to)
    with pytest.raises(Refused, match="models:"):
        headrace.dataset("other", 5, 6, connection=to)


def test_why_shows_what_was_read_who_approved_and_what_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: every frame of one decision. Method: a small lake; svc-governance's answers as it gives them."""
    world = make_world(4)
    rig = played(world, random.Random(4))
    rig.archived(tmp_path / "lake")
    admitted = next_entry(
        None, 1_000, actor="ada", action="pipeline.admitted", subject=PIPELINE,
        body={"plan_hash": PLAN.hash, "plan": to_json(PLAN).decode(), "pipeline": PIPELINE},
    )  # fmt: skip

    class Governance:
        def __init__(self, url: str) -> None: ...
        def __enter__(self) -> Governance:
            return self

        def __exit__(self, *_: object) -> None: ...
        def export(self) -> list[str]:
            return [export_line(admitted)]

        def candidates(self) -> list[dict[str, Any]]:
            return []

    monkeypatch.setattr(explaining, "GovernanceClient", Governance)
    flown = {r.fields["flight_id"]: r.fields for r in reversed(rig.log) if r.event == "departures" and r.fields}
    passport = next(p for p in rig.passports if p.request_id in flown)
    to = Connection(lake=tmp_path / "lake", pipeline=PIPELINE)
    why = headrace.why(passport.request_id, connection=to)
    assert why.complaints == ()
    assert why.decision["request_id"].to_list() == [passport.request_id]
    assert why.features["feature"].to_list() == [f.name for s in SETS for f in s.features]
    assert why.features["value"].to_list() == [v for r in passport.sets for v in r.values]
    assert why.features["status"].to_physical().to_list() == [s for r in passport.sets for s in r.statuses]
    assert why.approvals.row(0, named=True)["decided_by"] == "ada"
    row = why.outcome.row(0, named=True)
    assert row["flight_id"] == passport.request_id
    assert row["label"] == ((row["delay"] or 0) > 15)
    with pytest.raises(LookupError, match="was it asked for"):
        monkeypatch.setattr(explaining, "from_topic", lambda *_: None)
        headrace.why("nobody", connection=to)
    assert (tmp_path / "lake" / PREDICTIONS_TOPIC).exists()


def test_why_without_governance_shows_what_the_archive_has(tmp_path: Path) -> None:
    rig = played(make_world(4), random.Random(4), asks=10)
    rig.archived(tmp_path / "lake")
    to = Connection(lake=tmp_path / "lake", pipeline=PIPELINE, governance_url="http://127.0.0.1:9")
    why = headrace.why(rig.passports[0].request_id, connection=to)
    assert why.features["feature"][0] == "#0" and "approvals" in why.complaints[0]
    assert why.outcome.is_empty()
