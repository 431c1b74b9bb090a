"""The frame of a value: byte 0x00, schema id (4 bytes, big-endian), Avro body. And the errors of reading it."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import fastavro
from fastavro.read import SchemaResolutionError

from headrace.contracts.errors import Poison, Reason

HEAD = 5  # bytes before the body
MAGIC = 0


def frame(schema_id: int, body: bytes) -> bytes:
    """Head and body."""
    return b"\x00" + schema_id.to_bytes(4, "big") + body


def schema_id_of(value: bytes | None) -> int:
    """Raises: Poison BAD_FRAME."""
    if value is None:
        raise Poison(Reason.BAD_FRAME, "value is null")
    if len(value) < HEAD or value[0] != MAGIC:
        raise Poison(
            Reason.BAD_FRAME, f"not a framed Avro value: {len(value)} bytes starting with {value[:HEAD].hex() or 'nothing'}"
        )
    return int.from_bytes(value[1:HEAD], "big")


def plain(schema: Any) -> Any:
    """The schema without logical types: times stay int ms, decimals scaled ints."""
    if isinstance(schema, dict):
        return {key: plain(part) for key, part in schema.items() if key != "logicalType"}
    if isinstance(schema, list):
        return [plain(part) for part in schema]
    return schema


def read_body(value: bytes, writer: Any, reader: Any = None) -> dict[str, Any]:
    """Decode the body behind the head, all of it.

    Args:
        writer, reader: parsed plain schemas; reader None means the writer's.
    Raises: Poison TRUNCATED if it ends early, BAD_FRAME if it is no value of the schema or longer than one,
        WRONG_TYPE if the two schemas do not resolve for it.
    """
    source = BytesIO(value)
    source.seek(HEAD)
    try:
        found = fastavro.schemaless_reader(source, writer, reader)
    except EOFError as e:
        raise Poison(Reason.TRUNCATED, str(e) or "the body ends early") from e
    except SchemaResolutionError as e:
        raise Poison(Reason.WRONG_TYPE, f"schemas do not resolve: {e}") from e
    except Exception as e:  # the library raises what its parser trips over: index, Unicode, overflow, memory
        raise Poison(Reason.BAD_FRAME, f"not a value of its schema: {type(e).__name__}: {e}") from e
    if source.tell() != len(value):
        raise Poison(Reason.BAD_FRAME, f"{len(value) - source.tell()} bytes after the value")
    if not isinstance(found, dict):
        raise Poison(Reason.WRONG_TYPE, f"a record is expected, not {type(found).__name__}")
    return found


def write_body(schema: Any, row: dict[str, Any]) -> bytes:
    """Encode. Raises Poison WRONG_TYPE if the row is no value of the schema."""
    target = BytesIO()
    try:
        fastavro.schemaless_writer(target, schema, row)
    except Exception as e:
        raise Poison(Reason.WRONG_TYPE, f"not a value of its schema: {type(e).__name__}: {e}") from e
    return target.getvalue()
