"""Every address comes from what was given, else the environment, else the running stack above, else the default ports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headrace.cli.main import app
from headrace.client import local_stack
from headrace.client.connection import Connection
from headrace.client.features import FeaturesClient, Unreachable
from headrace.client.local_stack import DEFAULTS, SERVICES, address, variable
from headrace.client.standing import Places

WRITTEN = {name: f"http://127.0.0.1:{port}" for port, name in enumerate(DEFAULTS, 1)}  # nobody listens on these
FLIGHTS = Path(__file__).parents[3] / "schemas" / "pipelines" / "flights"


@pytest.fixture(autouse=True)
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without a stack, stood in; nothing in the environment."""
    for name in (*DEFAULTS, "HEADRACE_LAKE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def up(clone: Path, text: str | None = None) -> None:
    file = clone / local_stack.HOME / local_stack.ADDRESSES
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(WRITTEN) if text is None else text)


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_nearest_to_hand_wins(name: str, clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert address(name) == DEFAULTS[name]
    up(clone)
    assert address(name) == WRITTEN[name]
    monkeypatch.setenv(name, "from the environment")
    assert address(name) == "from the environment"
    assert address(name, "given") == "given"
    monkeypatch.setenv(name, "")
    assert address(name) == WRITTEN[name]


@pytest.mark.parametrize("text", ["", "[", "[1]", "3", '{"HEADRACE_OTHER": "x"}'])
def test_a_file_that_does_not_say_counts_as_none(text: str, clone: Path) -> None:
    up(clone, text)
    assert {name: address(name) for name in DEFAULTS} == DEFAULTS


def test_the_stack_is_found_from_folders_below_its_clone(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    up(clone)
    below = clone / "my" / "food-orders"
    below.mkdir(parents=True)
    assert local_stack.home() == local_stack.HOME
    monkeypatch.chdir(below)
    assert address(local_stack.INGEST_URL) == WRITTEN[local_stack.INGEST_URL]
    assert local_stack.home() == clone / ".headrace"
    assert local_stack.lake() == clone / ".headrace" / "lake"
    assert Connection(principal="bo").key_file == clone / ".headrace/keys/private/bo.pem"


def test_a_notebook_finds_it_and_an_argument_is_stronger(clone: Path) -> None:
    up(clone)
    for to in (Connection(), Connection.from_environment()):
        assert to.features_url == WRITTEN[local_stack.FEATURES_URL]
        assert to.governance_url == WRITTEN[local_stack.GOVERNANCE_URL]
        assert to.bootstrap == WRITTEN[local_stack.BOOTSTRAP]
        assert to.registry_url == WRITTEN[local_stack.REGISTRY_URL]
    assert Connection(features_url="http://other").features_url == "http://other"


def test_a_client_without_an_address_finds_it(clone: Path) -> None:
    up(clone)
    with FeaturesClient() as features, pytest.raises(Unreachable, match=WRITTEN[local_stack.FEATURES_URL]):
        features.pipelines()


def test_status_finds_each_service_and_its_flags_are_stronger(clone: Path) -> None:
    up(clone)
    assert [Places().url(service) for service in SERVICES] == [WRITTEN[variable(service)] for service in SERVICES]
    assert Places(first_port=7).url("svc-stream") == "http://127.0.0.1:8"
    assert Places(host="h").url("svc-stream") == "http://h:18102"


@pytest.mark.parametrize(
    ("command", "service", "flag"),
    [
        (["pipelines"], "svc-governance", "--url"),
        (["candidates"], "svc-governance", "--url"),
        (["rollouts"], "svc-governance", "--url"),
        (["plan", str(FLIGHTS), "--live"], "svc-governance", "--url"),
        (["backfill", str(FLIGHTS), "origin_load"], "svc-features", "--url"),
    ],
)
def test_commands_ask_where_it_says(
    command: list[str], service: str, flag: str, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    up(clone)
    for extra, there in (([], WRITTEN[variable(service)]), ([flag, "http://127.0.0.1:20"], "http://127.0.0.1:20")):
        result = CliRunner().invoke(app, [*command, *extra])
        assert result.exit_code == 1
        assert there in result.output.replace("\n", "")
    monkeypatch.setenv(variable(service), "http://127.0.0.1:21")
    assert "http://127.0.0.1:21" in CliRunner().invoke(app, command).output.replace("\n", "")
