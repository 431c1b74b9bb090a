"""Between blocks in memory and TileBlock records."""

from __future__ import annotations

import numpy as np

from headrace.contracts.formats import FORMAT, readable
from headrace.contracts.records import TileBlock
from headrace.plan.tiles import Block, BlockKey


def record_of(key: BlockKey, block: Block) -> TileBlock:
    """The value of one state key."""
    return TileBlock(
        entity=key.entity,
        event=key.event,
        hop_ms=key.hop_ms,
        index=key.index,
        starts_ms=tuple(block.starts_ms.tolist()),
        slots=tuple(block.slots.ravel().tolist()),
        format=FORMAT,
    )


def block_of(record: TileBlock) -> Block:
    """Shapes: starts (k,), slots (k, width). Raises: Fatal for a format this version does not know."""
    readable(record)
    starts = np.asarray(record.starts_ms, dtype=np.int64)
    return Block(starts, np.asarray(record.slots, dtype=np.int64).reshape(len(starts), -1))
