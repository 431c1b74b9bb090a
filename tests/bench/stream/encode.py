"""Avro without a row at a time: values of equal length, laid out as the rows of one byte matrix.

A string costs one length byte and its ASCII bytes, a long its zigzag varint. The generator draws longs from a range whose
varints are equally long, so that row i of the matrix is value i and the whole matrix is one block of memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Int64s = npt.NDArray[np.int64]

STRING_BYTES_MAX = 63  # a length below 64 is one zigzag byte


def frame(schema_id: int, rows: int) -> Bytes:
    """The Confluent frame of n values. Shape (n, 5)."""
    head = np.frombuffer(b"\x00" + schema_id.to_bytes(4, "big"), np.uint8)
    return np.broadcast_to(head, (rows, 5))


def string(text_NL: Bytes) -> Bytes:
    """n ASCII strings of L bytes each. Shape (n, 1 + L)."""
    rows, length = text_NL.shape
    if length > STRING_BYTES_MAX:
        raise ValueError(f"strings of {length} bytes, at most {STRING_BYTES_MAX} have a length of one byte")
    return np.concatenate([np.full((rows, 1), length << 1, np.uint8), text_NL], axis=1)


def long(values: Int64s, width: int) -> Bytes:
    """n longs whose zigzag varints are all `width` bytes long. Shape (n, width). Raises ValueError if one is not."""
    zigzag = (values << 1) ^ (values >> 63)
    low = 0 if width == 1 else 1 << (7 * (width - 1))
    if len(values) and not (zigzag.min() >= low and zigzag.max() < 1 << (7 * width)):
        raise ValueError(f"values from {values.min()} to {values.max()} are not all {width} bytes long")
    shifts = np.arange(width, dtype=np.int64) * 7
    out = ((zigzag[:, None] >> shifts) & 0x7F).astype(np.uint8)
    out[:, :-1] |= 0x80
    return out


def digits(numbers: Int64s, width: int) -> Bytes:
    """n numbers as ASCII with leading zeros. Shape (n, width)."""
    out, left = np.empty((len(numbers), width), np.uint8), numbers.copy()
    for place in range(width - 1, -1, -1):
        left, digit = np.divmod(left, 10)
        out[:, place] = digit + 48
    return out


def joined(columns: Sequence[Bytes]) -> Bytes:
    """The values: their columns side by side. Shape (n, sum of widths), contiguous."""
    return np.ascontiguousarray(np.concatenate(columns, axis=1))


def slices(matrix: Bytes) -> list[bytes]:
    """Row by row as bytes."""
    width, body = matrix.shape[1], matrix.tobytes()
    return [body[at : at + width] for at in range(0, len(body), width)]
