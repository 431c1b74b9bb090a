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
from headrace.contracts.event_shapes import (
    INT32,
    ITEMS_MAX,
    Column,
    Presence,
    Shapes,
    batch_schema,
    encoded_lengths,
    flattened,
    nested,
    picked,
    place_of,
    presences,
    shapes_of,
)
from headrace.contracts.registry import Registry
from headrace.contracts.wire import HEAD, frame, plain, read_body, schema_id_of, write_body

BATCH_ROWS_MIN = 128  # below, the row path is quicker (0.9 ms here)
BISECT_ROWS_MIN = 16  # a span this short around a bad row is read row by row

# A head as Avro reads it: the byte 0 is a boolean, four bytes are a float. So nothing need be cut off before decoding.
_HEAD_FIELDS = [{"name": "magic", "type": "boolean"}, {"name": "id", "type": "float"}]
_PROMOTIONS = {("int", "long"), ("int", "float"), ("int", "double"), ("long", "float"), ("long", "double"), ("float", "double")}


@dataclass(frozen=True, slots=True, eq=False)
class EventSchema:
    """What the codec needs of an event type. Compared by identity: build it once per plan.

    Attributes:
        avro: record of string, int, long, float, double, boolean fields, arrays of these, records of all these, and unions
            of one with null; logical types (times, as ms) are annotations only.
        ranges: inclusive bounds of the stored number by field, of an array's items; None is open.
        items_max: items an array may hold, by field.
    """

    topic: str
    avro: dict[str, Any]
    time_field: str
    ranges: Mapping[str, tuple[int | None, int | None]] = field(default_factory=dict)
    items_max: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DecodedEvents:
    """A decoded batch of n values.

    Attributes:
        frame: n rows in the order of the values, one column per field (`address.city` inside a record); nulls where not
            decodable. Times and decimals are Int64, arrays lists.
        decodable: bool (n,).
        errors: why, for each row that is not.
    """

    frame: pl.DataFrame
    decodable: NDArray[np.bool_]
    errors: dict[int, Poison]


def _columns(event: EventSchema, shapes: Shapes) -> tuple[Column, ...]:
    columns: list[Column] = []
    for name, shape in shapes.leaves.items():
        if shape is None:
            raise ValueError(f"{event.topic}: field {name} has a type events cannot have")
        low, high = event.ranges.get(name, (None, None))
        if shape.kind == "int":
            low = INT32[0] if low is None else max(low, INT32[0])
            high = INT32[1] if high is None else min(high, INT32[1])
        columns.append(Column(name, shape, low, high, event.items_max.get(name, ITEMS_MAX)))
    return tuple(columns)


@dataclass(frozen=True, slots=True)
class _Writer:
    """A writer's schema, resolved to the declared columns.

    Attributes:
        parsed: for the row path.
        batch: for pyruhvro, ints widened to longs (same bytes, no silent truncation), records that are never null taken
            apart; None if the schema holds types it cannot be trusted with.
        places: batch column of each of its leaves and nullable records.
        present: writer's primitive by declared name.
        shapes: its leaves and records.
    """

    parsed: Any
    batch: dict[str, Any] | None
    places: dict[str, str]
    present: dict[str, str]
    shapes: Shapes


class EventCodec:
    """Compiled codec of one event type: see the module's docstring."""

    def __init__(self, event: EventSchema, registry: Registry) -> None:
        self.event = event
        self._registry = registry
        bare = plain(event.avro)
        self._shapes = shapes_of(bare)
        self._columns = _columns(event, self._shapes)
        self._presences = presences(self._shapes, bare)
        self._names = frozenset(c.name for c in self._columns)
        self._bare, self._parsed = bare, fastavro.parse_schema(bare)
        self._writers: dict[int, _Writer] = {}
        self._id: int | None = None
        self.schema = pl.Schema({c.name: c.dtype for c in self._columns})
        self._suspect = _suspect(self._columns, self._presences)

    def register(self) -> int:
        """Schema id of the declared schema."""
        if self._id is None:
            self._id = self._registry.register(f"{self.event.topic}-value", self.event.avro)
        return self._id

    def encode(self, row: Mapping[str, Any]) -> bytes:
        """Framed bytes. A field that is absent takes its default. Records come as records, or as fields by their paths."""
        row = flattened(row, self._shapes.records)
        if not self._names.issuperset(row):
            raise Poison(
                Reason.UNKNOWN_FIELD, f"{', '.join(sorted(set(row) - self._names))} not declared for {self.event.topic}"
            )
        full: dict[str, Any] = {}
        for column in self._columns:
            value = row.get(column.name)
            if column.name not in row:
                value = self._absent(column, row)
            if value is not None and not column.fits(value):
                kind = f"array of {column.shape.kind}" * column.shape.repeated or column.shape.kind
                raise Poison(Reason.WRONG_TYPE, f"{column.name} is {type(value).__name__}, declared {kind}")
            column.judge(value)
            full[column.name] = value
        for presence in self._presences:
            presence.judge(full)
        return frame(self.register(), write_body(self._parsed, nested(full, self._bare) if self._shapes.records else full))

    def _absent(self, column: Column, row: Mapping[str, Any]) -> Any:
        """What stands for a field the row lacks: null with the whole record, else its default."""
        for depth in range(1, len(column.shape.path)):
            record = ".".join(column.shape.path[:depth])
            if self._shapes.records[record] and not any(name.startswith(record + ".") for name in row):
                return None
        if not column.shape.optional:
            raise Poison(Reason.MISSING_FIELD, f"{column.name} is missing")
        return column.shape.default

    def decode(self, value: bytes | None) -> dict[str, Any]:
        """One row: every declared field, in order."""
        writer = self._writer(schema_id_of(value))
        assert value is not None
        found = read_body(value, writer.parsed)
        row: dict[str, Any] = {}
        for column in self._columns:
            item = picked(found, column.shape)
            if writer.present.get(column.name, column.shape.kind) != column.shape.kind:
                item = column.promoted(item)
            column.judge(item)
            row[column.name] = item
        for presence in self._presences:
            presence.judge(row)
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
        theirs = shapes_of(schema)
        present: dict[str, str] = {}
        for column in self._columns:
            if column.name not in theirs.leaves:
                self._check_lacking(schema_id, column, theirs)
                continue
            shape = theirs.leaves[column.name]
            fits = shape is not None and shape.repeated == column.shape.repeated
            if shape is None or not fits or not _promotes(shape.kind, column.shape.kind):
                kind = f"array of {column.shape.kind}" * column.shape.repeated or column.shape.kind
                raise Poison(Reason.WRONG_TYPE, f"{column.name} of schema {schema_id} cannot be read as {kind}")
            present[column.name] = shape.kind
        batch, places = (None, {}) if None in theirs.leaves.values() or _refers(schema) else batch_schema(schema)
        return _Writer(fastavro.parse_schema(schema), batch, places, present, theirs)

    def _check_lacking(self, schema_id: int, column: Column, theirs: Shapes) -> None:
        """Raises: Poison unless a default stands for a field the writer lacks, alone or with its record."""
        path = column.shape.path
        depth = next((d for d in range(1, len(path)) if ".".join(path[:d]) not in theirs.records), len(path))
        missing = ".".join(path[:depth])
        if not (column.shape.optional if depth == len(path) else self._shapes.records[missing]):
            raise Poison(Reason.MISSING_FIELD, f"schema {schema_id} lacks {missing}, which has no default")

    def decode_batch(self, values: Sequence[bytes | None]) -> DecodedEvents:
        """Rows by groups of equal schema id, each at once; then back in the order of the values."""
        batch = _Batch(values)
        if len(values) >= BATCH_ROWS_MIN and self._read_whole(batch):
            return batch.assemble(self.schema)
        for head, rows in _by_head(values):
            try:
                writer = self._writer(schema_id_of(head))
            except Poison as e:
                batch.errors.update(dict.fromkeys(rows.tolist(), e))
                continue
            if writer.batch is None or len(rows) < BATCH_ROWS_MIN:
                self._read_rows(batch, rows.tolist())
            else:
                self._read_columns(batch, writer, rows, [values[i][HEAD:] for i in rows.tolist()])  # type: ignore[index]
        return batch.assemble(self.schema)

    def _read_whole(self, batch: _Batch) -> bool:
        """All values at once, heads included, if one schema wrote all of them and every one decodes."""
        try:
            head = batch.values[0]
            writer = self._writer(schema_id_of(head))
        except Poison:
            return False
        if head is None or writer.batch is None:
            return False
        decoded = _pyruhvro(batch.values, {**writer.batch, "fields": _HEAD_FIELDS + writer.batch["fields"]})
        if decoded is None or not _one_head(decoded, head):
            return False
        lengths = np.fromiter(map(len, batch.values), np.int64, len(batch.values))  # type: ignore[arg-type]
        fields = decoded.select(decoded.schema.names[len(_HEAD_FIELDS) :])
        self._take(batch, writer, np.arange(len(batch.values)), fields, lengths - HEAD)
        return True

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
        decoded = _pyruhvro(bodies, writer.batch or {})
        if decoded is None:
            half = len(rows) // 2
            self._read_columns(batch, writer, rows[:half], bodies[:half])
            self._read_columns(batch, writer, rows[half:], bodies[half:])
            return
        self._take(batch, writer, rows, decoded, np.fromiter(map(len, bodies), np.int64, len(bodies)))

    def _take(
        self, batch: _Batch, writer: _Writer, rows: NDArray[np.int64], decoded: pa.RecordBatch, lengths: NDArray[np.int64]
    ) -> None:
        """What was decoded, but for the rows the row path must judge. lengths: of the bodies."""
        wide = self._resolved(decoded, writer)
        suspect = (wide.select(self._suspect).to_series().to_numpy() if self._suspect is not None else False) | (
            encoded_lengths(decoded, writer.batch or {}) != lengths
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
            shape = column.shape
            value = place_of(column, writer.shapes, writer.places)
            if shape.kind in ("float", "double") and writer.present.get(column.name, shape.kind) != shape.kind:
                value = value.cast(pl.List(pl.Float64) if shape.repeated else pl.Float64).cast(column.dtype)
            parts.append(value.alias(column.name))
        return read.select(parts)


def _promotes(written: str, declared: str) -> bool:
    return written == declared or (written, declared) in _PROMOTIONS


def _refers(schema: Any) -> bool:
    """Whether a record is named again instead of written out: the batch path takes none of these."""
    names = [part["name"] for part in _records(schema)]
    return any(kind in names or kind.rpartition(".")[2] in {n.rpartition(".")[2] for n in names} for kind in _words(schema))


def _records(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, list):
        for part in schema:
            yield from _records(part)
    elif isinstance(schema, dict):
        if schema.get("type") == "record":
            yield schema
            for part in schema["fields"]:
                yield from _records(part["type"])
        elif schema.get("type") == "array":
            yield from _records(schema["items"])


def _words(schema: Any) -> Iterator[str]:
    """Types written as a single word."""
    for record in _records(schema):
        for part in record["fields"]:
            kinds = part["type"] if isinstance(part["type"], list) else [part["type"]]
            yield from (kind for kind in kinds if isinstance(kind, str))


def _suspect(columns: Sequence[Column], records: Sequence[Presence]) -> pl.Expr | None:
    """True for rows that `judge` might refuse."""
    tests = [test for column in columns for test in column.refuses()] + [record.refuses() for record in records]
    return pl.any_horizontal(tests).alias("suspect") if tests else None


def _pyruhvro(bodies: Sequence[bytes | None], schema: dict[str, Any]) -> pa.RecordBatch | None:
    """None if any body does not decode."""
    try:
        batch = deserialize_array(bodies, json.dumps(schema))
        batch.validate(full=True)  # pyruhvro does not look whether strings are UTF-8; Polars trusts that they are
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # a Rust panic is no Exception; the row path finds out whose fault it is
        return None
    return batch


def _one_head(decoded: pa.RecordBatch, head: bytes) -> bool:
    """Whether all heads are this one; compared by their bits, for some are no numbers."""
    ids = decoded.column(1).to_numpy(zero_copy_only=False).view(np.uint32)
    return not decoded.column(0).true_count and bool((ids == np.frombuffer(head[1:HEAD], "<u4")[0]).all())


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
