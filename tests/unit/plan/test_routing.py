"""Routing: sticky, monotone, equal on every replica."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from headrace.plan.routing import BUCKETS, arm, bucket, sampled


def test_buckets_never_move() -> None:
    """Golden: a change would reassign every key of every live rollout."""
    assert [bucket("salt", k) for k in ("", "a", "flight-1", "ü")] == [3022, 7422, 3629, 1443]


def test_the_salt_and_the_key_do_not_run_together() -> None:
    """Without a length prefix these two would be one."""
    assert bucket("ab", "c") != bucket("a", "bc")


def test_buckets_are_even_over_keys() -> None:
    """20,000 keys over ten tenths: each within four standard deviations of 2,000."""
    tenths = Counter(bucket("rollout", f"F{i}") * 10 // BUCKETS for i in range(20_000))
    assert all(abs(tenths[t] - 2_000) < 170 for t in range(10))


@given(st.text(), st.integers(0, BUCKETS), st.integers(0, BUCKETS))
def test_a_growing_weight_never_moves_a_key_back(key: str, a: int, b: int) -> None:
    """Also the edges: nothing at 0, everything at 10,000."""
    low, high = sorted((a, b))
    if arm("s", key, low) == "challenger":
        assert arm("s", key, high) == "challenger"
    assert not sampled("s", key, low) or sampled("s", key, high)
    assert arm("s", key, 0) == "champion"
    assert sampled("s", key, BUCKETS)
