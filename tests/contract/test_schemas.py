"""The Avro files: they parse, say what they mean, keep to the types the wire can carry, and records.py is made of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import fastavro
import pytest

from headrace.contracts import catalogue, generate, records

SCHEMAS = generate.load_schemas(generate.SCHEMAS / "avro")
NAMES = sorted(SCHEMAS)
# Decoded in batches by pyruhvro, which panics on bytes, fixed, decimal, uuid.
BATCHED = (
    "headrace.stream.TileBlock",
    "headrace.stream.Progress",
    "headrace.stream.PartialTiles",
    "headrace.serve.PredictionMade",
)


def _types(kind: Any) -> Iterator[Any]:
    yield kind
    if isinstance(kind, list):
        for branch in kind:
            yield from _types(branch)
    elif isinstance(kind, dict):
        for part in kind.get("fields", ()):
            yield from _types(part["type"])
        for inner in ("items", "values"):
            if inner in kind:
                yield from _types(kind[inner])


def _fields(schema: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for kind in _types(schema):
        if isinstance(kind, dict) and kind["type"] == "record":
            yield from ((kind["name"], part) for part in kind["fields"])


def test_what_is_generated_is_what_the_files_say() -> None:
    """records.py, schemas.json and topics.json are never edited by hand."""
    stale = [path.name for path, text in generate.render().items() if path.read_text() != text]
    assert not stale, f"{', '.join(stale)} out of date: run python -m headrace.contracts.generate"


def test_every_schema_has_its_record_class() -> None:
    assert sorted(records.RECORDS) == NAMES
    assert catalogue.schemas() == SCHEMAS
    for name, kind in records.RECORDS.items():
        assert name == kind.FULLNAME
        assert kind.__dataclass_params__.frozen
        assert list(kind.__slots__) == [f["name"] for f in SCHEMAS[name]["fields"]]


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_parses_and_is_documented_and_named_by_the_rules(name: str) -> None:
    schema = SCHEMAS[name]
    fastavro.parse_schema(schema)
    assert re.fullmatch(r"headrace\.[a-z]+\.([A-Z][a-z]+)+", name)
    assert schema["doc"].endswith(".")
    for record, part in _fields(schema):
        assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", part["name"]), f"{record}.{part['name']}"
        assert part["doc"], f"{record}.{part['name']} has no doc"
    for kind in _types(schema):
        if isinstance(kind, dict) and kind["type"] == "enum":
            assert all(re.fullmatch(r"[A-Z][A-Z0-9_]*", symbol) for symbol in kind["symbols"])


@pytest.mark.parametrize("name", NAMES)
def test_times_say_their_unit(name: str) -> None:
    """A time is ms UTC and its name ends in _ms."""
    for record, part in _fields(SCHEMAS[name]):
        if isinstance(part["type"], dict) and part["type"].get("logicalType"):
            assert part["type"]["logicalType"] == "timestamp-millis", f"{record}.{part['name']}"
            assert part["name"].endswith("_ms"), f"{record}.{part['name']}"


@pytest.mark.parametrize("name", NAMES)
def test_an_optional_field_is_null_first_and_null_by_default(name: str) -> None:
    """So that it can be added and taken away (FULL_TRANSITIVE)."""
    for record, part in _fields(SCHEMAS[name]):
        if isinstance(part["type"], list):
            assert part["type"][0] == "null", f"{record}.{part['name']}"
            assert len(part["type"]) == 2, f"{record}.{part['name']}"
            assert part.get("default", "absent") is None, f"{record}.{part['name']}"


@pytest.mark.parametrize("name", BATCHED)
def test_records_decoded_in_batches_keep_to_the_types_that_survive_it(name: str) -> None:
    for kind in _types(SCHEMAS[name]):
        text = kind if isinstance(kind, str) else kind.get("type") if isinstance(kind, dict) else None
        assert text not in ("bytes", "fixed", "map"), name
        assert not (isinstance(kind, dict) and kind.get("logicalType") in ("decimal", "uuid")), name


def test_the_generator_refuses_what_records_cannot_be() -> None:
    def schema(*fields: dict[str, Any]) -> dict[str, dict[str, Any]]:
        record = {"type": "record", "name": "A", "namespace": "headrace.x", "doc": "A.", "fields": list(fields)}
        return {"headrace.x.A": record}

    for part in (
        {"name": "a", "type": "string"},
        {"name": "a", "type": ["string", "long"], "doc": "Two types."},
        {"name": "a", "type": "mystery", "doc": "Unknown."},
        {"name": "a", "type": ["null", "string"], "default": "x", "doc": "A default that is not null."},
    ):
        with pytest.raises(generate.SchemaError):
            generate.render_records(schema(part))
    one = {"type": "record", "name": "B", "doc": "B.", "fields": [{"name": "x", "type": "int", "doc": "X."}]}
    other = {"type": "record", "name": "B", "doc": "B.", "fields": [{"name": "y", "type": "int", "doc": "Y."}]}
    with pytest.raises(generate.SchemaError, match="twice"):
        generate.render_records(schema({"name": "a", "type": one, "doc": "A."}, {"name": "b", "type": other, "doc": "B."}))
