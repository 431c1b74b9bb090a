"""Results of a stream as records of its output event."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import polars as pl
import pyarrow as pa
from pyruhvro import serialize_record_batch  # pyright: ignore[reportAttributeAccessIssue]  (compiled, no stubs)

from headrace.contracts.codec import Codec, EventSchema
from headrace.contracts.event_shapes import batch_schema
from headrace.contracts.wire import frame as framed
from headrace.contracts.wire import plain
from headrace.plan.ir import EventType

ROWS_MIN = 32  # below, one by one is as quick


class ResultWriter:
    """Encodes frames with the output event's fields."""

    def __init__(self, event: EventType, schema: EventSchema, codec: Codec) -> None:
        self._event, self._schema, self._codec = event, schema, codec
        self._written = json.dumps(batch_schema(plain(schema.avro))[0])
        self._head: bytes | None = None

    def records(self, results: pl.DataFrame) -> Iterator[tuple[bytes, bytes]]:
        """(message key, framed value) of each row, in order."""
        keys = results[self._event.key].to_list()
        values = self._one_by_one(results) if results.height < ROWS_MIN else self._at_once(results)
        for key, value in zip(keys, values, strict=True):
            yield key.encode(), value

    def _one_by_one(self, results: pl.DataFrame) -> list[bytes]:
        return [self._codec.encode_event(self._schema, row) for row in results.iter_rows(named=True)]

    def _at_once(self, results: pl.DataFrame) -> list[bytes]:
        if self._head is None:
            self._head = framed(self._codec.register_event(self._schema), b"")
        columns: list[Any] = []
        for name in results.columns:
            column = results[name].rechunk()
            column = (column.cast(pl.Int64) if column.dtype == pl.Int32 else column).to_arrow()
            columns.append(column.cast(pa.string()) if pa.types.is_large_string(column.type) else column)
        batch = pa.RecordBatch.from_arrays(columns, names=[f"f{i}" for i in range(len(columns))])
        bodies = serialize_record_batch(batch, self._written, 1)
        head = self._head
        return [head + body for part in bodies for body in part.to_pylist()]
