"""Verdicts kept in a database file and carried on as the lake grows: a round judges what is new, not the whole log.

    kept_<event>   as verdict_<event> of plan.offline: every record judged so far, less what was let go
    let_go         event, part, next_off, m_ms: records below next_off are gone; their M, and so their times, are <= m_ms

New records are judged together with the end of what is kept, by the law's own SQL. The end begins at a record that set the
running maximum: from there on M is exact, and no earlier occurrence of an id is within its horizon.
What is let go is always the beginning of a partition's log.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb
import orjson
import polars as pl

from headrace.plan.hashes import encode
from headrace.plan.ir import EventType, FeatureSet, Plan
from headrace.plan.lower import terms_of
from headrace.plan.offline import quoted, verdicts_sql
from svc_features.adapters.lake import LakeReader
from svc_features.warehouse import load_raw

EMPTY: Mapping[str, str] = {}


def kept_name(version: Plan, newest: Plan, topics: Mapping[str, str] = EMPTY) -> str:
    """The name of the database a version's verdicts are kept in: by the law of its events, not by what reads them.

    topics: event name -> topic id of the lake's rows. Where a table begins anew with another topic, so do its verdicts.

    Verdicts depend on events alone, so a changed window or model goes on with what is judged; an older version whose events
    are all in the newest one, unchanged, shares its database.
    """
    plan = newest if set(version.events) <= set(newest.events) else version
    law: list[object] = [encode(event) for event in plan.events]
    return hashlib.sha256(orjson.dumps(law + sorted(map(list, topics.items())))).hexdigest()[:16]


def open_kept(path: Path, threads: int, memory_mb: int) -> duckdb.DuckDBPyConnection:
    """The database file; a damaged one is made anew from the lake."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        connection = duckdb.connect(str(path))
    except duckdb.Error:
        for part in path.parent.glob(path.name + "*"):
            part.unlink()
        connection = duckdb.connect(str(path))
    connection.execute(f"set threads = {int(threads)}; set memory_limit = '{int(memory_mb)}MB'")
    connection.execute("create table if not exists let_go (event varchar, part integer, next_off bigint, m_ms bigint)")
    return connection


@dataclass(frozen=True, slots=True)
class Judged:
    """The kept verdicts of one plan: of its events, as far as windows of its sets reach."""

    connection: duckdb.DuckDBPyConnection
    reader: LakeReader
    plan: Plan

    def extend(self) -> int:
        """Judge what the lake has gained; makes verdict_<event> of every event. Returns: rows judged."""
        return sum(self._extend(event) for event in self.plan.events)

    def _extend(self, event: EventType) -> int:
        run = self.connection.execute
        kept, verdict, raw = (quoted(f"{name}_{event.name}") for name in ("kept", "verdict", "raw"))
        known = self._positions(event)
        run("begin transaction")
        run(f"drop view if exists {verdict}")
        load_raw(self.connection, self.reader.since(known), event, None)
        found = run(f"select count(*) from {raw}").fetchone()
        new = found[0] if found else 0
        if new or not known:
            if known:
                columns = ", ".join(quoted(c) for c in _raw_columns(event))
                run(f"insert into {raw} ({columns}) select {columns} from ({self._end(event)})")
            run(verdicts_sql(event))
            fresh = " or ".join(f"(part = {p} and off >= {n})" for p, n in known.items())
            others = f"part not in ({', '.join(map(str, known))})" if known else "true"
            run(f"create table if not exists {kept} as select * from {verdict} limit 0")
            run(f"insert into {kept} select * from {verdict} where {others}{' or ' + fresh if fresh else ''}")
            run(f"drop table {verdict}")
        run(f"drop table {raw}")
        run(f"create view {verdict} as select * from {kept}")
        run("commit")
        return new

    def _positions(self, event: EventType) -> dict[int, int]:
        """Partition -> next offset to judge."""
        if not self._has(event):
            return {}
        rows = self.connection.execute(
            f"select part, max(off) + 1 from {quoted('kept_' + event.name)} group by part"
        ).fetchall()
        return {int(part): int(off) for part, off in rows}

    def _has(self, event: EventType) -> bool:
        found = self.connection.execute("select 1 from duckdb_tables() where table_name = ?", [f"kept_{event.name}"]).fetchone()
        return found is not None

    def _end(self, event: EventType) -> str:
        """SELECT the kept rows that decide the verdicts of what comes next."""
        kept = quoted("kept_" + event.name)
        seen = "verdict not in ('undecodable', 'poison')"
        return f"""
select k.* from {kept} k left join (
  select s.part, max(off) as off from {kept} s
  join (select part, max(m_after) as m from {kept} group by part) t on s.part = t.part
  where {seen} and et = m_after and m_after < t.m - {event.dedup_horizon_ms} group by s.part) a on a.part = k.part
where k.off >= coalesce(a.off, 0)"""

    # -- letting go

    def let_go(self, rows_max: int) -> int:
        """Above rows_max, drop what is too old for the sets' windows around the newest events. Returns: rows dropped."""
        dropped = 0
        sizes = {e.name: self._size(e) for e in self.plan.events}
        if sum(sizes.values()) <= rows_max:
            return 0
        for event in self.plan.events:
            dropped += self._let_go(event)
        return dropped

    def _size(self, event: EventType) -> int:
        found = self.connection.execute(f"select count(*) from {quoted('kept_' + event.name)}").fetchone()
        return int(found[0]) if found else 0

    def _let_go(self, event: EventType) -> int:
        run, kept = self.connection.execute, quoted("kept_" + event.name)
        keep_ms = (
            2 * max([_reach_ms(s) for s in self.plan.feature_sets], default=0) + event.lateness_ms + event.dedup_horizon_ms
        )
        run("begin transaction")
        gone = run(f"""
select k.part, max(off) + 1, max(m_after) from {kept} k
join (select part, max(m_after) - {keep_ms} as floor from {kept} group by part) t on t.part = k.part
where m_after < floor group by k.part""").fetchall()
        for part, next_off, m in gone:
            run("delete from let_go where event = ? and part = ?", [event.name, part])
            run("insert into let_go values (?, ?, ?, ?)", [event.name, part, next_off, m])
        before = self._size(event)
        run(f"delete from {kept} using let_go l where l.event = ? and l.part = {kept}.part and off < l.next_off", [event.name])
        run("commit")
        return before - self._size(event)

    def verifiable(self, passports: pl.DataFrame) -> pl.DataFrame:
        """Those that need nothing that was let go: every cut, window and request lies in what is kept."""
        gone = {(e, p): (n, m) for e, p, n, m in self.connection.execute("select * from let_go").fetchall()}
        if not gone:
            return passports
        reach = {s.hash: _reach_ms(s) for s in self.plan.feature_sets}
        names = {e.topic: e.name for e in self.plan.events}
        keep = [
            _reaches(gone, reach, t, sets) and _origin(gone, names, event_id)
            for t, sets, event_id in passports.select("t_ms", "sets", "event_id").iter_rows()
        ]
        return passports.filter(pl.Series(keep, dtype=pl.Boolean))


def _reach_ms(feature_set: FeatureSet) -> int:
    """How far behind t a read looks."""
    return max((t.window_ms + t.hop_ms for t in terms_of(feature_set)), default=0)


def _reaches(
    gone: dict[tuple[str, int], tuple[int, int]], reach: dict[str, int], t: int, sets: Iterable[dict[str, object]]
) -> bool:
    for read in sets:
        low = t - reach.get(str(read["hash"]), 0)
        for cut in read["cut"]:  # type: ignore[attr-defined]
            next_off, m = gone.get((cut["event"], cut["partition"]), (0, None))
            if m is not None and (cut["next_offset"] <= next_off or low <= m):
                return False
    return True


def _origin(gone: dict[tuple[str, int], tuple[int, int]], names: dict[str, str], event_id: str | None) -> bool:
    if event_id is None:
        return True
    topic, part, off = event_id.rsplit("-", 2)
    return int(off) >= gone.get((names.get(topic, ""), int(part)), (0, 0))[0]


def _raw_columns(event: EventType) -> list[str]:
    return ["part", "off", "append_ms", "decodable", *(f.name for f in event.fields)]
