"""`headrace why` without --pipeline: the only one in force, the one that holds the id, or a word on which there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from headrace.cli.main import app
from headrace.client import explain as of
from headrace.client.governance import GovernanceClient, Unreachable
from headrace.client.passports import Found
from headrace.contracts.catalogue import predictions_topic
from headrace.contracts.errors import HeadraceError

NOWHERE = ["--url", "http://127.0.0.1:1", "--bootstrap", "127.0.0.1:1"]


def governed(monkeypatch: pytest.MonkeyPatch, *views: tuple[str, str]) -> None:
    def pipelines(self: GovernanceClient) -> list[dict[str, Any]]:
        del self
        if not views:
            raise Unreachable("nobody")
        return [{"pipeline": name, "state": state} for name, state in views]

    monkeypatch.setattr(GovernanceClient, "pipelines", pipelines)


def holding(monkeypatch: pytest.MonkeyPatch, lake: set[tuple[str, str]], topics: set[tuple[str, str]]) -> list[str]:
    """Archive and topics that hold these (pipeline, id); returns the topics asked, as they are asked."""
    asked: list[str] = []

    def archived(folder: Path, name: str, request_id: str) -> Found | None:
        return Found({"pipeline": name}, 0, "archive") if (name, request_id) in lake else None

    def sought(folder: Path, bootstrap: str, registry: str, name: str, request_id: str) -> Found | None:
        asked.append(name)
        if name.startswith("gone"):
            raise HeadraceError(f"there is no topic of {name}")
        return Found({"pipeline": name}, 0, "topic") if (name, request_id) in topics else None

    monkeypatch.setattr(of, "from_lake", archived)
    monkeypatch.setattr(of, "find", sought)
    return asked


@pytest.mark.parametrize(
    ("views", "archived", "known"),
    [
        ((("parcels", "ADMITTED"),), ["flights"], ["parcels"]),
        ((("shop", "ADMITTED"), ("parcels", "ADMITTED"), ("old", "RETIRED")), [], ["parcels", "shop"]),
        ((("old", "RETIRED"),), ["old"], ["old"]),
        ((), ["flights", "food-orders"], ["flights", "food-orders"]),
        ((), [], []),
    ],
)
def test_pipelines_are_those_in_force_else_those_in_the_archive(
    views: tuple[tuple[str, str], ...], archived: list[str], known: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    governed(monkeypatch, *views)
    for name in archived:
        (tmp_path / predictions_topic(name)).mkdir()
    assert of.pipelines_known("", tmp_path) == known


@pytest.mark.parametrize(
    ("names", "lake", "topics", "found", "asked"),
    [
        (["a"], {("a", "id")}, set[Any](), ("a", "archive"), []),
        (["a", "b"], {("b", "id")}, {("a", "id")}, ("b", "archive"), []),
        (["a", "b"], set[Any](), {("b", "id")}, ("b", "topic"), ["a", "b"]),
        (["gone", "b"], set[Any](), {("b", "id")}, ("b", "topic"), ["gone", "b"]),
        (["a", "b"], {("a", "other")}, set[Any](), None, ["a", "b"]),
    ],
)
def test_the_pipeline_that_holds_the_id_is_found(
    names: list[str], lake: set[tuple[str, str]], topics: set[tuple[str, str]], found: tuple[str, str] | None,
    asked: list[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    seen = holding(monkeypatch, lake, topics)
    answer = of.find_among(Path("lake"), "", "", names, "id")
    assert (None if answer is None else (answer.passport["pipeline"], answer.where)) == found
    assert seen == asked


def test_a_topic_that_cannot_be_asked_is_told_where_no_other_holds_the_id(monkeypatch: pytest.MonkeyPatch) -> None:
    holding(monkeypatch, set(), set())
    with pytest.raises(HeadraceError, match="there is no topic of gone"):
        of.find_among(Path("lake"), "", "", ["gone", "b"], "id")


@pytest.mark.parametrize(
    ("views", "extra", "said"),
    [
        ((), [], "no pipeline is known"),
        ((("parcels", "ADMITTED"),), [], "no decision id of parcels"),
        ((("parcels", "ADMITTED"), ("shop", "ADMITTED")), [], "no decision id of parcels, shop"),
        ((("parcels", "ADMITTED"), ("shop", "ADMITTED")), ["--pipeline", "shop"], "no decision id of shop"),
    ],
)
def test_the_command_says_which_there_are(
    views: tuple[tuple[str, str], ...], extra: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    governed(monkeypatch, *views)
    holding(monkeypatch, set(), set())
    done = CliRunner().invoke(app, ["why", "id", *NOWHERE, "--lake", str(tmp_path), *extra], env={"COLUMNS": "300"})
    assert done.exit_code == 1
    assert said in " ".join(done.output.split())
