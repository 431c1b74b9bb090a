"""Homes of tables for tests: what a commit leaves, and what a new process finds."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import polars as pl

from headrace.chassis.state import MemoryStore
from headrace.plan.streams.rows import Rows
from headrace.plan.streams.sorted_rows import MemoryRows
from svc_stream.adapters.rocks_rows import PageCache, RocksRows


class Held:
    """Tables in memory, whose changelog is kept. A `Tables`."""

    def __init__(self) -> None:
        self.tables: dict[str, Rows] = {}
        self.schemas: dict[str, pl.Schema] = {}
        self.journal: list[tuple[str, pl.DataFrame]] = []

    def rows(self, name: str, carried: pl.Schema) -> Rows:
        if name not in self.tables:
            self.schemas[name] = carried
            self.tables[name] = self.made(name, carried)
        return self.tables[name]

    def made(self, name: str, carried: pl.Schema) -> Rows:
        return MemoryRows(name, carried)

    def commit(self, rng: Random) -> None:
        """The changelog gets what changed, and now and then a page of all entries."""
        for name, table in self.tables.items():
            changes = table.changes()
            self.journal += [] if changes is None else [(name, changes)]
            self.written(*table.settle())
            if rng.random() < 0.2:
                self.journal.append((name, table.sweep(None, rng.choice((1, 3, 100)))[0]))

    def written(self, puts: dict[bytes, bytes], deletes: list[bytes]) -> None:
        assert not puts and not deletes

    def reopened(self, rng: Random) -> Held:
        """As a new process restores them; what was not committed is lost."""
        found = self.fresh()
        for name, changes in self.journal:
            found.rows(name, self.schemas[name]).restore(changes)
        for table in found.tables.values():
            found.written(*table.settle())
        found.journal = self.journal
        return found

    def fresh(self) -> Held:
        return type(self)()


class Swept(Held):
    """A changelog that was swept is begun anew with all entries."""

    def reopened(self, rng: Random) -> Held:
        journal: list[tuple[str, pl.DataFrame]] = []
        for name, table in self.tables.items():
            place: bytes | None = None
            rows_max = rng.choice((1, 2, 7, 1000))
            while True:
                page, place = table.sweep(place, rows_max)
                journal.append((name, page))
                if place is None:
                    break
        self.journal = journal
        return super().reopened(rng)


class OnDisk(Held):
    """Tables of a store, with pages of few rows and no room to cache them."""

    page_rows, cache_bytes = 4, 0

    def __init__(self, store: MemoryStore | None = None) -> None:
        super().__init__()
        self.store = MemoryStore() if store is None else store

    def made(self, name: str, carried: pl.Schema) -> Rows:
        cache = PageCache(self.cache_bytes)
        return RocksRows(name, carried, self.store, name.encode() + b"\x00", cache, self.page_rows)

    def written(self, puts: dict[bytes, bytes], deletes: list[bytes]) -> None:
        self.store.write(puts, deletes)

    def reopened(self, rng: Random) -> Held:
        """From the disk, or, where that was lost, from the changelog to an empty one."""
        if rng.random() < 0.3:
            return super().reopened(rng)
        found = type(self)(self.store)
        for name, schema in self.schemas.items():
            found.rows(name, schema)
        found.journal = self.journal
        return found


class Cached(OnDisk):
    """With room for some."""

    page_rows, cache_bytes = 16, 20_000


TABLES: tuple[Callable[[], Held], ...] = (Held, Swept, OnDisk, Cached)
