"""The tables of one task, on its disk or in memory."""

from __future__ import annotations

import polars as pl

from headrace.chassis.state import Store
from headrace.plan.slots import Layout
from headrace.plan.streams.memory_tables import MemoryTables
from headrace.plan.streams.rows import Rows
from headrace.plan.streams.sorted_rows import MemoryRows
from headrace.plan.streams.vectors import Order, Vectors


class TaskTables:
    """Tables by name; on a disk each has a prefix of its own, in the order in which the operator asks for them."""

    def __init__(self, disk: Store | None, cache_bytes: int) -> None:
        self._disk, self._cache_bytes, self._given = disk, cache_bytes, 0
        self._memory = MemoryTables()

    def _prefix(self) -> bytes:
        self._given += 1
        return bytes((self._given,))  # 0 begins what is not a table's

    def vectors(self, name: str, layout: Layout, order: Order) -> Vectors:
        """A table of accumulators."""
        return self._memory.vectors(name, layout, order)

    def rows(self, name: str, carried: pl.Schema) -> Rows:
        """A table of rows."""
        return MemoryRows(name, carried)
