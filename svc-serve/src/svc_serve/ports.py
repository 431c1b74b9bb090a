"""What deciding needs of the outside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Executor(Protocol):
    """One loaded model, verified and warm. Any thread may call it."""

    digest: str

    def scores(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """rows (n, inputs), NaN = missing -> scores (n,) in [0, 1], finite. Raises Retryable when the executor fails."""
        ...


class Explainer(Protocol):
    """Contributions of one loaded model. Any thread may call it."""

    method: str

    def contributions(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """rows (n, inputs) -> (n, inputs + 1), last column the bias; each row sums to the raw score (log-odds).

        Raises: Retryable when the explainer fails.
        """
        ...


class LoadedModel(Protocol):
    """An arm's model: executor and explainer of the same artefact."""

    @property
    def digest(self) -> str: ...
    @property
    def executor(self) -> Executor: ...
    @property
    def explainer(self) -> Explainer | None: ...
    @property
    def columns(self) -> Sequence[str]: ...
