"""Kafka's default partitioner: murmur2 over the UTF-8 key, as the Java clients compute it.

Entity -> partition must agree between our producers, foreign Java producers and librdkafka's
`murmur2_random`, or an entity's state and its events end in different places.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_SEED = 0x9747B28C
_M = 0x5BD1E995
_R = 24
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """Signed 32-bit murmur2 of `data`, equal to `org.apache.kafka.common.utils.Utils.murmur2`."""
    length = len(data)
    h = _SEED ^ length
    whole = length & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * _M & _MASK
        k = (k ^ (k >> _R)) * _M & _MASK
        h = (h * _M & _MASK) ^ k
    if length != whole:
        h = (h ^ int.from_bytes(data[whole:], "little")) * _M & _MASK
    h = (h ^ (h >> 13)) * _M & _MASK
    h ^= h >> 15
    return h - (1 << 32) if h >> 31 else h


def partition_of(key: bytes, partitions: int) -> int:
    """Partition of one message key, in 0..partitions-1: the sign bit is masked, not negated."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def partition_for(entity: str, partitions: int) -> int:
    """Partition of one entity, whose key is its UTF-8."""
    return partition_of(entity.encode(), partitions)


def murmur2_many(keys: Sequence[bytes]) -> npt.NDArray[np.uint32]:
    """Unsigned murmur2 of each key, shape (n,): one vectorised pass per distinct key length."""
    out = np.empty(len(keys), np.uint32)
    lengths = np.fromiter((len(k) for k in keys), np.int64, len(keys))
    for length in np.unique(lengths).tolist():
        at = np.flatnonzero(lengths == length)
        joined = np.frombuffer(b"".join([keys[i] for i in at.tolist()]), np.uint8)
        out[at] = _murmur2_equal_length(joined.reshape(len(at), length))
    return out


def partitions_for(entities: Sequence[str], partitions: int) -> npt.NDArray[np.int64]:
    """Partition of each key, shape (n,); equal to `partition_for` one by one."""
    hashes = murmur2_many([e.encode() for e in entities])
    return (hashes & np.uint32(0x7FFFFFFF)).astype(np.int64) % partitions


def _murmur2_equal_length(data_NL: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """uint32 arithmetic wraps, which is what the algorithm asks for. N keys of L bytes."""
    m, r = np.uint32(_M), np.uint32(_R)
    count, length = data_NL.shape
    whole = length & ~3
    h = np.full(count, (_SEED ^ length) & _MASK, np.uint32)
    words = np.ascontiguousarray(data_NL[:, :whole]).view("<u4") if whole else np.empty((count, 0), np.uint32)
    for i in range(words.shape[1]):
        k = words[:, i].astype(np.uint32) * m
        k = (k ^ (k >> r)) * m
        h = (h * m) ^ k
    if length != whole:
        for i in range(whole, length):
            h = h ^ (data_NL[:, i].astype(np.uint32) << np.uint32(8 * (i - whole)))
        h = h * m
    h = (h ^ (h >> np.uint32(13))) * m
    return h ^ (h >> np.uint32(15))
