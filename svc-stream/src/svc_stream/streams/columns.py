"""Frames as bytes: how rows travel between tasks, and how changes of tables lie in the changelog."""

from __future__ import annotations

import io
from collections.abc import Iterator

import polars as pl

from headrace.contracts.errors import Fatal

FORMAT = 1  # Arrow IPC stream, uncompressed: the client compresses whole batches of records
PART_BYTES_MAX = 800_000  # of the columns of one record: clients and brokers take a megabyte by default
HEAD_BYTES = 4_096  # more than an empty frame takes


def packed(frame: pl.DataFrame) -> bytes:
    """Arrow IPC stream."""
    return frame.write_ipc_stream(None).getvalue()


def unpacked(raw: bytes, version: int) -> pl.DataFrame:
    """Raises: Fatal for a layout this version does not know."""
    if version != FORMAT:
        raise Fatal(f"columns of layout {version}, this version reads {FORMAT}")
    return pl.read_ipc_stream(io.BytesIO(raw))


def parts(frame: pl.DataFrame, bytes_max: int = PART_BYTES_MAX) -> Iterator[pl.DataFrame]:
    """The frame in pieces that each pack into about so many bytes at most; at least one row each."""
    size = frame.estimated_size()
    if size + HEAD_BYTES <= bytes_max or frame.height < 2:
        yield frame
        return
    rows = max(1, int(frame.height * (bytes_max - HEAD_BYTES) / size))
    for piece in frame.iter_slices(rows):
        # Texts may lie unevenly: a piece that is still too large is cut again.
        if piece.height > 1 and piece.estimated_size() > bytes_max:
            yield from parts(piece.clone().rechunk(), bytes_max)
        else:
            yield piece
