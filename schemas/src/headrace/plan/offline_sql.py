"""The SQL of offline recomputation in DuckDB: verdicts, as served, as of. offline.py names the tables and runs it."""

from __future__ import annotations

from collections.abc import Mapping

from headrace.plan import expressions
from headrace.plan.ir import EventType, FeatureSet, Field, Measure, Term
from headrace.plan.items import array_of, item_column
from headrace.plan.lower import COUNTS, RECENT, SQUARED, Status, cells_slot, count_slot, terms_of, value_slot
from headrace.plan.sketches import hash_sql, register_rank_sql
from headrace.plan.tiles import ENTITY_SEPARATOR, hashed


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


def _accumulated(feature_set: FeatureSet, measures: list[Measure], event: EventType, source: str, more: str) -> str:
    """SELECT entity, et, part, off, item and the measures' columns of a source's rows, once more for each item of an array."""
    fields = {f.name: f for f in event.fields}
    arrays = sorted({array for m in measures if (array := array_of(m, fields)) is not None})
    head = f"{_entity_sql(feature_set)} as entity, et{more}, part, off"
    parts = [f"select {head}, 0 as item, {_measure_columns(measures, event, None)} from {source}"]
    for array in arrays:
        items = f"unnest({quoted(array)}) as {quoted(item_column(array))}, unnest(range(len({quoted(array)}))) as item"
        columns = _measure_columns(measures, event, array)
        parts.append(f"select {head}, item, {columns} from (select *, {items} from {source} where len({quoted(array)}) > 0)")
    return "\n  union all ".join(parts)


def _measure_columns(measures: list[Measure], event: EventType, array: str | None) -> str:
    """w_<id>: the where holds; v_<id>: the value, or its hash, where it does (1 for counted rows).

    array: whose items the rows are, None for whole records; measures over others see none of them.
    """
    fields = {f.name: f for f in event.fields}
    columns = []
    for m in measures:
        if array_of(m, fields) != array:
            columns.append(f"false as w_{m.id}, null::bigint as v_{m.id}")
            continue
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


def event_terms(feature_set: FeatureSet, event: str) -> list[tuple[int, Term, Measure]]:
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
    terms = event_terms(feature_set, event.name)
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
    source = f"(select * from {quoted('verdict_' + event.name)} where verdict = 'ok')"
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
  {_accumulated(feature_set, measures, event, source, "")}),
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
        slots.append(f"arg_max({v}, (et, part, off, item)) filter ({v} is not null) as last_{m.id}")
        slots.append(f"max(et) filter ({v} is not null) as last_at_{m.id}")
    if "square_lo" in m.slots:
        slots.append(f"sum({square} % 4294967296)::bigint as lo_{m.id}, sum({square} // 4294967296)::bigint as hi_{m.id}")
    if "first" in m.slots:
        slots.append(f"arg_min({v}, (et, part, off, item)) filter ({v} is not null) as first_{m.id}")
    if "recent" in m.slots:
        newest = f"list({v} order by et desc, part desc, off desc, item desc) filter ({v} is not null)"
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


# ---------------------------------------------------------------- as of


def as_of_sql(feature_set: FeatureSet, event: EventType) -> str:
    """SELECT entity, et, known_at, part, off, item, the measures' columns of all admissible records, by entity and order key.

    known_at is the first t that may see the record: event time < t and available by t.
    """
    delay = event.available_after_ms
    available = "greatest(et, append_ms)" if delay is None else f"et + {delay}"
    identity = "null" if event.dedup_id is None else quoted(event.dedup_id)
    measures = list({m.id: m for _, _, m in event_terms(feature_set, event.name)}.values())
    return f"""
with passed as (
  select *, {available} as available_at from {quoted("verdict_" + event.name)}
  where verdict not in ('undecodable', 'poison')),
seen as (
  select *, lag(available_at) over (partition by {identity} order by available_at, part, off) as previous_at from passed),
firsts as (
  select * from seen
  where {identity} is null or previous_at is null or available_at - previous_at > {event.dedup_horizon_ms})
select * from ({_accumulated(feature_set, measures, event, "firsts", ", greatest(et + 1, available_at) as known_at")})
where entity is not null order by entity, et, part, off, item"""
