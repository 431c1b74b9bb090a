"""Rows sorted by (key's hash, event time, origin), searched by many keys at once.

    heads   distinct hashes, ascending           (m,)
    starts  first row of each, and the end       (m + 1,)
    places  group * span + tick of each row      (n,) ascending, so that (key, time) is one binary search

A tick is the time less the zero; where that would not fit beside the group it is the time's rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from headrace.plan.streams.frames import KEY, ORIGIN, TIME
from headrace.plan.streams.key_hash import Int64s, key_hashes

Bools = npt.NDArray[np.bool_]

IDENTITY = (KEY, TIME, *ORIGIN)
_PLACES_MAX = 1 << 62


@dataclass(frozen=True, slots=True)
class Block:
    """See the module. `frame` has IDENTITY and what the rows carry; ticks is None where they are not ranks.

    first_ms, last_ms: the lowest and the highest time.
    """

    frame: pl.DataFrame
    heads: Int64s
    starts: Int64s
    places: Int64s
    first_ms: int
    last_ms: int
    zero_ms: int
    span: int
    ticks: Int64s | None

    def __len__(self) -> int:
        return len(self.places)

    @property
    def times(self) -> Int64s:
        """Event times, shape (n,)."""
        return self.frame[TIME].to_numpy()

    @property
    def groups(self) -> Int64s:
        """Index in `heads` of each row, shape (n,)."""
        return np.repeat(np.arange(len(self.heads)), np.diff(self.starts))

    @property
    def hashes(self) -> Int64s:
        """Shape (n,)."""
        return np.repeat(self.heads, np.diff(self.starts))

    @property
    def mixed(self) -> bool:
        """Whether keys of equal hash lie among each other, so that a group is not a key."""
        texts = self.frame[KEY]
        return int((texts[1:] != texts[:-1]).sum()) != len(self.heads) - 1

    def size(self) -> int:
        """Bytes, roughly."""
        return int(self.frame.estimated_size()) + self.places.nbytes + self.heads.nbytes + self.starts.nbytes

    def bounds(self, hashes: Int64s, low_ms: Int64s, high_ms: Int64s) -> tuple[Int64s, Int64s]:
        """Rows [from, to) of each asked hash with low <= time <= high; shapes (q,). Quickest where hashes ascend."""
        group = np.searchsorted(self.heads, hashes)
        np.minimum(group, len(self.heads) - 1, out=group)
        base = group * self.span
        start = np.searchsorted(self.places, base + self._ticks_below(low_ms, inclusive=False))
        end = np.searchsorted(self.places, base + self._ticks_below(high_ms, inclusive=True))
        return start, np.where(self.heads[group] == hashes, np.maximum(end, start), start)

    def _ticks_below(self, times_ms: Int64s, *, inclusive: bool) -> Int64s:
        """The first tick at or after each time; after it where inclusive."""
        if self.ticks is not None:
            return np.searchsorted(self.ticks, times_ms, "right" if inclusive else "left")
        if inclusive:
            return np.clip(times_ms, self.first_ms - 1, self.last_ms) - (self.zero_ms - 1)
        return np.clip(times_ms, self.first_ms, self.last_ms + 1) - self.zero_ms

    def where(self, kept: Bools) -> Block:
        """The rows that are kept, shape (n,); at least one of them."""
        return _arranged(self.frame.filter(pl.Series(kept)), self.heads, self.groups[kept])

    def rows(self, start: int, end: int) -> Block:
        """Rows [start, end), at least one; shares their memory."""
        if start == 0 and end == len(self):
            return self
        first = int(np.searchsorted(self.starts, start, "right")) - 1
        last = int(np.searchsorted(self.starts, end, "left"))
        frame = self.frame.slice(start, end - start)
        times = frame[TIME].to_numpy()
        return Block(
            frame, self.heads[first:last], np.clip(self.starts[first : last + 1], start, end) - start,
            self.places[start:end] - first * self.span, int(times.min()), int(times.max()), self.zero_ms, self.span, self.ticks,
        )  # fmt: skip

    def within(self, low: int, high: int) -> Block | None:
        """Rows with low <= hash <= high."""
        start = int(self.starts[np.searchsorted(self.heads, low, "left")])
        end = int(self.starts[np.searchsorted(self.heads, high, "right")])
        return self.rows(start, end) if start < end else None


def block_of(frame: pl.DataFrame) -> Block:
    """Rows, at least one, in any order, each identity once."""
    hashes = key_hashes(frame[KEY])
    if (hashes[1:] >= hashes[:-1]).all():  # read back
        fresh = np.concatenate(([True], hashes[1:] != hashes[:-1]))
        return _arranged(frame, hashes[fresh], np.cumsum(fresh) - 1)
    order = np.argsort(hashes)
    ascending = hashes[order]
    fresh = np.concatenate(([True], ascending[1:] != ascending[:-1]))
    groups = np.empty(len(order), np.int64)
    groups[order] = np.cumsum(fresh) - 1
    return _arranged(frame, ascending[fresh], groups)


def merged(parts: Sequence[Block], *, unique: bool = False) -> Block:
    """All rows of some blocks as one, each identity once. unique: also of a single block that may have some twice."""
    if len(parts) == 1 and not unique:
        return parts[0]
    heads = np.sort(np.concatenate([part.heads for part in parts]), kind="stable")  # merges: the parts ascend
    heads = heads[np.concatenate(([True], heads[1:] != heads[:-1]))]
    groups = np.concatenate([np.searchsorted(heads, part.heads)[part.groups] for part in parts])
    return _arranged(pl.concat([part.frame for part in parts]), heads, groups, unique=True)


def _arranged(frame: pl.DataFrame, heads: Int64s, groups: Int64s, *, unique: bool = False) -> Block:
    """Sort, find what repeats, drop heads without rows."""
    times = frame[TIME].to_numpy()
    counts = np.bincount(groups, minlength=len(heads))
    if not counts.all():
        groups, heads, counts = (np.cumsum(counts > 0) - 1)[groups], heads[counts > 0], counts[counts > 0]
    first, last = int(times.min()), int(times.max())
    span, ticks = last - first + 2, None
    if span * len(heads) < _PLACES_MAX:
        places = groups * span + (times - first)
    else:
        ticks = np.unique(times)
        span = len(ticks) + 1
        places = groups * span + np.searchsorted(ticks, times)
    order = _order(places, frame)
    if order is not None:
        frame, places = frame[order], places[order]
    if unique and len(kept := _latest(places, frame)) < len(places):
        frame, places = frame[kept], places[kept]
        counts = np.bincount(places // span, minlength=len(heads))
    starts = np.concatenate(([0], np.cumsum(counts)))
    return Block(frame, heads, starts, places, first, last, first, span, ticks)


def _order(places: Int64s, frame: pl.DataFrame) -> Int64s | None:
    """By place, then origin, of equal ones as they come; None if they stand so."""
    order = None if (places[1:] >= places[:-1]).all() else np.argsort(places, kind="stable")
    ascending = places if order is None else places[order]
    tied = np.flatnonzero(ascending[1:] == ascending[:-1])
    if not len(tied):
        return order
    origin = [frame[name].to_numpy() for name in ORIGIN]
    before, after = (tied, tied + 1) if order is None else (order[tied], order[tied + 1])
    if not _greater([column[before] for column in origin], [column[after] for column in origin]).any():
        return order
    return np.lexsort((*reversed(origin), places))


def _greater(a: Sequence[Int64s], b: Sequence[Int64s]) -> Bools:
    """Whether the origins of a come after those of b."""
    greater, equal = np.zeros(len(a[0]), np.bool_), np.ones(len(a[0]), np.bool_)
    for left, right in zip(a, b, strict=True):
        greater |= equal & (left > right)
        equal &= left == right
    return greater


def _latest(places: Int64s, frame: pl.DataFrame) -> Int64s:
    """Rows whose identity is not that of the next one. An origin has one key, so that the texts need no look."""
    same = places[1:] == places[:-1]
    if same.any():
        for name in ORIGIN:
            column = frame[name].to_numpy()
            same = same & (column[1:] == column[:-1])
    return np.flatnonzero(np.concatenate((~same, [True])))
