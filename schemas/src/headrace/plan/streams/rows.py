"""Tables of rows by key and event time: what joins and distinct remember.

An entry is (KEY, TIME, PARTITION, OFFSET, ITEM) -> the columns it carries. Entries go by two bounds that only grow:

    floor        everything before it is gone
    superseded   of each key's entries before it all but the newest are gone, and that one too if it is a deletion

so what a thousand entries cost to forget is one row of the changelog: KEY null, TIME the bound, PARTITION which of them
(FLOOR, SUPERSEDED), GONE. An entry is never put below a bound; a bound reached in any order gives the same table.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import polars as pl

from headrace.plan.streams.blocks import Block
from headrace.plan.streams.frames import GONE, ITEM, KEY, OFFSET, PARTITION, TIME
from headrace.plan.streams.key_hash import Int64s
from headrace.plan.streams.operator import Table

DELETED = "__deleted"  # Boolean column of a table whose keys can be deleted: such an entry says that there is no value
FLOOR, SUPERSEDED = -1, -2  # PARTITION of a bound among the changes
BEFORE_ALL = int(np.iinfo(np.int64).min)  # a bound nothing is below
IDENTITY_TYPES = pl.Schema({KEY: pl.String(), TIME: pl.Int64(), PARTITION: pl.Int64(), OFFSET: pl.Int64(), ITEM: pl.Int64()})


class Rows(Table, Protocol):
    """One such table. Answers to a block are row numbers of it beside rows of the table, in no particular order."""

    @property
    def floor_ms(self) -> int:
        """BEFORE_ALL as long as nothing was dropped."""
        ...

    def add(self, rows: Block) -> None:
        """Put entries, none of which is there."""
        ...

    def probe(self, asked: Block, low_ms: Int64s, high_ms: Int64s) -> tuple[Int64s, pl.DataFrame]:
        """For each asked row, shape (n,), the entries of its key with low <= time <= high: (numbers, entries), (k,) each."""
        ...

    def matched(self, asked: Block, low_ms: Int64s, high_ms: Int64s) -> Int64s:
        """Numbers of the asked rows for which `probe` would find an entry, ascending."""
        ...

    def newest(self, asked: Block, at_ms: Int64s) -> tuple[Int64s, pl.DataFrame]:
        """For each asked row the last entry of its key by (time, origin) with time <= at: (numbers, entries) of those found."""
        ...

    def between(self, from_ms: int, below_ms: int) -> pl.DataFrame:
        """Entries with from <= time < below."""
        ...

    def oldest(self, from_ms: int) -> int | None:
        """The lowest time of an entry that is not below."""
        ...

    def drop_below(self, below_ms: int) -> None:
        """Raise the floor; a lower one than before changes nothing."""
        ...

    def drop_superseded(self, below_ms: int) -> None:
        """Raise that bound likewise."""
        ...


class Tables(Protocol):
    """Where an operator's tables come from: in memory or on disk, new or as they were left."""

    def rows(self, name: str, carried: pl.Schema) -> Rows:
        """The table of this name; carried: types of the columns of an entry beside its identity."""
        ...


def bounds_frame(floor_ms: int, superseded_ms: int, schema: pl.Schema) -> pl.DataFrame:
    """Bounds as rows of the changelog, those that are BEFORE_ALL left out."""
    found = [(kind, bound) for kind, bound in ((FLOOR, floor_ms), (SUPERSEDED, superseded_ms)) if bound != BEFORE_ALL]
    columns = {
        KEY: pl.Series([None] * len(found), dtype=pl.String),
        TIME: pl.Series([bound for _, bound in found], dtype=pl.Int64),
        PARTITION: pl.Series([kind for kind, _ in found], dtype=pl.Int64),
        OFFSET: pl.Series([0] * len(found), dtype=pl.Int64),
        ITEM: pl.Series([0] * len(found), dtype=pl.Int64),
        GONE: pl.Series([True] * len(found), dtype=pl.Boolean),
    }
    return pl.DataFrame(
        {name: columns.get(name, pl.Series([None] * len(found), dtype=dtype)) for name, dtype in changes_schema(schema).items()}
    )


def changes_schema(carried: pl.Schema) -> pl.Schema:
    """Of what `changes` and `sweep` give."""
    return pl.Schema({**IDENTITY_TYPES, **carried, GONE: pl.Boolean()})
