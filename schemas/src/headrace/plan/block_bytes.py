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
_WORD = 8
_BYTES = np.array([(1 << 8 * (n + 1)) - 1 for n in range(_WORD)], np.uint64)  # the first n + 1 bytes of a word
_SEPTETS = tuple(
    (np.uint64(low), np.uint64(high), np.uint64(shift))
    for low, high, shift in (
        (0x007F007F007F007F, 0x7F007F007F007F00, 1),
        (0x00003FFF00003FFF, 0x3FFF00003FFF0000, 2),
        (0x000000000FFFFFFF, 0x0FFFFFFF00000000, 4),
    )
)
_SEPTET, _ONE = np.uint64(0x7F), np.uint64(1)

Int64s = npt.NDArray[np.int64]


def decode_blocks(keys: Sequence[BlockKey], values: Sequence[bytes]) -> list[Block | None]:
    """Blocks of framed values; None where a value is not the block its key names."""
    tails = [_tail(key, value) for key, value in zip(keys, values, strict=True)]
    whole = [t for t in tails if t]
    if not whole:
        return [None] * len(keys)
    numbers, places = varints(b"".join(whole), [len(t) for t in whole])
    edges = places.tolist()
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
    head = text(key.entity) + text(key.event)
    return value[HEAD + len(head) :] if value.startswith(head, HEAD) and value[-1] < 0x80 else b""


def text(value: str) -> bytes:
    """As Avro writes it."""
    raw = value.encode()
    size, out = len(raw) << 1, bytearray()
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes(out) + bytes((size,)) + raw


def varints(data: bytes, sizes: Sequence[int]) -> tuple[Int64s, Int64s]:
    """All zigzag varints, and where each part's begin, ends included: shapes (n,) and (parts + 1,).

    A part ends where a varint does. Eight bytes from the begin of each are taken at once and its septets pushed together.
    """
    count, padded = len(data), data + bytes(_WORD)
    ends = (np.frombuffer(padded, np.int8, count) >= 0).nonzero()[0]
    starts = np.empty_like(ends)
    starts[:1] = 0
    np.add(ends[:-1], 1, out=starts[1:])
    more = ends - starts  # bytes behind the first
    words = np.ndarray((count,), "<u8", buffer=padded, strides=(1,)).take(starts)
    long = (more >= _WORD).nonzero()[0]
    words &= _BYTES.take(more, mode="clip")
    aside = np.empty_like(words)
    for low, high, shift in _SEPTETS:
        np.bitwise_and(words, high, out=aside)
        aside >>= shift
        words &= low
        words |= aside
    for i in range(_WORD, VARINT_BYTES_MAX if len(long) else _WORD):
        at = long[more[long] >= i]
        septets = np.frombuffer(padded, np.uint8).take(starts[at] + i).astype(np.uint64) & _SEPTET
        words[at] |= septets << np.uint64(7 * i)
    np.bitwise_and(words, _ONE, out=aside)
    words >>= _ONE
    words ^= np.negative(aside.view(np.int64)).view(np.uint64)
    edges = np.searchsorted(ends, np.cumsum(np.fromiter((0, *sizes), np.int64, len(sizes) + 1)))
    return words.view(np.int64), edges


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
