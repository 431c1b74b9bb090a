"""Accumulators: merges are exact, commutative, and the same whatever the grouping."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from headrace.contracts.errors import Fatal
from headrace.plan.ir import FeatureSet, Measure
from headrace.plan.slots import NEWEST, layout_of, merge_rows, ranges, reduce_by, reduce_ranges, row_vectors, square_limbs
from support.law_worlds import FULL, ORIGIN_LOAD

ONE = FeatureSet("s", ("origin",), ("departures",), (Measure("m0", "departures", "delay", None, FULL),), (), 1, 1)
LAYOUT = layout_of(ONE, "departures")
VALUES = st.integers(-(2**47) + 1, 2**47 - 1)
SUMMED = st.integers(-(2**40), 2**40)  # the high limbs of two squares of the greatest VALUES do not fit one int64


@st.composite
def vectors(draw: DrawFn) -> np.ndarray:
    """One vector per record, with nulls, ties of event time, and unique offsets; ordered by the key of `last`."""
    rows = sorted(draw(st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 2)), min_size=1, max_size=24)))
    n = len(rows)
    values = np.array(draw(st.lists(SUMMED, min_size=n, max_size=n)), np.int64)
    held = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    taken = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    columns = [np.array(c, np.int64) for c in zip(*rows, strict=True)]
    return row_vectors(LAYOUT, columns[0], columns[1], np.arange(n, dtype=np.int64), [taken], [(values, held)])


def folded(rows: np.ndarray) -> list[int]:
    out = rows[:1]
    for i in range(1, len(rows)):
        out = merge_rows(LAYOUT, out, rows[i : i + 1])
    return out[0].tolist()


@given(vectors(), st.randoms(use_true_random=False))
def test_merging_in_any_order_gives_the_same_vector(rows: np.ndarray, rng: object) -> None:
    """So any batching, crash or rebalance gives the same tile."""
    order = list(range(len(rows)))
    rng.shuffle(order)  # type: ignore[attr-defined]
    assert folded(rows) == folded(rows[order])


@given(vectors())
def test_a_merged_vector_says_what_plain_python_says(rows: np.ndarray) -> None:
    """Sum, count, extremes, last by order key, and squares as one big integer."""
    at = LAYOUT.of["m0"]
    held = [r for r in rows.tolist() if r[at["nonnull"]]]
    out = folded(rows)
    assert out[NEWEST] == max(r[NEWEST] for r in rows.tolist())
    assert out[at["rows"]] == sum(r[at["rows"]] for r in rows.tolist())
    assert out[at["nonnull"]] == len(held)
    values = [r[at["sum"]] for r in held]
    assert out[at["sum"]] == sum(values)
    assert out[at["square_lo"]] + (out[at["square_hi"]] << 32) == sum(v * v for v in values)
    assert (out[at["min"]], out[at["max"]]) == ((min(values), max(values)) if values else (0, 0))
    last = slice(at["last"], at["last"] + 5)
    assert out[last] == max((r[last] for r in held), default=[0] * 5)


@given(vectors(), st.lists(st.integers(0, 3), min_size=24, max_size=24))
def test_group_reduction_equals_merging_row_by_row(rows: np.ndarray, groups: list[int]) -> None:
    """Groups in any order, some of one row."""
    ids = np.array(groups[: len(rows)], np.int64)
    found, out = reduce_by(LAYOUT, ids, rows)
    assert found.tolist() == sorted(set(ids.tolist()))
    assert out.tolist() == [folded(rows[ids == g]) for g in found.tolist()]


@given(vectors(), st.lists(st.tuples(st.integers(0, 24), st.integers(0, 24)), min_size=1, max_size=8))
def test_range_reduction_equals_merging_row_by_row(rows: np.ndarray, edges: list[tuple[int, int]]) -> None:
    """Overlapping, unsorted and empty ranges; an empty one is all zeros."""
    start = np.minimum(np.array([min(e) for e in edges]), len(rows))
    end = np.minimum(np.array([max(e) for e in edges]), len(rows))
    out = reduce_ranges(LAYOUT, rows, start, end)
    for got, a, b in zip(out.tolist(), start.tolist(), end.tolist(), strict=True):
        assert got == (folded(rows[a:b]) if b > a else [0] * LAYOUT.width)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(-6, 6)), max_size=20),
    st.lists(st.tuples(st.integers(-1, 4), st.integers(-8, 8), st.integers(-8, 8)), min_size=1, max_size=8),
)
def test_ranges_find_exactly_the_rows_of_the_owner_in_the_interval(
    rows: list[tuple[int, int]], asked: list[tuple[int, int, int]]
) -> None:
    """Unknown owners and empty intervals give empty ranges."""
    rows.sort()
    owner, position = (np.array([r[i] for r in rows], np.int64) for i in (0, 1))
    start, end = ranges(owner, position, *(np.array([a[i] for a in asked], np.int64) for i in (0, 1, 2)))
    for (who, low, high), a, b in zip(asked, start.tolist(), end.tolist(), strict=True):
        assert [i for i, (o, p) in enumerate(rows) if o == who and low <= p <= high] == list(range(a, b))


@given(st.lists(VALUES, min_size=1))
def test_square_limbs_are_exact(values: list[int]) -> None:
    """Up to the largest magnitude a plan admits, and beyond 64 bits."""
    low, high = square_limbs(np.array(values, np.int64))
    assert [a + (b << 32) for a, b in zip(low.tolist(), high.tolist(), strict=True)] == [v * v for v in values]
    assert low.max() < 2**32


def test_slots_follow_the_measures_of_one_event_in_order() -> None:
    """Golden: state on disk and on the wire has this layout."""
    layout = layout_of(ORIGIN_LOAD, "departures")
    assert layout.width == 1 + 1 + 12 + 1 + 2
    assert layout.of["m1"] == {k: 2 + i for i, k in enumerate(FULL)}
    assert layout_of(ORIGIN_LOAD, "weather").of == {"m4": {"last": 1}, "m5": {"nonnull": 6, "sum": 7, "min": 8, "max": 9}}


def test_a_sum_without_its_count_is_refused() -> None:
    """Nothing could tell its zero from no value."""
    broken = FeatureSet("s", ("origin",), ("departures",), (Measure("m0", "departures", "delay", None, ("sum",)),), (), 1, 1)
    with pytest.raises(Fatal, match="no nonnull slot"):
        layout_of(broken, "departures")
