"""Single answers of the naive oracle over the lake.

The oracle walks the whole log for each question. Here it gets the part of it that can matter: the entity's records from
the oldest window on, under the passport's cut, with the verdicts of the whole log, and per event the record with the
largest M under the cut. The oracle's own verdicts are quadratic; that SQL equals them is what the law's tests show.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import duckdb
import polars as pl

from headrace.plan.ir import EventType, FeatureSet
from headrace.plan.lower import terms_of
from headrace.plan.offline import quoted
from headrace.plan.oracle import JudgedRecord, Oracle, RawRecord
from headrace.plan.tiles import ENTITY_SEPARATOR
from headrace.plan.verdicts import Verdict
from svc_features.warehouse import register

NO_ENTITY = "\x00"  # no record has it


def answer_naively(
    connection: duckdb.DuckDBPyConnection,
    feature_set: FeatureSet,
    events: Mapping[str, EventType],
    asked: pl.DataFrame,
    cuts: pl.DataFrame,
) -> dict[int, tuple[list[float | None], list[int]]]:
    """Values and statuses by pid. asked: pid, entity, t, base_floor_ms; cuts: pid, event, part, next_offset."""
    register(connection, "naive_asked", asked)
    register(connection, "naive_cuts", cuts)
    logs: dict[int, dict[tuple[str, int, int], JudgedRecord]] = {pid: {} for pid in asked["pid"].to_list()}
    oldest_ms = max(t.window_ms + t.hop_ms for t in terms_of(feature_set)) if terms_of(feature_set) else 0
    for name in feature_set.events:
        for pid, judged in _candidates(connection, feature_set, events[name], oldest_ms):
            logs[pid][name, judged.raw.partition, judged.raw.offset] = judged
    under: dict[int, dict[tuple[str, int], int]] = {pid: {} for pid in logs}
    for pid, event, part, next_offset in cuts.rows():
        under[pid][event, part] = next_offset
    out: dict[int, tuple[list[float | None], list[int]]] = {}
    oracle = Oracle(list(events.values()), [])
    for pid, entity, t, base_floor_ms in asked.select("pid", "entity", "t", "base_floor_ms").rows():
        oracle.log = list(logs[pid].values())
        values, statuses = oracle.answer(feature_set, NO_ENTITY if entity is None else entity, t, under[pid], base_floor_ms)
        out[pid] = (values, [int(s) for s in statuses])
    return out


def _candidates(
    connection: duckdb.DuckDBPyConnection, feature_set: FeatureSet, event: EventType, oldest_ms: int
) -> list[tuple[int, JudgedRecord]]:
    names = [f.name for f in event.fields]
    entity = f" || chr({ord(ENTITY_SEPARATOR)}) || ".join(f"{quoted(f)}::varchar" for f in feature_set.entity)
    fields = ", ".join(f"v.{quoted(n)}" for n in names)
    name = event.name.replace("'", "''")
    verdicts = quoted("verdict_" + event.name)
    columns = f"a.pid, v.part, v.off, v.append_ms, v.et, v.m_after, v.verdict, {fields}"
    asked = f"from naive_asked a join naive_cuts c on c.pid = a.pid and c.event = '{name}'"
    connection.execute(f"""
select {columns} {asked}
join (select *, {entity} as headrace_entity from {verdicts} where verdict = 'ok') v
  on v.part = c.part and v.headrace_entity = a.entity and v.off < c.next_offset and v.et >= a.t - {oldest_ms}
union  -- the last record at the running maximum, whosever it is: it is M
select {columns} {asked}
asof join (select * from {verdicts} where verdict not in ('undecodable', 'poison') and et = m_after) v
  on v.part = c.part and c.next_offset > v.off""")
    return [(row[0], _judged(event, names, row)) for row in connection.fetchall()]


def _judged(event: EventType, names: list[str], row: tuple[Any, ...]) -> JudgedRecord:
    _, part, off, append_ms, et, m_after, verdict, *fields = row
    raw = RawRecord(event.name, part, off, append_ms, dict(zip(names, fields, strict=True)))
    return JudgedRecord(raw, Verdict[verdict.upper()], m_after, et)
