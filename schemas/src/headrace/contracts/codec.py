"""The wire codec: records and events to and from framed Avro.

Platform records are typed classes (records.py), decoded with the writer's schema and resolved to
ours. Users' events are rows of a declared schema, see events.py; the Codec is the one door to both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self, TypeVar, overload

import fastavro

from headrace.contracts import catalogue
from headrace.contracts.errors import Fatal, Poison, Reason
from headrace.contracts.events import DecodedEvents, EventCodec, EventSchema
from headrace.contracts.records import RECORDS
from headrace.contracts.registry import ConfluentRegistry, MemoryRegistry, Registry
from headrace.contracts.wire import frame, plain, read_body, schema_id_of, write_body

__all__ = ["AvroRecord", "Codec", "ConfluentRegistry", "DecodedEvents", "EventSchema", "MemoryRegistry", "Registry"]


class AvroRecord(Protocol):
    """A generated record class."""

    FULLNAME: ClassVar[str]

    def to_avro(self) -> dict[str, Any]: ...
    @classmethod
    def from_avro(cls, d: Mapping[str, Any]) -> Self: ...


A = TypeVar("A", bound=AvroRecord)
B = TypeVar("B", bound=AvroRecord)
C = TypeVar("C", bound=AvroRecord)


class Codec:
    """Encodes and decodes by one registry. Thread-safe as far as the registry is: caches only grow."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._parsed = {name: fastavro.parse_schema(plain(schema)) for name, schema in catalogue.schemas().items()}
        self._ids: dict[tuple[str, str], int] = {}  # topic, full name -> schema id
        self._writers: dict[int, tuple[type[AvroRecord] | None, str, Any, Any]] = {}  # id -> class, full name, writer, reader
        self._events: dict[EventSchema, EventCodec] = {}

    def encode(self, topic: str, record: AvroRecord) -> bytes:
        """Framed bytes; registers the record's schema under the topic's subject when first used.

        Raises: Fatal if the topic does not carry such records, or a field holds a wrong type (our bug).
        """
        name = record.FULLNAME
        schema_id = self._ids.get((topic, name))
        if schema_id is None:
            schema_id = self._register(topic, name)
        try:
            return frame(schema_id, write_body(self._parsed[name], record.to_avro()))
        except Poison as e:
            raise Fatal(f"cannot write {name} to {topic}: {e.detail}") from e

    def _register(self, topic: str, name: str) -> int:
        known = catalogue.describe(topic)
        if known is None:
            raise Fatal(f"topic {topic} is in no topic file: users' events go through encode_event")
        subject = known.subject(topic, name)
        schema_id = self._registry.register(subject, catalogue.schemas()[name], known.compatibility)
        self._ids[topic, name] = schema_id
        return schema_id

    @overload
    def decode(self, value: bytes | None, one: type[A], /) -> A: ...
    @overload
    def decode(self, value: bytes | None, one: type[A], two: type[B], /) -> A | B: ...
    @overload
    def decode(self, value: bytes | None, one: type[A], two: type[B], three: type[C], /) -> A | B | C: ...
    @overload
    def decode(self, value: bytes | None, /, *types: type[Any]) -> Any: ...
    def decode(self, value: bytes | None, /, *types: type[Any]) -> Any:
        """The record in a framed value; without types, any platform record.

        Raises: Poison BAD_FRAME, UNKNOWN_SCHEMA, TRUNCATED or WRONG_TYPE; Retryable if the registry is away.
        """
        schema_id = schema_id_of(value)
        assert value is not None
        known = self._writers.get(schema_id)
        if known is None:
            known = self._writers[schema_id] = self._writer(schema_id)
        kind, name, writer, reader = known
        if kind is None or (types and kind not in types):
            wanted = " or ".join(t.FULLNAME for t in types) or "a platform record"
            raise Poison(Reason.WRONG_TYPE, f"{name} where {wanted} is expected")
        try:
            return kind.from_avro(read_body(value, writer, reader))
        except ValueError as e:  # an enum symbol of a later version without a default
            raise Poison(Reason.WRONG_TYPE, f"{name}: {e}") from e

    def _writer(self, schema_id: int) -> tuple[type[AvroRecord] | None, str, Any, Any]:
        schema = plain(self._registry.schema(schema_id))
        name = str(schema.get("name", "?"))
        if "." not in name:
            name = f"{schema.get('namespace', '')}.{name}"
        kind = RECORDS.get(name)
        if kind is None:
            return None, name, None, None
        reader = self._parsed[name]
        try:
            writer = fastavro.parse_schema(schema)
        except Exception as e:
            raise Poison(Reason.UNKNOWN_SCHEMA, f"schema {schema_id} does not parse: {e}") from e
        return kind, name, writer, None if writer == reader else reader

    def event_codec(self, event: EventSchema) -> EventCodec:
        """The compiled codec of one event type; kept for the life of the schema object, so build that once."""
        codec = self._events.get(event)
        if codec is None:
            codec = self._events[event] = EventCodec(event, self._registry)
        return codec

    def register_event(self, event: EventSchema) -> int:
        """Registers the event's schema under `<topic>-value`. Raises Fatal if it is incompatible."""
        return self.event_codec(event).register()

    def encode_event(self, event: EventSchema, row: Mapping[str, Any]) -> bytes:
        """Framed bytes of one row. Raises Poison WRONG_TYPE, MISSING_FIELD, UNKNOWN_FIELD, OUT_OF_RANGE or NOT_FINITE."""
        return self.event_codec(event).encode(row)

    def decode_event(self, event: EventSchema, value: bytes | None) -> dict[str, Any]:
        """One row with every field of the event, times as int ms. Raises Poison as decode, or OUT_OF_RANGE, NOT_FINITE."""
        return self.event_codec(event).decode(value)

    def decode_events(self, event: EventSchema, values: Sequence[bytes | None]) -> DecodedEvents:
        """A batch, columnar; equals decode_event on every row."""
        return self.event_codec(event).decode_batch(values)
