"""Build one data set from the lake on Apache Spark: the same plan, the same rows, the same checksum as DuckDB's way.

    load -> select requests and labels -> per feature set: admit records, group with requests, answer -> rows -> sort -> file

Verdicts, expressions, selection and admission are SQL that Spark runs over all executors. What needs the law's own
arithmetic (prefix sums over accumulators, `lower`, the model's row) runs in its Python workers, through the functions that
DuckDB's way calls too. Requests and records meet in groups of a share of the entities and a span of time no shorter than
the longest window: a group holds some RECORDS_MAX records however long the log or however hot an entity.

Stages end in Parquet files under the scratch folder, which executors and driver must both see.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from headrace.plan.ir import EventType, FeatureSet, Model, Plan
from headrace.plan.lower import terms_of
from headrace.plan.spark_expressions import identifier, sql_of, text
from headrace.plan.spark_sql import admitted_sql, as_of_sql, entity_sql, measures_of
from headrace.plan.topics import predictions_topic
from svc_features.adapters.lake import LakeReader
from svc_features.adapters.spark import DataFrame, SparkSession, lake_view
from svc_features.building import Cut, Dataset, LeftOut, Tell, dataset, nothing_labelled
from svc_features.domain.dataset import TRAILER
from svc_features.domain.splits import Splits
from svc_features.rows import LABEL, RowMaker, write
from svc_features.selection import COUNTS, Selected, Window, asked_for_sql
from svc_features.spark_recompute import TYPES, load_raw, staged, under_sql
from svc_features.spark_tasks import (
    AHEAD,
    BUCKET,
    ENTITY,
    EVENT,
    FATE,
    KEPT,
    ORDER,
    SERVED,
    SETS,
    SHARD,
    T,
    answering,
    finishing,
    statuses_column,
    undotted,
    values_column,
)

RECORDS_MAX = 400_000  # records of one group, about: bounds the memory of a Python worker
ROWS_MAX = 100_000  # rows the driver holds at once
_COLUMNS = {pl.Boolean: "BOOLEAN", pl.Float64: "DOUBLE", pl.Int64: "BIGINT", pl.String: "STRING"}


@dataclass(frozen=True, slots=True)
class Groups:
    """How requests and records are spread: `shards` of the entities, `buckets` of time from `low_ms`, each `bucket_ms`."""

    shards: int
    buckets: int
    bucket_ms: int
    low_ms: int
    reach_ms: int  # how far before t a record is read

    def bucket_sql(self, time: str) -> str:
        """Which bucket a time is in; times before the first one may fall into it too."""
        return f"(({time} - {self.low_ms}) div {self.bucket_ms})"


class SparkBuilder:
    """One build. Raises: Fatal if the lake lacks a table; NotOnSpark; ValueError if the window holds nothing to learn from."""

    def __init__(
        self, spark: SparkSession, reader: LakeReader, plan: Plan, model: Model, cut: Cut, path: Path, scratch: Path,
        tell: Tell = lambda _phase, _done, _total: None, records_max: int = RECORDS_MAX,
    ) -> None:  # fmt: skip
        """path: the Parquet file to write. scratch: a folder that executors see under the same name."""
        self._spark, self._reader, self._plan, self._model, self._cut = spark, reader, plan, model, cut
        self._path, self._scratch, self._tell, self._records_max = path, scratch, tell, records_max
        self._events = {e.name: e for e in plan.events}
        self._maker = RowMaker(plan, model)
        self._partitions = int(spark.conf.get("spark.sql.shuffle.partitions") or 2)

    def build(self, window: Window, splits: Splits | None = None) -> Dataset:
        """All steps."""
        if splits is not None:
            splits.check(self._model.label.mature_ms)
        outcome = self._events[self._model.label.event]
        names = sorted({self._maker.request.name, outcome.name, *(e for s in self._maker.sets for e in s.events)})
        for number, name in enumerate(names):
            self._tell("load", number, len(names))
            self._load_seen(self._events[name])
        left_out = self._select(outcome, window, splits)
        answered = self._staged("asked", self._asked(splits))
        for number, feature_set in enumerate(self._maker.sets):
            self._tell("values", number, len(self._maker.sets))
            answered = self._answered(feature_set, number, answered)
        self._tell("rows", 0, left_out.selected.rows)
        schema = self._row_schema(splits)
        rows = self._staged("rows", answered.mapInArrow(finishing(self._plan, self._model, splits), schema))
        left_out.ahead = rows.where(f"{FATE} = {text(AHEAD)}").count()
        kept = rows.where(f"{FATE} = {text(KEPT)}").orderBy("t_ms", ORDER)
        self._staged("sorted", kept)
        made = dataset(self._model, self._path, write(self._sorted(), self._path), left_out)
        self._tell("rows", left_out.selected.rows, left_out.selected.rows)
        return made

    # -- requests

    def _load_seen(self, event: EventType) -> None:
        """CREATE verdict_<event>: decodable records under the cut, not poison. Raises: Fatal if one lies there twice."""
        load_raw(self._spark, self._reader, event, self._cut.get(event.topic, {}))
        et = identifier(event.time)
        self._spark.sql(
            f"SELECT *, {et} AS et, 'ok' AS verdict FROM {identifier('raw_' + event.name)} "
            f"WHERE decodable AND {et} <= append_ms + {event.poison_bound_ms}"
        ).createOrReplaceTempView("verdict_" + event.name)

    def _select(self, outcome: EventType, window: Window, splits: Splits | None) -> LeftOut:
        """CREATE selected: the requests with a label; counts what is left out."""
        request = self._maker.request
        sql = asked_for_sql(self._model, request, outcome, window, sql_of)
        self._staged("asked_for", self._spark.sql(sql)).createOrReplaceTempView("asked_for")
        ((rows, dropped, unlabelled),) = self._spark.sql(f"SELECT {COUNTS} FROM asked_for").collect()
        selected = Selected(rows, dropped, unlabelled)
        if not rows:
            raise ValueError(nothing_labelled(selected, window))
        self._spark.sql("SELECT * FROM asked_for WHERE kept").createOrReplaceTempView("selected")
        out = LeftOut(selected)
        if splits is not None:
            embargoed = f"SELECT count(*) FROM selected WHERE NOT ({_split_sql(splits, identifier(request.time))})"
            out.embargoed = self._spark.sql(embargoed).collect()[0][0]
        return out

    def _asked(self, splits: Splits | None) -> DataFrame:
        """Requests to be answered, with what their first passport served if it read every set under its hash at their t."""
        request, identity = self._maker.request, identifier(self._model.request_id)
        t = identifier(request.time)
        fields = ", ".join(f"r.{identifier(f.name)} AS {identifier(undotted(f.name))}" for f in request.fields)
        within = "true" if splits is None else _split_sql(splits, f"r.{t}")
        known = f"r.{identity} AS {ORDER}, r.{t} AS {T}"
        topic = predictions_topic(self._plan.pipeline)
        if not self._reader.exists(topic):
            return self._spark.sql(f"SELECT {fields}, r.{LABEL}, {known}, false AS {SERVED} FROM selected r WHERE {within}")
        files, there = self._reader.files(topic)
        names = ["part", "off", "decodable", "request_id", "model", "t_ms", "sets"]
        lake_view(self._spark, "passports", files, pa.schema([there.field(name) for name in names]))
        hashes = ", ".join(text(s.hash) for s in self._maker.sets)
        read = "transform(sets, s -> s.hash)"
        complete = f"forall(array({hashes}), h -> array_contains({read}, h))" if hashes else "true"
        return self._spark.sql(f"""
SELECT {fields}, r.{LABEL}, {known}, coalesce(p.t_ms = r.{t} AND {complete}, false) AS {SERVED},
  CASE WHEN p.t_ms = r.{t} AND {complete} THEN p.sets END AS {SETS}
FROM selected r LEFT JOIN (
  SELECT request_id, t_ms, sets FROM (
    SELECT *, row_number() OVER (PARTITION BY request_id ORDER BY off, part) AS nth FROM passports
    WHERE decodable AND model = {text(self._model.name)} AND ({under_sql(self._cut.get(topic, {}))}))
  WHERE nth = 1) p ON p.request_id = CAST(r.{identity} AS STRING)
WHERE {within}""")

    # -- values

    def _answered(self, feature_set: FeatureSet, number: int, requests: DataFrame) -> DataFrame:
        """The requests with values and statuses of one set."""
        records = self._records(feature_set)
        groups = self._groups(feature_set, requests, records)
        shard = f"CAST(pmod(hash({ENTITY}), {groups.shards}) AS INT) AS {SHARD}"
        first, last = groups.bucket_sql("et"), groups.bucket_sql(f"et + {groups.reach_ms}")
        spread = f"explode(sequence(greatest({first}, 0), least({last}, {groups.buckets - 1}))) AS {BUCKET}"
        inside = f"{last} >= 0 AND {first} <= {groups.buckets - 1}"
        placed = records.where(inside).selectExpr("*", shard.replace(ENTITY, "entity"), spread)
        there = replace(feature_set, entity=tuple(map(undotted, feature_set.entity)))
        asked = requests.selectExpr("*", f"{entity_sql(there)} AS {ENTITY}").selectExpr(
            "*", shard, f"{groups.bucket_sql(T)} AS {BUCKET}"
        )
        added = f"{values_column(number)} BINARY, {statuses_column(number)} BINARY"
        schema = f"{_ddl(asked)}, {added}"
        met = asked.groupBy(SHARD, BUCKET).cogroup(placed.groupBy(SHARD, BUCKET))
        return met.applyInArrow(answering(feature_set, number), schema).drop(SHARD, BUCKET, ENTITY)

    def _records(self, feature_set: FeatureSet) -> DataFrame:
        """Records of all events of the set, one shape: columns of measures of other events are null."""
        measures = {name: measures_of(feature_set, name) for name in feature_set.events}
        every = [m for found in measures.values() for m in found]
        parts = []
        for index, name in enumerate(feature_set.events):
            event = self._events[name]
            admitted = f"admitted_{name}"
            self._spark.sql(admitted_sql(event)).createOrReplaceTempView(admitted)
            self._spark.sql(as_of_sql(feature_set, event, admitted)).createOrReplaceTempView(f"records_{name}")
            columns = []
            for m in every:
                if m in measures[name]:
                    columns.append(f"w_{m.id}, v_{m.id}")
                else:
                    columns.append(f"CAST(NULL AS BOOLEAN) AS w_{m.id}, CAST(NULL AS BIGINT) AS v_{m.id}")
            more = "".join(", " + c for c in columns)
            parts.append(
                f"SELECT {index} AS {EVENT}, entity, et, known_at, part, off, item{more} FROM {identifier('records_' + name)}"
            )
        return self._spark.sql("\nUNION ALL\n".join(parts))

    def _groups(self, feature_set: FeatureSet, requests: DataFrame, records: DataFrame) -> Groups:
        low, high = requests.selectExpr(f"min({T})", f"max({T})").collect()[0]
        if low is None:  # all are in an embargo
            return Groups(1, 1, 1, 0, 0)
        reach = max((t.window_ms + t.hop_ms for t in terms_of(feature_set)), default=0) + 1
        count = records.where(f"et >= {low - reach} AND et <= {high}").count() + requests.count()
        span = high - low + 1
        wanted = max(self._partitions, -(-2 * count // self._records_max))
        buckets = max(1, min(wanted, span // reach))
        return Groups(-(-wanted // buckets), buckets, -(-span // buckets), low, reach)

    # -- files

    def _staged(self, name: str, frame: DataFrame) -> DataFrame:
        return staged(self._spark, self._scratch, name, frame)

    def _row_schema(self, splits: Splits | None) -> str:
        inputs = [f"{identifier(c.name)} FLOAT" for c in self._model.inputs]
        trailer = [f"{name} {_COLUMNS[kind]}" for name, kind in TRAILER.items()]
        split = ["split STRING"] if splits is not None else []
        kind = next(f for f in self._maker.request.fields if f.name == self._model.request_id)
        return ", ".join([*inputs, *trailer, *split, f"{ORDER} {TYPES.get(kind.type, 'BIGINT')}", f"{FATE} STRING"])

    def _sorted(self) -> Iterator[pl.DataFrame]:
        """Rows of the data set in order, so many at a time."""
        for path in sorted((self._scratch / "sorted").glob("part-*.parquet")):
            for batch in pq.ParquetFile(path).iter_batches(ROWS_MAX):
                if batch.num_rows:
                    yield pl.DataFrame(pl.from_arrow(batch)).drop(ORDER, FATE)


def _split_sql(splits: Splits, t: str) -> str:
    """Whether a time lies in a split, not in a gap: `Splits.of` in SQL."""
    v, e, test = splits.validation_from_ms, splits.embargo_ms, splits.test_from_ms
    return f"({t} < {v - e} OR ({t} >= {v} AND {t} < {test - e}) OR {t} >= {test})"


def _ddl(frame: DataFrame) -> str:
    return ", ".join(f"{identifier(f.name)} {f.dataType.simpleString()}" for f in frame.schema.fields)
