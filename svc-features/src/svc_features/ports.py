"""What the archive needs of the lake, and a replay of the models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headrace.contracts.errors import HeadraceError, Retryable


class Conflict(Retryable):
    """Somebody else wrote these positions meanwhile: nothing was written; read the positions again."""


class LakeTable(Protocol):
    """One table of the lake, append only. All its rows are of one incarnation of the topic."""

    def topic_id(self) -> str:
        """The broker's id of the topic the rows are of; empty where it was never said."""
        ...

    def belong(self, topic_id: str) -> None:
        """Say which topic the rows are of, once, where it was never said. Raises as `append`."""
        ...

    def positions(self) -> dict[int, int]:
        """Partition -> last archived offset + 1; partitions without a row are absent."""
        ...

    def append(self, rows: pa.Table, positions: Mapping[int, int]) -> None:
        """Rows and positions in one commit, all or nothing.

        Raises: Conflict if another writer moved these positions; Retryable if the store does not answer;
            Fatal if the rows do not fit the table.
        """
        ...


class Lake(Protocol):
    """The lake, opened for writing."""

    def open(self, topic: str, schema: pa.Schema, partitions: int) -> LakeTable:
        """Create the table if it is missing. Raises as `LakeTable.append`."""
        ...


class Unusable(HeadraceError):
    """A model that cannot score past decisions. reason: a short code that is counted."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class Scorer(Protocol):
    """A verified model."""

    @property
    def columns(self) -> tuple[str, ...]:
        """What it was trained for, in order."""
        ...

    def scores(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """(N, columns) -> (N,). Raises: Unusable."""
        ...
