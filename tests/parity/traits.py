"""What a world really held, counted from its archive and its answers: a trait nobody met proves nothing.

| trait | counts |
|---|---|
| late, duplicate, poison, undecodable | records by their verdict |
| deleted | tombstones |
| tied | accepted records that share entity and event time with another |
| null | accepted records with a null in some field |
| skewed_clocks | records whose append time is before that of the record below them in their partition |
| rekeyed | accepted records whose entity lives in another partition than theirs |
| lagging | records of partitions whose M is an hour or more behind their topic's |
| two_sources | reads of sets that are made of two events |
| hot_key | accepted records of entities that have at least half of an event's |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import duckdb

from headrace.contracts.partition import partitions_for
from headrace.plan.ir import EventType, FeatureSet
from headrace.plan.offline import quoted
from headrace.plan.tiles import ENTITY_SEPARATOR
from svc_features.adapters.lake import LakeReader

HOUR_MS = 3_600_000
VERDICTS = ("late", "duplicate", "poison", "undecodable")
TRAITS = (
    *VERDICTS, "deleted", "tied", "null", "skewed_clocks", "rekeyed", "lagging", "two_sources", "hot_key",
)  # fmt: skip


def traits_of_log(
    connection: duckdb.DuckDBPyConnection, reader: LakeReader, event: EventType, sets: Sequence[FeatureSet]
) -> Counter[str]:
    """Of one event, whose verdicts are loaded; what needs an entity is counted for the first of the sets that read it."""
    table = quoted(f"verdict_{event.name}")
    nulls = " or ".join(f"{quoted(f.name)} is null" for f in event.fields)
    before = "lag(append_ms) over (partition by part order by off)"
    top = "max(m_after) over (order by append_ms, part, off)"
    asked = {v: f"select count(*) from {table} where verdict = '{v}'" for v in VERDICTS} | {
        "deleted": "select count(*) from incoming where not decodable and raw is null",
        "null": f"select count(*) from {table} where verdict = 'ok' and ({nulls})",
        "skewed_clocks": f"select count(*) from (select append_ms < {before} as back from {table}) where back",
        "lagging": f"select count(*) from (select m_after, {top} as top from {table}) where top - m_after >= {HOUR_MS}",
    }
    connection.register("incoming", reader.batches(event.topic, ["decodable", "raw"]))
    found = Counter({trait: _number(connection, sql) for trait, sql in asked.items()})
    connection.unregister("incoming")
    return found + _of_entities(connection, table, sets[0]) if sets else found


def _of_entities(connection: duckdb.DuckDBPyConnection, table: str, feature_set: FeatureSet) -> Counter[str]:
    entity = f" || chr({ord(ENTITY_SEPARATOR)}) || ".join(f"{quoted(f)}::varchar" for f in feature_set.entity)
    accepted = f"(select {entity} as entity, et, part from {table} where verdict = 'ok' and {entity} is not null)"
    tied = f"select count(*) as n from {accepted} group by entity, et"
    shares = f"select count(*) as n, sum(count(*)) over () as total from {accepted} group by entity"
    rows = connection.execute(f"select entity, part, count(*) from {accepted} group by 1, 2").fetchall()
    homes = partitions_for([entity for entity, _, _ in rows], feature_set.partitions).tolist() if rows else []
    return Counter(
        tied=_number(connection, f"select sum(n) from ({tied}) where n > 1"),
        hot_key=_number(connection, f"select sum(n) from ({shares}) where 2 * n >= total"),
        rekeyed=sum(n for (_, part, n), home in zip(rows, homes, strict=True) if part != home),
    )


def _number(connection: duckdb.DuckDBPyConnection, sql: str) -> int:
    rows = connection.execute(sql).fetchall()
    return int(rows[0][0] or 0)
