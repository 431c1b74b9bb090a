"""Whose fault it is when the registry says no, or nothing. The registry is a local HTTP server that says what a test wants."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from headrace.chassis.access import AccessSettings
from headrace.contracts import registry as subject
from headrace.contracts.errors import Fatal, Poison, Reason, Retryable
from headrace.contracts.registry import ConfluentRegistry

SCHEMA = {"type": "record", "name": "A", "fields": []}


class Played:
    """The server's side: one answer to everything, requests counted; and a clock that is moved by hand."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.names: set[str | None] = set()  # what callers said of who they are
        self.answer: tuple[int, dict[str, Any]] = (200, {})
        self.now_s = 0.0
        played = self

        class Handler(BaseHTTPRequestHandler):
            def _say(self) -> None:
                played.requests.append(f"{self.command} {self.path}")
                played.names.add(self.headers.get("Authorization"))
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, body = played.answer
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = _say

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.registry = ConfluentRegistry(f"http://127.0.0.1:{self.server.server_port}", clock=lambda: self.now_s)

    def away(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def played() -> Iterator[Played]:
    server = Played()
    yield server
    server.away()


def test_the_same_schema_is_registered_once(played: Played) -> None:
    played.answer = (200, {"id": 7})
    assert [played.registry.register("a-value", SCHEMA) for _ in range(3)] == [7, 7, 7]
    assert len(played.requests) == 1


def test_an_incompatible_schema_is_fatal_and_says_what_to_do(played: Played) -> None:
    played.answer = (409, {"error_code": 409, "message": "reader lacks a default"})
    with pytest.raises(Fatal, match=r"reader lacks a default.*new topic version"):
        played.registry.register("a-value", SCHEMA)


def test_a_registry_that_is_away_is_the_worlds_fault(played: Played) -> None:
    played.away()
    with pytest.raises(Retryable, match="unreachable"):
        played.registry.schema(1)
    with pytest.raises(Retryable, match="unreachable"):
        played.registry.register("a-value", SCHEMA)


def test_a_schema_is_fetched_once(played: Played) -> None:
    played.answer = (200, {"schema": json.dumps(SCHEMA)})
    assert [played.registry.schema(3) for _ in range(3)] == [SCHEMA] * 3
    assert len(played.requests) == 1


def test_an_unknown_id_is_asked_for_again_only_after_a_while(played: Played) -> None:
    """A flood of bad ids must not become a flood of requests; an id registered later must be found."""
    played.answer = (404, {"error_code": 40403, "message": "not found"})
    for _ in range(100):
        with pytest.raises(Poison) as caught:
            played.registry.schema(99)
        assert caught.value.reason is Reason.UNKNOWN_SCHEMA
    assert len(played.requests) == 1
    played.answer = (200, {"schema": json.dumps(SCHEMA)})
    played.now_s += subject.UNKNOWN_ID_S
    assert played.registry.schema(99) == SCHEMA


def test_a_registry_that_fails_is_asked_again_by_the_caller(played: Played) -> None:
    played.answer = (500, {"error_code": 50001, "message": "store is down"})
    with pytest.raises(Retryable, match="store is down"):
        played.registry.schema(1)


def test_the_level_of_a_subject_is_set_when_it_is_first_registered(played: Played) -> None:
    played.answer = (200, {"id": 7, "compatibility": "FULL_TRANSITIVE"})
    for _ in range(2):
        played.registry.register("a-value", SCHEMA, "FULL_TRANSITIVE")
    assert [r.split("?")[0] for r in played.requests] == ["POST /subjects/a-value/versions", "PUT /config/a-value"]


def test_an_address_that_is_no_registry_is_a_wrong_setting(played: Played) -> None:
    played.answer = (404, {})
    with pytest.raises(Fatal, match="HEADRACE_REGISTRY_URL"):
        played.registry.register("a-value", SCHEMA)


def test_a_registry_that_asks_is_told_name_and_password_of_the_file(played: Played, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret\n")
    access = AccessSettings(registry_user="svc-serve", registry_password_file=tmp_path / "password")
    registry = ConfluentRegistry(f"http://127.0.0.1:{played.server.server_port}", client_config=access.registry())
    played.answer = (200, {"schema": json.dumps(SCHEMA)})
    assert registry.schema(1) == SCHEMA
    assert played.names == {"Basic " + base64.b64encode(b"svc-serve:s3cret").decode()}


def test_a_registry_that_refuses_the_password_is_a_wrong_setting_that_is_not_shown(played: Played, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret\n")
    access = AccessSettings(registry_user="svc-serve", registry_password_file=tmp_path / "password")
    registry = ConfluentRegistry(f"http://127.0.0.1:{played.server.server_port}", client_config=access.registry())
    played.answer = (401, {"error_code": 40101, "message": "unauthorized"})
    with pytest.raises(Fatal, match="registry refused") as caught:
        registry.schema(1)
    assert "s3cret" not in str(caught.value)
