"""Replays as people order them: over HTTP with a token, from the command line with the stack up and down."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI, Request
from typer.testing import CliRunner

import headrace
from headrace.cli.main import app
from headrace.client import replays as client_replays
from headrace.client.diffs import frames_of
from headrace.client.features import FeaturesClient, Refused
from headrace.contracts.signing import TrustedKeys
from headrace.plan.hashes import to_json
from headrace.plan.ir import Plan
from svc_features import replays
from svc_features.jobs import Ended
from svc_features.read_door import Bearers
from svc_features.replays import Replays
from svc_features.settings import FeaturesSettings
from unit.svc_features.replay_rig import ALWAYS_MS, Past, changed, naive, past
from unit.svc_features.worlds import PIPELINE, PLAN

DAYS = "3000d"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Past:
    return past(tmp_path_factory.mktemp("world"), 6)


class Bridge(httpx.BaseTransport):
    """A blocking client's way to a service in the loop of another thread."""

    def __init__(self, http: FastAPI, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = httpx.ASGITransport(http), loop

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        async def answer() -> httpx.Response:
            body = b"".join([piece async for piece in request.stream])  # type: ignore[union-attr]
            asked = httpx.Request(request.method, request.url, headers=request.headers, content=body)
            found = await self._transport.handle_async_request(asked)
            return httpx.Response(found.status_code, headers=found.headers, content=await found.aread())

        return asyncio.run_coroutine_threadsafe(answer(), self._loop).result(60)


@contextmanager
def office(world: Past, folder: Path) -> Iterator[Callable[[str], FeaturesClient]]:
    """The part and its routes in a loop of its own; gives clients by the name of who asks."""
    key = Ed25519PrivateKey.generate()
    trusted = TrustedKeys(world.home / "keys" / "trusted")
    trusted.public = lambda name: key.public_key() if name == "ada" else None  # type: ignore[method-assign]
    settings = FeaturesSettings(
        lake=world.lake, object_store=world.home / "objects", state_dir=folder, job_threads=1, job_memory_mb=500,
        trusted_keys=world.home / "keys" / "trusted",
    )  # fmt: skip
    http, loop = FastAPI(), asyncio.new_event_loop()
    part, bearers = Replays({PIPELINE: PLAN}, settings), Bearers(trusted)

    def identify(request: Request) -> str:
        return bearers.principal(request.headers.get("authorization", ""))

    part.add_routes(http, identify)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(part.start(), loop).result(10)
        yield lambda name: FeaturesClient("http://features", name, key, transport=Bridge(http, loop))
    finally:
        asyncio.run_coroutine_threadsafe(part.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def silent(_phase: str, _done: int, _total: int) -> None: ...


def test_a_replay_ordered_over_http_is_the_replay(world: Past, tmp_path: Path) -> None:
    """The whole way: token, order, process, progress, result, flips as lines; afterwards nothing is left of it."""
    plan, seen = changed(threshold="0.3"), list[str]()
    with office(world, tmp_path / "state") as client:
        answer = client_replays.ask(
            client("ada"), client_replays.Question(plan, ALWAYS_MS), tmp_path, lambda phase, _, __: seen.append(phase)
        )
        assert sorted((f["request_id"], f["new"]["decision"]) for f in answer.each()) == [
            (request, new) for request, _, new, _ in naive(world, plan)
        ]
        assert answer.page["models"]["delay"]["flips"] == len(list(answer.each())) > 0
        assert "replay" in seen
        assert list((tmp_path / "state" / "replays").iterdir()) == []


def test_who_has_no_key_is_told_nothing(world: Past, tmp_path: Path) -> None:
    with office(world, tmp_path / "state") as client:
        for call in (
            lambda c: c.order_replay(to_json(PLAN), 1), lambda c: c.replay("x"), lambda c: c.forget_replay("x"),
        ):  # fmt: skip
            with pytest.raises(Refused) as refusal:
                call(client("mallory"))
            assert refusal.value.status == 401


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        ({"plan": {}, "span_ms": 1}, 422, "not a plan"),
        ({"span_ms": 1}, 422, "plan: field required"),
        ({"plan": json.loads(to_json(PLAN)), "span_ms": 0}, 422, "span_ms"),
        ({"plan": json.loads(to_json(PLAN)), "span_ms": 1, "spam": 1}, 422, "spam"),
        ({"plan": json.loads(to_json(PLAN)) | {"owner": "eve"}, "span_ms": 1}, 422, "hashes do not match"),
        ([], 422, "valid dictionary"),
    ],
)
def test_a_question_that_is_none_is_refused(world: Past, tmp_path: Path, body: object, status: int, why: str) -> None:
    with office(world, tmp_path / "state") as client, pytest.raises(Refused, match=why) as refusal:
        client("ada")._send("POST", "/v1/replays", json=body)
    assert refusal.value.status == status


def test_orders_wait_for_each_other_and_too_many_are_refused(
    world: Past, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs that never end: one runs, the rest wait; forgetting one makes room."""
    started: list[str] = []

    async def never(_module: str, arguments: list[str], _timeout_s: float) -> Ended:
        started.append(Path(arguments[0]).name)
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(replays, "run_module", never)
    with office(world, tmp_path / "state") as make:
        client = make("ada")
        orders = [client.order_replay(to_json(PLAN), 1) for _ in range(replays.WAITING_MAX)]
        assert [client.replay(o)["state"] for o in orders] == ["running", *["waiting"] * (replays.WAITING_MAX - 1)]
        with pytest.raises(Refused, match="wait already"):
            client.order_replay(to_json(PLAN), 1)
        client.forget_replay(orders[0])
        with pytest.raises(Refused, match="no replay"):
            client.replay(orders[0])
        client.order_replay(to_json(PLAN), 1)
        assert started[:1] == orders[:1]


def test_a_question_without_an_answer_fails_with_the_reason(world: Past, tmp_path: Path) -> None:
    with office(world, tmp_path / "state") as client, pytest.raises(client_replays.NotReplayed, match="means no model"):
        client_replays.ask(client("ada"), client_replays.Question(PLAN, ALWAYS_MS, "unheard-of"), tmp_path, silent)


# -- the command line, with the stack down


def command(world: Past, folder: Path, plan: Plan, *arguments: str) -> tuple[int, str, str]:
    file = folder / "changed.json"
    file.write_bytes(to_json(plan))
    asked = ["plan", str(file), "--against", DAYS, "--lake", str(world.lake), *arguments]
    result = CliRunner().invoke(app, asked, env={"COLUMNS": "220"})
    return result.exit_code, result.stdout, result.stderr


def test_the_command_lists_flips_gains_and_cost(world: Past, tmp_path: Path) -> None:
    plan = changed(threshold="0.3")
    code, text, _ = command(world, tmp_path, plan, "--by", "origin", "--most", "3")
    flips = naive(world, plan)
    assert (code, f"{len(flips)} flip" in text) == (0, True), text
    for part in ("by rung", "by origin", "flips (3 of", "model delay", "cost: the same state per key"):
        assert part in text, part
    assert sum(request in text for request, *_ in flips) >= 3


def test_the_exit_code_is_a_check_on_a_pull_request(world: Past, tmp_path: Path) -> None:
    """0: no condition holds. 1: one does. 2: no answer, or nothing to judge a condition by."""
    run = partial(command, world, tmp_path)
    plan = changed(threshold="0.3")
    count = len(naive(world, plan))
    assert run(plan, "--fail-on", f"flips>{count}", "--fail-on", "not_replayed>0")[0] == 0
    code, text, _ = run(plan, "--fail-on", f"flips>={count}")
    assert (code, f"fails flips>={count} of delay" in text) == (1, True)
    assert run(plan, "--fail-on", "reads>0%", "--model", "no-such-model")[0] == 2
    assert run(plan, "--fail-on", "flips!")[0] == 2
    assert run(plan, "--by", "no_such_field")[0] == 2


def test_the_json_holds_the_page_the_flips_and_the_verdict(world: Past, tmp_path: Path) -> None:
    plan, saved = changed(threshold="0.3"), tmp_path / "flips.ndjson"
    code, text, _ = command(world, tmp_path, plan, "--json", "--most", "2", "--flips", str(saved), "--fail-on", "flips>0")
    page = json.loads(text)
    assert (code, page["conditions"]["failing"], len(page["flips"])) == (1, ["flips>0 of delay"], 2)
    lines = [json.loads(line) for line in saved.read_text().splitlines()]
    assert sorted(line["request_id"] for line in lines) == [request for request, *_ in naive(world, plan)]
    assert lines[:2] == page["flips"]


def test_a_notebook_gets_frames(world: Past, tmp_path: Path) -> None:
    """Flips, inputs and groups as frames, from the same answer as the command's."""
    plan = changed(rules="departures_1h > 0")
    question = client_replays.Question(plan, ALWAYS_MS, by=("origin",))
    found = frames_of(client_replays.run(world.home, world.lake, question, tmp_path, silent))
    predicted = {request: new for request, _, new, _ in naive(world, plan)}
    assert dict(found.flips.select("request_id", "new_decision").iter_rows()) == predicted != {}
    assert found.flips["old_decision"].not_().to_list() == found.flips["new_decision"].to_list()
    assert found.groups["flips"].sum() == len(predicted)
    assert found.inputs.is_empty()
    assert headrace.diff is not None


def test_replay_options_without_a_span_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_bytes(to_json(PLAN))
    assert CliRunner().invoke(app, ["plan", str(file), "--fail-on", "flips>1"]).exit_code == 2
    assert CliRunner().invoke(app, ["plan", str(file), "--against", str(file), "--plain"]).exit_code == 0
