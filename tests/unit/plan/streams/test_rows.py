"""Every kind of table of rows gives what a plain list gives: probes, bounds, changes, restores, sweeps, reopened stores."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.chassis.state import MemoryStore
from headrace.contracts.errors import Fatal
from headrace.plan.streams import blocks, key_hash
from headrace.plan.streams.blocks import Block, block_of
from headrace.plan.streams.frames import GONE, KEY, TIME
from headrace.plan.streams.rows import BEFORE_ALL, DELETED, IDENTITY_TYPES, Rows, changes_schema
from support.rows_worlds import TABLES, Held
from svc_stream.adapters.rocks_rows import PageCache, RocksRows

CARRIED = pl.Schema({"n": pl.Int64(), "text": pl.String(), "list": pl.List(pl.String()), DELETED: pl.Boolean()})
SCHEMA = pl.Schema({**IDENTITY_TYPES, **CARRIED})
KEYS = ("", "a", "b", "c" * 9, "é")
each_table = pytest.mark.parametrize("held", TABLES, ids=lambda held: held.__name__)
Entry = tuple[Any, ...]


def entry(rng: Random, time: int, offset: int) -> Entry:
    values = (rng.choice((None, 0, 5)), rng.choice((None, "", "x")), rng.choice((None, [], ["", "y"])), rng.random() < 0.3)
    return (rng.choice(KEYS), time, rng.randint(0, 1), offset, rng.randint(0, 1), *values)


def block(entries: list[Entry]) -> Block:
    return block_of(pl.DataFrame(entries, schema=SCHEMA, orient="row"))


class Naive:
    """The same as a list."""

    def __init__(self) -> None:
        self.held: list[Entry] = []
        self.floor = self.superseded = BEFORE_ALL

    def alive(self) -> list[Entry]:
        return [e for e in self.held if e[1] >= self.floor]

    def strictly_alive(self) -> list[Entry]:
        """Without what is superseded, whether forgotten already or not."""
        kept: list[Entry] = []
        for e in self.alive():
            below = [o for o in self.alive() if o[0] == e[0] and o[1] < self.superseded]
            newest = max(below, key=lambda o: o[1:5], default=None)
            if e[1] >= self.superseded or (e == newest and not e[-1]):
                kept.append(e)
        return kept


def told(rows: Rows) -> pl.DataFrame:
    """What changed since the last time."""
    changes = rows.changes()
    return pl.DataFrame(schema=changes_schema(CARRIED)) if changes is None else changes


def frozen(entries: list[Entry]) -> list[str]:
    return sorted(map(repr, entries))


def same(rows: Rows, naive: Naive, rng: Random) -> None:
    """Compare all answers."""
    asked = [(rng.choice((*KEYS, "unknown")), rng.randint(-9, 40), 0, i, 0, None, None, None, False) for i in range(12)]
    block_ = block(asked)
    asked = block_.frame.rows()
    low, high = block_.times - rng.randint(0, 5), block_.times + rng.randint(-1, 5)
    low = np.maximum(low, naive.superseded)  # below it what is forgotten may be there still
    number, found = rows.probe(block_, low, high)
    within = [(i, e) for i, a in enumerate(asked) for e in naive.alive() if e[0] == a[0] and low[i] <= e[1] <= high[i]]
    assert frozen([(i, e) for i, e in zip(number.tolist(), found.rows(), strict=True)]) == frozen(within)
    assert rows.matched(block_, low, high).tolist() == sorted({i for i, _ in within})
    at = np.maximum(block_.times, naive.superseded)
    number, found = rows.newest(block_, at)
    got = {i: e for i, e in zip(number.tolist(), found.rows(), strict=True) if not e[-1]}
    for i, a in enumerate(asked):
        versions = [e for e in naive.alive() if e[0] == a[0] and e[1] <= at[i]]
        newest = max(versions, key=lambda e: e[1:5], default=None)
        assert got.get(i) == (None if newest is None or newest[-1] else newest)
    first, last = max(rng.randint(-9, 40), naive.superseded), rng.randint(-9, 40)
    assert frozen(rows.between(first, last).rows()) == frozen([e for e in naive.alive() if first <= e[1] < last])
    assert rows.oldest(first) == min((e[1] for e in naive.alive() if e[1] >= first), default=None)
    assert rows.floor_ms == naive.floor


@each_table
@settings(max_examples=25)
@given(rng=st.integers(0, 1 << 32).map(Random))
def test_a_table_is_a_list(held: Callable[[], Held], rng: Random) -> None:
    """Goal: one meaning of all tables. Method: random steps and answers beside a list; now and then a commit, and what
    was not committed is lost."""
    _play(held(), rng)


def _play(home: Held, rng: Random) -> None:
    naive, offset, clock = Naive(), 0, 0
    rows, lost = home.rows("t", CARRIED), Naive()
    for _ in range(rng.randint(1, 25)):
        step = rng.random()
        if step < 0.5:
            count = rng.choice((1, 2, 9, 30))
            entries = [entry(rng, clock + rng.randint(0, 12), offset + i) for i in range(count)]
            offset += count
            rows.add(block(entries))
            naive.held += entries
        elif step < 0.7:
            clock += rng.randint(0, 6)
            naive.floor = max(naive.floor, clock - 5)
            rows.drop_below(clock - 5)
        elif step < 0.8:
            clock += rng.randint(0, 6)
            naive.superseded = max(naive.superseded, clock)
            rows.drop_superseded(clock)
        elif step < 0.9:
            home.commit(rng)
            lost.held, lost.floor, lost.superseded = list(naive.held), naive.floor, naive.superseded
            if rng.random() < 0.5:
                home = home.reopened(rng)
                rows = home.rows("t", CARRIED)
        same(rows, naive, rng)
    if type(home).__name__ != "Swept":  # whose changelog is what there is
        rows = home.reopened(rng).rows("t", CARRIED)
        same(rows, lost, rng)


@each_table
@settings(max_examples=25)
@given(rng=st.integers(0, 1 << 32).map(Random))
def test_a_sweep_meets_every_entry_once(held: Callable[[], Held], rng: Random) -> None:
    """Also in small pages, and without what is superseded; each key is in one page."""
    pages, keys = _sweep(held().rows("t", CARRIED), rng)
    assert len(keys) == len(set(keys))
    assert pages <= len(KEYS) + 1


def _sweep(rows: Rows, rng: Random) -> tuple[int, list[str]]:
    """Pages, and the keys met in each."""
    naive = Naive()
    for i in range(rng.randint(0, 6)):
        entries = [entry(rng, rng.randint(0, 20), 100 * i + j) for j in range(rng.randint(1, 30))]
        rows.add(block(entries))
        naive.held += entries
    naive.floor, naive.superseded = rng.choice((BEFORE_ALL, 3)), rng.choice((BEFORE_ALL, 3, 15))
    rows.drop_below(naive.floor)
    rows.drop_superseded(naive.superseded)
    place, met, keys, pages = None, [], [], 0
    while True:
        page, place = rows.sweep(place, rng.choice((1, 5)))
        entries = page.filter(pl.col(KEY).is_not_null() & ~pl.col(GONE)).drop(GONE)
        met += entries.rows()
        keys += entries[KEY].unique().to_list()
        pages += 1
        if place is None:
            break
    assert frozen(met) == frozen(naive.strictly_alive())
    return pages, keys


@each_table
def test_forgetting_costs_the_changelog_a_row(held: Callable[[], Held]) -> None:
    """However many entries go."""
    rows = held().rows("t", CARRIED)
    rng = Random(1)
    rows.add(block([entry(rng, i, i) for i in range(500)]))
    assert len(told(rows)) == 500
    rows.drop_below(400)
    rows.drop_superseded(450)
    changes = told(rows)
    assert changes.select(KEY, TIME, GONE).rows() == [(None, 400, True), (None, 450, True)]
    assert rows.changes() is None
    assert rows.between(BEFORE_ALL, 400).is_empty()


@each_table
def test_entries_put_and_gone_within_a_transaction_are_not_told(held: Callable[[], Held]) -> None:
    rows = held().rows("t", CARRIED)
    rows.add(block([("a", 1, 0, 0, 0, 1, "x", [], False), ("a", 5, 0, 1, 0, 2, "y", [], False)]))
    rows.drop_below(3)
    assert told(rows).filter(pl.col(KEY).is_not_null())[TIME].to_list() == [5]


@each_table
def test_a_deletion_hides_older_versions_until_they_are_gone(held: Callable[[], Held]) -> None:
    """A deletion that is merged alone must stay: the version before it lies in another run."""
    rng, home = Random(3), held()
    rows = home.rows("t", CARRIED)
    first, second, third = (
        [(*entry(rng, at, 1000 * at + i)[:-1], False) for i in range(n)] for at, n in ((1, 200), (2, 40), (60, 40))
    )
    rows.add(block([*first, ("gone", 1, 0, 1, 0, 7, "v", [], False)]))
    rows.add(block([*second, ("gone", 2, 0, 2, 0, None, None, None, True)]))
    rows.drop_superseded(50)
    rows.add(block(third))
    home.commit(Random(0))
    for table in (rows, home.reopened(Random(4)).rows("t", CARRIED)):
        number, found = table.newest(block([("gone", 70, 0, 0, 0, None, None, None, False)]), np.array([70]))
        assert not len(number) or found[DELETED].to_list() == [True]


def test_state_far_larger_than_memory_is_merged_bit_by_bit() -> None:
    """Goal: state five times the memory bound. Method: a hundred commits whose pages are far more than what the table
    holds at any time, probed for every row at the end; runs stay few and the work of a commit does not grow with the state."""
    store, cache, rng = MemoryStore(), PageCache(40_000), Random(8)
    rows = RocksRows("t", CARRIED, store, b"t", cache, page_rows=64)
    naive, held, written = Naive(), [], []
    for commit in range(100):
        entries = [(f"k{rng.randint(0, 400)}", commit, 0, commit * 100 + i, 0, i, "x" * 20, [], False) for i in range(100)]
        naive.held += entries
        rows.add(block(entries))
        assert len(told(rows)) == 100
        held.append(rows.bytes() + cache.bytes)
        puts, deletes = rows.settle()
        written.append(len(puts))
        store.write(puts, deletes)
    assert block(naive.held).size() > 5 * max(held)
    assert max(written) <= 40
    again = RocksRows("t", CARRIED, store, b"t", PageCache(0), page_rows=64)
    for table in (rows, again):
        assert len(table._state()[2]) <= 12
        asked = block(naive.held)
        number, found = table.probe(asked, asked.times, asked.times)
        assert len(number) >= len(asked)
        assert frozen(found.unique().rows()) == frozen(naive.held)
    assert len(list(store.range(b"tp"))) == sum(len(run) for run in rows._state()[2])


def test_another_format_or_other_columns_are_refused() -> None:
    store = MemoryStore()
    rows = RocksRows("t", CARRIED, store, b"t", PageCache(0))
    rows.add(block([("a", 1, 0, 0, 0, 1, "x", [], False)]))
    store.write(*rows.settle())
    with pytest.raises(Fatal, match="carries"):
        RocksRows("t", pl.Schema({"n": pl.Int64()}), store, b"t", PageCache(0))
    page = next(key for key, _ in store.range(b"tp"))
    store.write({page: b"\x09" + (store.get(page) or b"")[1:]})
    with pytest.raises(Fatal, match="format 9"):
        RocksRows("t", CARRIED, store, b"t", PageCache(0)).between(0, 9)
    store.write({b"tm": (store.get(b"tm") or b"").replace(b'"format": 1', b'"format": 9')})
    with pytest.raises(Fatal, match="format 9"):
        RocksRows("t", CARRIED, store, b"t", PageCache(0))


@each_table
@settings(max_examples=15)
@given(rng=st.integers(0, 1 << 32).map(Random))
def test_keys_whose_hashes_are_equal_stay_apart(held: Callable[[], Held], rng: Random) -> None:
    """Method: hashes of two bits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "key_hashes", lambda keys: key_hash.key_hashes(keys) & 3)
        _play(held(), rng)
        _sweep(held().rows("t", CARRIED), rng)


def _mixed(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) % 2**64
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
    return value ^ value >> 31


def _hash(text: str) -> int:
    """Byte by byte."""
    data = text.encode()
    found = _mixed(len(data))
    for at in range(0, len(data), 8):
        found = _mixed(found ^ int.from_bytes(data[at : at + 8], "little"))
    return found - 2**64 if found >> 63 else found


@settings(max_examples=30)
@given(st.lists(st.text(max_size=40), max_size=30))
def test_a_hash_is_of_the_text_alone(texts: list[str]) -> None:
    """Not of where it lies in a column: slices, order and neighbours change nothing."""
    keys = pl.Series(["prefix", *texts], dtype=pl.String)
    assert key_hash.key_hashes(keys).tolist() == [_hash(text) for text in keys]
    assert key_hash.key_hashes(keys.slice(1)).tolist() == [_hash(text) for text in texts]


def test_hashes_are_those_that_lie_on_disks() -> None:
    """Pages are ordered by them: another hash is another format."""
    keys = pl.Series(["", "a", "abcdefgh", "abcdefghi", "é\x1f0"])
    assert key_hash.key_hashes(keys).tolist() == [
        -2152535657050944081, 6774081908283191102, -9201615108636129578, -3755808226507576517, 1355860652389625734
    ]  # fmt: skip


def test_times_far_apart_are_ranked() -> None:
    """Where a place does not fit into 63 bits ranks stand for times."""
    times = [-(2**62), 0, 2**62]
    entries = [(f"k{i % 7}", times[i % 3], 0, i, 0, i, None, None, False) for i in range(60)]
    held = block(entries)
    assert held.ticks is not None
    start, end = held.bounds(held.hashes, held.times, held.times)
    keys = held.frame[KEY].to_list()
    for row, (a, b) in enumerate(zip(start, end, strict=True)):
        alike = [i for i in range(60) if keys[i] == keys[row] and held.times[i] == held.times[row]]
        assert list(range(a, b)) == alike
