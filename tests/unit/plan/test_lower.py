"""`lower`: exact integers first, then one correctly rounded division."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.plan.ir import AggregateKind, Feature, FeatureSet, Measure, Step, Term
from headrace.plan.lower import Status, TermColumns, TermIntegers, lower, lower_one
from support.law_worlds import FULL

SUMS = st.one_of(st.integers(-100, 100), st.integers(-(2**62), 2**62))


def one_feature(kind: AggregateKind, scale: int = 0, impute: str | None = None, ratio: bool = False) -> FeatureSet:
    measure = Measure("m0", "departures", "delay", None, FULL, scale=scale)
    term = Term("m0", kind, 1, 1)
    feature = Feature("f", (term, term), "ratio", impute) if ratio else Feature("f", (term,), "value", impute)
    return FeatureSet("s", ("origin",), ("departures",), (measure,), (feature,), 1, 1)


def both(feature_set: FeatureSet, *terms: TermIntegers) -> tuple[float | None, int]:
    """Through arrays and without: equal, then returned."""
    columns = [
        TermColumns(
            *(np.array([x], np.int64) for x in t[1:5]),
            status=np.array([t.status], np.int8),
            cells=None if t.cells is None else np.array([t.cells], np.int64),
        )
        for t in terms
    ]
    rows = lower(feature_set, columns)
    values, statuses = lower_one(feature_set, terms)
    assert (rows.values[0, 0].hex(), rows.statuses[0, 0]) == (float(values[0]).hex(), statuses[0])
    return rows.rows()[0][0], statuses[0]


@given(st.integers(1, 2**31), SUMS, st.integers(0, 9))
def test_a_mean_is_rounded_once(count: int, total: int, scale: int) -> None:
    """Against exact rationals, small integers (vectorised) and large ones (Python)."""
    value, _ = both(one_feature("mean", scale), TermIntegers(0, count, total, 0, 0))
    assert value is not None
    assert value.hex() == float(Fraction(total, count * 10**scale)).hex()


@given(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=30), st.integers(0, 4))
def test_a_variance_is_rounded_once(values: list[int], scale: int) -> None:
    """Population variance, from the sum and two limbs of the squares."""
    squares = [v * v for v in values]
    term = TermIntegers(0, len(values), sum(values), sum(q & 0xFFFFFFFF for q in squares), sum(q >> 32 for q in squares))
    mean = Fraction(sum(values), len(values))
    wanted = sum((v - mean) ** 2 for v in values) / len(values) / 10 ** (2 * scale)
    value, _ = both(one_feature("variance", scale), term)
    assert value is not None
    assert value.hex() == float(wanted).hex()


@given(SUMS, SUMS)
def test_a_ratio_is_rounded_once_and_missing_over_zero(a: int, b: int) -> None:
    """Never -0.0, never a division error."""
    value, status = both(one_feature("sum", 3, ratio=True), TermIntegers(0, 1, a, 0, 0), TermIntegers(1, 1, b, 0, 0))
    if b == 0:
        assert (value, status) == (None, Status.MISSING)
    else:
        assert value is not None
        assert (value.hex(), status) == (float(Fraction(a, b)).hex(), Status.STALE)


@pytest.mark.parametrize(
    ("impute", "status", "count", "value", "result"),
    [
        ("0.1", Status.FRESH, 0, 0.1, Status.MISSING),
        (None, Status.STALE, 0, None, Status.MISSING),
        ("0.1", Status.EXPIRED, 5, None, Status.EXPIRED),  # a part is never passed off as the whole, nor as a default
        ("0.1", Status.AHEAD, 0, 0.1, Status.AHEAD),
        ("0.1", Status.AHEAD, 2, 3.5, Status.AHEAD),
    ],
)
def test_missing_becomes_the_default_and_expired_becomes_nothing(
    impute: str | None, status: Status, count: int, value: float | None, result: Status
) -> None:
    """The greater status holds."""
    assert both(one_feature("mean", impute=impute), TermIntegers(status, count, 7, 0, 0)) == (value, result)


def test_a_count_of_nothing_is_zero() -> None:
    """Known to be none is not unknown."""
    assert both(one_feature("count"), TermIntegers(0, 0, 0, 0, 0)) == (0.0, Status.FRESH)


def test_a_value_is_never_an_accident_of_the_width() -> None:
    """Two neighbours beyond 2**53 lower to what their exact quotients round to."""
    for total in (2**53 + 1, 2**60 + 3, -(2**62) + 1):
        value, _ = both(one_feature("sum", 2), TermIntegers(0, 1, total, 0, 0))
        assert value == total / 100


@pytest.mark.parametrize(("high", "wanted"), [("1000", 1000.0), ("1099511627776", 2.0**40)])
def test_a_clipped_root_beyond_64_bits_is_the_bound(high: str, wanted: float) -> None:
    """Among Python's integers the bound must be one too: a numpy one has no bits to count, and its products wrap."""
    squares = [2**80, 2**80]
    term = TermIntegers(0, 2, 0, sum(q & 0xFFFFFFFF for q in squares), sum(q >> 32 for q in squares))
    clipped = Feature("f", (Term("m0", "stddev", 1, 1),), steps=(Step("clip", None, high),))
    value, _ = both(replace(one_feature("stddev"), features=(clipped,)), term)
    assert value == wanted
