"""Blocks from the bytes of many TileBlock values at once, for readers of cold entities, and back, for who writes many.

Only for values of exactly our own schema: the caller compares the frame's head, or gives it. Behind entity and event every
part of a body is a zigzag varint, so all bodies are decoded in a few array operations. What does not look as it must is left
to the codec.
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
_MORE, _NO_MORE = np.uint64(0x80), np.uint64(0)
_AROUND = 7  # integers of a body that are neither starts nor slots

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


def encode_blocks(head: bytes, keys: Sequence[BlockKey], blocks: Sequence[Block]) -> list[bytes]:
    """Framed values of blocks that hold at least one tile each; the very bytes the codec writes. head: the frame."""
    if not keys:
        return []
    tiles = np.array([len(block.starts_ms) for block in blocks], np.int64)
    cells = np.array([block.slots.size for block in blocks], np.int64)
    assert tiles.min() > 0, "a block without tiles is a tombstone"
    ends = np.cumsum(tiles + cells + _AROUND)
    begins = ends - tiles - cells - _AROUND
    numbers = np.zeros(int(ends[-1]), np.int64)
    numbers[begins], numbers[begins + 1] = [key.hop_ms for key in keys], [key.index for key in keys]
    numbers[begins + 2], numbers[begins + 4 + tiles], numbers[ends - 1] = tiles, cells, FORMAT
    numbers[_spread(begins + 3, tiles)] = np.concatenate([block.starts_ms for block in blocks])
    numbers[_spread(begins + 5 + tiles, cells)] = np.concatenate([block.slots.ravel() for block in blocks])
    data, edges = _zigzag(numbers, ends)
    names = {event: text(event) for event in {key.event for key in keys}}
    return [
        b"".join((head, text(key.entity), names[key.event], data[begin:end]))
        for key, begin, end in zip(keys, (0, *edges), edges, strict=False)
    ]


def _spread(begins: Int64s, counts: Int64s) -> Int64s:
    """begins[i], begins[i] + 1, ... counts[i] of them, for each i."""
    return np.arange(int(counts.sum())) + np.repeat(begins - (np.cumsum(counts) - counts), counts)


def _zigzag(numbers: Int64s, ends: Int64s) -> tuple[bytes, list[int]]:
    """All as varints, and where the bytes of each part end whose numbers end there."""
    words = ((numbers << 1) ^ (numbers >> 63)).view(np.uint64)
    sizes = np.ones(len(words), np.int64)
    for bits in range(7, int(words.max()).bit_length(), 7):
        sizes += words >= np.uint64(1 << bits)
    behind = np.cumsum(sizes)
    first = behind - sizes
    out = np.empty(int(behind[-1]), np.uint8)
    more = np.arange(len(words))
    for i in range(int(sizes.max())):
        more = more[sizes[more] > i]
        septets = (words[more] >> np.uint64(7 * i)) & _SEPTET
        out[first[more] + i] = septets | np.where(sizes[more] > i + 1, _MORE, _NO_MORE)
    return out.tobytes(), behind[ends - 1].tolist()


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
