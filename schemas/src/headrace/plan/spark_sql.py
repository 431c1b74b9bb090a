"""The SQL of offline recomputation for Apache Spark: verdicts, as of. offline_sql.py says the same to DuckDB.

Views have the names and columns that offline.py gives its tables; each statement here is a SELECT, for who makes views.
"""

from __future__ import annotations

from collections.abc import Mapping

from headrace.plan import expressions
from headrace.plan.ir import EventType, FeatureSet, Field, Measure
from headrace.plan.offline_sql import event_terms
from headrace.plan.spark_expressions import identifier, md5_of, sql_of, unsigned
from headrace.plan.tiles import ENTITY_SEPARATOR, hashed


def entity_sql(feature_set: FeatureSet) -> str:
    """The set's entity from the fields of an event or a request; null where one of them is."""
    parts = [f"CAST({identifier(f)} AS STRING)" for f in feature_set.entity]
    return f"concat({f', char({ord(ENTITY_SEPARATOR)}), '.join(parts)})"


def hash_sql(text: str) -> str:
    """`sketches.hash_of` of a STRING expression; null for null."""
    return f"greatest(1L, {unsigned(f'left({md5_of(text)}, 16)')} div 2)"


def measure_columns(measures: list[Measure], event: EventType) -> str:
    """w_<id>: the where holds; v_<id>: the value, or its hash, where it does (1 for counted rows)."""
    fields = {f.name: f for f in event.fields}
    columns = []
    for m in measures:
        where = "true" if m.where is None else f"coalesce({sql_of(expressions.parse(m.where, fields))}, false)"
        columns.append(f"{where} AS w_{m.id}, CAST(CASE WHEN {where} THEN {_value_sql(m, fields)} END AS BIGINT) AS v_{m.id}")
    return ", ".join(columns)


def _value_sql(m: Measure, fields: Mapping[str, Field]) -> str:
    if m.value is None:
        return "1"
    value = expressions.parse(m.value, fields)
    text = f"({sql_of(value)})"
    if not hashed(m):
        return text
    hashed_sql = hash_sql(text if value.type.kind == "string" else f"CAST(CAST({text} AS BIGINT) AS STRING)")
    return f"CASE WHEN {text} IS NOT NULL THEN {hashed_sql} END"


def measures_of(feature_set: FeatureSet, event: str) -> list[Measure]:
    """Those that a term reads."""
    return list({m.id: m for _, _, m in event_terms(feature_set, event)}.values())


def admitted_sql(event: EventType) -> str:
    """SELECT the records `as of` may see, with available_at: the first available of each id within the horizon."""
    delay = event.available_after_ms
    available = "greatest(et, append_ms)" if delay is None else f"et + {delay}"
    passed = (
        f"SELECT *, {available} AS available_at FROM {identifier('verdict_' + event.name)} "
        "WHERE verdict NOT IN ('undecodable', 'poison')"
    )
    if event.dedup_id is None:
        return passed
    # Null ids are never duplicates: each is a partition of its own, or one task would sort them all.
    identity = identifier(event.dedup_id)
    alone = f"CASE WHEN {identity} IS NULL THEN part END, CASE WHEN {identity} IS NULL THEN off END"
    return f"""
WITH passed AS ({passed}),
seen AS (
  SELECT *, lag(available_at) OVER (PARTITION BY {identity}, {alone} ORDER BY available_at, part, off) AS previous_at
  FROM passed)
SELECT * FROM seen WHERE previous_at IS NULL OR available_at - previous_at > {event.dedup_horizon_ms}"""


def as_of_sql(feature_set: FeatureSet, event: EventType, admitted: str) -> str:
    """SELECT entity, et, known_at, part, off and the measures' columns from the view of `admitted_sql`, in no order.

    known_at is the first t that may see the record: event time < t and available by t.
    """
    columns = measure_columns(measures_of(feature_set, event.name), event)
    return f"""
SELECT {entity_sql(feature_set)} AS entity, et, greatest(et + 1, available_at) AS known_at, part, off, {columns}
FROM {identifier(admitted)} WHERE {entity_sql(feature_set)} IS NOT NULL"""
