"""Tables of accumulators: entries (key, at) -> vector (W,), and what event time has let go of.

Two orders. `at`: the time of an entry is its `at`, as of panes. `key`: its time is that of its newest row, slot NEWEST, as
of sessions; `at` only names it among those of its key. Entries go by their time, everything below a bound at once: that
costs the changelog one row, whatever the number of entries. Nothing below the bound comes again.

Shapes: N entries, W slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from headrace.plan.slots import Layout
from headrace.plan.streams.frames import GONE, KEY
from headrace.plan.streams.operator import Table

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Order = Literal["at", "key"]

AT, SLOTS = "__at", "__slots"
NEVER = int(np.iinfo(np.int64).min)


@dataclass(frozen=True, slots=True)
class Entries:
    """keys: String (N,), never null; at: (N,); slots: (N, W)."""

    keys: pl.Series
    at: Int64s
    slots: Int64s

    def __len__(self) -> int:
        return len(self.at)

    def take(self, rows: Int64s | Bools) -> Entries:
        """These rows, by number or by mask."""
        chosen = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        return Entries(self.keys.gather(chosen), self.at[chosen], self.slots[chosen])

    def ordered(self) -> Entries:
        """By (at, key)."""
        return self.take(pl.DataFrame({AT: self.at, KEY: self.keys}).select(pl.arg_sort_by(AT, KEY)).to_series().to_numpy())


def nothing(width: int) -> Entries:
    return Entries(pl.Series(KEY, [], pl.String), np.empty(0, np.int64), np.empty((0, width), np.int64))


def together(parts: Sequence[Entries], width: int) -> Entries:
    """All of them, in this order."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return nothing(width)
    keys = pl.concat([part.keys for part in parts], rechunk=True)
    return Entries(keys, np.concatenate([part.at for part in parts]), np.concatenate([part.slots for part in parts]))


class Vectors(Table, Protocol):
    """Entries (key, at) -> vector of one layout. Results are columns; what is given is not kept by reference."""

    layout: Layout
    order: Order
    mark_ms: int | None  # the last `advance`: how far event time is, for who goes on with this table
    closed_ms: int | None  # the last `take_below`

    def advance(self, mark_ms: int) -> None:
        """Event time went on; never lower than before."""
        ...

    def merge(self, entries: Entries) -> None:
        """Merge each vector into its entry, or make it. Identities may come several times."""
        ...

    def get(self, keys: pl.Series, at: Int64s) -> Int64s:
        """Vectors of entries that are there, (N, W), in the order asked for. KeyError if one is not."""
        ...

    def of_keys(self, keys: pl.Series) -> Entries:
        """All entries of these keys (each named once), in no order. Of order `at` it looks at every entry."""
        ...

    def scan(self, low_ms: int | None, high_ms: int) -> Entries:
        """Entries with low <= time < high (None: from the first), in no order."""
        ...

    def take_below(self, bound_ms: int) -> Entries:
        """Remove and return, by (at, key), all entries with time < bound; none of them comes again."""
        ...

    def remove(self, keys: pl.Series, at: Int64s) -> None:
        """Remove single entries that are there; they may come again."""
        ...

    def oldest_ms(self, low_ms: int | None = None) -> int | None:
        """The least time of all entries that are not below low (None: of all); None without any."""
        ...


class Tables(Protocol):
    """Where an operator's tables come from: opened as they were left."""

    def vectors(self, name: str, layout: Layout, order: Order) -> Vectors:
        """One per name and task."""
        ...


# ---------------------------------------------------------------- frames of changes


def frame_of(entries: Entries, gone: Entries | None, bounds: tuple[int | None, int | None] | None) -> pl.DataFrame:
    """The frame of `Table.changes`: KEY, AT, SLOTS, GONE. A row with a null key says (closed_ms, mark_ms) as AT and slot 0:
    everything with a lower time is gone, once the frame's other rows are in."""
    width = entries.slots.shape[1]
    frames = [_frame(entries, False)] if len(entries) or not (gone or bounds) else []
    if gone is not None and len(gone):
        frames.append(_frame(gone, True))
    if bounds is not None:
        closed, mark = (NEVER if bound is None else bound for bound in bounds)
        slots = np.zeros((1, width), np.int64)
        slots[0, 0] = mark
        frames.append(_frame(Entries(pl.Series(KEY, [None], pl.String), np.array([closed], np.int64), slots), False))
    return pl.concat(frames)


def _frame(entries: Entries, gone: bool) -> pl.DataFrame:
    columns = [entries.keys.alias(KEY), pl.Series(AT, entries.at), pl.Series(SLOTS, entries.slots)]
    return pl.DataFrame(columns).with_columns(pl.lit(gone).alias(GONE))


def parts_of(changes: pl.DataFrame) -> tuple[Entries, Entries, tuple[int | None, int | None] | None]:
    """The inverse of `frame_of`: entries put, entries gone, (closed_ms, mark_ms)."""
    scalar = changes.filter(pl.col(KEY).is_null())
    rest = changes.filter(pl.col(KEY).is_not_null())
    bounds = None
    if len(scalar):
        closed, mark = int(scalar[AT][-1]), int(scalar[SLOTS].to_numpy()[-1, 0])
        bounds = (None if closed == NEVER else closed, None if mark == NEVER else mark)
    return entries_of(rest.filter(~pl.col(GONE))), entries_of(rest.filter(pl.col(GONE))), bounds


def entries_of(frame: pl.DataFrame) -> Entries:
    """Of a frame with KEY, AT and SLOTS."""
    frame = frame.rechunk()
    return Entries(frame[KEY], frame[AT].to_numpy(), frame[SLOTS].to_numpy())
