"""What windows hold, from the bytes of many entities' blocks at once: `decode_blocks` and `held_of` without the blocks between.

For readers of cold entities. All varints of all blocks are decoded together, the tiles of all windows picked by index, and
each window merged by reduceat. A value that is not exactly our own schema's, or not the block its key names, makes it
refuse: the caller then goes the way of blocks, where the codec says what is wrong.

Shapes: N entities, B blocks, R tiles, P pairs of a tile and a window that covers it, J windows, C kept columns of an event.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from headrace.plan.block_bytes import FORMAT, text, varints
from headrace.plan.slots import NEWEST
from headrace.plan.tiles import BLOCK_TILES, key_head, key_tail
from headrace.plan.wide import EMPTY, Held, Marks, WideLevel, WidePlan, keys_of

Int64s = npt.NDArray[np.int64]

_LEAST = 8  # integers of the smallest block behind its names: hop, index, 1 start, 0, 1 slot, 0, format, and their counts
_MAX, _MIN = np.iinfo(np.int64).max, np.iinfo(np.int64).min


class Wanted(NamedTuple):
    """What a time reads of any entity: per block (b,) the tail of its state key, its level, hop and index."""

    tails: tuple[bytes, ...]
    levels: Int64s
    hops: Int64s
    indices: Int64s


@dataclass(frozen=True, slots=True)
class EventColumns:
    """One event's part: columns of a tile's slots, and where a window's merged ones go among the kept integers."""

    level: WideLevel
    places: Int64s  # (windows of the event, C)


class Wide:
    """A wide plan compiled for reading bytes."""

    def __init__(self, plan: WidePlan, frame: bytes) -> None:
        """frame: head of values written with our own schema."""
        self.plan, self._frame = plan, frame
        names = list(dict.fromkeys(one.level.event for one in plan.levels))
        self._event_of = np.array([names.index(one.level.event) for one in plan.levels], np.int64)
        self._texts = [text(name) for name in names]
        self._text_of = self._event_of.tolist()
        self._width_of = np.array([one.level.layout.width for one in plan.levels], np.int64)
        self._first_of = np.array([one.windows[0] for one in plan.levels], np.int64)
        self._windows_of = np.array([len(one.windows) for one in plan.levels], np.int64)
        self._single = bool((self._windows_of == 1).all())
        self._event_of_window = np.array([names.index(event) for event, _ in plan.windows], np.int64)
        self._rank = np.zeros(len(plan.windows), np.int64)  # of a window within its event
        self.integers = 0
        self._events: list[EventColumns] = []
        begins = np.zeros(len(plan.windows), np.int64)
        for j in range(len(plan.windows)):
            begins[j], self.integers = self.integers, self.integers + self._kept(names, j)
        for number, name in enumerate(names):
            mine = np.flatnonzero(self._event_of_window == number)
            self._rank[mine] = np.arange(len(mine))
            one = next(x for x in plan.levels if x.level.event == name)
            places = begins[mine][:, None] + np.arange(_kept(one))
            self._events.append(EventColumns(one, places))

    def _kept(self, names: Sequence[str], window: int) -> int:
        return _kept(next(x for x in self.plan.levels if x.level.event == names[int(self._event_of_window[window])]))

    def wanted(self, marks: Marks) -> Wanted:
        """To be kept by whoever reads at the same marks again."""
        levels, keys = keys_of(self.plan, "", marks), list[tuple[int, int, int]]()
        tails: list[bytes] = []
        for number, found in enumerate(levels):
            for key in found:
                tails.append(key_tail(self.plan.feature_set, key))
                keys.append((number, key.hop_ms, key.index))
        parts = np.array(keys, np.int64).reshape(len(keys), 3)
        return Wanted(tuple(tails), parts[:, 0], parts[:, 1], parts[:, 2])

    def keys(self, entities: Sequence[str], wanted: Sequence[Wanted]) -> list[bytes]:
        """State keys, entity by entity."""
        heads = [key_head(entity) for entity in entities]
        return [head + tail for head, one in zip(heads, wanted, strict=True) for tail in one.tails]

    def held(
        self, entities: Sequence[str], marks: Sequence[Marks], wanted: Sequence[Wanted], values: Sequence[bytes | None]
    ) -> list[Held] | None:
        """What each entity's windows hold; values in the order of `keys`. None if one of them is left to the codec."""
        found = self._bodies(entities, wanted, values)
        if found is None:
            return None
        bodies, owners, places = found
        count, windows = len(entities), len(self.plan.windows)
        integers, newest = np.zeros((count, self.integers), np.int64), np.full((count, windows), EMPTY, np.int64)
        if bodies:
            levels, hops, indices = (np.concatenate([w[i] for w in wanted])[places] for i in (1, 2, 3))
            numbers, edges = varints(b"".join(bodies), [len(body) for body in bodies])
            tiles = self._tiles(numbers, edges, levels, hops, indices)
            if tiles is None:
                return None
            self._merge(numbers, tiles, owners, levels, marks, integers, newest)
        return [Held(integers[row].copy(), newest[row].copy()) for row in range(count)]

    def _bodies(
        self, entities: Sequence[str], wanted: Sequence[Wanted], values: Sequence[bytes | None]
    ) -> tuple[list[bytes], Int64s, list[int]] | None:
        """Of the B values there are: what follows the names, whose it is, and its place among all."""
        bodies: list[bytes] = []
        counts: list[int] = []
        places: list[int] = []
        at, before = 0, 0
        for entity, one in zip(entities, wanted, strict=True):
            names = self._frame + text(entity)
            part = values[at : at + len(one.tails)]
            if len(self._texts) == 1:
                head = names + self._texts[0]
                size = len(head)
                bodies += [value[size:] for value in part if value is not None and value.startswith(head)]
            else:
                heads = [names + event for event in self._texts]
                of = [heads[self._text_of[level]] for level in one.levels.tolist()]
                bodies += [v[len(h) :] for v, h in zip(part, of, strict=True) if v is not None and v.startswith(h)]
            places += range(at, at + len(part)) if None not in part else [at + i for i, v in enumerate(part) if v is not None]
            counts.append(len(places) - before)
            at, before = at + len(part), len(places)
        whole = len(bodies) == len(places) and all(body and body[-1] < 0x80 for body in bodies)
        return (bodies, np.repeat(np.arange(len(counts)), counts), places) if whole else None

    def _tiles(
        self, numbers: Int64s, edges: Int64s, levels: Int64s, hops: Int64s, indices: Int64s
    ) -> tuple[Int64s, Int64s, Int64s] | None:
        """Per tile (R,) its block, its start and where its slots begin; None if a body is not laid out as it must be:
        hop, index, two arrays as Avro writes them (their count, their items, 0), format."""
        begins, ends = edges[:-1], edges[1:]
        if int((ends - begins).min()) < _LEAST:
            return None
        count = numbers[begins + 2]
        if int(count.min()) < 1 or int(count.max()) > BLOCK_TILES:
            return None
        behind = begins + 3 + count  # the end of the starts
        width = self._width_of[levels]
        if (behind + 4 + count * width != ends).any():
            return None
        where = np.concatenate((begins, begins + 1, behind, behind + 1, ends - 2, ends - 1))
        nothing = np.zeros(len(count), np.int64)
        if (numbers[where] != np.concatenate((hops, indices, nothing, count * width, nothing, nothing + FORMAT))).any():
            return None
        block = np.repeat(np.arange(len(count)), count)
        within = np.arange(len(block)) - np.repeat(np.cumsum(count) - count, count)
        return block, numbers[(begins + 3)[block] + within], (behind + 2)[block] + within * width[block]

    def _merge(
        self, numbers: Int64s, tiles: tuple[Int64s, Int64s, Int64s], owners: Int64s, levels: Int64s, marks: Sequence[Marks],
        integers: Int64s, newest: Int64s,
    ) -> None:  # fmt: skip
        """Every window of every entity, into (N, integers) and (N, J)."""
        block, starts, at = tiles
        row, level = owners[block], levels[block]
        if self._single:
            window = self._first_of[level]
        else:
            many = self._windows_of[level]
            pair = np.repeat(np.arange(len(block)), many)
            within = np.arange(len(pair)) - np.repeat(np.cumsum(many) - many, many)
            row, level, starts, at = row[pair], level[pair], starts[pair], at[pair]
            window = self._first_of[level] + within
        lows = np.array([m.lows for m in marks], np.int64)
        tops = np.array([[end[2] for end in m.ends] for m in marks], np.int64)
        covered = ((starts >= lows[row, window]) & (starts <= tops[row, level])).nonzero()[0]
        row, window, at = row[covered], window[covered], at[covered]
        for number, event in enumerate(self._events):
            if len(self._events) > 1:
                mine = (self._event_of_window[window] == number).nonzero()[0]
                self._merge_event(event, numbers, row[mine], window[mine], at[mine], integers, newest)
            else:
                self._merge_event(event, numbers, row, window, at, integers, newest)

    def _merge_event(
        self, event: EventColumns, numbers: Int64s, row: Int64s, window: Int64s, at: Int64s, integers: Int64s, newest: Int64s
    ) -> None:
        if not len(row):
            return
        group = row * len(self.plan.windows) + window
        if not self._single:
            order = np.argsort(group, kind="stable")
            group, row, window, at = group[order], row[order], window[order], at[order]
        edges = np.concatenate((np.zeros(1, np.int64), (group[1:] != group[:-1]).nonzero()[0] + 1))
        row, window = row[edges], window[edges]
        one, width = event.level, event.level.level.layout.width
        # Rows of neighbouring integers: picked whole, many times faster than one by one.
        cells = as_strided(numbers, (len(numbers) - width + 1, width), (numbers.itemsize, numbers.itemsize))[at]
        newest[row, window] = np.maximum.reduceat(cells[:, NEWEST], edges)
        merged = [np.add.reduceat(cells[:, one.added], edges, axis=0)]
        for best, slots, guards, neutral in (
            (np.minimum, one.minima, one.minima_guards, _MAX), (np.maximum, one.maxima, one.maxima_guards, _MIN),
        ):  # fmt: skip
            if len(slots):
                counted = cells[:, guards] > 0
                found = best.reduceat(np.where(counted, cells[:, slots], neutral), edges, axis=0)
                merged.append(np.where(np.logical_or.reduceat(counted, edges, axis=0), found, 0))
        integers[row[:, None], event.places[self._rank[window]]] = np.concatenate(merged, axis=1)


def _kept(one: WideLevel) -> int:
    return len(one.added) + len(one.minima) + len(one.maxima)
