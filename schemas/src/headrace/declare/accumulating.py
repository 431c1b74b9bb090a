"""The aggregates of an expression beyond the plain ones: distinct counts, quantiles, words, recent values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, overload

from headrace.declare.aggregates import Aggregate, AggregateGroup, Feature, FeatureGroup, decimal_text, last_of, newest
from headrace.declare.durations import duration_ms
from headrace.declare.errors import here, refuse
from headrace.plan.ir import AggregateKind

if TYPE_CHECKING:
    from headrace.declare.fields import Expr

BASIS_POINTS = 10_000
EXACT_TO_DEFAULT = 64
REGISTERS_DEFAULT = 256


class Accumulating:
    """What an expression over one event can be accumulated to."""

    text: str

    def aggregate(self, kind: AggregateKind, where: str | Expr | None) -> Aggregate:
        raise NotImplementedError

    def first(self, where: str | Expr | None = None) -> Aggregate:
        """The oldest value of the window that is not null."""
        return self.aggregate("first", where)

    def stddev(self, where: str | Expr | None = None) -> Aggregate:
        """The population's standard deviation: the exact variance, its root rounded once."""
        return self.aggregate("stddev", where)

    @overload
    def since(self, *, max_age: str, where: str | Expr | None = None, unit: str = "1ms") -> Feature: ...
    @overload
    def since(self, *, max_age: None = None, where: str | Expr | None = None, unit: str = "1ms") -> Aggregate: ...
    def since(self, *, max_age: str | None = None, where: str | Expr | None = None, unit: str = "1ms") -> Feature | Aggregate:
        """Time from the newest row whose value is not null to the request, in `unit`; missing when longer than max_age.

        In a stream, to the event time of the result, and without max_age. So it is with all that takes a max_age below.
        """
        return newest(replace(self.aggregate("since", where), argument=duration_ms(unit)), max_age)

    def distinct(self, where: str | Expr | None = None, *, exact_to: int = EXACT_TO_DEFAULT) -> Aggregate:
        """How many different values: exact below `exact_to`, estimated above (error about 1 / sqrt(exact_to))."""
        return replace(self.aggregate("distinct", where), size=exact_to)

    def distinct_estimate(self, where: str | Expr | None = None, *, registers: int = REGISTERS_DEFAULT) -> Aggregate:
        """How many different values, from HyperLogLog registers (error about 1.04 / sqrt(registers))."""
        return replace(self.aggregate("distinct", where), size=registers, estimated=True)

    def quantile(self, share: str, *, buckets: Sequence[int | str], where: str | Expr | None = None) -> Aggregate:
        """The value below or at which a share of all lie, such as "0.95", as the middle of its bucket.

        The value of rank ceil(share * n); the outermost buckets stand for their one edge.
        """
        points = Fraction(decimal_text(share, "quantile")) * BASIS_POINTS
        if points.denominator != 1 or not 0 < points <= BASIS_POINTS:
            raise refuse(here(), f"quantile({share!r})", 'a share such as "0.5" or "0.999", in ten-thousandths')
        return replace(self._histogram("quantile", where, buckets), argument=int(points))

    def bucket_count(self, number: int, *, buckets: Sequence[int | str], where: str | Expr | None = None) -> Aggregate:
        """How many values fell into one bucket; bucket n holds values not below n of the edges."""
        return replace(self._histogram("bucket", where, buckets), argument=number)

    def word_counts(self, words: Sequence[str], where: str | Expr | None = None) -> AggregateGroup:
        """How often each word of a frozen vocabulary came: one feature per word."""
        suffixes = {re.sub(r"[^a-z0-9]+", "_", word.lower()).strip("_") or "empty": i for i, word in enumerate(words)}
        if len(suffixes) < len(words):
            raise refuse(here(), "two words that give one feature name", "rename one by an expression before counting")
        counted = self._words("bucket", words, where)
        return AggregateGroup({suffix: replace(counted, argument=i) for suffix, i in suffixes.items()})

    def word_count(self, word: str, words: Sequence[str], where: str | Expr | None = None) -> Aggregate:
        """How often one word of a frozen vocabulary came."""
        if word not in words:
            raise refuse(here(), f"'{word}' is not in the vocabulary", ", ".join(words))
        return replace(self._words("bucket", words, where), argument=list(words).index(word))

    def mode(self, words: Sequence[str], where: str | Expr | None = None) -> Aggregate:
        """The place in the vocabulary of the most frequent word; of equals the earlier."""
        return self._words("top", words, where)

    def top(self, k: int, words: Sequence[str], where: str | Expr | None = None) -> AggregateGroup:
        """The places in the vocabulary of the k most frequent words, k features; missing where fewer came."""
        found = self._words("top", words, where)
        return AggregateGroup({str(i + 1): replace(found, argument=i) for i in range(k)})

    @overload
    def last_values(self, k: int, *, max_age: str, where: str | Expr | None = None) -> FeatureGroup: ...
    @overload
    def last_values(self, k: int, *, max_age: None = None, where: str | Expr | None = None) -> AggregateGroup: ...
    def last_values(
        self, k: int, *, max_age: str | None = None, where: str | Expr | None = None
    ) -> FeatureGroup | AggregateGroup:
        """The k newest values that are not null, newest first, k features."""
        recent = replace(self.aggregate("recent", where), size=k)
        places = {str(i + 1): replace(recent, argument=i) for i in range(k)}
        if max_age is None:
            return AggregateGroup(places)
        return FeatureGroup({suffix: last_of(place, max_age) for suffix, place in places.items()})

    @overload
    def last_sum(self, k: int, *, max_age: str, where: str | Expr | None = None) -> Feature: ...
    @overload
    def last_sum(self, k: int, *, max_age: None = None, where: str | Expr | None = None) -> Aggregate: ...
    def last_sum(self, k: int, *, max_age: str | None = None, where: str | Expr | None = None) -> Feature | Aggregate:
        """The sum of the k newest values not older than max_age."""
        return newest(replace(self.aggregate("recent_sum", where), size=k), max_age)

    @overload
    def last_mean(self, k: int, *, max_age: str, where: str | Expr | None = None) -> Feature: ...
    @overload
    def last_mean(self, k: int, *, max_age: None = None, where: str | Expr | None = None) -> Aggregate: ...
    def last_mean(self, k: int, *, max_age: str | None = None, where: str | Expr | None = None) -> Feature | Aggregate:
        """The mean of the k newest values not older than max_age."""
        return newest(replace(self.aggregate("recent_mean", where), size=k), max_age)

    def _histogram(self, kind: AggregateKind, where: str | Expr | None, buckets: Sequence[int | str]) -> Aggregate:
        return replace(self.aggregate(kind, where), edges=tuple(decimal_text(edge, "buckets") for edge in buckets))

    def _words(self, kind: AggregateKind, words: Sequence[str], where: str | Expr | None) -> Aggregate:
        """A histogram over the words' places; values outside the vocabulary are null, so nothing counts them."""
        if len(words) < 2 or len(set(words)) < len(words):
            raise refuse(here(), f"a vocabulary of {len(words)} words", "two or more different ones")
        quoted = [word.replace("'", "''") for word in words]
        cases = " ".join(f"when ({self.text}) = '{word}' then {i}" for i, word in enumerate(quoted))
        counted = replace(self.aggregate(kind, where), value=f"case {cases} end")
        return replace(counted, edges=tuple(str(i) for i in range(1, len(words))))


def log_buckets(low: int, high: int, growth: str = "1.25") -> tuple[int, ...]:
    """Whole edges from low to at least high, each `growth` times the one before (and at least one more).

    Rational arithmetic, so every machine declares the same edges. A quantile from them is off by at most half of
    growth - 1, relative.
    """
    factor = Fraction(decimal_text(growth, "log_buckets"))
    if not (0 < low < high and factor > 1):
        raise refuse(here(), f"log_buckets({low}, {high}, {growth!r})", "0 < low < high, and a growth above 1")
    edges = [low]
    while edges[-1] < high:
        edges.append(max(edges[-1] + 1, int(edges[-1] * factor)))
    return tuple(edges)
