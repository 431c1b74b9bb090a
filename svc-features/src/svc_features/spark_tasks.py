"""What Spark's Python workers do: a group of records and requests to values, and requests with values to rows.

Both are the functions DuckDB's way calls too (`as_of_records`, `RowMaker`); only how rows arrive differs. Values and
statuses travel as bytes, so that no engine touches a float.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from headrace.plan.ir import FeatureSet, Model, Plan
from headrace.plan.lower import FeatureRows
from headrace.plan.offline import as_of_records
from headrace.plan.spark_sql import measures_of
from svc_features.domain.splits import Splits
from svc_features.rows import LABEL, RowMaker, fill_served, plain

KEPT, AHEAD = "kept", "ahead"
# Columns beside the request's fields; they begin as no field does.
ENTITY, SERVED, ORDER, FATE, SETS, T = "__entity", "__served", "__order", "__fate", "__sets", "__t"
SHARD, BUCKET, EVENT = "__shard", "__bucket", "__event"

Batches: TypeAlias = Iterator[pa.RecordBatch]
Columns: TypeAlias = dict[str, npt.NDArray[Any]]


def undotted(field: str) -> str:
    """Its column in what Python workers take: pyspark reads a dot in a column's name as a path."""
    return field.replace(".", "/")


def values_column(number: int) -> str:
    return f"__values_{number}"


def statuses_column(number: int) -> str:
    return f"__statuses_{number}"


def answering(feature_set: FeatureSet, number: int) -> Callable[[pa.Table, pa.Table], pa.Table]:
    """A function of one group: requests and the records they may see, to the requests with two more columns."""

    def task(requests: pa.Table, records: pa.Table) -> pa.Table:
        return answer(feature_set, number, requests, records)

    return task


def answer(feature_set: FeatureSet, number: int, requests: pa.Table, records: pa.Table) -> pa.Table:
    """Values as of T; of requests served before they stay missing, for `finishing` to fill."""
    shape = (requests.num_rows, len(feature_set.features))
    values, statuses = np.full(shape, np.nan), np.zeros(shape, np.int8)
    rest = np.flatnonzero(~_array(requests, SERVED).astype(np.bool_))
    if len(rest):
        found = {name: _records(feature_set, records, index) for index, name in enumerate(feature_set.events)}
        entities = np.array(requests[ENTITY].to_pylist(), object)[rest]
        rows = as_of_records(feature_set, found, entities, _array(requests, T)[rest])
        values[rest], statuses[rest] = rows.values, rows.statuses
    return requests.append_column(values_column(number), _bytes(values)).append_column(
        statuses_column(number), _bytes(statuses)
    )


def _records(feature_set: FeatureSet, records: pa.Table, index: int) -> Columns:
    """Those of one event as `as_of_sql` orders them."""
    mine = records.filter(pc.field(EVENT) == index)
    mine = mine.sort_by([(name, "ascending") for name in ("entity", "et", "part", "off", "item")])
    columns: Columns = {name: _array(mine, name) for name in ("et", "known_at", "part", "off", "item")}
    columns["entity"] = np.array(mine["entity"].to_pylist(), object)
    for measure in measures_of(feature_set, feature_set.events[index]):
        where, value = f"w_{measure.id}", mine[f"v_{measure.id}"]
        columns[where] = _array(mine, where).astype(np.bool_)
        held = value.fill_null(0).to_numpy().astype(np.int64)
        columns[f"v_{measure.id}"] = np.ma.masked_array(held, value.is_null().to_numpy())
    return columns


def finishing(
    plan: Plan, model: Model, splits: Splits | None
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """A function of batches: answered requests to rows of the data set, with FATE and ORDER."""

    def task(batches: Batches) -> Batches:
        maker = RowMaker(plan, model, splits)
        for batch in batches:
            if batch.num_rows:
                yield from finish(maker, batch).to_batches()

    return task


def finish(maker: RowMaker, batch: pa.RecordBatch) -> pa.Table:
    """Rows left out keep their ORDER and FATE alone."""
    frame = pl.DataFrame(pl.from_arrow(batch))
    served = frame[SERVED].to_numpy().astype(np.bool_)
    passports = _passports(frame, served)
    values: dict[str, FeatureRows] = {}
    for number, feature_set in enumerate(maker.sets):
        shape = (len(frame), len(feature_set.features))
        held = FeatureRows(
            _matrix(frame[values_column(number)], np.float64, shape), _matrix(frame[statuses_column(number)], np.int8, shape)
        )
        fill_served(passports, feature_set, held)
        values[feature_set.name] = held
    requests = frame.select(*(pl.col(undotted(f.name)).alias(f.name) for f in maker.request.fields), LABEL)
    rows, kept = maker.rows(requests, values, served)
    order = frame.select(ORDER)
    out = rows.with_columns(order.filter(pl.Series(kept))[ORDER], pl.lit(KEPT).alias(FATE))
    lost = order.filter(pl.Series(~kept)).with_columns(pl.lit(AHEAD).alias(FATE))
    whole = pl.concat([out, lost], how="diagonal")
    return whole.to_arrow().cast(plain(whole, pa.string()))


def _passports(frame: pl.DataFrame, served: npt.NDArray[np.bool_]) -> pl.DataFrame:
    """Of the requests served, as `fill_served` takes them; where no decision was ever archived there is no SETS."""
    if SETS not in frame.columns:
        return pl.DataFrame()
    known = frame.with_row_index("pid").filter(pl.Series(served))
    return known.select(pl.col("pid").cast(pl.Int64), pl.col(T).alias("t_ms"), pl.col(SETS).alias("sets"))


def _array(table: pa.Table, name: str) -> npt.NDArray[Any]:
    return table[name].to_numpy()


def _bytes(rows: npt.NDArray[Any]) -> pa.Array:
    return pa.array([row.tobytes() for row in rows], pa.binary())


def _matrix(column: pl.Series, kind: Any, shape: tuple[int, int]) -> npt.NDArray[Any]:
    return np.frombuffer(b"".join(column.to_list()), kind).reshape(shape).copy()
