"""Rows of a data set from requests and values, and the file they lie in: the same whichever engine found the values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from headrace.plan.assemble import Assembler
from headrace.plan.ir import EventType, FeatureSet, Model, Plan
from headrace.plan.lower import FeatureRows
from headrace.plan.profile import DayHistograms, reference_profile
from svc_features.domain.dataset import AS_SERVED, Checksum, Vectors, assemble, frame_of
from svc_features.domain.served import served_of
from svc_features.domain.splits import NAMES, Splits

LABEL = "headrace_label"
PROFILE_ROWS = 1_000_000  # rows whose quantiles cut the profile's cells; beyond, every nth
SLICE_ROWS = 100_000  # requests whose values are held at once


@dataclass(slots=True)
class RowMaker:
    """Of one model of a plan. `sets` are those its inputs read, in the plan's order."""

    plan: Plan
    model: Model
    splits: Splits | None = None
    request: EventType = field(init=False)
    sets: list[FeatureSet] = field(init=False)
    _assembler: Assembler = field(init=False)

    def __post_init__(self) -> None:
        used = {c.feature_set for c in self.model.inputs if c.feature_set}
        self.request = next(e for e in self.plan.events if e.name == self.model.request)
        self.sets = [s for s in self.plan.feature_sets if s.name in used]
        self._assembler = Assembler(self.plan, self.model)

    def rows(
        self, requests: pl.DataFrame, values: Mapping[str, FeatureRows], served: NDArray[np.bool_]
    ) -> tuple[pl.DataFrame, NDArray[np.bool_]]:
        """Rows of the data set, and of which requests (N,): those with a value ahead of t have none.

        Args:
            requests: (N,) the request's fields and LABEL. values: per set (N, F). served: (N,) known from a passport.
        """
        ahead = np.zeros(len(requests), np.bool_)
        for feature_set in self.sets:
            wanted = {c.feature for c in self.model.inputs if c.feature_set == feature_set.name}
            positions = [i for i, f in enumerate(feature_set.features) if f.name in wanted]
            ahead |= Vectors(values[feature_set.name], positions).ahead()
        kept = ~ahead
        labels, requests = requests[LABEL].filter(pl.Series(kept)), requests.drop(LABEL).filter(pl.Series(kept))
        held = {name: FeatureRows(rows.values[kept], rows.statuses[kept]) for name, rows in values.items()}
        x, scores = assemble(self._assembler, requests, held)
        frame = frame_of(self.model, self.request, requests, x, scores, labels, served[kept])
        if self.splits is not None:
            parts = self.splits.of(frame["t_ms"].to_numpy())
            frame = frame.with_columns(pl.Series("split", [NAMES[i] for i in parts.tolist()], pl.String))
        return frame, kept


def fill_served(passports: pl.DataFrame, feature_set: FeatureSet, rows: FeatureRows) -> None:
    """Write what passports (columns pid: place in `rows`, t_ms, sets) served over it."""
    if len(passports):
        known = served_of(passports, feature_set)
        at = known.asked["pid"].to_numpy()
        rows.values[at], rows.statuses[at] = known.values, known.statuses


@dataclass(slots=True)
class Written:
    """What lies in the file. splits: rows of each of splits.NAMES."""

    rows: int = 0
    positives: int = 0
    as_served: int = 0
    splits: dict[str, int] = field(default_factory=dict[str, int])
    content_checksum: str = ""


def write(frames: Iterable[pl.DataFrame], path: Path) -> Written:
    """Rows in their order into one Parquet file; none is written for no rows."""
    checksum, out = Checksum(), Written(splits=dict.fromkeys(NAMES, 0))
    writer: pq.ParquetWriter | None = None
    try:
        for frame in frames:
            checksum.add(frame)
            table = frame.to_arrow().cast(plain(frame, pa.large_string()))
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table)
            out.rows, out.positives = out.rows + len(frame), out.positives + int(frame["label"].sum() or 0)
            out.as_served += int((frame["mode"] == AS_SERVED).sum())
            if "split" in frame.columns:
                for name, count in frame["split"].value_counts().rows():
                    out.splits[name] += count
    finally:
        if writer is not None:
            writer.close()
    out.content_checksum = checksum.hexdigest()
    return out


def plain(frame: pl.DataFrame, text: pa.DataType) -> pa.Schema:
    """Polars' own string views are not what every reader of Parquet expects: text is of this type."""
    schema = frame.to_arrow().schema
    views = (pa.string_view(), pa.large_string())
    return pa.schema([pa.field(f.name, text if f.type in views else f.type) for f in schema])


def profile_of(path: Path, model: Model, rows: int, slice_rows: int = SLICE_ROWS) -> DayHistograms:
    """Of the watched inputs, from the file: cells from a bounded sample of rows, counts from all."""
    watched = list(model.watch.inputs) or [c.name for c in model.inputs]
    step = -(-rows // PROFILE_ROWS)
    sample = pl.concat([frame[(-start) % step :: step] for start, frame in _watched(path, watched, slice_rows)])
    profile = reference_profile(watched, sample["t_ms"].to_numpy(), sample.select(watched).to_numpy())
    if step == 1:
        return profile
    profile = DayHistograms(profile.binning)
    for _, frame in _watched(path, watched, slice_rows):
        profile.add(frame["t_ms"].to_numpy(), frame.select(watched).to_numpy())
    return profile


def _watched(path: Path, names: list[str], slice_rows: int) -> Iterator[tuple[int, pl.DataFrame]]:
    start = 0
    file = pq.ParquetFile(path)
    for batch in file.iter_batches(slice_rows, columns=list(dict.fromkeys(["t_ms", *names]))):
        yield start, pl.DataFrame(pl.from_arrow(batch))
        start += batch.num_rows
