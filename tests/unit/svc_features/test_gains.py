"""Gains: ranks, confusion and chance against the plainest way of counting them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from svc_features.domain.gains import Gains, auc, sign_test

SCORES = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0])), max_size=40)


@given(SCORES)
def test_the_area_is_the_share_of_pairs_in_order_ties_half(pairs: list[tuple[bool, float]]) -> None:
    labels, scores = np.array([p[0] for p in pairs], np.bool_), np.array([p[1] for p in pairs], np.float32)
    ones, zeros = scores[labels], scores[~labels]
    found = auc(labels, scores)
    if not len(ones) or not len(zeros):
        assert found is None
        return
    won = sum((a > b) + 0.5 * (a == b) for a in ones for b in zeros)
    assert found == pytest.approx(won / (len(ones) * len(zeros)), abs=1e-12)


@given(st.integers(0, 60), st.integers(0, 60))
def test_chance_is_the_exact_two_sided_binomial(corrected: int, broken: int) -> None:
    found = sign_test(corrected, broken)
    if corrected + broken == 0:
        assert found is None
        return
    assert found == pytest.approx(min(1.0, binomtest(corrected, corrected + broken, 0.5).pvalue), rel=1e-9)


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=60))
def test_every_labelled_decision_falls_into_one_cell_on_each_side(decided: list[tuple[bool, bool, bool]]) -> None:
    gains = Gains()
    for label, old, new in decided:
        gains.add(label, (old, new), (None, 0.5))
    page = gains.page()
    for side, at in (("old", 1), ("new", 2)):
        cells = page[side]
        wanted = {
            "true_positives": sum(d[0] and d[at] for d in decided), "false_alarms": sum(not d[0] and d[at] for d in decided),
            "misses": sum(d[0] and not d[at] for d in decided),
            "true_negatives": sum(not d[0] and not d[at] for d in decided),
        }  # fmt: skip
        assert {name: cells[name] for name in wanted} == wanted
        assert cells["correct"] == sum(d[0] == d[at] for d in decided)
    assert page["corrected"] - page["broken"] == page["new"]["correct"] - page["old"]["correct"]
    assert page["auc"] == {"scored": 0, "old": None, "new": None}
