"""Lateness skew: how far what was served lies from what `as_of` says was knowable at the same t, feature by feature.

    python -m svc_features.lateness FOLDER     FOLDER: job.json, plan.json, and room to spill; prints a list of JSON objects

Served values miss what was still on its way through the log, and hold what verdicts and cuts admit; `as_of` knows each
event from the moment it is available. The difference is what training on `as_of` rows does not see online.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray

from headrace.contracts.catalogue import PREDICTIONS, topics
from headrace.plan.hashes import from_json
from headrace.plan.ir import FeatureSet, Plan
from headrace.plan.lower import Status
from headrace.plan.topics import predictions_topic
from svc_features.adapters.lake import LakeReader
from svc_features.domain.served import float64_bits, served_of
from svc_features.pointintime import PointInTime, load_seen
from svc_features.warehouse import connect

QUANTILES = (0.5, 0.9, 0.99, 1.0)
SLICE_READS = 50_000
USABLE = tuple(
    int(s) for s in (Status.FRESH, Status.STALE, Status.MISSING)
)  # expired and ahead say themselves that they are no value of t


@dataclass(frozen=True, slots=True)
class FeatureSkew:
    """One feature. reads = equal + differing + only_served + only_as_of; unusable reads (expired, ahead) are not among them.

    paired: reads where both have a value. quantiles, mean_difference: of |served - as of| over these, the former in the
    order of QUANTILES; empty if there is none.
    """

    feature_set: str
    feature: str
    reads: int
    equal: int
    differing: int
    only_served: int
    only_as_of: int
    unusable: int
    paired: int
    quantiles: tuple[float, ...]
    mean_difference: float

    def page(self) -> dict[str, Any]:
        return asdict(self) | {"quantiles": {str(q): v for q, v in zip(QUANTILES, self.quantiles, strict=False)}}


def lateness_skew(
    connection: duckdb.DuckDBPyConnection, reader: LakeReader, plan: Plan, model: str, cut: Mapping[str, Mapping[int, int]],
    reads_max: int = 1_000_000,
) -> list[FeatureSkew]:  # fmt: skip
    """Skew of every feature a model's passports under the cut read, at most `reads_max` of them by hash of the request.

    cut: topic -> partition -> next offset not included. Times of passports are those of their requests.

    Raises: Fatal if the lake lacks a table.
    """
    events = {e.name: e for e in plan.events}
    for name in sorted({e for s in plan.feature_sets for e in s.events}):
        load_seen(connection, reader, events[name], cut.get(events[name].topic, {}))
    passports = _passports(reader, plan, model, cut.get(predictions_topic(plan.pipeline), {}), reads_max)
    past = PointInTime(connection, plan.feature_sets, events)
    past.admit()
    found: list[FeatureSkew] = []
    for feature_set in plan.feature_sets:
        parts = _compared(past, feature_set, passports)
        if parts:
            served, known, usable = (np.concatenate(columns) for columns in zip(*parts, strict=True))
            found += skews(feature_set, served, known, usable)
    return found


def _passports(reader: LakeReader, plan: Plan, model: str, cut: Mapping[int, int], reads_max: int) -> pl.DataFrame:
    topic = predictions_topic(plan.pipeline)
    columns = ["part", "off", "decodable", "request_id", "model", "t_ms", "sets"]
    kept: list[pl.DataFrame] = []
    for batch in reader.batches(topic, columns):
        frame = pl.DataFrame(pl.from_arrow(batch)).filter(pl.col("decodable") & (pl.col("model") == model))
        ends = pl.col("part").replace_strict(dict(cut), default=0, return_dtype=pl.Int64)
        kept.append(frame.filter(pl.col("off") < ends).drop("decodable", "model"))
    if not kept:
        return pl.DataFrame(schema={"pid": pl.Int64, "t_ms": pl.Int64, "sets": pl.List(pl.Null)})
    frame = pl.concat(kept).sort(pl.col("request_id").hash(0), "off", "part").head(reads_max)
    return frame.sort("t_ms", "part", "off").with_row_index("pid").cast({"pid": pl.Int64}).select("pid", "t_ms", "sets")


def _compared(
    past: PointInTime, feature_set: FeatureSet, passports: pl.DataFrame
) -> Sequence[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]]:
    """Served values, values as of t, and which served ones count, a slice of reads at a time; shapes (n, F)."""
    out = []
    for start in range(0, len(passports), SLICE_READS):
        served = served_of(passports[start : start + SLICE_READS], feature_set)
        if len(served.asked):
            known = past.of_entities(feature_set, served.asked["entity"], served.asked["t"])
            out.append((served.values, known.values, np.isin(served.statuses, USABLE)))
    return out


def skews(
    feature_set: FeatureSet, served: NDArray[np.float64], known: NDArray[np.float64], usable: NDArray[np.bool_]
) -> list[FeatureSkew]:
    """Per feature, over N reads: shapes (N, F), NaN where there is no value."""
    alike = float64_bits(served) == float64_bits(known)
    out: list[FeatureSkew] = []
    for i, feature in enumerate(feature_set.features):
        counts = usable[:, i]
        a, b, same = served[counts, i], known[counts, i], alike[counts, i]
        both = ~np.isnan(a) & ~np.isnan(b)
        sizes = np.abs(a[both] - b[both])
        quantiles = tuple(float(q) for q in np.quantile(sizes, QUANTILES, method="lower")) if len(sizes) else ()
        out.append(
            FeatureSkew(
                feature_set.name, feature.name, len(a), int(same.sum()), int((both & ~same).sum()),
                int((~np.isnan(a) & np.isnan(b)).sum()), int((np.isnan(a) & ~np.isnan(b)).sum()), int((~counts).sum()),
                int(both.sum()), quantiles, float(sizes.mean()) if len(sizes) else 0.0,
            )
        )  # fmt: skip
    return out


def main(folder: Path) -> None:
    """One report in a process of its own, over all the lake holds."""
    job = orjson.loads((folder / "job.json").read_bytes())
    plan, reader = from_json((folder / "plan.json").read_bytes()), LakeReader(Path(job["lake"]))
    partitions = {e.topic: e.partitions for e in plan.events}
    partitions[predictions_topic(plan.pipeline)] = topics()[PREDICTIONS].partitions
    cut = {topic: reader.positions(topic, n) for topic, n in partitions.items()}
    connection = connect(job["threads"], job["memory_mb"], folder / "spill", folder / "lateness.duckdb")
    found = lateness_skew(connection, reader, plan, job["model"], cut, job["reads_max"])
    sys.stdout.buffer.write(orjson.dumps([skew.page() for skew in found]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
