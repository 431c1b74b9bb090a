"""Per-day histograms: the fast counts against a naive loop, and the properties the drift test leans on."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.plan.profile import (
    DAY_MS,
    HOUR_MS,
    Binning,
    DayHistograms,
    day_start_ms,
    from_json,
    reference_profile,
    to_json,
)

VALUES = st.one_of(st.integers(-3, 3).map(float), st.floats(-5, 5, width=32), st.just(math.nan))
ROWS = st.lists(st.tuples(st.integers(-3 * DAY_MS, 3 * DAY_MS), VALUES, VALUES), max_size=40)


def naive_counts(binning: Binning, rows: list[tuple[int, float, float]]) -> dict[int, list[list[int]]]:
    counts: dict[int, list[list[int]]] = {}
    for t, *values in rows:
        day = math.floor((t - binning.day_start_ms) / DAY_MS)
        table = counts.setdefault(day, [[0] * binning.bins for _ in values])
        for column, (value, cuts) in enumerate(zip(values, binning.edges, strict=True)):
            cell = binning.bins - 1 if math.isnan(value) else sum(cut <= value for cut in cuts)
            table[column][cell] += 1
    return counts


@given(ROWS, st.integers(0, 23), st.integers(0, 40))
def test_counts_equal_a_naive_loop_however_they_are_batched(
    rows: list[tuple[int, float, float]], hour: int, split: int
) -> None:
    binning = Binning(("a", "b"), ((-1.0, 0.0, 2.5), (0.5,)), hour * HOUR_MS)
    histograms = DayHistograms(binning)
    for part in (rows[split:], rows[:split]):
        histograms.add([t for t, *_ in part], np.array([values for _, *values in part]).reshape(len(part), 2))
    assert {day: table.tolist() for day, table in histograms.counts.items()} == naive_counts(binning, rows)


@given(st.lists(VALUES, min_size=1, max_size=200))
def test_no_value_of_the_reference_shares_a_cell_across_a_cut_and_cells_hold_at_most_their_share_of_distinct_values(
    values: list[float],
) -> None:
    profile = reference_profile(["a"], [0] * len(values), np.array(values)[:, None])
    (cuts,) = profile.binning.edges
    assert list(cuts) == sorted(set(cuts))
    assert set(cuts) <= set(values)
    present = [value for value in values if not math.isnan(value)]
    assert all(min(present) < cut for cut in cuts)
    if len(set(present)) == len(present) >= 10:  # without ties each tenth is a tenth, up to rounding
        assert max(profile.counts[0][0][:-1]) <= math.ceil(len(present) / 10) + 1


def test_present_leaves_missing_values_out_and_their_share_weighs_days_the_same() -> None:
    histograms = DayHistograms(Binning(("a",), ((0.0,),)))
    histograms.add([0] * 99 + [1] + [DAY_MS] * 2, np.array([[1.0]] * 99 + [[math.nan]] + [[-1.0], [math.nan]]))
    assert histograms.present([0, 1]).tolist() == [[[0, 99]], [[1, 0]]]
    assert histograms.missing_share([0, 1]).tolist() == [(0.01 + 0.5) / 2]
    assert (histograms.rows(0), histograms.rows(1), histograms.rows(2)) == (100, 2, 0)


def test_days_are_cut_where_windows_are_emptiest() -> None:
    """Requests from 7 to 2, mornings partly missing, most at 8: the day starts at 9. One odd row at 4 has no say."""
    times = np.array([hour * HOUR_MS for hour in (*range(7, 24), 0, 1)] * 20 + [4 * HOUR_MS])
    gone = {7: 5, 8: 18, 9: 10}
    values = np.array([[math.nan if index // 19 < gone.get(t // HOUR_MS, 0) else 1.0] for index, t in enumerate(times)])
    values[-1] = math.nan
    assert day_start_ms(times, values) == 9 * HOUR_MS


def test_without_empty_windows_days_are_cut_in_the_middle_of_the_quiet_hours() -> None:
    busy = np.array([hour * HOUR_MS for hour in (*range(9, 24), 0, 1)])
    values = np.ones((len(busy), 2))
    values[3] = (math.nan, 1.0)  # half of an hour's values missing is not an empty window
    assert day_start_ms(busy, values) == 5 * HOUR_MS


@given(ROWS.filter(bool))
def test_a_profile_survives_json_exactly(rows: list[tuple[int, float, float]]) -> None:
    profile = reference_profile(["a", "b"], [t for t, *_ in rows], np.array([values for _, *values in rows]))
    again = from_json(json.loads(json.dumps(to_json(profile))))
    assert again.binning == profile.binning
    assert {day: table.tolist() for day, table in again.counts.items()} == {
        day: table.tolist() for day, table in profile.counts.items()
    }


def test_vectors_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="vectors have shape"):
        DayHistograms(Binning(("a", "b"), ((), ()))).add([0], np.zeros((1, 3)))
