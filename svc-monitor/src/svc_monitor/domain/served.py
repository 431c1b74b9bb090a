"""The watched inputs of recent decisions: what a new champion's drift watch begins with."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 4_096  # rows move as blocks: 8 + 4 bytes per input, and none of Python's own
Block = tuple[NDArray[np.int64], NDArray[np.float32]]  # request times (n,), inputs (n, width)


@dataclass(slots=True)
class ServedRows:
    """At most rows_max rows (and one block), the oldest forgotten first; counted in `forgotten`."""

    width: int
    rows_max: int
    forgotten: int = 0
    _blocks: deque[Block] = field(default_factory=deque)
    _rows: int = 0
    _times: list[int] = field(default_factory=list)
    _inputs: list[tuple[float, ...]] = field(default_factory=list)

    def add(self, t_ms: int, inputs: Sequence[float]) -> Block | None:
        """Take a row; returns a block when one is full."""
        self._times.append(t_ms)
        self._inputs.append(tuple(inputs))
        return self.seal() if len(self._times) >= BLOCK_ROWS else None

    def seal(self) -> Block | None:
        """The rows added since the last block, as a block; None if there are none."""
        if not self._times:
            return None
        block = np.array(self._times, np.int64), np.array(self._inputs, np.float32).reshape(-1, self.width)
        self._times, self._inputs = [], []
        self._keep(block)
        return block

    def blocks(self) -> list[Block]:
        """All that is kept and sealed, in order of arrival."""
        return list(self._blocks)

    def _keep(self, block: Block) -> None:
        self._rows += len(block[0])
        if self._blocks and len(self._blocks[-1][0]) + len(block[0]) <= BLOCK_ROWS:
            times, inputs = self._blocks.pop()
            block = np.concatenate([times, block[0]]), np.concatenate([inputs, block[1]])
        self._blocks.append(block)
        while self._rows > self.rows_max and len(self._blocks) > 1:
            gone = len(self._blocks.popleft()[0])
            self._rows -= gone
            self.forgotten += gone
