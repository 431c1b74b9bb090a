"""A 64-bit hash of key texts that is the same on every machine and in every version: sorted runs on disk are ordered by it.

Keys whose hashes are equal stand together and are told apart by their text, so a collision costs time, never a result.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

Int64s = npt.NDArray[np.int64]
_Uint64s = npt.NDArray[np.uint64]

_WORD = 8
_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def key_hashes(keys: pl.Series) -> Int64s:
    """Hash of each text's UTF-8, shape (n,); no nulls among them.

    The length, then every eight bytes (little endian, the last filled with zeros), each mixed in by the finaliser of
    SplitMix64. Source: Steele, Lea, Flood 2014, Fast splittable pseudorandom number generators.
    """
    if not len(keys):
        return np.empty(0, np.int64)
    texts = keys.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    _, offsets, data = texts.buffers()
    edges = np.frombuffer(offsets, np.int64, len(keys) + 1, texts.offset * 8)
    raw = np.zeros(int(edges[-1] - edges[0]) + _WORD, np.uint8)
    if data is not None:
        raw[:-_WORD] = np.frombuffer(data, np.uint8)[edges[0] : edges[-1]]
    words = np.ndarray((len(raw) - _WORD + 1,), "<u8", raw.data, strides=(1,))
    starts, lengths = edges[:-1] - edges[0], np.diff(edges)
    hashes = _mixed(lengths.astype(np.uint64))
    rows = np.flatnonzero(lengths > 0)
    at = 0
    while len(rows):
        left = lengths[rows] - at
        word = words[starts[rows] + at]
        spare = (np.maximum(_WORD - left, 0) * 8).astype(np.uint64)  # bits of the next text
        hashes[rows] = _mixed(hashes[rows] ^ ((word << spare) >> spare))
        at += _WORD
        rows = rows[left > _WORD]
    return hashes.view(np.int64)


def _mixed(values: _Uint64s) -> _Uint64s:
    out = values + _STEP
    out ^= out >> np.uint64(30)
    out *= _FIRST
    out ^= out >> np.uint64(27)
    out *= _SECOND
    out ^= out >> np.uint64(31)
    return out
