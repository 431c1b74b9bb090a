"""What joins of other engines got wrong, one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import polars as pl
import pytest

from headrace.plan.ir import Distinct, Join, Stream
from headrace.plan.streams.frames import GONE, ITEM, OFFSET, PARTITION, TIME
from headrace.plan.streams.joins import operator
from headrace.plan.streams.memory_tables import MemoryTables
from headrace.plan.streams.operator import Batch, Operator
from headrace.plan.streams.prepare_rows import build_prepare
from support.join_worlds import END_MS, frame_of, record, stream
from support.rows_worlds import TABLES, Held, OnDisk

Given = tuple[Any, ...]  # key, time, amount, and "gone"
each_table = pytest.mark.parametrize("held", TABLES, ids=lambda held: held.__name__)


def batch(made: tuple[Stream, Any], index: int, rows: Sequence[Given], first: int = 0, partition: int = 0) -> Batch:
    """Rows of one side, at the offsets from `first` on."""
    built, events = made
    records = []
    for i, (key, time, amount, *gone) in enumerate(rows):
        records.append(record(Random(i), time, partition, first + i, bool(gone)) | {"card": key, "amount": amount})
    return Batch(index, build_prepare(built, index, events)(frame_of(records)))


def came(made: Operator, batches: Sequence[Batch], watermark: int | None) -> list[tuple[Any, ...]]:
    """(key, time, left amount, right amount) of what a step gives."""
    results = made.take(batches, watermark).results
    columns = ["card", "at", "l_amount", *(["r_amount"] if "r_amount" in results.columns else [])]
    return results.select(columns).rows()


def built(join: Join | None = None, distinct: Distinct | None = None) -> tuple[tuple[Stream, Any], Operator]:
    made = stream(join, distinct)
    return made, operator(*made, MemoryTables())


def test_the_right_side_of_an_interval_join_may_come_before_the_left() -> None:
    """Within the interval, in an earlier batch, at a later event time: the pair is one result at once."""
    made, join = built(Join("interval", before_ms=5, after_ms=5))
    assert came(join, [batch(made, 1, [("a", 12, 2)])], 3) == []
    assert came(join, [batch(made, 0, [("a", 10, 1)])], 3) == [("a", 12, 1, 2)]
    assert came(join, [], END_MS) == []


def test_reversed_arrival_gives_the_same_pairs() -> None:
    rows = [("a", t, t) for t in range(20)]
    found = []
    for order in (1, -1):
        made, join = built(Join("interval", "outer", before_ms=1, after_ms=0))
        pairs = []
        for i, row in enumerate(rows[::order]):
            pairs += came(join, [batch(made, 0, [row], i), batch(made, 1, [row], i)][::order], None)
        found.append(sorted([*pairs, *came(join, [], END_MS)]))
    assert found[0] == found[1]
    assert len(found[0]) == 20 + 19


def test_both_ends_of_the_interval_belong_to_it() -> None:
    made, join = built(Join("interval", before_ms=2, after_ms=3))
    batches = [batch(made, 0, [("a", 10, 0)]), batch(made, 1, [("a", t, t) for t in (7, 8, 13, 14)])]
    assert [row[3] for row in came(join, batches, None)] == [8, 13]


def test_every_pair_of_a_key_comes_once() -> None:
    """Ties and several matches, both sides in one batch and over batches."""
    made, join = built(Join("interval", before_ms=0, after_ms=0))
    found = came(join, [batch(made, i, [("a", 1, 0), ("a", 1, 0)]) for i in (0, 1)], 0)
    found += came(join, [batch(made, i, [("a", 1, 0)], 2) for i in (0, 1)], 0)
    assert found == [("a", 1, 0, 0)] * 9


def test_unmatched_rows_come_once_the_watermark_has_passed_the_last_match() -> None:
    made, join = built(Join("interval", "left", before_ms=9, after_ms=5))
    assert came(join, [batch(made, 0, [("a", 10, 1)])], 10) == []
    assert join.due_ms() == 16
    assert came(join, [], 15) == []
    assert came(join, [], 16) == [("a", 10, 1, None)]
    assert came(join, [], END_MS) == []


def test_a_late_row_is_refused_and_joins_nothing() -> None:
    """After an idle advance; told with its origin."""
    made, join = built(Join("interval", "outer", before_ms=5, after_ms=5))
    assert came(join, [batch(made, 1, [("a", 12, 2)])], 11) == []
    outcome = join.take([batch(made, 0, [("a", 10, 1)], 7, partition=3)], 11)
    assert outcome.results.is_empty()
    assert outcome.refused.rows() == [(0, 3, 7, 0, 10)]
    assert outcome.refused.columns == ["input", PARTITION, OFFSET, ITEM, TIME]
    assert came(join, [], END_MS) == [("a", 12, None, 2)]


@each_table
def test_a_restored_operator_refuses_what_the_first_one_would(held: Callable[[], Held]) -> None:
    """The watermark is in the tables, also where they are empty otherwise."""
    for join, distinct in ((Join("interval"), None), (Join("as_of"), None), (None, Distinct(5))):
        home = held()
        made = stream(join, distinct)
        operator(*made, home).take([], 11)
        home.commit(Random(1))
        again = operator(*made, home.reopened(Random(1)))
        assert again.take([batch(made, 0, [("a", 10, 1)])], 11).refused.height == 1


def test_a_falsy_right_value_is_a_value() -> None:
    """Zero, the empty text and false are not nothing: in an as-of join they are the newest version."""
    made, join = built(Join("as_of", "left"))
    batches = [batch(made, 1, [("a", 1, 7), ("a", 5, 0)]), batch(made, 0, [("a", 5, 1), ("a", 4, 2)])]
    batches[0] = Batch(1, batches[0].rows.with_columns(note=pl.lit(""), ok=pl.lit(False), rate=pl.lit(0.0)))
    results = join.take(batches, END_MS).results
    assert results.select("l_amount", "r_amount", "r_note", "r_ok", "r_rate").rows() == [
        (2, 7, "", False, 0.0), (1, 0, "", False, 0.0)
    ]  # fmt: skip


def test_a_version_whose_value_is_null_is_the_newest_all_the_same() -> None:
    made, join = built(Join("as_of", "left"))
    batches = [batch(made, 1, [("a", 1, 7), ("a", 2, None)]), batch(made, 0, [("a", 3, 1)])]
    assert came(join, batches, END_MS) == [("a", 3, 1, None)]


def test_of_versions_of_one_time_the_last_by_origin_counts() -> None:
    """Whatever comes first."""
    for order in (1, -1):
        made, join = built(Join("as_of"))
        tied = [batch(made, 1, [("a", 1, 10), ("a", 1, 11)], 5), batch(made, 1, [("a", 1, 20)], 4, partition=1)]
        for one in tied[::order]:
            assert came(join, [one], None) == []
        assert came(join, [batch(made, 0, [("a", 1, 0)])], 2) == [("a", 1, 0, 20)]


def test_a_left_row_waits_for_versions_that_may_still_come() -> None:
    made, join = built(Join("as_of", "left"))
    assert came(join, [batch(made, 0, [("a", 5, 1)])], 5) == []
    assert join.due_ms() == 6
    assert came(join, [batch(made, 1, [("a", 5, 9)])], 5) == []
    assert came(join, [], 6) == [("a", 5, 1, 9)]


def test_a_version_older_than_the_bound_is_none() -> None:
    """Exactly as old as the bound is not older."""
    made, join = built(Join("as_of", "left", max_age_ms=3))
    batches = [batch(made, 1, [("a", 1, 9)]), batch(made, 0, [("a", 4, 1), ("a", 5, 2)])]
    assert came(join, batches, END_MS) == [("a", 4, 1, 9), ("a", 5, 2, None)]


@each_table
def test_tombstones_are_replayed(held: Callable[[], Held]) -> None:
    """A deletion that came before a restart holds after it; the key may come back."""
    made, home = stream(Join("table", "left")), held()
    join = operator(*made, home)
    assert came(join, [batch(made, 1, [("a", 1, 9), ("b", 1, 8)])], 1) == []
    home.commit(Random(1))
    assert came(join, [batch(made, 1, [("a", 3, None, "gone")], 5)], 2) == []
    home.commit(Random(1))
    home = home.reopened(Random(2))
    join = operator(*made, home)
    asked = [("a", 2, 1), ("a", 3, 2), ("a", 9, 3), ("b", 9, 4)]
    assert came(join, [batch(made, 0, asked), batch(made, 1, [("a", 20, 5)], 9)], 10) == [
        ("a", 2, 1, 9), ("a", 3, 2, None), ("a", 9, 3, None), ("b", 9, 4, 8)
    ]  # fmt: skip
    home.commit(Random(1))
    join = operator(*made, home.reopened(Random(1)))
    assert came(join, [batch(made, 0, [("a", 21, 6)], 9)], END_MS) == [("a", 21, 6, 5)]


def test_a_key_of_zero_length_is_a_key() -> None:
    for join in (Join("interval"), Join("as_of"), Join("table")):
        made, run = built(join)
        found = came(run, [batch(made, 0, [("", 1, 1), ("a", 1, 2)]), batch(made, 1, [("", 1, 0)])], END_MS)
        assert found == [("", 1, 1, 0)]
    made, run = built(distinct=Distinct(5))
    assert came(run, [batch(made, 0, [("", 1, 1), ("", 2, 2), ("a", 2, 3)])], END_MS) == [("", 1, 1), ("a", 2, 3)]


def test_of_near_rows_the_first_in_time_passes_not_the_first_to_come() -> None:
    """And a row that did not pass still counts as predecessor: a chain of near rows passes once."""
    made, run = built(distinct=Distinct(5))
    assert came(run, [batch(made, 0, [("a", 4, 1)])], 0) == []
    assert came(run, [batch(made, 0, [("a", 1, 0), ("a", 9, 2)], 1)], 1) == []
    assert came(run, [], 20) == [("a", 1, 0)]
    assert came(run, [batch(made, 0, [("a", 20, 3)], 3)], END_MS) == [("a", 20, 3)]


@each_table
def test_state_goes_as_soon_as_the_watermark_allows(held: Callable[[], Held]) -> None:
    """Nothing of ten thousand rows is left, in memory or on disk, when no row to come can need them."""
    for join, distinct in ((Join("interval", "outer", 5, 5), None), (Join("as_of", max_age_ms=3), None), (None, Distinct(5))):
        home = held()
        made = stream(join, distinct)
        run = operator(*made, home)
        for at in range(0, 100, 20):
            rows = [("a" if i % 2 else "", at + i, i) for i in range(20)]
            run.take([batch(made, i, rows, at) for i in range(len(made[0].inputs))], at)
            home.commit(Random(at))
        run.take([], END_MS)
        home.commit(Random(0))
        assert {name: table.entries() for name, table in run.tables.items() if name != "right" or distinct} == {
            name: 0 for name in run.tables if name != "right" or distinct
        }
        if isinstance(home, OnDisk):
            assert all(key.endswith(b"m") for key, _ in home.store.range())


def test_of_a_table_the_newest_versions_stay() -> None:
    """However many there were of a key: two of ten thousand."""
    made, join = built(Join("as_of"))
    for at in range(0, 10_000, 500):
        join.take([batch(made, 1, [("a" if i % 2 else "b", at + i, i) for i in range(500)], at)], at)
    join.take([batch(made, 1, [("a", 10_500, 1)], 20_000)], 10_400)
    assert join.tables["right"].entries() < 2_000
    place, kept = None, 0
    while True:
        page, place = join.tables["right"].sweep(place, 100)
        kept += page.filter(~pl.col(GONE)).height
        if place is None:
            break
    assert kept == 3


def test_a_stream_with_nothing_to_operate_is_refused() -> None:
    with pytest.raises(ValueError, match="neither join nor distinct"):
        operator(*stream(), MemoryTables())
