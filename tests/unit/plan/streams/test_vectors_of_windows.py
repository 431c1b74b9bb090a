"""One suite for every table of vectors: in memory and on a store, of both orders, against a dictionary."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.chassis.state import MemoryStore
from headrace.plan.slots import NEWEST, Layout, merge_rows
from headrace.plan.streams.frames import GONE, KEY
from headrace.plan.streams.memory_tables import MemoryTables
from headrace.plan.streams.vectors import Entries, Order, Vectors
from headrace.plan.streams.window_shape import window_shape
from support.stream_windows import WINDOWS, stream_of
from svc_stream.streams.tables import TaskTables

KEYS = ("", "a", "b", "ab", "ü")
Content = dict[tuple[str, int], list[int]]


def layout_of(rich: bool) -> Layout:
    stream, events = stream_of(WINDOWS["tumbling"], rich=rich)
    return window_shape(stream, events).layout


@dataclass
class Kept:
    """A table, where it is kept, and what a dictionary says is in it."""

    make: Callable[[], Vectors]
    table: Vectors
    store: MemoryStore
    twin: Content = field(default_factory=dict[tuple[str, int], list[int]])
    log: list[pl.DataFrame] = field(default_factory=list[pl.DataFrame])

    def time(self, identity: tuple[str, int]) -> int:
        return identity[1] if self.table.order == "at" else self.twin[identity][NEWEST]


def kept(kind: str, order: Order, rich: bool) -> Kept:
    store, layout = MemoryStore(), layout_of(rich)

    def make() -> Vectors:
        if kind == "memory":
            return MemoryTables().vectors("t", layout, order)
        return TaskTables(store, 0 if kind == "tiny" else 1 << 20).vectors("t", layout, order)

    return Kept(make, make(), store)


def content(entries: Entries) -> Content:
    rows = zip(entries.keys.to_list(), entries.at.tolist(), strict=True)
    found = dict(zip(rows, entries.slots.tolist(), strict=True))
    assert len(found) == len(entries)
    return found


def some_entries(rng: random.Random, layout: Layout, low: int) -> Entries:
    n = rng.randint(0, 12)
    keys, at = [rng.choice(KEYS) for _ in range(n)], np.array([low + 10 * rng.randint(0, 4) for _ in range(n)], np.int64)
    slots = np.zeros((n, layout.width), np.int64)
    slots[:, NEWEST] = at + [rng.randint(0, 9) for _ in range(n)]
    places = layout.of["m1"]
    for row in range(n):
        slots[row, layout.of["m0"]["rows"]] = 1
        if rng.random() < 0.7:
            value = rng.randint(-5, 5)
            slots[row, places["nonnull"]] = 1
            for kind in ("sum", "min", "max"):
                slots[row, places[kind]] = value
            if "m3" in layout.of:
                last = layout.of["m3"]["last"]
                slots[row, last : last + 5] = (slots[row, NEWEST], 1, rng.randint(0, 1), rng.randint(0, 10**6), value)
    return Entries(pl.Series(KEY, keys, pl.String), at, slots)


def merged(layout: Layout, twin: Content, entries: Entries) -> None:
    for key, at, row in zip(entries.keys.to_list(), entries.at.tolist(), entries.slots, strict=True):
        old = twin.get((key, at))
        twin[key, at] = (row if old is None else merge_rows(layout, np.array([old]), row[None])[0]).tolist()


def committed(one: Kept) -> None:
    """What the engine does after a take."""
    changes = one.table.changes()
    if changes is not None:
        assert changes.filter(pl.col(KEY).is_not_null()).select(KEY, "__at").is_duplicated().any() is False
        one.log.append(changes)
    puts, deletes = one.table.settle()
    one.store.write(puts, deletes)


def swept(table: Vectors, into: Vectors, rng: random.Random) -> None:
    place = None
    while True:
        frame, place = table.sweep(place, rng.randint(1, 6))
        into.restore(frame)
        if place is None:
            return


@pytest.mark.parametrize("kind", ["memory", "rocks", "tiny"])
@pytest.mark.parametrize("order", ["at", "key"])
@given(seed=st.integers(0, 10**9), rich=st.booleans())
def test_a_table_is_a_dictionary_of_vectors(kind: str, order: Order, seed: int, rich: bool) -> None:
    """Random merges, removals, reads and closings with commits between; then restored from all changes, restored from a sweep,
    and, on a store, opened again: always the same entries."""
    rng, one = random.Random(seed), kept(kind, order, rich)
    table, twin, low = one.table, one.twin, rng.choice((0, -100, 10**12))
    for _ in range(rng.randint(1, 12)):
        match rng.choice(("merge", "merge", "remove", "close", "read", "commit")):
            case "merge":
                entries = some_entries(rng, table.layout, low)
                table.merge(entries)
                merged(table.layout, twin, entries)
            case "remove" if twin:
                gone = rng.sample(sorted(twin), rng.randint(1, len(twin)))
                table.remove(pl.Series(KEY, [k for k, _ in gone], pl.String), np.array([a for _, a in gone], np.int64))
                for identity in gone:
                    del twin[identity]
            case "close":
                low += rng.choice((0, 5, 10, 30))
                table.advance(low + 3)
                taken = table.take_below(low)
                wanted = {i: v for i, v in twin.items() if one.time(i) < low}
                assert content(taken) == wanted
                assert list(zip(taken.at.tolist(), taken.keys.to_list(), strict=True)) == sorted((a, k) for k, a in wanted)
                one.twin = twin = {i: v for i, v in twin.items() if i not in wanted}
                assert table.closed_ms == low and table.mark_ms == low + 3
            case "read":
                check_reads(one, rng, low)
            case _:
                committed(one)
        assert table.entries() == len(twin)
        assert table.oldest_ms() == min((one.time(i) for i in twin), default=None)
        assert content(table.scan(None, 1 << 62)) == twin
    committed(one)
    fresh = kept(kind, order, rich)
    for changes in one.log:
        fresh.table.restore(changes)
        committed(fresh)
    again = kept(kind, order, rich)
    swept(table, again.table, rng)
    committed(again)
    assert not fresh.log and not again.log, "what is restored is no change"
    same = [fresh, again] if kind == "memory" else [fresh, again, Kept(one.make, one.make(), one.store)]
    for other in same:
        assert content(other.table.scan(None, 1 << 62)) == twin
        assert (other.table.closed_ms, other.table.mark_ms) == (table.closed_ms, table.mark_ms)
        assert other.table.entries() == len(twin)


def check_reads(one: Kept, rng: random.Random, low: int) -> None:
    asked = rng.sample(KEYS, rng.randint(0, len(KEYS)))
    found = content(one.table.of_keys(pl.Series(KEY, asked, pl.String)))
    assert found == {i: v for i, v in one.twin.items() if i[0] in asked}
    a, b = sorted((low + rng.randint(0, 50), low + rng.randint(0, 50)))
    assert content(one.table.scan(a, b)) == {i: v for i, v in one.twin.items() if a <= one.time(i) < b}
    assert one.table.oldest_ms(a) == min((t for i in one.twin if (t := one.time(i)) >= a), default=None)
    some = rng.sample(sorted(one.twin), rng.randint(0, len(one.twin)))
    slots = one.table.get(pl.Series(KEY, [k for k, _ in some], pl.String), np.array([a for _, a in some], np.int64))
    assert slots.tolist() == [one.twin[i] for i in some]


@pytest.mark.parametrize("kind", ["memory", "rocks", "tiny"])
@pytest.mark.parametrize("order", ["at", "key"])
def test_closing_costs_the_changelog_one_row_and_the_disk_all_its_pairs(kind: str, order: Order) -> None:
    one = kept(kind, order, False)
    slots = np.zeros((1000, one.table.layout.width), np.int64)
    one.table.merge(Entries(pl.Series(KEY, [f"k{i}" for i in range(1000)]), np.zeros(1000, np.int64), slots))
    committed(one)
    assert len(one.table.take_below(1)) == 1000
    committed(one)
    assert len(one.log[-1]) == 1 and one.log[-1][KEY].to_list() == [None] and not one.log[-1][GONE].any()
    assert len(list(one.store.range())) == (0 if kind == "memory" else 1)
    assert one.table.oldest_ms() is None and one.table.entries() == 0


@pytest.mark.parametrize("order", ["at", "key"])
def test_a_table_on_a_store_keeps_no_more_in_memory_than_its_bound(order: Order) -> None:
    store, layout = MemoryStore(), layout_of(False)
    table = TaskTables(store, 64 << 10).vectors("t", layout, order)
    for step in range(20):
        keys = pl.Series(KEY, [f"k{step}-{i}" for i in range(200)])
        table.merge(Entries(keys, np.full(200, step), np.full((200, layout.width), step, np.int64)))
        table.changes()
        store.write(*table.settle())
        assert table.bytes() <= 64 << 10
    assert table.entries() == 4000 == len(table.take_below(20))


@pytest.mark.parametrize("kind", ["memory", "rocks"])
@pytest.mark.parametrize("order", ["at", "key"])
def test_an_entry_that_is_not_there_is_an_error(kind: str, order: Order) -> None:
    table = kept(kind, order, False).table
    with pytest.raises(KeyError):
        table.get(pl.Series(KEY, ["nobody"]), np.array([0]))
