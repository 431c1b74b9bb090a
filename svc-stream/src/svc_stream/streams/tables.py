"""The tables of one task, on its disk or in memory."""

from __future__ import annotations

import polars as pl

from headrace.chassis.state import Store
from headrace.plan.slots import Layout
from headrace.plan.streams.memory_tables import MemoryTables
from headrace.plan.streams.rows import Rows
from headrace.plan.streams.vectors import Order, Vectors
from svc_stream.adapters.rocks_rows import PageCache, RocksRows
from svc_stream.adapters.rocks_vectors import RocksVectors


class TaskTables:
    """Tables by name. On a disk each has keys of its own, none of which begins with 0: those are the changelog's.

    Made anew whenever a task is read back: what an aborted transaction left in a cache must not be met again.
    """

    def __init__(self, disk: Store | None, cache_bytes: int) -> None:
        """cache_bytes: of each table of vectors, and of all tables of rows together."""
        self._disk, self._cache_bytes = disk, cache_bytes
        self._memory, self._pages = MemoryTables(), PageCache(cache_bytes)

    def vectors(self, name: str, layout: Layout, order: Order) -> Vectors:
        """A table of accumulators."""
        if self._disk is None:
            return self._memory.vectors(name, layout, order)
        return RocksVectors(self._disk, _prefix(b"v", name), name, layout, order, self._cache_bytes)

    def rows(self, name: str, carried: pl.Schema) -> Rows:
        """A table of rows."""
        if self._disk is None:
            return self._memory.rows(name, carried)
        return RocksRows(name, carried, self._disk, _prefix(b"r", name), self._pages)


def _prefix(kind: bytes, name: str) -> bytes:
    return kind + bytes((len(name),)) + name.encode()
