"""Train, validation and test by time, with an embargo: a label of one split never overlaps a request of the next.

|---- train ----|-embargo-|---- validation ----|-embargo-|---- test ----
                          validation_from                test_from
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NAMES = ("train", "validation", "test", "embargo")
TRAIN, VALIDATION, TEST, EMBARGO = range(4)


@dataclass(frozen=True, slots=True)
class Splits:
    """Where the later splits begin and how long the gaps before them are; event time, ms."""

    validation_from_ms: int
    test_from_ms: int
    embargo_ms: int

    def check(self, mature_ms: int) -> None:
        """Raises: ValueError if the splits are out of order or the gap is shorter than labels take."""
        if self.embargo_ms < mature_ms:
            raise ValueError(
                f"an embargo of {self.embargo_ms} ms is shorter than the label's maturity, {mature_ms} ms: it leaks"
            )
        if self.validation_from_ms >= self.test_from_ms:
            raise ValueError(f"validation from {self.validation_from_ms} does not lie before test from {self.test_from_ms}")

    def of(self, t_ms: NDArray[np.int64]) -> NDArray[np.int8]:
        """Index into NAMES for each request time, shape (N,)."""
        out = np.full(len(t_ms), EMBARGO, np.int8)
        out[t_ms < self.validation_from_ms - self.embargo_ms] = TRAIN
        out[(t_ms >= self.validation_from_ms) & (t_ms < self.test_from_ms - self.embargo_ms)] = VALIDATION
        out[t_ms >= self.test_from_ms] = TEST
        return out
