"""Passports as columns: what was served of one feature set, and what was asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headrace.plan.ir import FeatureSet

Floats = NDArray[np.float64]
Int8s = NDArray[np.int8]

CUT_SCHEMA = {"pid": pl.Int64, "event": pl.String, "part": pl.Int64, "next_offset": pl.Int64}


@dataclass(frozen=True, slots=True)
class Served:
    """What N passports say of one set of F features, pids ascending.

    asked: columns pid, entity, t, base_floor_ms. cuts: columns of CUT_SCHEMA. values (N, F), NaN where null.
    statuses (N, F). misshapen: pids whose arrays do not have F entries; they are in none of the others.
    """

    asked: pl.DataFrame
    cuts: pl.DataFrame
    values: Floats
    statuses: Int8s
    misshapen: list[int]


def served_of(passports: pl.DataFrame, feature_set: FeatureSet) -> Served:
    """Reads of one set by its hash; passports (columns pid, t_ms, sets) that did not read it are absent."""
    width = len(feature_set.features)
    reads = (
        passports.select("pid", pl.col("t_ms").alias("t"), "sets")
        .explode("sets")
        .unnest("sets")
        .filter(pl.col("hash") == feature_set.hash)
        .sort("pid")
    )
    fits = (pl.col("values").list.len() == width) & (pl.col("statuses").list.len() == width)
    misshapen = reads.filter(~fits)["pid"].to_list()
    reads = reads.filter(fits)
    cuts = (
        reads.select("pid", "cut")
        .explode("cut")
        .unnest("cut")
        .filter(pl.col("event").is_not_null())  # an empty cut explodes to a null
        .select("pid", "event", pl.col("partition").alias("part"), "next_offset")
        .cast(CUT_SCHEMA)  # type: ignore[arg-type]
    )
    return Served(
        reads.select("pid", "entity", "t", "base_floor_ms"),
        cuts,
        matrix(reads["values"], width),
        np.asarray(reads["statuses"].explode().to_numpy(), np.int8).reshape(len(reads), width),
        misshapen,
    )


def matrix(lists: pl.Series, width: int) -> Floats:
    """(N, width) float64 from lists of that length; NaN where null."""
    flat = lists.explode().cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return np.asarray(flat, np.float64).reshape(len(lists), width)


def float64_bits(values: Floats) -> NDArray[np.int64]:
    """Bit patterns; all NaNs are one."""
    return np.where(np.isnan(values), np.nan, values).astype(np.float64).view(np.int64)


def float32_bits(values: NDArray[np.float32]) -> NDArray[np.int32]:
    """Bit patterns; all NaNs are one."""
    values = np.array(values, np.float32)
    values[np.isnan(values)] = np.float32(np.nan)
    return values.view(np.int32)


def cells(values: Floats) -> list[list[float | None]]:
    """Rows with None for NaN, as the assembler takes them."""
    out: list[list[Any]] = values.tolist()
    for row, at in zip(*np.nonzero(np.isnan(values)), strict=True):
        out[row][at] = None
    return out
