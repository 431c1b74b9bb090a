"""`lower`: the only step from integers to floats, shared by online and offline.

Every value is an exact rational first and is rounded once: a Python int / int division is correctly rounded, and so
is an IEEE division of two integers below 2**53, which is the vectorised path.

Shapes: N answers, T terms of the set (features' terms in order), F features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from headrace.plan.ir import AggregateKind, Feature, FeatureSet, Measure, SlotKind, Term
from headrace.plan.slots import LIMB_BITS

Int64s = npt.NDArray[np.int64]
Int8s = npt.NDArray[np.int8]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
# int64, or Python ints in an object array where int64 could wrap
Integers = npt.NDArray[Any]

_EXACT = 1 << 53  # integers below are float64 values
_VALUE_SLOTS: dict[AggregateKind, SlotKind] = {
    "sum": "sum",
    "mean": "sum",
    "variance": "sum",
    "min": "min",
    "max": "max",
    "last": "last",
}


class Status(IntEnum):
    """What a feature value is worth. Of several the greatest holds: expired, ahead, missing, stale, fresh."""

    FRESH = 0
    STALE = 1
    MISSING = 2
    AHEAD = 3
    EXPIRED = 4


@dataclass(frozen=True, slots=True)
class FeatureRows:
    """Features of N requests in the order of `FeatureSet.features`.

    `values` (N, F) float64, NaN where there is none (missing without imputation, or expired); `statuses` (N, F) int8.
    """

    values: Floats
    statuses: Int8s

    def rows(self) -> list[list[float | None]]:
        """The values with None for NaN."""
        return [[None if math.isnan(v) else v for v in row] for row in self.values.tolist()]


@dataclass(frozen=True, slots=True)
class TermColumns:
    """One term over N answers, shape (N,) each: what is lowered. `total` is the sum, extreme or last value.

    `count` is the number of values behind it (for `count` terms the value itself). `status` already knows expired,
    ahead, stale and nothing-there; a count of nothing is 0, not missing.
    """

    count: Int64s
    total: Int64s
    square_lo: Int64s
    square_hi: Int64s
    status: Int8s


class TermIntegers(NamedTuple):
    """One term of one answer: `TermColumns` as plain ints, `n` its count."""

    status: int
    n: int
    total: int
    square_lo: int
    square_hi: int


@dataclass(frozen=True, slots=True)
class Rational:
    """Exact values numerator / denominator, denominator > 0; meaningless where not `given`."""

    numerator: Integers
    denominator: Integers
    given: Bools


def terms_of(feature_set: FeatureSet) -> list[Term]:
    """All terms of a set, features' terms in order: the axis T."""
    return [term for feature in feature_set.features for term in feature.terms]


def value_slot(term: Term) -> SlotKind | None:
    """The slot whose content a term lowers; None for counts."""
    return _VALUE_SLOTS.get(term.kind)


def count_slot(measure: Measure) -> SlotKind:
    """What counts: values that are not null, as SQL's count(value); rows where the measure has no value."""
    return "nonnull" if measure.value is not None or "rows" not in measure.slots else "rows"


def exact(kind: AggregateKind, scale: int, columns: TermColumns) -> Rational:
    """The exact value of a term. Variance is the population's: (n * sum of squares - sum**2) / n**2."""
    count, unit = columns.count, 10**scale
    if kind == "count":
        return Rational(count, np.ones_like(count), np.ones(len(count), np.bool_))
    given = count > 0
    if kind == "mean":
        return Rational(columns.total, multiply(np.where(given, count, 1), np.int64(unit)), given)
    if kind == "variance":
        n, s = np.where(given, count, 1).astype(object), columns.total.astype(object)
        squares = columns.square_lo.astype(object) + (columns.square_hi.astype(object) << LIMB_BITS)
        return Rational(n * squares - s * s, n * n * unit**2, given)
    return Rational(columns.total, np.full(len(count), unit, np.int64), given)


def ratio(a: Rational, b: Rational) -> Rational:
    """a / b, exact; not given where either is not, or b is 0."""
    given = a.given & b.given & (b.numerator != 0).astype(np.bool_)
    sign = np.where(b.numerator < 0, -1, 1)  # keeps the denominator positive, so that 0 never comes out as -0.0
    numerator = multiply(multiply(a.numerator, b.denominator), sign)
    denominator = np.where(given, multiply(multiply(a.denominator, b.numerator), sign), 1)
    return Rational(numerator, denominator, given)


def multiply(a: Integers, b: Integers | np.int64) -> Integers:
    """Exact product: int64 where it provably fits, Python ints otherwise."""
    if object not in (a.dtype, b.dtype) and _largest(a) * _largest(b) < 1 << 63:
        return a * b
    return a.astype(object) * b.astype(object)


def divide(value: Rational) -> Floats:
    """One correctly rounded division each; NaN where not given."""
    vectorised = object not in (value.numerator.dtype, value.denominator.dtype)
    if vectorised and _largest(value.numerator) <= _EXACT and _largest(value.denominator) <= _EXACT:
        return np.where(value.given, value.numerator / value.denominator, np.nan)
    pairs = zip(value.numerator.tolist(), value.denominator.tolist(), value.given.tolist(), strict=True)
    return np.array([n / d if ok else np.nan for n, d, ok in pairs], np.float64)


def lower(feature_set: FeatureSet, terms: Sequence[TermColumns]) -> FeatureRows:
    """Values and statuses of all features from the exact integers of all terms (axis T of `terms_of`)."""
    scales = {m.id: m.scale for m in feature_set.measures}
    values, statuses, at = [], [], 0
    for feature in feature_set.features:
        mine = terms[at : at + len(feature.terms)]
        at += len(feature.terms)
        value, status = lower_feature(feature, [scales[t.measure] for t in feature.terms], mine)
        values.append(value)
        statuses.append(status)
    return FeatureRows(np.stack(values, axis=1), np.stack(statuses, axis=1))


def lower_feature(feature: Feature, scales: Sequence[int], terms: Sequence[TermColumns]) -> tuple[Floats, Int8s]:
    """One feature, shapes (N,). The worst status of its terms; missing becomes the imputed value, expired nothing."""
    parts = [exact(t.kind, s, c) for t, s, c in zip(feature.terms, scales, terms, strict=True)]
    value = ratio(parts[0], parts[1]) if feature.lowering == "ratio" else parts[0]
    status = terms[0].status
    for term in terms[1:]:
        status = np.maximum(status, term.status)
    status = np.where(value.given, status, np.maximum(status, np.int8(Status.MISSING))).astype(np.int8)
    lowered = divide(value)
    if feature.impute is not None:
        lowered = np.where(value.given, lowered, float(feature.impute))
    return np.where(status == Status.EXPIRED, np.nan, lowered), status


def lower_one(feature_set: FeatureSet, terms: Sequence[TermIntegers]) -> tuple[list[float], list[int]]:
    """`lower` for one answer, without arrays: equal to it bit for bit, and ten times quicker for a single request."""
    scales = {m.id: m.scale for m in feature_set.measures}
    values, statuses, at = [], [], 0
    for feature in feature_set.features:
        parts = [_exact_one(t.kind, 10 ** scales[t.measure], terms[at + i]) for i, t in enumerate(feature.terms)]
        status = max(terms[at + i].status for i in range(len(parts)))
        at += len(parts)
        value = _ratio_one(parts[0], parts[1]) if feature.lowering == "ratio" else parts[0]
        if value is None:
            status = max(status, int(Status.MISSING))
        if status == Status.EXPIRED:
            values.append(math.nan)
        elif value is None:
            values.append(math.nan if feature.impute is None else float(feature.impute))
        else:
            values.append(value[0] / value[1])
        statuses.append(int(status))
    return values, statuses


def _exact_one(kind: AggregateKind, unit: int, term: TermIntegers) -> tuple[int, int] | None:
    if kind == "count":
        return term.n, 1
    if not term.n:
        return None
    if kind == "mean":
        return term.total, term.n * unit
    if kind == "variance":
        n, squares = term.n, term.square_lo + (term.square_hi << LIMB_BITS)
        return n * squares - term.total**2, n * n * unit**2
    return term.total, unit


def _ratio_one(a: tuple[int, int] | None, b: tuple[int, int] | None) -> tuple[int, int] | None:
    if a is None or b is None or not b[0]:
        return None
    sign = -1 if b[0] < 0 else 1
    return sign * a[0] * b[1], sign * a[1] * b[0]


def _largest(a: Integers | np.int64) -> int:
    """Largest magnitude, as a Python int (np.abs would wrap at the smallest int64)."""
    return max(int(np.max(a)), -int(np.min(a))) if a.size else 0
