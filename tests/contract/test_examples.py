"""Examples: valid ones survive the wire unchanged, invalid ones are refused, and every record of every topic has some.

A file is `schemas/examples/<topic>/valid/<Record>[-what].json` (the record; bytes as Latin-1 text) or
`.../invalid/<Record>-what.json` ({why, value}).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fastavro
import pytest
from fastavro.validation import ValidationError

from headrace.contracts import catalogue, generate
from headrace.contracts.codec import Codec, MemoryRegistry
from headrace.contracts.records import RECORDS
from headrace.contracts.wire import plain

EXAMPLES = generate.SCHEMAS / "examples"
FILL = {
    "pipeline": "flights",
    "set": "origin-load",
    "stream": "hourly-delays",
    "hash8": "0a1b2c3d",
    "topic": "flights.departures.v1",
    "group": "svc-stream",
}


def _topic(path: Path) -> catalogue.Topic:
    return catalogue.topics()[path.parent.parent.name]


def _concrete(topic: catalogue.Topic) -> str:
    name = topic.name
    for word, value in FILL.items():
        name = name.replace(f"[{word}]", value)
    return name


def _record(path: Path) -> str:
    """Full name of the record a file is about."""
    short = path.stem.partition("-")[0]
    topic = _topic(path)
    found = [name for name in {topic.record, *topic.carries} if name.rpartition(".")[2] == short]
    assert found, f"{path.name}: {topic.name} carries no {short}"
    return found[0]


def _with_bytes(kind: Any, value: Any) -> Any:
    """JSON's Latin-1 text as bytes, where the schema says bytes."""
    if isinstance(kind, list):
        inner = next(k for k in kind if k != "null")
        return None if value is None else _with_bytes(inner, value)
    shape = kind["type"] if isinstance(kind, dict) else kind
    if shape == "bytes" and isinstance(value, str):
        return value.encode("latin-1")
    if shape == "array" and isinstance(value, list):
        return [_with_bytes(kind["items"], item) for item in value]
    if shape == "record" and isinstance(value, dict):
        kinds = {part["name"]: part["type"] for part in kind["fields"]}
        return {name: _with_bytes(kinds[name], item) if name in kinds else item for name, item in value.items()}
    return value


def _load(path: Path) -> tuple[str, dict[str, Any]]:
    text = json.loads(path.read_text())
    name = _record(path)
    return name, _with_bytes(catalogue.schemas()[name], text["value"] if path.parent.name == "invalid" else text)


VALID = sorted(EXAMPLES.glob("*/valid/*.json"))
INVALID = sorted(EXAMPLES.glob("*/invalid/*.json"))


@pytest.mark.parametrize("path", VALID, ids=lambda p: f"{p.parent.parent.name}/{p.stem}")
def test_a_valid_example_survives_the_wire(path: Path) -> None:
    """Goal: dictionary -> record -> bytes -> record -> dictionary changes nothing, with every field written out."""
    name, value = _load(path)
    codec = Codec(MemoryRegistry())
    record = RECORDS[name].from_avro(value)
    framed = codec.encode(_concrete(_topic(path)), record)
    assert codec.decode(framed, RECORDS[name]) == record
    assert fastavro.validate(value, fastavro.parse_schema(plain(catalogue.schemas()[name])), strict=True)
    assert record.to_avro() == value


@pytest.mark.parametrize("path", INVALID, ids=lambda p: f"{p.parent.parent.name}/{p.stem}")
def test_an_invalid_example_is_no_value_of_its_schema(path: Path) -> None:
    name, value = _load(path)
    assert json.loads(path.read_text())["why"]
    with pytest.raises((ValidationError, ValueError)):
        fastavro.validate(value, fastavro.parse_schema(plain(catalogue.schemas()[name])), strict=True)


def test_every_record_of_every_topic_has_a_valid_example_and_every_topic_an_invalid_one() -> None:
    shown = {(path.parent.parent.name, _record(path)) for path in VALID}
    wanted = {(topic.name, name) for topic in catalogue.topics().values() for name in {topic.record, *topic.carries}}
    assert wanted - shown == set()
    assert set(catalogue.topics()) - {path.parent.parent.name for path in INVALID} == set()


def test_every_example_belongs_to_a_topic() -> None:
    assert {path.name for path in EXAMPLES.iterdir()} - set(catalogue.topics()) == set()
