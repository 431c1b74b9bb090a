"""Accumulators of many parts: distinct hashes, registers, recent values, histograms. All are functions of the multiset.

A vector of zeros says nothing was seen, in every kind:

    distinct   the `size` greatest of the values' hashes, descending, 0 where there are fewer
    registers  per register the greatest rank seen, 0 for none (HyperLogLog)
    recent     the `size` newest values as (event time, topic number, partition, offset, value), newest first
    histogram  how many values fell into each bucket

Hashes are 63 bits of MD5 over the value's text (integers in decimal digits), never 0; Polars, DuckDB and Python agree.

Shapes: N vectors, E entries, G groups, K parts.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

HASH_BITS = 63
KEY_PARTS = 5  # of one recent value
FRACTION_BITS = 64  # of the estimator's fixed point
# 2**64 / (2 ln 2), rounded down: the constant of Ertl's estimator, frozen
ALPHA = 13_306_513_097_844_322_491


def hash_of(text: str) -> int:
    """The 63-bit hash of one value, in [1, 2**63)."""
    digest = hashlib.md5(text.encode(), usedforsecurity=False).digest()
    return max(1, int.from_bytes(digest[:8], "big") >> 1)


def hash_sql(text: str) -> str:
    """`hash_of` of a VARCHAR expression in DuckDB; null for null."""
    return f"case when ({text}) is not null then greatest(1, (('0x' || left(md5({text}), 16))::ubigint >> 1)::bigint) end"


def rank_bits(registers: int) -> int:
    """Bits of a hash below those that choose the register."""
    return HASH_BITS - (registers.bit_length() - 1)


def register_ranks(hashes: Int64s, registers: int) -> tuple[Int64s, Int64s]:
    """Per hash its register, the high bits, and its rank: one more than the trailing zeros of the low bits."""
    bits = rank_bits(registers)
    low = hashes & ((1 << bits) - 1)
    zeros = np.bitwise_count((low & -low) - 1).astype(np.int64)
    return hashes >> bits, np.where(low == 0, bits, zeros) + 1


def register_rank_sql(hashed: str, registers: int) -> str:
    """register * 2**32 + rank of a BIGINT hash in DuckDB."""
    bits = rank_bits(registers)
    low = f"({hashed} & {(1 << bits) - 1})"
    zeros = f"case when {low} = 0 then {bits} else bit_count(({low} & -{low}) - 1) end"
    return f"(({hashed} >> {bits}) * 4294967296 + {zeros} + 1)"


def greatest_distinct(values: Int64s, group: Int64s, groups: int, size: int) -> Int64s:
    """The K = size greatest distinct values above 0 of each group, descending, shape (G, K); rows have a group, (N,)."""
    out = np.zeros((groups, size), np.int64)
    row, column = np.nonzero(values)
    found, owner = values[row, column], group[row]
    order = np.lexsort((-found, owner))
    found, owner = found[order], owner[order]
    fresh = np.ones(len(found), np.bool_)
    fresh[1:] = (found[1:] != found[:-1]) | (owner[1:] != owner[:-1])
    _scatter(out, found[fresh], owner[fresh])
    return out


def newest_values(rows: Int64s, group: Int64s, groups: int) -> Int64s:
    """The K newest entries of each group by order key, newest first, shape (G, K * 5), from rows (N, K * 5)."""
    size = rows.shape[1] // KEY_PARTS
    entries = rows.reshape(len(rows), size, KEY_PARTS)
    row, column = np.nonzero(entries[:, :, 1])
    found, owner = entries[row, column], group[row]
    order = np.lexsort((-found[:, 3], -found[:, 2], -found[:, 1], -found[:, 0], owner))
    out = np.zeros((groups, size, KEY_PARTS), np.int64)
    _scatter(out, found[order], owner[order])
    return out.reshape(groups, size * KEY_PARTS)


def _scatter(out: Int64s, found: Int64s, owner: Int64s) -> None:
    """Entries sorted by owner into their owner's row, the first K of each."""
    if not len(owner):
        return
    start = np.flatnonzero(np.concatenate(([True], owner[1:] != owner[:-1])))
    rank = np.arange(len(owner)) - np.repeat(start, np.diff(start, append=len(owner)))
    kept = rank < out.shape[1]
    out[owner[kept], rank[kept]] = found[kept]


# ---------------------------------------------------------------- what they say, as exact rationals


def distinct_of(hashes: list[int]) -> tuple[int, int]:
    """How many distinct values: exact while fewer than K are held, then the K-th greatest hash says how dense they lie."""
    held, size = sum(1 for h in hashes if h), len(hashes)
    if held < size or not held:
        return held, 1
    return (held - 1) << HASH_BITS, (1 << HASH_BITS) - hashes[-1]


def estimate_of(registers: list[int]) -> tuple[int, int]:
    """How many distinct values the registers suggest: an exact rational.

    Source: O. Ertl, New cardinality estimation algorithms for HyperLogLog sketches, 2017, without the term of
    saturated registers, which fewer than 2**50 values do not reach.
    """
    count = len(registers)
    empty = sum(1 for r in registers if not r)
    if empty == count:
        return 0, 1
    filled = sum(1 << (FRACTION_BITS - r) for r in registers if r)
    return ALPHA * count * count, filled + _empty_share(count, empty)


@lru_cache(maxsize=4096)
def _empty_share(count: int, empty: int) -> int:
    """count * sigma(empty / count) in fixed point; sigma(x) = x + sum of x**(2**k) * 2**(k - 1) over k >= 1."""
    extra = 64
    x = (empty << (FRACTION_BITS + extra)) // count
    weight, total = 1, x
    while x:
        x = (x * x) >> (FRACTION_BITS + extra)
        total += x * weight
        weight *= 2
    return (count * total) >> extra


def quantile_bucket(counts: list[int], share_bp: int) -> int | None:
    """The bucket that holds the value of rank ceil(share * n), at least 1; None over nothing."""
    total = sum(counts)
    rank = max(1, -(-share_bp * total // 10_000))
    for bucket, count in enumerate(counts):
        rank -= count
        if rank <= 0 and total:
            return bucket
    return None


def twice_representative(edges: tuple[int, ...], bucket: int) -> int:
    """Two times the value a bucket stands for: the middle of its edges; the edge itself at both ends."""
    return edges[max(bucket - 1, 0)] + edges[min(bucket, len(edges) - 1)]


def top_bucket(counts: list[int], place: int) -> int | None:
    """The bucket at a place of the order by frequency, ties in the order of buckets; None if nothing fell into it."""
    order = sorted(range(len(counts)), key=lambda i: (-counts[i], i))
    return order[place] if place < len(order) and counts[order[place]] else None
