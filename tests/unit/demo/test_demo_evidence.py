"""Figures computed from what a run left behind."""

from __future__ import annotations

from itertools import product

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_demo.evidence import auc, auc_by_month, percentiles

JULY_MS = 1_372_636_800_000  # 2013-07-01, UTC
DAY_MS = 86_400_000


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40))
def test_auc_is_the_share_of_pairs_ranked_right_ties_half(rows: list[tuple[int, bool]]) -> None:
    """Against counting every pair."""
    late = [score for score, truth in rows if truth]
    punctual = [score for score, truth in rows if not truth]
    found = auc(np.array([score for score, _ in rows], dtype=float), np.array([truth for _, truth in rows]))
    if not late or not punctual:
        assert found is None
        return
    right = sum((a > b) + 0.5 * (a == b) for a, b in product(late, punctual))
    assert found == pytest.approx(right / (len(late) * len(punctual)))


def decisions(rows: list[tuple[str, int, str | None, float | None, float | None]]) -> pl.DataFrame:
    schema = {
        "request_id": pl.String, "t_ms": pl.Int64, "model_digest": pl.String, "score": pl.Float64, "rule_score": pl.Float64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row")


def test_auc_leaves_out_what_the_model_was_trained_on_and_what_no_model_scored() -> None:
    """Two flights before the end of training and one decided by rules rank wrongly and must not count."""
    made = decisions(
        [
            ("a", JULY_MS + 1, "m", 0.9, 1.0),
            ("b", JULY_MS + 2, "m", 0.1, 2.0),
            ("trained", JULY_MS - 1, "m", 0.0, 0.0),
            ("rules", JULY_MS + 3, None, None, 9.0),
            ("unknown outcome", JULY_MS + 4, "m", 0.0, 9.0),
        ]
    )
    late = pl.DataFrame({"flight_id": ["a", "b", "trained", "rules"], "late": [True, False, True, True]})
    (month,) = auc_by_month(made, late, {"m": JULY_MS})
    assert (month.month, month.labelled, month.model, month.rule) == ("2013-07", 2, 1.0, 0.0)


def test_months_are_of_request_time_in_order() -> None:
    made = decisions([("b", JULY_MS + 31 * DAY_MS, "m", 0.5, 1.0), ("a", JULY_MS, "m", 0.5, 1.0)])
    late = pl.DataFrame({"flight_id": ["a", "b"], "late": [True, False]})
    assert [m.month for m in auc_by_month(made, late, {"m": 0})] == ["2013-07", "2013-08"]


def test_percentiles_are_by_nearest_rank() -> None:
    assert percentiles(list(range(1, 101))) == {"p50": 50.0, "p99": 99.0}
    assert percentiles([7]) == {"p50": 7.0, "p99": 7.0}
    assert percentiles([]) == {}
