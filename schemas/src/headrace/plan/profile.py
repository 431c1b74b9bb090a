"""Per-day histograms of a model's inputs: the evidence drift is judged on.

Shapes: N rows, D days, F inputs, B bins. A vector is one model row (float32, NaN where missing); profile and served
rows must both be those float32 values, or ties fall on different sides of a cut.
Bins of an input: cells between the reference's quantiles, then one bin for missing values.
The day is the unit: rows of one day share its weather, so they are one piece of evidence, not hundreds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
QUANTILE_CELLS = 10  # deciles, the usual cut for PSI
MIN_SHARE_OF_ROWS = 0.01  # an hour with fewer rows says little about what is missing then


@dataclass(frozen=True, slots=True)
class Binning:
    """How rows become histograms.

    inputs: names, in the order of the columns given. edges: per input, ascending inner cuts; x falls in the
    cell of the number of cuts <= x. day_start_ms: offset of a day's start from UTC midnight.
    """

    inputs: tuple[str, ...]
    edges: tuple[tuple[float, ...], ...]
    day_start_ms: int = 0

    @property
    def bins(self) -> int:
        """B, equal for all inputs; cells an input does not use stay empty."""
        return max((len(cuts) for cuts in self.edges), default=0) + 2

    def day_of(self, t_ms: int) -> int:
        """Day number of an event time; days begin at day_start_ms past UTC midnight."""
        return (t_ms - self.day_start_ms) // DAY_MS

    def day_begins_ms(self, day: int) -> int:
        return day * DAY_MS + self.day_start_ms


@dataclass(slots=True)
class DayHistograms:
    """Counts per day: {day: int64 [F, B]}. Adding is commutative, so neither batching nor order matters."""

    binning: Binning
    counts: dict[int, np.ndarray] = field(default_factory=dict)

    def add(self, t_ms: Sequence[int] | np.ndarray, vectors_NF: np.ndarray) -> None:
        """Count rows; NaN is the missing bin.

        Raises: ValueError if the shapes do not fit the binning.
        """
        times = np.asarray(t_ms, dtype=np.int64)
        values = np.asarray(vectors_NF, dtype=np.float64)
        if values.shape != (len(times), len(self.binning.inputs)):
            raise ValueError(f"vectors have shape {values.shape}, expected {(len(times), len(self.binning.inputs))}")
        if not len(times):
            return
        days, row_day = np.unique((times - self.binning.day_start_ms) // DAY_MS, return_inverse=True)
        bins = self.binning.bins
        added = np.zeros((len(days), len(self.binning.inputs), bins), dtype=np.int64)
        for column, cuts in enumerate(self.binning.edges):
            place = row_day * bins + self._cells(values[:, column], cuts)
            added[:, column] = np.bincount(place, minlength=len(days) * bins).reshape(len(days), bins)
        for index, day in enumerate(days.tolist()):
            self.counts[day] = self.counts[day] + added[index] if day in self.counts else added[index]

    def rows(self, day: int) -> int:
        return int(self.counts[day][0].sum()) if day in self.counts else 0

    def present(self, days: Sequence[int]) -> np.ndarray:
        """int64 [D, F, B - 1]: counts of the values that were there, the bin of missing ones left out."""
        return np.stack([self.counts[day] for day in days])[:, :, :-1]

    def missing_share(self, days: Sequence[int]) -> np.ndarray:
        """float64 [F]: share of rows without a value over these days, each day weighing the same. Days must have rows."""
        counts = np.stack([self.counts[day] for day in days])
        return (counts[:, :, -1] / counts.sum(axis=2)).mean(axis=0)

    def _cells(self, values: np.ndarray, cuts: tuple[float, ...]) -> np.ndarray:
        cells = np.searchsorted(np.asarray(cuts, dtype=np.float64), values, side="right")
        return np.where(np.isnan(values), self.binning.bins - 1, cells)


def reference_profile(
    inputs: Sequence[str], t_ms: Sequence[int] | np.ndarray, vectors_NF: np.ndarray, cells: int = QUANTILE_CELLS
) -> DayHistograms:
    """Histograms of the rows a model was trained on; quantiles and the start of the day (`day_start_ms`) are theirs."""
    times = np.asarray(t_ms, dtype=np.int64)
    values = np.asarray(vectors_NF, dtype=np.float64)
    edges = tuple(_cuts(values[:, column], cells) for column in range(len(inputs)))
    profile = DayHistograms(Binning(tuple(inputs), edges, day_start_ms(times, values)))
    profile.add(times, values)
    return profile


def day_start_ms(t_ms: np.ndarray, vectors_NF: np.ndarray) -> int:
    """Where to cut days so that they are separate pieces of evidence: offset from UTC midnight, a whole hour.

    Windows are emptiest when yesterday's last events leave them and today's first have not come: the hour with the
    largest share of missing values, at whose end the day starts (what little that hour reads is yesterday's).
    Where no hour has most of its values missing: the hour with the fewest rows around it. A cut through busy hours
    would put halves of one local day into two "independent" days, and yesterday's storm into today's evidence.
    """
    hour = (t_ms // HOUR_MS) % 24
    rows = np.bincount(hour, minlength=24)
    missing = np.bincount(hour, weights=np.isnan(vectors_NF).sum(axis=1), minlength=24)
    values = np.maximum(rows, 1) * max(1, vectors_NF.shape[1])
    share = np.where(rows >= MIN_SHARE_OF_ROWS * len(t_ms), missing / values, 0.0)
    if share.max() > 0.5:
        return (int(np.argmax(share)) + 1) % 24 * HOUR_MS
    around = sum((6 - abs(shift)) * np.roll(rows, shift) for shift in range(-5, 6))  # near hours weigh more
    return int(np.argmin(around)) * HOUR_MS


def _cuts(values: np.ndarray, cells: int) -> tuple[float, ...]:
    """Distinct inner quantiles, each an observed value; fewer than cells - 1 when values repeat."""
    present = values[~np.isnan(values)]
    if not len(present):
        return ()
    levels = np.arange(1, cells) / cells
    cuts = np.unique(np.quantile(present, levels, method="lower"))
    return tuple(float(cut) for cut in cuts if cut > present.min())  # a cut at the minimum has nothing below it


def to_json(profile: DayHistograms) -> dict[str, Any]:
    """JSON-able and exact: counts are ints, cuts are floats that round-trip."""
    binning = profile.binning
    return {
        "inputs": list(binning.inputs),
        "edges": [list(cuts) for cuts in binning.edges],
        "day_start_ms": binning.day_start_ms,
        "days": {str(day): profile.counts[day].tolist() for day in sorted(profile.counts)},
    }


def from_json(body: dict[str, Any]) -> DayHistograms:
    """Inverse of to_json. Raises: ValueError or KeyError if the body is not a profile."""
    edges = tuple(tuple(float(cut) for cut in cuts) for cuts in body["edges"])
    binning = Binning(tuple(body["inputs"]), edges, int(body["day_start_ms"]))
    shape = (len(binning.inputs), binning.bins)
    counts = {int(day): np.asarray(rows, dtype=np.int64).reshape(shape) for day, rows in body["days"].items()}
    return DayHistograms(binning, counts)
