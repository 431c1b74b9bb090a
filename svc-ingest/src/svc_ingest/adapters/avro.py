"""Typed rows to wire bytes. The normaliser has checked every value, so nothing is checked again here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastavro

from headrace.contracts.codec import Codec
from headrace.contracts.event_shapes import nested, shapes_of
from headrace.contracts.events import EventSchema
from headrace.contracts.wire import frame, plain, write_body


def event_encoder(codec: Codec, schema: EventSchema) -> Callable[[dict[str, Any]], bytes]:
    """A function from a typed row to framed bytes; registers the schema.

    Half the time of `Codec.encode_event`, which checks each value against the declaration first; same bytes (test).
    Raises: Fatal if the registry holds an incompatible schema, Retryable if it does not answer.
    """
    schema_id = codec.register_event(schema)
    bare = plain(schema.avro)
    parsed = fastavro.parse_schema(bare)
    if shapes_of(bare).records:
        return lambda row: frame(schema_id, write_body(parsed, nested(row, bare)))
    return lambda row: frame(schema_id, write_body(parsed, row))
