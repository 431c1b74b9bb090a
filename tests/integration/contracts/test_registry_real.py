"""ConfluentRegistry on a real registry: ids, compatibility levels, refusals, and producers that are not ours."""

from __future__ import annotations

import copy
import json
import uuid
from typing import Any

import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from headrace.contracts import catalogue
from headrace.contracts.codec import Codec, ConfluentRegistry, EventSchema
from headrace.contracts.errors import Fatal, Poison, Reason
from headrace.contracts.records import Progress, TileBlock
from headrace.contracts.wire import frame

BLOCK = TileBlock(entity="JFK", event="departures", hop_ms=1, index=0, starts_ms=(5,), slots=(1, 2))


@pytest.fixture
def name() -> str:
    """A word no other test uses."""
    return f"t{uuid.uuid4().hex[:12]}"


def _event(name: str, *more: dict[str, Any]) -> EventSchema:
    fields = [
        {"name": "flight_id", "type": "string"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        *more,
    ]
    schema = {"type": "record", "name": "Departed", "namespace": f"headrace.pipelines.{name}", "fields": fields}
    return EventSchema(f"{name}.departures.v1", schema, "at")


def test_records_travel_between_two_processes_that_share_the_registry(registry_url: str, name: str) -> None:
    topic = f"{name}.origin-load-state.0a1b2c3d"
    value = Codec(ConfluentRegistry(registry_url)).encode(topic, BLOCK)
    assert Codec(ConfluentRegistry(registry_url)).decode(value, TileBlock, Progress) == BLOCK


def test_the_same_schema_keeps_its_id_for_ever(registry_url: str, name: str) -> None:
    schema = catalogue.schemas()["headrace.stream.TileBlock"]
    ids = {ConfluentRegistry(registry_url).register(f"{name}-value", schema, "FULL_TRANSITIVE") for _ in range(3)}
    assert len(ids) == 1


def test_a_platform_record_may_not_lose_a_field_that_has_no_default(registry_url: str, name: str) -> None:
    """FULL_TRANSITIVE: old readers must understand new records too."""
    schema = catalogue.schemas()["headrace.stream.TileBlock"]
    ConfluentRegistry(registry_url).register(f"{name}-value", schema, "FULL_TRANSITIVE")
    smaller = copy.deepcopy(schema)
    smaller["fields"] = [f for f in smaller["fields"] if f["name"] != "entity"]
    with pytest.raises(Fatal, match="refused by the registry"):
        ConfluentRegistry(registry_url).register(f"{name}-value", smaller, "FULL_TRANSITIVE")


def test_an_event_may_gain_a_nullable_field_and_older_records_read_with_null(registry_url: str, name: str) -> None:
    older, newer = _event(name), _event(name, {"name": "tail", "type": ["null", "string"], "default": None})
    value = Codec(ConfluentRegistry(registry_url)).encode_event(older, {"flight_id": "UA1", "at": 5})
    codec = Codec(ConfluentRegistry(registry_url))
    codec.register_event(newer)
    assert codec.decode_event(newer, value) == {"flight_id": "UA1", "at": 5, "tail": None}
    with pytest.raises(Fatal, match="refused by the registry"):
        codec.register_event(_event(name, {"name": "gate", "type": "string"}))


def test_a_producer_that_is_not_ours_is_understood(registry_url: str, name: str) -> None:
    """confluent-kafka's own serializer, with its own registration."""
    event = _event(name)
    # The client's stubs declare no arguments here; its documentation does.
    serialize = AvroSerializer(SchemaRegistryClient({"url": registry_url}), json.dumps(event.avro))  # pyright: ignore[reportCallIssue]
    value = serialize({"flight_id": "UA1", "at": 1_370_044_800_000}, SerializationContext(event.topic, MessageField.VALUE))
    codec = Codec(ConfluentRegistry(registry_url))
    assert codec.decode_event(event, value) == {"flight_id": "UA1", "at": 1_370_044_800_000}
    decoded = codec.decode_events(event, [value] * 300)
    assert decoded.decodable.all()
    assert decoded.frame["at"].unique().to_list() == [1_370_044_800_000]


def test_an_id_the_registry_does_not_know_is_the_records_fault(registry_url: str) -> None:
    with pytest.raises(Poison) as caught:
        Codec(ConfluentRegistry(registry_url)).decode(frame(2_000_000_000, b"x"), TileBlock)
    assert caught.value.reason is Reason.UNKNOWN_SCHEMA
