"""Users' events on the wire: rows one by one (fastavro) or columns by the batch (pyruhvro), with one meaning.

The meaning is the row path's. The batch path decodes what it can at once, and asks the row path
about every row it is not sure of: pyruhvro is laxer (it does not see bytes after a value, truncates an
int that does not fit, takes any bytes for a string) and stricter (a boolean byte of 7), and it panics on types that
events do not have.

A value is decodable if it is framed, its schema id is known, its body is exactly one value of the
writer's schema, that resolves to the declared fields, and every value lies in its declared range and
is finite. Writers may be older or newer than the declaration (BACKWARD): fields they lack take the
declared default, fields we do not know are read over.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import fastavro
import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from pyruhvro import deserialize_array  # pyright: ignore[reportAttributeAccessIssue]  (compiled, no stubs)

from headrace.contracts.errors import Poison, Reason
from headrace.contracts.registry import Registry
from headrace.contracts.wire import HEAD, frame, plain, read_body, schema_id_of, write_body

BATCH_ROWS_MIN = 128  # below, the row path is quicker (0.9 ms here)
BISECT_ROWS_MIN = 16  # a span this short around a bad row is read row by row

_DTYPES: dict[str, pl.DataType] = {
    "string": pl.String(), "int": pl.Int32(), "long": pl.Int64(), "float": pl.Float32(), "double": pl.Float64(),
    "boolean": pl.Boolean(),
}  # fmt: skip
_PROMOTIONS = {("int", "long"), ("int", "float"), ("int", "double"), ("long", "float"), ("long", "double"), ("float", "double")}
_INT32 = (-(2**31), 2**31 - 1)


@dataclass(frozen=True, slots=True, eq=False)
class EventSchema:
    """What the codec needs of an event type. Compared by identity: build it once per plan.

    Attributes:
        avro: record of string, int, long, float, double, boolean fields and unions of one with null;
            logical types (times, as ms) are annotations only.
        ranges: inclusive bounds of the stored number by field, None is open.
    """

    topic: str
    avro: dict[str, Any]
    time_field: str
    ranges: Mapping[str, tuple[int | None, int | None]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DecodedEvents:
    """A decoded batch of n values.

    Attributes:
        frame: n rows in the order of the values, one column per field; nulls where not decodable.
            Times and decimals are Int64.
        decodable: bool (n,).
        errors: why, for each row that is not.
    """

    frame: pl.DataFrame
    decodable: NDArray[np.bool_]
    errors: dict[int, Poison]


@dataclass(frozen=True, slots=True)
class _Column:
    """A declared field. low and high hold the type's own limits too."""

    name: str
    kind: str
    nullable: bool
    default: Any
    optional: bool  # has a default
    low: int | None
    high: int | None

    def judge(self, value: Any) -> None:
        """Raises: Poison if the value may not stand in this column."""
        if value is None:
            if not self.nullable:
                raise Poison(Reason.WRONG_TYPE, f"{self.name} is null")
            return
        if self.kind in ("float", "double") and not math.isfinite(value):
            raise Poison(Reason.NOT_FINITE, f"{self.name} is {value}")
        if (self.low is not None and value < self.low) or (self.high is not None and value > self.high):
            raise Poison(Reason.OUT_OF_RANGE, f"{self.name} is {value}, declared {_bounds(self.low, self.high)}")


def _bounds(low: int | None, high: int | None) -> str:
    if low is None:
        return f"at most {high}"
    return f"at least {low}" if high is None else f"{low} to {high}"


def _simple(kind: Any) -> tuple[str, bool] | None:
    """(primitive, nullable) of a field type, None if it is anything else."""
    if isinstance(kind, list) and len(kind) == 2 and kind.count("null") == 1:
        inner = _simple(kind[1 - kind.index("null")])
        return None if inner is None else (inner[0], True)
    if isinstance(kind, dict):
        kind = kind.get("type")
    return (kind, False) if isinstance(kind, str) and kind in _DTYPES else None


def _columns(event: EventSchema) -> tuple[_Column, ...]:
    columns: list[_Column] = []
    for part in plain(event.avro)["fields"]:
        shape = _simple(part["type"])
        if shape is None:
            raise ValueError(f"{event.topic}: field {part['name']} has a type events cannot have: {part['type']}")
        low, high = event.ranges.get(part["name"], (None, None))
        if shape[0] == "int":
            low = _INT32[0] if low is None else max(low, _INT32[0])
            high = _INT32[1] if high is None else min(high, _INT32[1])
        columns.append(_Column(part["name"], *shape, part.get("default"), "default" in part, low, high))
    return tuple(columns)


@dataclass(frozen=True, slots=True)
class _Writer:
    """A writer's schema, resolved to the declared columns.

    Attributes:
        parsed: for the row path.
        batch_schema: for pyruhvro, ints widened to longs (same bytes, no silent truncation);
            None if the schema holds types it cannot be trusted with.
        present: writer's primitive by declared name.
    """

    parsed: Any
    batch_schema: str | None
    present: dict[str, str]


class EventCodec:
    """Compiled codec of one event type: see the module's docstring."""

    def __init__(self, event: EventSchema, registry: Registry) -> None:
        self.event = event
        self._registry = registry
        self._columns = _columns(event)
        self._names = frozenset(c.name for c in self._columns)
        self._parsed = fastavro.parse_schema(plain(event.avro))
        self._writers: dict[int, _Writer] = {}
        self._id: int | None = None
        self.schema = pl.Schema({c.name: _DTYPES[c.kind] for c in self._columns})
        self._suspect = _suspect(self._columns)

    def register(self) -> int:
        """Schema id of the declared schema."""
        if self._id is None:
            self._id = self._registry.register(f"{self.event.topic}-value", self.event.avro)
        return self._id

    def encode(self, row: Mapping[str, Any]) -> bytes:
        """Framed bytes. A field that is absent takes its default."""
        if not self._names.issuperset(row):
            raise Poison(
                Reason.UNKNOWN_FIELD, f"{', '.join(sorted(set(row) - self._names))} not declared for {self.event.topic}"
            )
        full: dict[str, Any] = {}
        for column in self._columns:
            if column.name not in row and not column.optional:
                raise Poison(Reason.MISSING_FIELD, f"{column.name} is missing")
            value = row.get(column.name, column.default)
            if value is not None and not _fits(column.kind, value):
                raise Poison(Reason.WRONG_TYPE, f"{column.name} is {type(value).__name__}, declared {column.kind}")
            column.judge(value)
            full[column.name] = value
        return frame(self.register(), write_body(self._parsed, full))

    def decode(self, value: bytes | None) -> dict[str, Any]:
        """One row: every declared field, in order."""
        writer = self._writer(schema_id_of(value))
        assert value is not None
        found = read_body(value, writer.parsed)
        row: dict[str, Any] = {}
        for column in self._columns:
            kind = writer.present.get(column.name)
            item = column.default if kind is None else found[column.name]
            if kind is not None and kind != column.kind and item is not None:
                item = float(np.float32(item)) if column.kind == "float" else float(item) if column.kind == "double" else item
            column.judge(item)
            row[column.name] = item
        return row

    def _writer(self, schema_id: int) -> _Writer:
        known = self._writers.get(schema_id)
        if known is None:
            known = self._writers[schema_id] = self._resolve(schema_id, plain(self._registry.schema(schema_id)))
        return known

    def _resolve(self, schema_id: int, schema: Any) -> _Writer:
        ours = self.event.avro["name"]
        if not isinstance(schema, dict) or schema.get("type") != "record" or schema["name"].rpartition(".")[2] != ours:
            name = schema.get("name", schema.get("type")) if isinstance(schema, dict) else schema
            raise Poison(Reason.WRONG_TYPE, f"{name} where {ours} is expected")
        shapes = {part["name"]: _simple(part["type"]) for part in schema["fields"]}
        present: dict[str, str] = {}
        for column in self._columns:
            if column.name not in shapes:
                if not column.optional:
                    raise Poison(Reason.MISSING_FIELD, f"schema {schema_id} lacks {column.name}, which has no default")
                continue
            shape = shapes[column.name]
            if shape is None or (shape[0] != column.kind and (shape[0], column.kind) not in _PROMOTIONS):
                raise Poison(Reason.WRONG_TYPE, f"{column.name} of schema {schema_id} cannot be read as {column.kind}")
            present[column.name] = shape[0]
        batch = None if None in shapes.values() else json.dumps(_batch_schema(schema, shapes))
        return _Writer(fastavro.parse_schema(schema), batch, present)

    def decode_batch(self, values: Sequence[bytes | None]) -> DecodedEvents:
        """Rows by groups of equal schema id, each at once; then back in the order of the values."""
        batch = _Batch(values)
        for head, rows in _by_head(values):
            try:
                writer = self._writer(schema_id_of(head))
            except Poison as e:
                batch.errors.update(dict.fromkeys(rows.tolist(), e))
                continue
            if writer.batch_schema is None or len(rows) < BATCH_ROWS_MIN:
                self._read_rows(batch, rows.tolist())
            else:
                self._read_columns(batch, writer, rows, [values[i][HEAD:] for i in rows.tolist()])  # type: ignore[index]
        return batch.assemble(self.schema)

    def _read_rows(self, batch: _Batch, rows: Sequence[int]) -> None:
        """The row path."""
        for i in rows:
            try:
                row = self.decode(batch.values[i])
            except Poison as e:
                batch.errors[i] = e
            else:
                batch.slow_rows.append(i)
                batch.slow.append(row)

    def _read_columns(self, batch: _Batch, writer: _Writer, rows: NDArray[np.int64], bodies: list[bytes]) -> None:
        """The batch path; halves a span that does not decode until the bad rows stand alone."""
        if len(rows) < BISECT_ROWS_MIN:
            self._read_rows(batch, rows.tolist())
            return
        decoded = _pyruhvro(bodies, writer.batch_schema or "")
        if decoded is None:
            half = len(rows) // 2
            self._read_columns(batch, writer, rows[:half], bodies[:half])
            self._read_columns(batch, writer, rows[half:], bodies[half:])
            return
        lengths = np.fromiter(map(len, bodies), np.int64, len(bodies))
        wide = self._resolved(decoded, writer)
        suspect = (wide.select(self._suspect).to_series().to_numpy() if self._suspect is not None else False) | (
            encoded_lengths(decoded) != lengths
        )
        frame_ = wide.cast(self.schema, strict=False) if wide.schema != self.schema else wide
        if suspect.any():
            self._read_rows(batch, rows[suspect].tolist())
            rows, frame_ = rows[~suspect], frame_.filter(pl.Series(~suspect))
        batch.chunks.append((rows, frame_))

    def _resolved(self, decoded: pa.RecordBatch, writer: _Writer) -> pl.DataFrame:
        """Declared columns, in order; ints still 64 bits wide, so that their range can be judged."""
        read = pl.DataFrame(pl.from_arrow(decoded))
        parts: list[pl.Expr] = []
        for column in self._columns:
            if column.name not in writer.present:
                parts.append(pl.lit(column.default, _DTYPES[column.kind]).alias(column.name))
            elif column.kind in ("float", "double") and writer.present[column.name] in ("int", "long"):
                parts.append(pl.col(column.name).cast(pl.Float64).cast(_DTYPES[column.kind]))
            elif column.kind == "double":
                parts.append(pl.col(column.name).cast(pl.Float64))
            else:
                parts.append(pl.col(column.name))
        return read.select(parts)


def _fits(kind: str, value: Any) -> bool:
    if kind in ("int", "long"):
        return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    if kind in ("float", "double"):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, str if kind == "string" else bool)


def _batch_schema(schema: dict[str, Any], shapes: Mapping[str, tuple[str, bool] | None]) -> dict[str, Any]:
    """The writer's schema in its barest form: same bytes, ints as longs."""
    fields: list[dict[str, Any]] = []
    for part in schema["fields"]:
        shape = shapes[part["name"]]
        assert shape is not None
        kind = "long" if shape[0] == "int" else shape[0]
        order = [kind if k != "null" else k for k in part["type"]] if shape[1] else kind
        fields.append({"name": part["name"], "type": order})
    return {"type": "record", "name": "Event", "fields": fields}


def _suspect(columns: Sequence[_Column]) -> pl.Expr | None:
    """True for rows that `judge` might refuse."""
    tests: list[pl.Expr] = []
    for column in columns:
        value = pl.col(column.name)
        if not column.nullable:
            tests.append(value.is_null())
        if column.kind in ("float", "double"):
            tests.append(~value.is_finite().fill_null(True))
        if column.low is not None:
            tests.append((value < column.low).fill_null(False))
        if column.high is not None:
            tests.append((value > column.high).fill_null(False))
    return pl.any_horizontal(tests).alias("suspect") if tests else None


def _pyruhvro(bodies: list[bytes], schema: str) -> pa.RecordBatch | None:
    """None if any body does not decode."""
    try:
        batch = deserialize_array(bodies, schema)
        batch.validate(full=True)  # pyruhvro does not look whether strings are UTF-8; Polars trusts that they are
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # a Rust panic is no Exception; the row path finds out whose fault it is
        return None
    return batch


def _varint_lengths(values: NDArray[np.int64]) -> NDArray[np.int64] | int:
    """Bytes of each value as a zigzag varint, at least; one number if all are equal.

    Above 2**53 the exponent of the nearest float may be one too large: the row is looked at again, no more.
    """
    zigzag = ((values << 1) ^ (values >> 63)).view(np.uint64)
    ends = np.frexp(np.array([zigzag.min(), zigzag.max()], np.float64))[1]
    low, high = np.maximum((ends + 6) // 7, 1)
    if low == high:
        return int(low)
    return np.maximum((np.frexp(zigzag.astype(np.float64))[1] + 6) // 7, 1)


def encoded_lengths(batch: pa.RecordBatch) -> NDArray[np.int64]:
    """Bytes each row takes in Avro when no varint is longer than it must be; int64 (n,).

    A body that is longer has bytes after the value, or odd varints: the row path decides.
    """
    total = np.zeros(batch.num_rows, np.int64)
    for column, part in zip(batch.columns, batch.schema, strict=True):
        lengths = _column_lengths(column)
        if column.null_count:
            lengths = np.where(column.is_valid().to_numpy(zero_copy_only=False), lengths, 0)
        total += lengths
        if part.nullable:
            total += 1  # the branch of the union
    return total


def _column_lengths(column: pa.Array) -> NDArray[np.int64] | int:
    if pa.types.is_boolean(column.type):
        return 1
    if pa.types.is_floating(column.type):
        return column.type.bit_width // 8
    if pa.types.is_integer(column.type):
        return _varint_lengths(column.fill_null(0).to_numpy()) if column.null_count else _varint_lengths(column.to_numpy())
    offsets = np.frombuffer(column.buffers()[1], np.int32, len(column) + 1, column.offset * 4)
    sizes = np.diff(offsets).astype(np.int64)
    return sizes + _varint_lengths(sizes)


def _by_head(values: Sequence[bytes | None]) -> Iterator[tuple[bytes | None, NDArray[np.int64]]]:
    """Groups of row numbers by the first five bytes."""
    heads = [None if value is None else value[:HEAD] for value in values]
    distinct = set(heads)
    if len(distinct) == 1:
        yield heads[0], np.arange(len(values))
        return
    groups: dict[bytes | None, list[int]] = {head: [] for head in distinct}
    for i, head in enumerate(heads):
        groups[head].append(i)
    for head, rows in groups.items():
        yield head, np.array(rows, np.int64)


@dataclass(slots=True)
class _Batch:
    """What is known of a batch while it is decoded."""

    values: Sequence[bytes | None]
    chunks: list[tuple[NDArray[np.int64], pl.DataFrame]] = field(default_factory=list)
    slow_rows: list[int] = field(default_factory=list)
    slow: list[dict[str, Any]] = field(default_factory=list)
    errors: dict[int, Poison] = field(default_factory=dict)

    def assemble(self, schema: pl.Schema) -> DecodedEvents:
        """All rows, in order."""
        n = len(self.values)
        chunks = list(self.chunks)
        if self.slow:
            columns = {name: [row[name] for row in self.slow] for name in schema}  # far quicker than from dicts
            chunks.append((np.array(self.slow_rows, np.int64), pl.DataFrame(columns, schema)))
        bad = np.array(sorted(self.errors), np.int64)
        if len(bad):
            chunks.append((bad, pl.DataFrame({name: [None] * len(bad) for name in schema}, schema)))
        decodable = np.ones(n, np.bool_)
        decodable[bad] = False
        if not chunks:
            return DecodedEvents(pl.DataFrame(schema=schema), decodable, {})
        frame_ = pl.concat([part for _, part in chunks]) if len(chunks) > 1 else chunks[0][1]
        rows = np.concatenate([part for part, _ in chunks])
        if (rows[1:] < rows[:-1]).any():
            frame_ = frame_[np.argsort(rows)]
        return DecodedEvents(frame_, decodable, dict(sorted(self.errors.items())))
