"""What callers hear over REST, over ASGI: no port, no network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import orjson
import pytest
from fastapi import FastAPI

from headrace.chassis.errors import Retryable
from svc_serve.app import Models
from svc_serve.routes import BODY_BYTES_MAX, add_routes
from unit.svc_serve.rig import Rig, departure

PATH = "/v1/flights/late_arrival/decisions"


@asynccontextmanager
async def caller(rig: Rig, stepping: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    """A caller of the real routes; with `stepping` a door answers."""
    served = SimpleNamespace(
        plan=rig.plan, model=rig.model, decider=rig.decider, reader=rig.reader, answered=rig.answered, queue=rig.queue
    )
    models = SimpleNamespace(
        served={("flights", "late_arrival"): served},
        parked={"fraud": "feature state: spoiled"},
        metrics=rig.metrics,
        views=dict,
    )
    http, door = FastAPI(), rig.rest()
    add_routes(http, cast(Models, models))

    async def go_round() -> None:
        while True:
            door.step()
            await asyncio.sleep(0)

    task = asyncio.create_task(go_round()) if stepping else None
    async with httpx.AsyncClient(transport=httpx.ASGITransport(http), base_url="http://serve") as client:
        yield client
    if task is not None:
        task.cancel()


GOOD = departure(1)
CASES: list[tuple[str, str, bytes, int, str]] = [
    ("a decision", PATH, orjson.dumps(GOOD), 200, "F1"),
    ("a model nobody serves", "/v1/flights/other/decisions", orjson.dumps(GOOD), 404, "flights/late_arrival"),
    ("a parked pipeline", "/v1/fraud/m/decisions", orjson.dumps(GOOD), 503, "spoiled"),
    ("no JSON", PATH, b"{", 400, "not JSON"),
    ("a JSON list", PATH, b"[]", 400, "one JSON object"),
    ("bytes that are no text", PATH, b"\xff\xfe", 400, "not JSON"),
    ("a long body", PATH, b" " * (BODY_BYTES_MAX + 1), 413, "longer than"),
    ("an unknown field", PATH, orjson.dumps(GOOD | {"colour": "red"}), 422, "colour"),
    ("a missing field", PATH, orjson.dumps({k: v for k, v in GOOD.items() if k != "gate"}), 422, "gate"),
    ("a field of another type", PATH, orjson.dumps(GOOD | {"gate": "B4"}), 422, "gate"),
    ("a value out of its range", PATH, orjson.dumps(GOOD | {"delay": 2**40}), 422, "delay"),
    ("a number no long holds", PATH, orjson.dumps(GOOD).replace(b'"gate":1', b'"gate":1e300'), 422, "gate"),
]


@pytest.mark.parametrize(("path", "body", "status", "says"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
async def test_what_a_caller_hears(path: str, body: bytes, status: int, says: str, tmp_path: Path) -> None:
    async with caller(Rig(tmp_path)) as client:
        answer = await client.post(path, content=body)
    assert answer.status_code == status and says in answer.text, answer.text


async def test_too_many_at_once_are_told_when_to_come_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    async with caller(rig, stepping=False) as client:
        waiting = [asyncio.ensure_future(client.post(PATH, json=departure(n))) for n in range(4)]
        for _ in range(50):  # until all four have entered
            await asyncio.sleep(0)
        assert rig.queue._waiting.full()
        answer = await client.post(PATH, json=departure(9))
        for task in waiting:
            task.cancel()
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")


async def test_a_decision_that_is_not_durable_is_503_and_then_made(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.bus.broker.fail("produce", Retryable("down"))
    async with caller(rig) as client:
        first, second = await client.post(PATH, json=GOOD), await client.post(PATH, json=GOOD)
        known = await client.get(f"{PATH}/F1")
        unknown = await client.get(f"{PATH}/F2")
    assert (first.status_code, second.status_code, unknown.status_code) == (503, 200, 404)
    assert known.content == second.content and len(rig.passports()) == 1


async def test_an_id_asked_again_gets_its_answer_marked_whatever_the_body_says(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    async with caller(rig) as client:
        first, again = await client.post(PATH, json=GOOD), await client.post(PATH, json=GOOD | {"delay": GOOD["delay"] + 1})
    assert again.content == first.content
    assert ("Repeated" in first.headers, again.headers["Repeated"]) == (False, "true")
    assert rig.metrics.rest_seconds._sum.get() > 0, "both were timed as the caller waited"


async def test_a_sampled_caller_finds_its_trace_in_the_passport(tmp_path: Path) -> None:
    rig, trace = Rig(tmp_path), "4bf92f3577b34da6a3ce929d0e0e4736"
    async with caller(rig) as client:
        await client.post(PATH, json=GOOD, headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
        await client.post(PATH, json=departure(2), headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-00"})
    assert {p.request_id: p.trace_id for p in rig.passports()} == {"F1": trace, "F2": ""}


async def test_the_status_tells_what_is_served(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.serve(3, rig.arm())
    async with caller(rig) as client:
        await client.post(PATH, json=GOOD)
        page = (await client.get("/v1/status")).json()
    model: dict[str, Any] = page["models"]["flights/late_arrival"]
    assert (model["epoch"], model["answered"], page["decisions"]) == (3, 1, {"model": 1})
    assert page["parked"] == {"fraud": "feature state: spoiled"}
