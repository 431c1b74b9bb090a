"""Features as of t for any number of requests, a slice of them at a time: memory follows the slice, not the log.

What a slice of requests may see lies in a span of event time: its earliest t minus the longest window, to its latest t. The
admissible records (one per id within the horizon, the first available) are found once and kept in the order of event
time, so a span reads its part of them; where the span holds too many, entities are taken in shares by hash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import duckdb
import numpy as np
import polars as pl

from headrace.plan.ir import EventType, FeatureSet
from headrace.plan.lower import FeatureRows, terms_of
from headrace.plan.offline import as_of, quoted
from headrace.plan.tiles import ENTITY_SEPARATOR
from svc_features.adapters.lake import LakeReader
from svc_features.warehouse import load_raw, register

RECORDS_MAX = 400_000  # admissible records of one event held as vectors at once


def entity_sql(feature_set: FeatureSet) -> str:
    """The set's entity from the fields of an event or a request."""
    return f" || chr({ord(ENTITY_SEPARATOR)}) || ".join(f"{quoted(f)}::varchar" for f in feature_set.entity)


def load_seen(
    connection: duckdb.DuckDBPyConnection, reader: LakeReader, event: EventType, cut: Mapping[int, int] | None
) -> None:
    """CREATE seen_<event>: decodable records that are not poison; and verdict_<event>, a view of it for who asks for labels.

    Both rules look at a record alone, so no window over the whole log is needed here.
    """
    load_raw(connection, reader, event, cut)
    raw, seen, et = (quoted(name) for name in ("raw_" + event.name, "seen_" + event.name, event.time))
    connection.execute(f"""
create or replace table {seen} as select *, {et} as et, 'ok' as verdict from {raw}
where decodable and {et} <= append_ms + {event.poison_bound_ms}""")
    connection.execute(f"drop table {raw}")
    connection.execute(f"create or replace view {quoted('verdict_' + event.name)} as select * from {seen}")


class PointInTime:
    """The feature sets of one data set over tables of `load_seen`."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, sets: Sequence[FeatureSet], events: Mapping[str, EventType],
        records_max: int = RECORDS_MAX,
    ) -> None:  # fmt: skip
        self._connection, self._sets, self._events, self._records_max = connection, sets, events, records_max

    def admit(self) -> None:
        """CREATE admitted_<event> for every event the sets read. Needs its seen_<event>."""
        for name in sorted({e for s in self._sets for e in s.events}):
            self._connection.execute(f"create or replace table {_admitted(name)} as {_admissible(self._events[name])}")

    def values(self, feature_set: FeatureSet, requests: pl.DataFrame, time: str) -> FeatureRows:
        """As of each request's time, in the order of the requests (columns: the entity's fields and `time`)."""
        register(self._connection, "incoming_requests", requests.with_row_index("pid"))
        self._connection.execute(
            f"create or replace table asked as select pid::bigint as pid, {entity_sql(feature_set)} as entity, "
            f"{quoted(time)} as t from incoming_requests"
        )
        return self._answers(feature_set, len(requests))

    def of_entities(self, feature_set: FeatureSet, entities: pl.Series, times: pl.Series) -> FeatureRows:
        """The same for entities as the set writes them; a null one has no records."""
        register(
            self._connection,
            "asked",
            pl.DataFrame({"entity": entities, "t": times}).with_row_index("pid").cast({"pid": pl.Int64}),
        )
        return self._answers(feature_set, len(times))

    def _answers(self, feature_set: FeatureSet, n: int) -> FeatureRows:
        """For table `asked` (pid from 0, entity, t)."""
        shape = (n, len(feature_set.features))
        out = FeatureRows(np.full(shape, np.nan), np.zeros(shape, np.int8))
        if not n:
            return out
        ((earliest, high),) = self._connection.execute("select min(t), max(t) from asked").fetchall()
        low = earliest - max((t.window_ms + t.hop_ms for t in terms_of(feature_set)), default=0)
        shares = self._shares(feature_set, low, high)
        for share in range(shares):
            if self._share(feature_set, share, shares, low, high):
                rows = as_of(self._connection, feature_set, self._events)
                out.values[rows.pids], out.statuses[rows.pids] = rows.features.values, rows.features.statuses
        return out

    def _shares(self, feature_set: FeatureSet, low: int, high: int) -> int:
        most = 0
        for name in feature_set.events:
            sql = f"select count(*) from {_admitted(name)} where et between {low} and {high}"
            most = max(most, self._connection.execute(sql).fetchall()[0][0])
        return max(1, -(-most // self._records_max))

    def _share(self, feature_set: FeatureSet, share: int, shares: int, low: int, high: int) -> int:
        """Make the tables `as_of` reads, of one share of the entities; returns how many requests are in it."""

        def mine(entity: str) -> str:
            return "true" if shares == 1 else f"coalesce(hash({entity}) % {shares} = {share}, {share} = 0)"

        for name in feature_set.events:
            self._connection.execute(
                f"create or replace view {quoted('verdict_' + name)} as select * from {_admitted(name)} "
                f"where et between {low} and {high} and {mine(entity_sql(feature_set))}"
            )
        self._connection.execute(f"create or replace table requests as select pid, entity, t from asked where {mine('entity')}")
        return self._connection.execute("select count(*) from requests").fetchall()[0][0]


def _admitted(event: str) -> str:
    return quoted("admitted_" + event)


def _admissible(event: EventType) -> str:
    """SELECT the first available record of each id within the horizon, in the order of event time.

    Asking the same of a part of them changes nothing: two of one id that were both admitted lie further apart.
    """
    seen = quoted("seen_" + event.name)
    if event.dedup_id is None:
        return f"select * from {seen} order by et"
    identity, delay = quoted(event.dedup_id), event.available_after_ms
    available = "greatest(et, append_ms)" if delay is None else f"et + {delay}"
    before = f"lag({available}) over (partition by {identity} order by {available}, part, off)"
    return f"""
select * exclude (available_ms, previous_ms) from (select *, {available} as available_ms, {before} as previous_ms from {seen})
where {identity} is null or previous_ms is null or available_ms - previous_ms > {event.dedup_horizon_ms} order by et"""
