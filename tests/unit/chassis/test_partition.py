"""Keys land where Java clients put them."""

from __future__ import annotations

import pytest

from headrace.chassis.partition import murmur2, partition_of


@pytest.mark.parametrize(
    ("data", "signed"),
    [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536), (b"abc", 479470107)],
)
def test_murmur2_gives_the_values_of_kafkas_own_test(data: bytes, signed: int) -> None:
    """Vectors of UtilsTest.testMurmur2 in Apache Kafka, there as signed ints."""
    assert murmur2(data) == signed & 0xFFFFFFFF


def test_the_partition_is_never_negative() -> None:
    """The sign bit is masked, not negated."""
    assert partition_of(b"21", 7) == (-973932308 & 0x7FFFFFFF) % 7
