"""Tables in memory: restored from the changelog, gone with the process."""

from __future__ import annotations

import polars as pl

from headrace.plan.slots import Layout
from headrace.plan.streams.memory_panes import MemoryPanes
from headrace.plan.streams.memory_spans import MemorySpans
from headrace.plan.streams.rows import Rows
from headrace.plan.streams.sorted_rows import MemoryRows
from headrace.plan.streams.vectors import Order, Vectors


class MemoryTables:
    """One task's."""

    def vectors(self, name: str, layout: Layout, order: Order) -> Vectors:
        """A table of accumulators."""
        return MemoryPanes(name, layout) if order == "at" else MemorySpans(name, layout)

    def rows(self, name: str, carried: pl.Schema) -> Rows:
        """A table of rows."""
        return MemoryRows(name, carried)
