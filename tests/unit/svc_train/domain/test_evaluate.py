"""Figures against pairs counted one by one; an export is right or blocked."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svc_train.domain.evaluate import TOLERANCE, auc, export_parity, log_loss

ROWS = st.lists(st.tuples(st.booleans(), st.one_of(st.just(math.nan), st.integers(0, 5).map(float))), max_size=40)


@given(ROWS)
def test_auc_equals_the_pairs_counted_one_by_one(rows: list[tuple[bool, float]]) -> None:
    known = [(y, -math.inf if math.isnan(s) else s) for y, s in rows]
    pairs = [(p > q) + 0.5 * (p == q) for y, p in known if y for z, q in known if not z]
    got = auc(np.array([y for y, _ in rows], bool), np.array([s for _, s in rows], float))
    assert got == pytest.approx(sum(pairs) / len(pairs)) if pairs else math.isnan(got)


def test_log_loss_is_the_mean_over_rows_and_finite_for_certain_mistakes() -> None:
    assert log_loss(np.array([True, False]), np.array([0.8, 0.4])) == pytest.approx(-(math.log(0.8) + math.log(0.6)) / 2)
    assert math.isfinite(log_loss(np.array([True]), np.array([0.0])))


@pytest.mark.parametrize(
    ("exported", "ok", "differing"),
    [
        ([0.2, 0.5, 0.9], True, 0),
        ([0.2, 0.5 - 1e-7, 0.9], False, 1),  # within tolerance, but the decision flips
        ([0.2 + 2 * TOLERANCE, 0.5, 0.9], False, 0),
        ([0.2 + TOLERANCE / 2, 0.5, 0.9], True, 0),
    ],
)
def test_an_export_passes_only_with_close_scores_and_equal_decisions(exported: list[float], ok: bool, differing: int) -> None:
    parity = export_parity(np.array([0.2, 0.5, 0.9]), np.array(exported), 0.5)
    assert (parity.ok, parity.decisions_differing, parity.rows) == (ok, differing, 3)


def test_scores_that_are_no_numbers_never_pass() -> None:
    assert not export_parity(np.array([0.2]), np.array([math.nan]), 0.5).ok
