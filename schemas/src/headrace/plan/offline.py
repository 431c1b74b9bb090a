"""Offline recomputation in DuckDB, from the raw log alone: verdicts, as served, as of.

`as_served` is SQL over records, independent of tiles, blocks and their reading; only `lower` is shared, by design.
`as_of` takes admitted records from SQL and answers by prefix sums, so that a training set stays cheap.

Tables (times BIGINT ms UTC):

    raw_<event>      part, off, append_ms, decodable, and the event's fields
    verdict_<event>  raw_<event> with et, m_before, m_after, verdict (what `verdicts_sql` makes)
    passports        pid BIGINT, entity VARCHAR, t BIGINT
    cuts             pid BIGINT, event VARCHAR, part BIGINT, next_offset BIGINT
    requests         pid BIGINT, entity VARCHAR, t BIGINT
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt

from headrace.plan import expressions
from headrace.plan.ir import EventType, FeatureSet, Field, Measure, Term, slot_width
from headrace.plan.lower import (
    COUNTS,
    RECENT,
    SQUARED,
    FeatureRows,
    Status,
    TermColumns,
    cells_slot,
    count_slot,
    lower,
    terms_of,
    value_slot,
)
from headrace.plan.read import TermSlots, read_plan, window_start
from headrace.plan.sketches import hash_sql, register_rank_sql
from headrace.plan.slots import Layout, layout_of, ranges, reduce_ranges, row_vectors
from headrace.plan.tiles import ENTITY_SEPARATOR, hashed

Int64s = npt.NDArray[np.int64]
PAIRS_MAX = 8_000_000  # bounds the memory of one step where availability is out of order
CELLS_MAX = 1 << 25  # int64 of one portion's vectors: 256 MiB


@dataclass(frozen=True, slots=True)
class OfflineRows:
    """`features.values[i]` belongs to `pids[i]`; pids ascend."""

    pids: Int64s
    features: FeatureRows


def execute(connection: duckdb.DuckDBPyConnection, sql: str) -> dict[str, npt.NDArray[Any]]:
    """Run one statement and fetch its columns."""
    return connection.execute(sql).fetchnumpy()


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def verdicts_sql(event: EventType) -> str:
    """CREATE verdict_<event> from raw_<event>; verdict is ok, undecodable, poison, late or duplicate."""
    identity = "null" if event.dedup_id is None else quoted(event.dedup_id)
    return f"""
create or replace table {quoted("verdict_" + event.name)} as
with judged as (  -- by the record alone
  select *, {quoted(event.time)} as et,
    case when not decodable then 'undecodable'
      when {quoted(event.time)} > append_ms + {event.poison_bound_ms} then 'poison' end as v12
  from {quoted("raw_" + event.name)}),
running as (  -- M before and after each record; undecodable and poison records are invisible
  select *, max(et) filter (v12 is null) over before as m_before, max(et) filter (v12 is null) over upto as m_after from judged
  window before as (partition by part order by off rows between unbounded preceding and 1 preceding),
         upto as (partition by part order by off rows between unbounded preceding and current row)),
aged as (select *, coalesce(v12, case when et < m_before - {event.lateness_ms} then 'late' end) as v123 from running),
occurring as (  -- the previous occurrence that passed the rules above, itself a duplicate or not
  select *, case when v123 is null and {identity} is not null
    then lag(m_after) over (partition by part, {identity}, v123 is null order by off) end as m_prev from aged)
select * exclude (v12, v123, m_prev),
  coalesce(v123, case when m_before - m_prev <= {event.dedup_horizon_ms} then 'duplicate' else 'ok' end) as verdict
from occurring"""


def _floored(value: str, unit: str) -> str:
    """Largest multiple of unit not above value, also below zero (DuckDB's // truncates)."""
    return f"({value} - ((({value}) % ({unit}) + ({unit})) % ({unit})))"


def _entity_sql(feature_set: FeatureSet) -> str:
    return f" || chr({ord(ENTITY_SEPARATOR)}) || ".join(f"{quoted(f)}::varchar" for f in feature_set.entity)


def _measure_columns(measures: list[Measure], event: EventType) -> str:
    """w_<id>: the where holds; v_<id>: the value, or its hash, where it does (1 for counted rows)."""
    fields = {f.name: f for f in event.fields}
    columns = []
    for m in measures:
        where = "true" if m.where is None else f"coalesce({expressions.parse(m.where, fields).to_duckdb()}, false)"
        columns.append(f"{where} as w_{m.id}, case when {where} then {_value_sql(m, fields)}::bigint end as v_{m.id}")
    return ", ".join(columns)


def _value_sql(m: Measure, fields: Mapping[str, Field]) -> str:
    if m.value is None:
        return "1"
    value = expressions.parse(m.value, fields)
    text = f"({value.to_duckdb()})"
    if not hashed(m):
        return text
    return f"({hash_sql(text if value.type.kind == 'string' else f'{text}::bigint::varchar')})"


def _event_terms(feature_set: FeatureSet, event: str) -> list[tuple[int, Term, Measure]]:
    measures = {m.id: m for m in feature_set.measures}
    return [(i, t, measures[t.measure]) for i, t in enumerate(terms_of(feature_set)) if measures[t.measure].event == event]


# ---------------------------------------------------------------- as served


def as_served_sql(feature_set: FeatureSet, events: Mapping[str, EventType], base_floor_ms: int | None) -> str:
    """SELECT pid, term, status, n, total, lo, hi, cells for every passport and term (axis T), ordered by both.

    `cells`, where a term of the event needs them, is null or a list: hashes in descending order; else index * 2**32 +
    value of registers and buckets.
    """
    measures = {m.id: m for m in feature_set.measures}
    wide = any(cells_slot(measures[t.measure], t) for t in terms_of(feature_set))
    columns = "*" if wide else "* exclude (cells)"
    parts = [_served_event_sql(feature_set, events[name], base_floor_ms) for name in feature_set.events]
    return f"select {columns} from (" + "\nunion all\n".join(f"({p})" for p in parts if p) + ")\norder by pid, term"


def _served_event_sql(feature_set: FeatureSet, event: EventType, base_floor_ms: int | None) -> str:
    terms = _event_terms(feature_set, event.name)
    if not terms:
        return ""
    windows = {key: i for i, key in enumerate(dict.fromkeys((t.hop_ms, t.window_ms) for _, t, _ in terms))}
    values = ", ".join(f"({i}, {hop}, {window}, {window + hop + 1})" for (hop, window), i in windows.items())
    measures = list({m.id: m for _, _, m in terms}.values())
    base = "null::bigint" if base_floor_ms is None else f"{base_floor_ms}::bigint"
    slots = ", ".join(_slots_sql(m) for m in measures)
    selects = "\nunion all\n".join(
        _term_sql(number, term, measure, windows[term.hop_ms, term.window_ms], feature_set.stale_after_ms)
        for number, term, measure in terms
    )
    name = event.name.replace("'", "''")
    return f"""
with win(wid, hop, w, span) as (values {values}),
tops as (  -- the largest M under each cut: one maximum per partition, then over partitions
  select c.pid, max(v.m_after) as top
  from (select * from cuts where event = '{name}') c
  asof join (select part, off, m_after from {quoted("verdict_" + event.name)}) v on c.part = v.part and c.next_offset > v.off
  group by c.pid),
ask as (
  select p.pid, p.entity, p.t, wid, hop, w, span, top, greatest(top - {feature_set.ttl_ms}, {base}) as floor,
    case when hop = 0 then t - w else {_floored("t - w", "hop")} end as low,
    case when hop = 0 then top else {_floored("t", "hop")} + hop - 1 end as high
  from passports p left join tops using (pid) cross join win),
accepted as (
  select {_entity_sql(feature_set)} as entity, et, part, off, {_measure_columns(measures, event)}
  from {quoted("verdict_" + event.name)} where verdict = 'ok'),
near as (  -- an equi-join on spans of time, or the range join would meet every pair of an entity
  select *, unnest(range({_floored("low", "span")}, high + 1, span)) as bucket from ask where low <= high),
placed as (select a.*, wid, {_floored("et", "span")} as bucket from accepted a cross join win where entity is not null),
hit as (
  select n.pid, n.wid, x.* exclude (entity, wid, bucket)
  from near n join placed x on n.entity = x.entity and n.wid = x.wid and n.bucket = x.bucket and x.et between n.low and n.high
  join cuts c on c.pid = n.pid and c.event = '{name}' and c.part = x.part and x.off < c.next_offset),
acc as (select pid, wid, max(et) as newest, {slots} from hit group by pid, wid),
full_ask as (select ask.*, acc.* exclude (pid, wid) from ask left join acc on acc.pid = ask.pid and acc.wid = ask.wid)
{selects}"""


def _slots_sql(m: Measure) -> str:
    v, square = f"v_{m.id}", f"(v_{m.id}::hugeint * v_{m.id})"
    slots = [f"count(*) filter (w_{m.id}) as rows_{m.id}", f"count({v}) as nonnull_{m.id}"]
    if "sum" in m.slots:
        slots.append(f"sum({v})::bigint as sum_{m.id}")
    if "min" in m.slots:
        slots.append(f"min({v}) as min_{m.id}")
    if "max" in m.slots:
        slots.append(f"max({v}) as max_{m.id}")
    if "last" in m.slots:
        slots.append(f"arg_max({v}, (et, part, off)) filter ({v} is not null) as last_{m.id}")
        slots.append(f"max(et) filter ({v} is not null) as last_at_{m.id}")
    if "square_lo" in m.slots:
        slots.append(f"sum({square} % 4294967296)::bigint as lo_{m.id}, sum({square} // 4294967296)::bigint as hi_{m.id}")
    if "first" in m.slots:
        slots.append(f"arg_min({v}, (et, part, off)) filter ({v} is not null) as first_{m.id}")
    if "recent" in m.slots:
        newest = f"list({v} order by et desc, part desc, off desc) filter ({v} is not null)"
        slots.append(f"list_slice({newest}, 1, {m.size}) as recent_{m.id}, max(et) filter ({v} is not null) as last_at_{m.id}")
    if "distinct" in m.slots:
        slots.append(
            f"list_slice(list_reverse_sort(list(distinct {v}) filter ({v} is not null)), 1, {m.size}) as distinct_{m.id}"
        )
    if "registers" in m.slots:
        ranked = register_rank_sql(v, m.size)
        slots.append(f"list(distinct {ranked}) filter ({v} is not null) as registers_{m.id}")
    if "histogram" in m.slots:
        bucket = f"len(list_filter({list(m.edges)}::bigint[], lambda e: e <= {v}))::bigint"
        slots.append(f"histogram({bucket}) filter ({v} is not null) as histogram_{m.id}")
    return ", ".join(slots)


def _term_sql(number: int, term: Term, m: Measure, wid: int, stale_after_ms: int) -> str:
    newest = "newest" if term.hop_ms else f"last_at_{m.id}"
    n, total, cells = _integers_sql(term, m)
    missing = "false" if term.kind in COUNTS else f"coalesce({n}, 0) = 0"
    lo, hi = (f"lo_{m.id}", f"hi_{m.id}") if term.kind in SQUARED else ("0", "0")
    return f"""select pid, {number} as term,
  case when low < floor then {int(Status.EXPIRED)} when {newest} > t then {int(Status.AHEAD)}
    when {missing} then {int(Status.MISSING)}
    when top is null or t - top > {stale_after_ms} then {int(Status.STALE)} else {int(Status.FRESH)} end as status,
  coalesce({n}, 0) as n, coalesce({total}, 0) as total, coalesce({lo}, 0) as lo, coalesce({hi}, 0) as hi,
  {cells}::bigint[] as cells
from full_ask where wid = {wid}"""


def _integers_sql(term: Term, m: Measure) -> tuple[str, str, str]:
    """Count, total and cells of a term over the accumulated columns."""
    kind, nonnull = term.kind, f"nonnull_{m.id}"
    if kind == "bucket":
        return f"histogram_{m.id}[{term.argument}::bigint]", "0", "null"
    if kind in ("quantile", "top"):
        entries = f"list_transform(map_entries(histogram_{m.id}), lambda e: e.key * 4294967296 + e.value::bigint)"
        return nonnull, "0", entries
    if kind == "distinct":
        return "0", "0", f"{cells_slot(m, term)}_{m.id}"
    if kind == "recent":
        one = f"recent_{m.id}[{term.argument + 1}]"
        return f"({one} is not null)::bigint", one, "null"
    if kind in RECENT:
        return f"len(recent_{m.id})", f"list_sum(recent_{m.id})::bigint", "null"
    if kind == "since":
        return nonnull, f"t - last_at_{m.id}", "null"
    slot = value_slot(term)
    return f"{count_slot(m)}_{m.id}", "0" if slot is None else f"{slot}_{m.id}", "null"


def as_served(
    connection: duckdb.DuckDBPyConnection,
    feature_set: FeatureSet,
    events: Mapping[str, EventType],
    base_floor_ms: int | None = None,
) -> OfflineRows:
    """Features of all passports, recomputed from verdict tables and cuts."""
    found = execute(connection, as_served_sql(feature_set, events, base_floor_ms))
    width = len(terms_of(feature_set))
    column = {k: np.asarray(v, np.int64).reshape(-1, width) for k, v in found.items() if k != "cells"}
    lists = found["cells"].reshape(-1, width) if "cells" in found else np.empty((len(column["pid"]), width), object)
    measures = {m.id: m for m in feature_set.measures}
    terms = []
    for i, term in enumerate(terms_of(feature_set)):
        integers = [column[k][:, i] for k in ("n", "total", "lo", "hi")]
        cells = _cells(measures[term.measure], term, lists[:, i])
        terms.append(TermColumns(*integers, status=column["status"][:, i].astype(np.int8), cells=cells))
    return OfflineRows(column["pid"][:, 0], lower(feature_set, terms))


def _cells(m: Measure, term: Term, lists: npt.NDArray[Any]) -> Int64s | None:
    """Lists as `as_served_sql` gives them, spread over the slots of their kind."""
    kind = cells_slot(m, term)
    if kind is None:
        return None
    out = np.zeros((len(lists), slot_width(m, kind)), np.int64)
    for row, found, absent in zip(out, np.ma.getdata(lists), np.ma.getmaskarray(lists), strict=True):
        if absent:
            continue
        values = np.asarray(found, np.int64)
        if kind == "distinct":
            row[: len(values)] = values
        else:
            np.maximum.at(row, values >> 32, values & 0xFFFFFFFF)
    return out


# ---------------------------------------------------------------- as of


def as_of_sql(feature_set: FeatureSet, event: EventType) -> str:
    """SELECT entity, et, known_at, part, off and the measures' columns of all admissible records, by entity and order key.

    known_at is the first t that may see the record: event time < t and available by t.
    """
    delay = event.available_after_ms
    available = "greatest(et, append_ms)" if delay is None else f"et + {delay}"
    identity = "null" if event.dedup_id is None else quoted(event.dedup_id)
    measures = list({m.id: m for _, _, m in _event_terms(feature_set, event.name)}.values())
    return f"""
with passed as (
  select *, {available} as available_at from {quoted("verdict_" + event.name)}
  where verdict not in ('undecodable', 'poison')),
seen as (
  select *, lag(available_at) over (partition by {identity} order by available_at, part, off) as previous_at from passed),
firsts as (
  select * from seen
  where {identity} is null or previous_at is null or available_at - previous_at > {event.dedup_horizon_ms})
select {_entity_sql(feature_set)} as entity, et, greatest(et + 1, available_at) as known_at, part, off,
  {_measure_columns(measures, event)}
from firsts where {_entity_sql(feature_set)} is not null order by entity, et, part, off"""


def as_of(connection: duckdb.DuckDBPyConnection, feature_set: FeatureSet, events: Mapping[str, EventType]) -> OfflineRows:
    """Features of all `requests`, point in time: statuses are missing or fresh.

    Requests are answered entity by entity, so many at a time that vectors stay within CELLS_MAX (an entity is not split).
    """
    asked = execute(connection, "select pid, entity, t from requests order by pid")
    times = asked["t"].astype(np.int64)
    records = {name: _Admitted(connection, feature_set, events[name], asked["entity"]) for name in feature_set.events}
    order = np.argsort(np.array(["" if e is None else e for e in asked["entity"].tolist()], object), kind="stable")
    values = np.empty((len(times), len(feature_set.features)), np.float64)
    statuses = np.empty(values.shape, np.int8)
    for which in _portions(list(records.values()), order):
        found = _as_of_portion(feature_set, records, times, which)
        values[which], statuses[which] = found.values, found.statuses
    return OfflineRows(asked["pid"].astype(np.int64), FeatureRows(values, statuses))


def _portions(records: Sequence[_Admitted], order: Int64s) -> Iterator[Int64s]:
    """Requests in the order of their entity, halved until each portion is small enough or is one entity's."""
    waiting = [order]
    while waiting:
        which = waiting.pop()
        if len(which) > 1 and any(r.too_large(which) for r in records):
            waiting += [which[len(which) // 2 :], which[: len(which) // 2]]
        elif len(which):
            yield which


def _as_of_portion(feature_set: FeatureSet, records: Mapping[str, _Admitted], times: Int64s, which: Int64s) -> FeatureRows:
    plan, at = read_plan(feature_set), times[which]
    terms: list[TermColumns | None] = [None] * len(plan.terms)
    for level in plan.levels:
        portion = records[level.event].portion(which)
        for window_ms, numbers in level.windows:
            low = window_start(at, window_ms, level.hop_ms)
            vectors = portion.window(low, at)
            for number in numbers:
                terms[number] = _as_of_term(plan.terms[number], vectors, at, low)
    return lower(feature_set, [t for t in terms if t is not None])


def _as_of_term(where: TermSlots, vectors: Int64s, times: Int64s, low: Int64s) -> TermColumns:
    columns = where.columns(vectors, np.zeros(len(vectors), np.int8), times, low)
    if where.term.kind in COUNTS:
        return columns
    status = np.where(columns.count == 0, np.int8(Status.MISSING), np.int8(Status.FRESH))
    return replace(columns, status=status)


class _Admitted:
    """Admissible records of one event, ordered by entity and order key, and which entity each request asks about."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, feature_set: FeatureSet, event: EventType, entities: npt.NDArray[Any]
    ) -> None:
        self._found = found = execute(connection, as_of_sql(feature_set, event))
        codes: dict[str, int] = {}
        self._owner = np.fromiter((codes.setdefault(e, len(codes)) for e in found["entity"].tolist()), np.int64)
        self._asked = np.fromiter((codes.get(e, -1) for e in entities.tolist()), np.int64, len(entities))
        self._feature_set, self._layout = feature_set, layout_of(feature_set, event.name)
        self._held: tuple[tuple[int, int], Int64s] | None = None
        known_at = found["known_at"]
        same = self._owner[1:] == self._owner[:-1]
        self._in_order = bool(np.all((known_at[1:] >= known_at[:-1]) | ~same))

    def _span(self, which: Int64s) -> tuple[int, int]:
        """The rows from the first to the last entity asked about."""
        known = self._asked[which]
        known = known[known >= 0]
        if not len(known):
            return 0, 0
        return int(np.searchsorted(self._owner, known.min())), int(np.searchsorted(self._owner, known.max(), "right"))

    def too_large(self, which: Int64s) -> bool:
        """Whether a portion of the requests should be halved."""
        begin, end = self._span(which)
        limit, several = CELLS_MAX // self._layout.width, self._asked[which].min() != self._asked[which].max()
        return len(which) > limit or (end - begin > limit and bool(several))

    def portion(self, which: Int64s) -> _Portion:
        begin, end = self._span(which)
        if self._held is None or self._held[0] != (begin, end):
            columns = {name: column[begin:end] for name, column in self._found.items()}
            self._held = (begin, end), _vectors_of(self._layout, self._feature_set, self._layout.event, columns)
        time, known_at = (self._found[name][begin:end].astype(np.int64) for name in ("et", "known_at"))
        owner, asked = self._owner[begin:end], self._asked[which]
        return _Portion(self._layout, owner, time, known_at, self._held[1], asked, self._in_order)


class _Portion:
    """Records of some entities as vectors, and the requests about them."""

    def __init__(
        self, layout: Layout, owner: Int64s, time: Int64s, known_at: Int64s, rows: Int64s, asked: Int64s, in_order: bool
    ) -> None:
        self._layout, self._owner, self._time, self._known_at = layout, owner, time, known_at
        self._rows, self._asked, self._in_order = rows, asked, in_order

    def window(self, low: Int64s, times: Int64s) -> Int64s:
        """Merged vectors of the records with low <= event time that are known at t, shape (N, W)."""
        start, end = ranges(self._owner, self._time, self._asked, low, times - 1)
        if self._in_order:  # known in the order of event time: still one range
            _, known = ranges(self._owner, self._known_at, self._asked, np.full_like(times, np.iinfo(np.int64).min), times)
            return reduce_ranges(self._layout, self._rows, start, np.maximum(start, np.minimum(end, known)))
        out = np.zeros((len(times), self._layout.width), np.int64)
        pairs, a = np.concatenate(([0], np.cumsum(end - start))), 0
        while a < len(times):
            b = max(a + 1, int(np.searchsorted(pairs, pairs[a] + PAIRS_MAX, "right")) - 1)
            out[a:b] = self._filtered(start[a:b], end[a:b], times[a:b])
            a = b
        return out

    def _filtered(self, start: Int64s, end: Int64s, times: Int64s) -> Int64s:
        """Every pair of request and record in its window, then those known in time."""
        size = end - start
        request = np.repeat(np.arange(len(start)), size)
        record = np.arange(len(request)) - np.repeat(np.cumsum(size) - size, size) + np.repeat(start, size)
        keep = self._known_at[record] <= times[request]
        kept = np.bincount(request[keep], minlength=len(start))
        edge = np.concatenate(([0], np.cumsum(kept)))
        return reduce_ranges(self._layout, self._rows[record[keep]], edge[:-1], edge[1:])


def _vectors_of(layout: Layout, feature_set: FeatureSet, event: str, found: Mapping[str, npt.NDArray[Any]]) -> Int64s:
    measures = {m.id: m for _, _, m in _event_terms(feature_set, event)}
    included, values = [], []
    for identity in layout.of:
        if identity not in measures:  # kept in tiles, read by no term
            included.append(np.zeros(len(found["et"]), np.bool_))
            values.append(None)
            continue
        included.append(np.asarray(found[f"w_{identity}"], np.bool_))
        column = np.ma.masked_array(found[f"v_{identity}"])
        held = ~np.ma.getmaskarray(column)
        values.append(None if measures[identity].value is None else (column.filled(0).astype(np.int64), held))
    times, parts, offsets = (found[k].astype(np.int64) for k in ("et", "part", "off"))
    return row_vectors(layout, times, parts, offsets, included, values)
