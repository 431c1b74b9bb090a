"""Days are never cut: the split keeps every day whole, the newer ones to be judged on."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svc_train.domain.rows import Rows, rows_of, split_by_day


def rows_on(days: list[int]) -> Rows:
    n = len(days)
    return Rows(np.arange(n, dtype=np.float32)[:, None], np.zeros(n, bool), np.zeros(n), np.array(days, dtype=np.int64))


@given(st.lists(st.integers(-5, 20), min_size=2, max_size=60).filter(lambda d: len(set(d)) > 1), st.floats(0, 0.99))
def test_a_split_never_cuts_a_day_and_loses_no_row(days: list[int], share: float) -> None:
    older, newer = split_by_day(rows_on(days), share)
    assert set(older.day).isdisjoint(newer.day)
    assert max(older.day) < min(newer.day)
    assert sorted([*older.x[:, 0], *newer.x[:, 0]]) == list(range(len(days)))
    distinct = len(set(days))
    assert len(set(newer.day)) == min(max(1, round(distinct * share)), distinct - 1)


@pytest.mark.parametrize("days", [[], [3, 3, 3]])
def test_fewer_than_two_days_are_refused(days: list[int]) -> None:
    with pytest.raises(ValueError, match="days to be judged on"):
        split_by_day(rows_on(days), 0.15)


def test_inputs_stand_in_the_columns_order_and_null_is_nan() -> None:
    frame = pl.DataFrame({"b": [1, None], "a": [2.5, 3.5], "label": [True, False], "rule_score": [None, 1], "day": [1, 2]})
    rows = rows_of(frame, ["a", "b"])
    assert rows.x.dtype == np.float32
    assert rows.x[0].tolist() == [2.5, 1.0]
    assert math.isnan(rows.x[1, 1])
    assert math.isnan(rows.rule_score[0])
    assert rows.y.tolist() == [True, False]
