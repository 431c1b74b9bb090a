"""From consumed values to the lake's columns: events by their plan, platform records by their Avro schema.

Every table starts with `HEAD`. Event times and decimals are int64; ints are 64 bits wide, so that SQL cannot overflow
where the engine does not. Events keep their bytes only where undecodable, platform records always.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from headrace.contracts.codec import AvroRecord
from headrace.contracts.errors import Poison
from headrace.contracts.events import DecodedEvents
from headrace.plan.ir import EventType

HEAD = pa.schema(
    [
        ("part", pa.int32()),
        ("off", pa.int64()),
        ("append_ms", pa.int64()),
        ("decodable", pa.bool_()),
        ("reason", pa.string()),
        ("raw", pa.binary()),
    ]
)
# Also the names the law gives its own columns when it reads a table.
RESERVED = frozenset(HEAD.names) | {"et", "m_before", "m_after", "verdict"}
_EVENT_TYPES: dict[str, pa.DataType] = {
    "string": pa.string(), "int": pa.int64(), "long": pa.int64(), "timestamp": pa.int64(), "decimal": pa.int64(),
    "float": pa.float32(), "double": pa.float64(), "boolean": pa.bool_(),
}  # fmt: skip
_AVRO_TYPES: dict[str, pa.DataType] = {
    "string": pa.string(), "int": pa.int32(), "long": pa.int64(), "float": pa.float32(), "double": pa.float64(),
    "boolean": pa.bool_(), "bytes": pa.binary(), "enum": pa.string(),
}  # fmt: skip
_FRAME_TYPES: dict[str, pl.DataType] = {
    "string": pl.String(), "int": pl.Int32(), "float": pl.Float32(), "double": pl.Float64(), "boolean": pl.Boolean(),
}  # fmt: skip


def frame_types(event: EventType) -> dict[str, pl.DataType]:
    """Its fields as the codec decodes them, for expressions to see what the stream engine shows them."""

    def dtype(kind: str | None) -> pl.DataType:
        return _FRAME_TYPES.get(kind or "", pl.Int64())

    return {f.name: pl.List(dtype(f.item)) if f.type == "array" else dtype(f.type) for f in event.fields}


def reserved_fields(event: EventType) -> list[str]:
    """Fields whose names the lake keeps for itself."""
    return sorted({f.name for f in event.fields if f.name.partition(".")[0].lower() in RESERVED})


def event_columns(event: EventType) -> pa.Schema:
    """Columns of an event's table: HEAD, then its fields, all nullable; arrays are lists, nested records structs."""
    kinds = {f.name: pa.list_(_EVENT_TYPES[f.item]) if f.item else _EVENT_TYPES[f.type] for f in event.fields}
    return pa.schema([*HEAD, *(pa.field(name, kind) for name, kind in _grouped(kinds))])


def _grouped(kinds: Mapping[str, pa.DataType]) -> list[tuple[str, pa.DataType]]:
    """Names without a dot, paths gathered under their first part, in the order of first appearance."""
    found: dict[str, pa.DataType] = {}
    for name, kind in kinds.items():
        first, _, rest = name.partition(".")
        if not rest:
            found[first] = kind
        elif first not in found:
            inner = {other.removeprefix(first + "."): k for other, k in kinds.items() if other.startswith(first + ".")}
            found[first] = pa.struct([pa.field(n, k) for n, k in _grouped(inner)])
    return list(found.items())


def record_columns(avro: Mapping[str, Any]) -> pa.Schema:
    """Columns of a platform record's table: HEAD, then its fields; arrays are lists, records structs, enums strings."""
    named: dict[str, pa.DataType] = {}
    return pa.schema([*HEAD, *(pa.field(f["name"], _arrow(f["type"], named)) for f in avro["fields"])])


def _arrow(kind: Any, named: dict[str, pa.DataType]) -> pa.DataType:
    if isinstance(kind, list):
        return _arrow(next(k for k in kind if k != "null"), named)
    if isinstance(kind, str):
        return _AVRO_TYPES.get(kind) or named[kind.rpartition(".")[2]]
    if kind["type"] == "array":
        return pa.list_(_arrow(kind["items"], named))
    if kind["type"] == "map":
        return pa.map_(pa.string(), _arrow(kind["values"], named))
    if kind["type"] == "record":
        made = pa.struct([pa.field(f["name"], _arrow(f["type"], named)) for f in kind["fields"]])
        return named.setdefault(kind["name"], made)
    if kind["type"] == "enum":
        return named.setdefault(kind["name"], pa.string())
    return _arrow(kind["type"], named)


class Place:
    """Where n records lie: parts, offsets, append times (ms), values."""

    __slots__ = ("append_ms", "offsets", "parts", "values")

    def __init__(
        self, parts: Sequence[int], offsets: Sequence[int], append_ms: Sequence[int], values: Sequence[bytes | None]
    ) -> None:
        self.parts, self.offsets, self.append_ms, self.values = parts, offsets, append_ms, values


def event_rows(schema: pa.Schema, place: Place, decoded: DecodedEvents) -> pa.Table:
    """Rows of an event's table, in the order given."""
    raw = [None if ok else value for ok, value in zip(decoded.decodable.tolist(), place.values, strict=True)]
    columns = _head(place, decoded.decodable, decoded.errors, raw)
    columns += [_column(decoded.frame, name, schema.field(name).type) for name in schema.names[len(HEAD) :]]
    return pa.table(columns, schema=schema)


def _column(frame: pl.DataFrame, path: str, kind: pa.DataType) -> pa.Array:
    """A field; a record as a struct that is null where all of it is."""
    if not pa.types.is_struct(kind):
        column = frame[path]
        if column.dtype == pl.Int32:
            column = column.cast(pl.Int64)
        return column.to_arrow().cast(kind)
    parts = [_column(frame, f"{path}.{part.name}", part.type) for part in kind]
    absent = np.logical_and.reduce([part.is_null().to_numpy(zero_copy_only=False) for part in parts])
    return pa.StructArray.from_arrays(parts, fields=list(kind), mask=pa.array(absent))


def record_rows(schema: pa.Schema, place: Place, records: Sequence[AvroRecord | Poison]) -> pa.Table:
    """Rows of a platform record's table; `Poison` where it does not decode."""
    errors = {i: r for i, r in enumerate(records) if isinstance(r, Poison)}
    decodable = np.array([i not in errors for i in range(len(records))], np.bool_)
    columns = _head(place, decodable, errors, place.values)
    fields = [None if isinstance(r, Poison) else r.to_avro() for r in records]
    for name in schema.names[len(HEAD) :]:
        columns.append(pa.array([None if f is None else f[name] for f in fields], schema.field(name).type))
    return pa.table(columns, schema=schema)


def _head(place: Place, decodable: np.ndarray, errors: Mapping[int, Poison], raw: Sequence[bytes | None]) -> list[pa.Array]:
    reasons = [str(errors[i]) if i in errors else None for i in range(len(raw))]
    return [
        pa.array(place.parts, HEAD.field("part").type),
        pa.array(place.offsets, HEAD.field("off").type),
        pa.array(place.append_ms, HEAD.field("append_ms").type),
        pa.array(decodable),
        pa.array(reasons, pa.string()),
        pa.array(raw, pa.binary()),
    ]
