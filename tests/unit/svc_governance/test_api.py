"""People's door, through the client they use: who is let in, what is answered, what the audit keeps."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from headrace.cli import audit as audit_cli
from headrace.client.governance import GovernanceClient, Refused
from headrace.contracts.audit import export_line, next_entry, read_export
from headrace.contracts.catalogue import MODEL_CANDIDATES
from headrace.contracts.records import AuditEntryAppended
from headrace.contracts.signing import authenticate, token
from headrace.plan.hashes import to_json
from svc_governance.api import AUDIENCE, Door, build_routes
from svc_governance.writer import Writer
from unit.svc_governance.worlds import HOLD, MODEL, PEOPLE, PIPELINE, Town, a_plan

PLAN = to_json(a_plan())
COMMANDS = [
    ("POST", "/v1/pipelines"),
    ("DELETE", f"/v1/pipelines/{PIPELINE}"),
    ("POST", "/v1/training-requests"),
    ("POST", "/v1/candidates/run-1/approve"),
    ("POST", "/v1/candidates/run-1/reject"),
    ("POST", f"/v1/models/{PIPELINE}/{MODEL}/kill"),
]


class Bridge(httpx.BaseTransport):
    """Carries the client's requests to the app in this process."""

    def __init__(self, app: TestClient) -> None:
        self._app = app

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        found = self._app.request(request.method, str(request.url), headers=dict(request.headers), content=request.read())
        return httpx.Response(found.status_code, content=found.content)


class Office:
    """The service on the in-memory bus, its writer in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self.town = Town(folder)
        self.writer: Writer = self.town.writer()
        app = FastAPI()
        door = Door(self.writer, partial(authenticate, self.town.trusted, audience=AUDIENCE), PEOPLE, HOLD)
        app.include_router(build_routes(door))
        self.http = TestClient(app)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.writer.run, args=(self._stop,))
        self._thread.start()
        assert self.writer.opened.wait(10)

    def as_person(self, name: str = "") -> GovernanceClient:
        key = self.town.key(name) if name else None
        return GovernanceClient("http://testserver", name, key, Bridge(self.http))

    def with_candidate(self, candidate_id: str = "run-1") -> None:
        """Apply the plan and have a signed candidate gated."""
        self.as_person("ada").apply(PLAN)
        self.town.send(MODEL_CANDIDATES, self.town.signed_candidate(candidate_id))
        waited = threading.Event()
        for _ in range(200):
            if candidate_id in self.writer.state.candidates:
                return
            waited.wait(0.02)
        raise AssertionError("the candidate was not taken up")

    def actions(self) -> list[tuple[str, str]]:
        return [(entry.actor, entry.action) for entry in self.writer.entries()]

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    office = Office(tmp_path)
    yield office
    office.close()


@pytest.mark.parametrize(("method", "path"), COMMANDS)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "grace"},
        {"authorization": "Bearer grace"},
        {"authorization": "Basic Z3JhY2U6Z3JhY2U="},
        {"x-user": "grace", "x-forwarded-user": "grace"},
    ],
)
def test_naming_a_user_is_not_enough_for_any_command(office, method, path, headers):
    response = office.http.request(method, path, headers=headers, content=b"{}", params={"user": "grace"})
    assert response.status_code == 401
    assert office.actions() == []


def test_tokens_of_unknown_people_other_doors_and_borrowed_names_do_not_open(office):
    town = office.town
    forged = [
        token(town.key("mallory"), "mallory", 60, AUDIENCE),  # a key nobody trusts
        token(town.key("mallory"), "grace", 60, AUDIENCE),  # signed with it in another's name
        token(town.key("grace"), "grace", 60, "svc-ingest"),  # meant for another door
    ]
    for bearer in forged:
        response = office.http.post(f"/v1/models/{PIPELINE}/{MODEL}/kill", headers={"authorization": f"Bearer {bearer}"})
        assert response.status_code == 401


def test_the_proposers_own_approval_is_refused_and_a_second_persons_is_not(office):
    office.with_candidate()
    with pytest.raises(Refused, match="four eyes") as refusal:
        office.as_person("ada").approve("run-1")
    assert refusal.value.status == 403
    assert office.as_person("grace").approve("run-1", "looks right")["state"] == "CANARY"
    assert office.actions()[-3:] == [
        ("ada", "approval.refused"),
        ("grace", "approval.given"),
        ("svc-governance", "rollout.changed"),
    ]
    (rollout,) = office.as_person().rollouts()
    assert [(arm["name"], arm["weight"]) for arm in rollout["arms"]] == [("rules", 9500), ("challenger", 500)]


def test_a_second_approval_comes_too_late(office):
    office.with_candidate()
    office.as_person("grace").approve("run-1")
    with pytest.raises(Refused) as refusal:
        office.as_person("grace").approve("run-1")
    assert refusal.value.status == 409


def test_apply_twice_is_once_and_shows_who_is_waited_for(office):
    first, second = office.as_person("ada").apply(PLAN), office.as_person("ada").apply(PLAN)
    assert first == second
    assert len(first["waiting"]) == 6
    assert office.actions() == [("ada", "pipeline.admitted")]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 422),
        (b"[]", 422),
        (b'{"pipeline": "shop"}', 422),
        (PLAN.replace(b'"owner"', b'"owner":"x","owner"', 1), 422),
        (PLAN.replace(b'"shop"', b'"shoe"', 1), 422),
        (b"[" * 100_000, 422),
        (b" " * (5 << 20), 413),
    ],
)
def test_a_body_that_is_no_plan_is_refused_with_a_reason(office, body, status):
    with pytest.raises(Refused) as refusal:
        office.as_person("ada").apply(body)
    assert refusal.value.status == status
    assert office.actions() == []


@pytest.mark.parametrize("body", [{}, {"reason": 5}, {"reason": "x", "as": "grace"}, {"reason": "x" * 3000}])
def test_an_approval_with_unknown_or_wrong_fields_is_refused(office, body):
    if body == {}:
        body = {"reasons": ""}
    bearer = token(office.town.key("grace"), "grace", 60, AUDIENCE)
    response = office.http.post("/v1/candidates/run-1/approve", json=body, headers={"authorization": f"Bearer {bearer}"})
    assert response.status_code == 422


def test_the_kill_switch_needs_no_rollout_and_no_second_person(office):
    office.as_person("ada").apply(PLAN)
    assert office.as_person("ops").kill(PIPELINE, MODEL)["state"] == "KILLED"


def test_a_persons_training_request_is_answered_with_its_trigger(office):
    office.as_person("ada").apply(PLAN)
    view = office.as_person("ada").train(PIPELINE, MODEL, 1000, 2000, "r1")
    assert (view["requested_by"], view["trigger_kind"], view["in_flight"]) == ("ada", "person", True)
    assert office.as_person("ada").train(PIPELINE, MODEL, 1000, 2000, "r1")["trigger_id"] == view["trigger_id"]
    assert len(office.as_person().trainings()) == 1


def test_the_console_shows_each_thing_with_its_command_and_escapes_what_comes_from_outside(office):
    office.with_candidate()
    trained = dataclasses.replace(office.town.signed_candidate("<script>alert(1)</script>"), requested_by="<b>ada</b>")
    office.town.send(MODEL_CANDIDATES, trained)
    waited = threading.Event()
    while len(office.writer.state.candidates) < 2:
        waited.wait(0.02)
    text = office.http.get("/").text
    assert "headrace approve run-1 --as grace" in text
    assert "headrace audit verify" in text
    assert "<script>" not in text
    assert "<b>ada" not in text


def exported(office: Office, path: Path) -> Path:
    path.write_text("".join(line + "\n" for line in office.as_person().export()))
    return path


def verified(path: Path, office: Office, heads: bool = True) -> tuple[int, str]:
    arguments = ["verify", str(path), "--key", str(office.town.folder / "trusted" / "svc-governance.pub")]
    result = CliRunner().invoke(audit_cli.app, arguments + (["--heads", str(office.town.heads_path)] if heads else []))
    return result.exit_code, result.output


def _whole(lines: list[str]) -> list[str]:
    return lines


def _altered(lines: list[str]) -> list[str]:
    return [line.replace('"actor":"grace"', '"actor":"ops"') for line in lines]


def _dropped(lines: list[str]) -> list[str]:
    return lines[:1] + lines[2:]


def _swapped(lines: list[str]) -> list[str]:
    return [lines[1], lines[0], *lines[2:]]


def _truncated(lines: list[str]) -> list[str]:
    return lines[:-1]


def _garbled(lines: list[str]) -> list[str]:
    return [*lines[:-1], lines[-1][:-9]]


@pytest.mark.parametrize(
    ("tamper", "holds", "holds_without_heads"),
    [
        (_whole, True, True),
        (_altered, False, False),
        (_dropped, False, False),
        (_swapped, False, False),
        (_truncated, False, True),  # what heads are for
        (_garbled, False, False),
    ],
)
def test_an_export_verifies_and_tampering_with_it_shows(office, tmp_path, tamper, holds, holds_without_heads):
    office.with_candidate()
    office.as_person("grace").approve("run-1")
    path = exported(office, tmp_path / "export.jsonl")
    lines = path.read_text().splitlines()
    path.write_text("".join(line + "\n" for line in tamper(lines)))
    assert (verified(path, office)[0] == 0) == holds
    assert (verified(path, office, heads=False)[0] == 0) == holds_without_heads


def test_a_rewritten_chain_with_fresh_hashes_contradicts_the_heads(office, tmp_path):
    """Someone with the topic but not the key rebuilds the whole chain: it holds in itself, not against the heads."""
    office.with_candidate()
    rebuilt: list[AuditEntryAppended] = []
    for entry in read_export(office.as_person().export()):
        actor = "mallory" if entry.actor == "ada" else entry.actor
        last = rebuilt[-1] if rebuilt else None
        body = json.loads(entry.body)
        what = {"action": entry.action, "subject": entry.subject}
        rebuilt.append(next_entry(last, at_ms=entry.at_ms, actor=actor, body=body, **what))
    path = tmp_path / "export.jsonl"
    path.write_text("".join(export_line(entry) + "\n" for entry in rebuilt))
    assert verified(path, office, heads=False)[0] == 0
    code, output = verified(path, office)
    assert code == 1
    assert "rewritten" in output


def test_the_head_served_is_the_newest_kept(office):
    office.as_person("ada").apply(PLAN)
    assert office.as_person().head()["hash"] == read_export(office.as_person().export())[-1].hash


def test_reading_needs_no_token_and_an_unknown_pipeline_is_not_found(office):
    assert office.as_person().pipelines() == []
    with pytest.raises(Refused) as refusal:
        office.as_person().pipeline("nothing")
    assert refusal.value.status == 404


def test_a_head_of_an_empty_chain_is_not_found(office):
    response = office.http.get("/v1/audit/head")
    assert response.status_code == 404
