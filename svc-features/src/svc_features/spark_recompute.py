"""The lake on Apache Spark: raw events under a cut, their verdicts, and what passports were served, recomputed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from headrace.contracts.errors import Fatal
from headrace.plan.ir import EventType, FeatureSet, Field, Plan
from headrace.plan.offline import OfflineRows, served_of_terms
from headrace.plan.spark_expressions import identifier
from headrace.plan.spark_sql import as_served_sql, verdicts_sql
from svc_features.adapters.lake import LakeReader, has_path
from svc_features.adapters.spark import DataFrame, SparkSession, lake_view

TYPES = {"string": "STRING", "boolean": "BOOLEAN", "float": "FLOAT", "double": "DOUBLE"}  # of fields; others are BIGINT


def load_raw(spark: SparkSession, reader: LakeReader, event: EventType, cut: Mapping[int, int] | None) -> None:
    """CREATE raw_<event>: columns in the plan's types; a field the table does not know yet is null.

    A nested record's field becomes a column named by its path. cut: partition -> next offset not included, None takes all.
    Raises: Fatal if there is no table, or a record lies there twice.
    """
    files, there = reader.files(event.topic)
    wanted = ["part", "off", "append_ms", "decodable", *(f.name for f in event.fields)]
    heads = dict.fromkeys(name.partition(".")[0] for name in wanted)
    raw, schema = "raw_" + event.name, pa.schema([there.field(name) for name in heads if name in there.names])
    lake_view(spark, "lake_" + event.name, files, schema)
    kinds = {f.name: _sql_type(f) for f in event.fields} | {"part": "INT", "decodable": "BOOLEAN"}
    columns = ", ".join(f"CAST({_place(schema, c)} AS {kinds.get(c, 'BIGINT')}) AS {identifier(c)}" for c in wanted)
    where = "true" if cut is None else under_sql(cut)
    found = spark.sql(f"SELECT {columns} FROM {identifier('lake_' + event.name)} WHERE {where}")
    found.createOrReplaceTempView(raw)
    again = f"SELECT part, off FROM {identifier(raw)} GROUP BY part, off HAVING count(*) > 1 LIMIT 1"
    if twice := spark.sql(again).collect():
        raise Fatal(f"the lake holds {event.topic}-{twice[0][0]} offset {twice[0][1]} twice")


def _sql_type(field: Field) -> str:
    if field.item is not None:
        return f"ARRAY<{TYPES.get(field.item, 'BIGINT')}>"
    return TYPES.get(field.type, "BIGINT")


def _place(schema: pa.Schema, path: str) -> str:
    """Where a field lies in the table's rows: a nested record's in its struct; NULL if the table has none yet."""
    return ".".join(map(identifier, path.split("."))) if has_path(schema, path) else "NULL"


def under_sql(cut: Mapping[int, int]) -> str:
    return " OR ".join(f"(part = {int(p)} AND off < {int(n)})" for p, n in cut.items()) or "false"


def staged(spark: SparkSession, scratch: Path, name: str, frame: DataFrame) -> DataFrame:
    """The rows, once in files: nothing before is computed again."""
    uri = (scratch / name).absolute().as_uri()
    frame.write.mode("overwrite").parquet(uri)
    return spark.read.schema(frame.schema).parquet(uri)


class SparkServed:
    """What passports say of one set, recomputed from the lake: verdicts, windows and accumulators as SQL on Spark.

    The lake is read when the first passports come: until then who asks may find that the archive does not reach them.
    """

    def __init__(self, spark: SparkSession, reader: LakeReader, plan: Plan, scratch: Path) -> None:
        self._spark, self._reader, self._scratch, self._judged = spark, reader, scratch, False
        self._events = {e.name: e for e in plan.events}

    def _judge(self) -> None:
        """CREATE verdict_<event> of every event."""
        for name, event in self._events.items():
            load_raw(self._spark, self._reader, event, None)
            judged, view = self._spark.sql(verdicts_sql(event)), "verdict_" + name
            staged(self._spark, self._scratch, view, judged).createOrReplaceTempView(view)
        self._judged = True

    def __call__(self, feature_set: FeatureSet, passports: pl.DataFrame, cuts: pl.DataFrame, floor: int | None) -> OfflineRows:
        """passports: pid, entity, t. cuts: pid, event, part, next_offset. floor: base floor of all of them."""
        if not self._judged:
            self._judge()
        return as_served(self._spark, feature_set, self._events, passports, cuts, floor)


def as_served(
    spark: SparkSession, feature_set: FeatureSet, events: Mapping[str, EventType], passports: pl.DataFrame, cuts: pl.DataFrame,
    floor: int | None,
) -> OfflineRows:  # fmt: skip
    """Features of all passports from views verdict_<event>, in the order of pids."""
    for name, frame in (("passports", passports), ("cuts", cuts)):
        schema = pa.schema([pa.field(c, pa.string() if t == pl.String else pa.int64()) for c, t in frame.schema.items()])
        spark.createDataFrame(frame.to_arrow().cast(schema)).createOrReplaceTempView(name)
    found = spark.sql(as_served_sql(feature_set, events, floor)).toArrow()
    columns = {name: found[name].to_numpy() for name in found.column_names if name != "cells"}
    cells = np.empty(len(found), object)
    cells[:] = found["cells"].to_pylist()
    absent = np.fromiter((c is None for c in cells), np.bool_, len(cells))
    return served_of_terms(feature_set, columns | {"cells": np.ma.masked_array(cells, absent)})
