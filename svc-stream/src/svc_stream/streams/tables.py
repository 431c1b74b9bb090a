"""The tables of one task, on its disk or in memory."""

from __future__ import annotations

from typing import Literal

import polars as pl

from headrace.chassis.state import Store
from headrace.plan.slots import Layout
from headrace.plan.streams.rows import MemoryRows, Rows
from headrace.plan.streams.vectors import MemoryVectors, Vectors
from svc_stream.adapters.rocks_rows import RocksRows
from svc_stream.adapters.rocks_vectors import RocksVectors


class TaskTables:
    """Tables by name; on a disk each has a prefix of its own, in the order in which the operator asks for them."""

    def __init__(self, disk: Store | None, cache_bytes: int) -> None:
        self._disk, self._cache_bytes, self._given = disk, cache_bytes, 0

    def _prefix(self) -> bytes:
        self._given += 1
        return bytes((self._given,))  # 0 begins what is not a table's

    def vectors(self, name: str, layout: Layout, order: Literal["time", "key"]) -> Vectors:
        """A table of accumulators."""
        if self._disk is None:
            return MemoryVectors(name, layout)
        return RocksVectors(name, layout, order, self._disk, self._prefix(), self._cache_bytes)

    def rows(self, name: str, schema: pl.Schema) -> Rows:
        """A table of rows."""
        if self._disk is None:
            return MemoryRows(name, schema)
        return RocksRows(name, schema, self._disk, self._prefix(), self._cache_bytes)
