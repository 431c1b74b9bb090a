"""Keys land where Java clients put them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.contracts.partition import murmur2, murmur2_many, partition_for, partition_of, partitions_for


@pytest.mark.parametrize(
    ("data", "signed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_gives_the_values_of_kafkas_own_test(data: bytes, signed: int) -> None:
    """Vectors of UtilsTest.testMurmur2 in Apache Kafka."""
    assert murmur2(data) == signed
    assert murmur2_many([data]).tolist() == [signed & 0xFFFFFFFF]


@given(st.lists(st.text(max_size=40), max_size=60), st.integers(1, 50))
def test_many_keys_land_where_each_lands_alone(keys: list[str], partitions: int) -> None:
    """The vectorised pass groups keys by length; every length and order must come out alike."""
    assert partitions_for(keys, partitions).tolist() == [partition_for(k, partitions) for k in keys]


def test_the_partition_is_never_negative() -> None:
    """The sign bit is masked, not negated."""
    assert partition_of(b"21", 7) == (-973932308 & 0x7FFFFFFF) % 7
