"""Sketches: one hash in three engines, ranks, estimates, and ranks of quantiles."""

from __future__ import annotations

import math
from fractions import Fraction

import duckdb
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.plan import tiles
from headrace.plan.lower import root_of
from headrace.plan.sketches import (
    ALPHA,
    distinct_of,
    estimate_of,
    hash_of,
    hash_sql,
    quantile_bucket,
    register_rank_sql,
    register_ranks,
    top_bucket,
    twice_representative,
)

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


def test_the_hash_is_frozen() -> None:
    """Golden: state on disk holds these."""
    assert hash_of("") == 0x6A0EC66CC7805902
    assert hash_of("JFKé") == 5690356434642736634
    assert hash_of("42") == 0x50E863741F813993


@given(st.lists(st.one_of(st.none(), TEXTS), min_size=1, max_size=30))
def test_polars_duckdb_and_python_hash_alike(texts: list[str | None]) -> None:
    wanted = [None if t is None else hash_of(t) for t in texts]
    assert tiles.hashes_of(pl.Series(texts, dtype=pl.String)).to_list() == wanted
    connection = duckdb.connect()
    connection.register("t", pl.DataFrame({"i": range(len(texts)), "v": pl.Series(texts, dtype=pl.String)}).to_arrow())
    assert [row[0] for row in connection.execute(f"select {hash_sql('v')} from t order by i").fetchall()] == wanted


@given(st.lists(st.one_of(st.integers(1, 2**63 - 1), st.integers(0, 62).map(lambda b: 1 << b)), min_size=1), st.integers(4, 12))
def test_registers_and_ranks_are_what_binary_digits_say(hashes: list[int], power: int) -> None:
    """Also where all low bits are zero."""
    bits = 63 - power
    wanted = []
    for h in hashes:
        low = format(h % 2**bits, f"0{bits}b")
        wanted.append((h // 2**bits, len(low) - len(low.rstrip("0")) + 1))
    found = register_ranks(np.array(hashes, np.int64), 2**power)
    assert list(zip(found[0].tolist(), found[1].tolist(), strict=True)) == wanted
    sql = f"select {register_rank_sql('h', 2**power)} from (select unnest({hashes}::bigint[]) h)"
    assert [divmod(row[0], 2**32) for row in duckdb.connect().execute(sql).fetchall()] == wanted


@pytest.mark.parametrize("registers", [64, 256, 1024])
def test_the_estimate_from_registers_stays_within_four_standard_errors(registers: int) -> None:
    """From a few values to many, without a jump between."""
    for count in (0, 1, 5, registers // 4, registers, 3 * registers, 20 * registers):
        cells = [0] * registers
        at, rank = register_ranks(np.array([hash_of(f"v{i}") for i in range(count)], np.int64), registers)
        for i, r in zip(at.tolist(), rank.tolist(), strict=True):
            cells[i] = max(cells[i], r)
        found = float(Fraction(*estimate_of(cells)))
        assert abs(found - count) <= 4 * 1.04 / math.sqrt(registers) * count
    assert pytest.approx(2**64 / (2 * math.log(2)), rel=1e-15) == ALPHA


@given(st.integers(1, 300), st.integers(0, 10**6))
def test_distinct_is_exact_below_its_size_and_near_above(count: int, salt: int) -> None:
    """The error of 64 hashes is about an eighth."""
    hashes = sorted((hash_of(f"{salt}:{i}") for i in range(count)), reverse=True)[:64]
    found = Fraction(*distinct_of(hashes + [0] * (64 - len(hashes))))
    assert found == count if count < 64 else abs(found - count) < count * 6 / 8


@given(st.lists(st.integers(0, 4), max_size=40), st.integers(1, 10_000))
def test_a_quantile_is_the_bucket_of_its_rank(buckets: list[int], share: int) -> None:
    """The value of rank ceil(share * n), counted from one."""
    counts = [buckets.count(i) for i in range(5)]
    wanted = sorted(buckets)[max(1, math.ceil(Fraction(share, 10_000) * len(buckets))) - 1] if buckets else None
    assert quantile_bucket(counts, share) == wanted


def test_a_bucket_stands_for_the_middle_of_its_edges() -> None:
    """The outermost ones have one edge only."""
    assert [twice_representative((2, 5, 10), i) / 2 for i in range(4)] == [2, 3.5, 7.5, 10]


def test_ties_of_frequency_go_to_the_earlier_bucket() -> None:
    assert [top_bucket([2, 0, 5, 2], place) for place in range(4)] == [2, 0, 3, None]


@given(st.integers(0, 2**200), st.integers(1, 2**200))
def test_a_root_is_the_nearest_float(numerator: int, denominator: int) -> None:
    """The true root lies between the midpoints to both neighbours."""
    found, exact = root_of(numerator, denominator), Fraction(numerator, denominator)
    below, above = (Fraction(math.nextafter(found, to)) for to in (0.0, math.inf))
    assert ((Fraction(found) + below) / 2) ** 2 <= exact <= ((Fraction(found) + above) / 2) ** 2


@given(st.integers(0, 2**53))
def test_the_root_of_a_square_is_exact(root: int) -> None:
    assert root_of(root * root, 1) == root
    assert root_of(root * root, 49) == root / 7
