"""Declarations are typed: strictly clean as written, complete under the cursor, and mistakes are told before they run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
SOURCES = ROOT / "schemas" / "src"
SNIPPET = """
from headrace.declare import (
    Annotated, AtMost, Decimal, Doc, Event, Items, Label, Minutes, Model, Nullable, Pipeline, Range, Record, Scale, Text,
    Timestamp, Tumbling, feature_set, stream,
)
from headrace.testing import Driver


class Departed(Event, topic="departures", key="flight_id", time="departed_at", lateness="1h"):
    flight_id: Text
    departed_at: Timestamp
    dep_delay: Annotated[Nullable[Minutes], Doc("after schedule")]


reveal_type(Departed.dep_delay)  # Minutes
reveal_type(Departed.dep_delay.mean())  # Aggregate
reveal_type(Departed.dep_delay.mean().over("1h", hop="5m"))  # Feature
departures = Departed.count().over("1h", hop="5m")
reveal_type(Departed.count(where=Departed.dep_delay > 15).over("1h", hop="5m") / departures)  # Feature
reveal_type(Departed.dep_delay.last(max_age="2h").impute(0))  # Feature


@feature_set(entity="flight_id", ttl="2h")
class Load:
    mean_1h = Departed.dep_delay.mean().over("1h", hop="5m")


reveal_type(Load)  # FeatureSetDeclaration
reveal_type(Driver("x").features(Load, "EWR")["mean_1h"])  # float | None


@stream(Departed, by="flight_id", window=Tumbling("1m"))
class Minute:
    departures = Departed.count()


late_minutes = Minute.departures.max().over("1h", hop="5m")
stream(Departed, emit="late")  # error: reportArgumentType
stream(Departed, window="1m")  # error: reportArgumentType
Departed.dep_dely.mean()  # error: reportAttributeAccessIssue
Departed.dep_delay.mean().over("1h")  # error: reportCallIssue
Departed.dep_delay.median()  # error: reportAttributeAccessIssue
reveal_type(Departed.dep_delay.last())  # Aggregate
Departed.dep_delay.last().impute(0)  # error: reportAttributeAccessIssue
Label(Departed, "dep_delay > 15", join="flight_id")  # error: reportCallIssue
feature_set(entity="origin", ttl="2h", placement="everywhere")  # error: reportArgumentType
Model(request="Departed")  # error: reportCallIssue
Pipeline("flights", events=[Departed])  # error: reportCallIssue


class Address(Record):
    city: Text
    zip: Nullable[Text]


class Ordered(Event, topic="orders", key="id", time="at", lateness="1h"):
    id: Text
    at: Timestamp
    address: Nullable[Address]
    items: Items[Text]
    amounts: Annotated[Items[Annotated[Decimal, Scale(2), Range(0, 1000)]], AtMost(9)]


reveal_type(Ordered.address.city)  # Text
reveal_type(Ordered.address.zip.is_null())  # Expr
reveal_type(Ordered.items.each())  # Text
reveal_type(Ordered.items.contains("x"))  # Expr
reveal_type(Ordered.amounts.each().sum(where=Ordered.address.city == "Ulm").over("1h", hop="5m"))  # Feature
reveal_type(Ordered.amounts.largest())  # Decimal
Ordered.address.ctiy  # error: reportAttributeAccessIssue
Ordered.items.sum()  # error: reportAttributeAccessIssue
Ordered.items > 3  # error: reportOperatorIssue


class Nameless(Event, topic="x"):  # error: reportGeneralTypeIssues
    x: Text
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """One strict run over the pipelines, what `headrace new` writes, and the snippet."""
    folder = tmp_path_factory.mktemp("typed")
    snippet = folder / "snippet.py"
    snippet.write_text(SNIPPET)
    config = {
        "include": [str(ROOT / "schemas" / "pipelines"), str(SOURCES / "headrace" / "cli" / "template"), str(snippet)],
        "extraPaths": [str(SOURCES)],
        "typeCheckingMode": "strict",
        "reportUnusedExpression": "none",
        "reportUnusedClass": "none",
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(config))
    checker = shutil.which("basedpyright", path=str(Path(sys.executable).parent))
    assert checker is not None, "the type checker is part of the test environment"
    command = [checker, "--outputjson", "--pythonpath", sys.executable, "-p", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    return snippet, json.loads(done.stdout)["generalDiagnostics"]


def test_pipelines_and_the_template_are_strictly_clean(told: tuple[Path, list[dict[str, Any]]]) -> None:
    snippet, found = told
    assert [
        f"{one['file']}:{one['range']['start']['line'] + 1}: {one['message']}" for one in found if one["file"] != str(snippet)
    ] == []


def test_every_step_of_a_feature_resolves_to_its_type(told: tuple[Path, list[dict[str, Any]]]) -> None:
    snippet, found = told
    revealed = {
        one["range"]["start"]["line"]: one["message"].rpartition(" is ")[2].strip('"')
        for one in found
        if one["severity"] == "information" and one["file"] == str(snippet)
    }
    wanted = {
        number: line.rpartition("# ")[2] for number, line in enumerate(SNIPPET.splitlines()) if line.startswith("reveal_type")
    }
    assert revealed == wanted


def test_mistakes_are_told_at_their_line_and_nothing_else_is(told: tuple[Path, list[dict[str, Any]]]) -> None:
    snippet, found = told
    errors = {
        one["range"]["start"]["line"]: one["rule"]
        for one in found
        if one["severity"] != "information" and one["file"] == str(snippet)
    }
    marked = {n: line.rpartition("# error: ")[2] for n, line in enumerate(SNIPPET.splitlines()) if "# error: " in line}
    assert errors == marked
