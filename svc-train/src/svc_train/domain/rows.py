"""A training set in memory, split by time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Rows:
    """x (n, inputs) float32, NaN = missing; y (n,) bool; rule_score (n,) float64, NaN = missing; day (n,) int64."""

    x: Floats
    y: NDArray[np.bool_]
    rule_score: NDArray[np.float64]
    day: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.y)

    def where(self, mask: NDArray[np.bool_]) -> Rows:
        return Rows(self.x[mask], self.y[mask], self.rule_score[mask], self.day[mask])


def rows_of(frame: pl.DataFrame, columns: Sequence[str]) -> Rows:
    """From the data set's columns: the inputs by name, `label`, `rule_score`, `day`."""
    x = frame.select(pl.col(c).cast(pl.Float32) for c in columns).to_numpy().astype(np.float32)
    return Rows(
        np.ascontiguousarray(x),
        frame["label"].to_numpy().astype(np.bool_),
        frame["rule_score"].cast(pl.Float64).fill_null(float("nan")).to_numpy(),
        frame["day"].cast(pl.Int64).to_numpy(),
    )


def split_by_day(rows: Rows, validation_share: float) -> tuple[Rows, Rows]:
    """Older days to learn from, the newest share of days to be judged on; a day is never cut in two.

    Raises: ValueError with fewer than two days.
    """
    days = np.unique(rows.day)
    if len(days) < 2:
        raise ValueError(f"{len(days)} day of labelled requests: a model needs days to learn from and days to be judged on")
    judged_on = min(max(1, round(len(days) * validation_share)), len(days) - 1)
    first = days[-judged_on]
    return rows.where(rows.day < first), rows.where(rows.day >= first)
