"""Frames of Polars as views of Spark."""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from svc_features.adapters.spark import SparkSession


def plain(frame: pl.DataFrame) -> pa.Table:
    """With Arrow's ordinary text and lists, which every reader takes."""
    table = frame.to_arrow()
    return table.cast(pa.schema([pa.field(f.name, _ordinary(f.type)) for f in table.schema]))


def _ordinary(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_large_list(kind):
        return pa.list_(_ordinary(kind.value_type))
    return pa.string() if kind in (pa.string_view(), pa.large_string()) else kind


def view(spark: SparkSession, name: str, frame: pl.DataFrame) -> None:
    """CREATE name."""
    spark.createDataFrame(plain(frame)).cache().createOrReplaceTempView(name)
