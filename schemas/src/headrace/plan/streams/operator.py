"""What an operator is to the engine, and what its tables are to the disk and the changelog.

    prepared rows --take--> tables, results
    watermark ---^

An operator is a function of the rows it was given and of the watermark: final results do not depend on how rows were
batched, nor on the order in which partitions came. It knows no clock and no Kafka. Its tables are all it remembers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import polars as pl


@dataclass(frozen=True, slots=True)
class Batch:
    """Prepared rows of one input, in no particular order."""

    input: int  # index in Stream.inputs
    rows: pl.DataFrame


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one step gives.

    results: the output event's fields, in their order, sorted by (event time, key); times and decimals as Int64.
    refused: rows below a watermark that had gone on without them: `input`, PARTITION, OFFSET, ITEM, TIME (Int64 each).
    """

    results: pl.DataFrame
    refused: pl.DataFrame


class Table(Protocol):
    """A keyed collection of an operator, seen from outside. One writer thread.

    Entries are rows of a frame with a fixed schema; some of its columns identify an entry. An abort throws the table away.
    """

    name: str

    def changes(self) -> pl.DataFrame | None:
        """Entries put or (GONE) removed since the last call, each identity once; None if there are none."""
        ...

    def restore(self, changes: pl.DataFrame) -> None:
        """Apply what `changes` gave, in the order it was given: later ones win. Not part of the next `changes`."""
        ...

    def settle(self) -> tuple[dict[bytes, bytes], list[bytes]]:
        """(puts, deletes) of the last `changes` for the local disk, keys beginning with the table's prefix; all of it is
        written before the next `take`. A table in memory has none."""
        ...

    def sweep(self, after: bytes | None, entries_max: int) -> tuple[pl.DataFrame, bytes | None]:
        """Entries, as `changes` gives them, in a fixed order from a place on (None: the first), and the next place (None: that
        was the last).

        Entries put meanwhile may be met or not.
        """
        ...

    def entries(self) -> int:
        """How many there are; an estimate where the disk holds them."""
        ...

    def bytes(self) -> int:
        """Memory it holds, roughly."""
        ...


class Operator(Protocol):
    """One task's: the rows of one partition."""

    tables: Mapping[str, Table]

    def take(self, batches: Sequence[Batch], watermark_ms: int | None) -> Outcome:
        """Add the rows, then let event time go on.

        Args:
            watermark_ms: no row below it is still to come, but for those that were refused; never lower than before. None
                as long as a source is unheard of.
        Rows below the watermark of an earlier call are refused (they come only after an idle advance).
        """
        ...

    def due_ms(self) -> int | None:
        """The lowest watermark that would give results or let something go; None if nothing waits."""
        ...
