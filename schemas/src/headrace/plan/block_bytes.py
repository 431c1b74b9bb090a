"""Blocks from the bytes of many TileBlock values at once, for readers of cold entities.

Only for values of exactly our own schema: the caller compares the frame's head. Behind entity and event every part of a body
is a zigzag varint, so all bodies are decoded in a few array operations. What does not look as it must is left to the codec.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from headrace.plan.tiles import Block, BlockKey

HEAD = 5  # magic and schema id
VARINT_BYTES_MAX = 10
FORMAT = 1  # of TileBlock
_HOP, _INDEX, _STARTS = 0, 1, 2  # places in the varints of a body

Int64s = npt.NDArray[np.int64]


def decode_blocks(keys: Sequence[BlockKey], values: Sequence[bytes]) -> list[Block | None]:
    """Blocks of framed values; None where a value is not the block its key names."""
    tails = [_tail(key, value) for key, value in zip(keys, values, strict=True)]
    whole = [t for t in tails if t]
    if not whole:
        return [None] * len(keys)
    numbers, edges = _varints(b"".join(whole), [len(t) for t in whole])
    out: list[Block | None] = []
    at = 0
    for key, tail in zip(keys, tails, strict=True):
        if not tail:
            out.append(None)
            continue
        out.append(_block(key, numbers[edges[at] : edges[at + 1]]))
        at += 1
    return out


def _tail(key: BlockKey, value: bytes) -> bytes:
    """What follows entity and event; nothing if they are not the key's, or the last varint has no end."""
    head = _text(key.entity) + _text(key.event)
    return value[HEAD + len(head) :] if value.startswith(head, HEAD) and value[-1] < 0x80 else b""


def _text(value: str) -> bytes:
    raw = value.encode()
    size, out = len(raw) << 1, bytearray()
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes(out) + bytes((size,)) + raw


def _varints(data: bytes, sizes: Sequence[int]) -> tuple[Int64s, list[int]]:
    """All zigzag varints, and where each part's begin; a part ends where a varint does."""
    raw = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(raw < 0x80)
    starts = np.concatenate((np.zeros(1, np.int64), ends[:-1] + 1))
    lengths = ends - starts + 1
    found = (raw[starts] & 0x7F).astype(np.uint64)
    for i in range(1, min(int(lengths.max()), VARINT_BYTES_MAX)):
        at = np.flatnonzero(lengths > i)
        found[at] |= (raw[starts[at] + i] & 0x7F).astype(np.uint64) << np.uint64(7 * i)
    signed = (found >> np.uint64(1)).astype(np.int64) ^ -(found & np.uint64(1)).astype(np.int64)
    edges = np.searchsorted(ends, np.cumsum([0, *sizes])).tolist()
    return signed, edges


def _block(key: BlockKey, numbers: Int64s) -> Block | None:
    """hop, index, two arrays as Avro writes them (their count, their items, 0), format."""
    if len(numbers) < _STARTS + 5 or numbers[_HOP] != key.hop_ms or numbers[_INDEX] != key.index:
        return None
    tiles = int(numbers[_STARTS])
    at = _STARTS + 1 + tiles
    if tiles <= 0 or at + 1 >= len(numbers) or numbers[at] != 0:
        return None
    count = int(numbers[at + 1])
    if count <= 0 or count % tiles or len(numbers) != at + count + 4 or numbers[-2] != 0 or numbers[-1] != FORMAT:
        return None
    # Copied: a view would keep the numbers of the whole batch alive.
    return Block(numbers[_STARTS + 1 : at].copy(), numbers[at + 2 : -2].reshape(tiles, -1).copy())
