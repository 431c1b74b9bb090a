"""The SQL of offline recomputation for Apache Spark: verdicts, as served, as of. offline_sql.py says the same to DuckDB.

Views have the names and columns that offline.py gives its tables; each statement here is a SELECT, for who makes views.
"""

from __future__ import annotations

from collections.abc import Mapping

from headrace.plan import expressions
from headrace.plan.ir import EventType, FeatureSet, Field, Measure, Term
from headrace.plan.items import array_of, item_column
from headrace.plan.lower import COUNTS, RECENT, SQUARED, Status, cells_slot, count_slot, value_slot
from headrace.plan.offline_sql import event_terms
from headrace.plan.sketches import rank_bits
from headrace.plan.spark_expressions import identifier, md5_of, sql_of, text, unsigned
from headrace.plan.tiles import ENTITY_SEPARATOR, hashed


def entity_sql(feature_set: FeatureSet) -> str:
    """The set's entity from the fields of an event or a request; null where one of them is."""
    parts = [f"CAST({identifier(f)} AS STRING)" for f in feature_set.entity]
    return f"concat({f', char({ord(ENTITY_SEPARATOR)}), '.join(parts)})"


def hash_sql(value: str) -> str:
    """`sketches.hash_of` of a STRING expression that is not null."""
    return f"greatest(1L, {unsigned(f'left({md5_of(value)}, 16)')} div 2)"


def accumulated_sql(feature_set: FeatureSet, event: EventType, source: str, more: str = "") -> str:
    """SELECT entity, et, part, off, item and the measures' columns of a source's rows, once more for each item of an array.

    more: columns of the source that follow et, each after a comma. Raises: NotOnSpark.
    """
    fields, measures = {f.name: f for f in event.fields}, measures_of(feature_set, event.name)
    arrays = sorted({array for m in measures if (array := array_of(m, fields)) is not None})
    head = f"{entity_sql(feature_set)} AS entity, et{more}, part, off"
    parts = [f"SELECT {head}, 0L AS item, {_measure_columns(measures, event, None)} FROM {source}"]
    for array in arrays:
        columns = _measure_columns(measures, event, array)
        items = f"SELECT *, posexplode({identifier(array)}) AS (__item, {identifier(item_column(array))}) FROM {source}"
        parts.append(f"SELECT {head}, CAST(__item AS BIGINT), {columns} FROM ({items})")
    return "\n  UNION ALL ".join(parts)


def _measure_columns(measures: list[Measure], event: EventType, array: str | None) -> str:
    """w_<id>: the where holds; v_<id>: the value, or its hash, where it does (1 for counted rows).

    array: whose items the rows are, None for whole records; measures over others see none of them.
    """
    fields = {f.name: f for f in event.fields}
    columns = []
    for m in measures:
        if array_of(m, fields) != array:
            columns.append(f"false AS w_{m.id}, CAST(NULL AS BIGINT) AS v_{m.id}")
            continue
        where = "true" if m.where is None else f"coalesce({sql_of(expressions.parse(m.where, fields))}, false)"
        columns.append(f"{where} AS w_{m.id}, CAST(CASE WHEN {where} THEN {_value_sql(m, fields)} END AS BIGINT) AS v_{m.id}")
    return ", ".join(columns)


def _value_sql(m: Measure, fields: Mapping[str, Field]) -> str:
    if m.value is None:
        return "1"
    value = expressions.parse(m.value, fields)
    lowered = f"({sql_of(value)})"
    if not hashed(m):
        return lowered
    hashed_sql = hash_sql(lowered if value.type.kind == "string" else f"CAST(CAST({lowered} AS BIGINT) AS STRING)")
    return f"CASE WHEN {lowered} IS NOT NULL THEN {hashed_sql} END"


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
    """SELECT entity, et, known_at, part, off, item, the measures' columns from the view of `admitted_sql`, in no order.

    known_at is the first t that may see the record: event time < t and available by t.
    """
    known_at = ", greatest(et + 1, available_at) AS known_at"
    records = accumulated_sql(feature_set, event, identifier(admitted), known_at)
    return f"SELECT * FROM (\n  {records}) WHERE entity IS NOT NULL"


# ---------------------------------------------------------------- verdicts and as served


def verdicts_sql(event: EventType) -> str:
    """SELECT raw_<event> with et, m_before, m_after, verdict: ok, undecodable, poison, late or duplicate."""
    et = identifier(event.time)
    identity = "NULL" if event.dedup_id is None else identifier(event.dedup_id)
    counted = "CASE WHEN v12 IS NULL THEN et END"  # a window takes no FILTER here
    rows = "PARTITION BY part ORDER BY off ROWS BETWEEN UNBOUNDED PRECEDING AND"
    raw = f"SELECT *, {identity} AS __id, {et} AS et FROM {identifier('raw_' + event.name)}"
    poison = f"WHEN et > append_ms + {event.poison_bound_ms} THEN 'poison'"
    return f"""
WITH judged AS (SELECT *, CASE WHEN NOT decodable THEN 'undecodable' {poison} END AS v12 FROM ({raw})),
running AS (
  SELECT *, max({counted}) OVER ({rows} 1 PRECEDING) AS m_before, max({counted}) OVER ({rows} CURRENT ROW) AS m_after
  FROM judged),
aged AS (SELECT *, coalesce(v12, CASE WHEN et < m_before - {event.lateness_ms} THEN 'late' END) AS v123 FROM running),
occurring AS (
  SELECT *, CASE WHEN v123 IS NULL AND __id IS NOT NULL
    THEN lag(m_after) OVER (PARTITION BY part, __id, v123 IS NULL ORDER BY off) END AS m_prev FROM aged)
SELECT * EXCEPT (v12, v123, m_prev, __id),
  coalesce(v123, CASE WHEN m_before - m_prev <= {event.dedup_horizon_ms} THEN 'duplicate' ELSE 'ok' END) AS verdict
FROM occurring"""


def as_served_sql(feature_set: FeatureSet, events: Mapping[str, EventType], base_floor_ms: int | None) -> str:
    """SELECT pid, term, status, n, total, lo, hi, cells for every passport and term, as offline_sql.as_served_sql does."""
    parts = [_served_event_sql(feature_set, events[name], base_floor_ms) for name in feature_set.events]
    return "\nUNION ALL\n".join(f"({part})" for part in parts if part) + "\nORDER BY pid, term"


def _served_event_sql(feature_set: FeatureSet, event: EventType, base_floor_ms: int | None) -> str:
    terms = event_terms(feature_set, event.name)
    if not terms:
        return ""
    windows = {key: i for i, key in enumerate(dict.fromkeys((t.hop_ms, t.window_ms) for _, t, _ in terms))}
    values = ", ".join(f"({i}, {hop}L, {window}L, {window + hop + 1}L)" for (hop, window), i in windows.items())
    measures = measures_of(feature_set, event.name)
    base = "CAST(NULL AS BIGINT)" if base_floor_ms is None else f"{base_floor_ms}L"
    verdict = identifier("verdict_" + event.name)
    structs = ",\n  ".join(
        _term_sql(number, term, m, windows[term.hop_ms, term.window_ms], feature_set.stale_after_ms)
        for number, term, m in terms
    )
    up_to = "PARTITION BY part ORDER BY off, place ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"
    return f"""
WITH win AS (SELECT * FROM VALUES {values} AS (wid, hop, w, span)),
mine AS (SELECT pid, part, next_offset FROM cuts WHERE event = {text(event.name)}),
tops AS (  -- the largest M under each cut: cuts and records of a partition in one order, a cut before the record it stops at
  SELECT pid, max(top) AS top FROM (
    SELECT pid, max(m) OVER ({up_to}) AS top FROM (
      SELECT CAST(NULL AS BIGINT) AS pid, CAST(part AS BIGINT) AS part, off, 1 AS place, m_after AS m FROM {verdict}
      UNION ALL SELECT pid, CAST(part AS BIGINT), next_offset, 0, NULL FROM mine))
  WHERE pid IS NOT NULL GROUP BY pid),
ask AS (
  SELECT p.pid, p.entity, p.t, wid, hop, w, span, top, greatest(top - {feature_set.ttl_ms}, {base}) AS floor,
    CASE WHEN hop = 0 THEN t - w ELSE {_floored("t - w", "hop")} END AS low,
    CASE WHEN hop = 0 THEN top ELSE {_floored("t", "hop")} + hop - 1 END AS high
  FROM passports p LEFT JOIN tops ON p.pid = tops.pid CROSS JOIN win),
accepted AS (
  {accumulated_sql(feature_set, event, f"(SELECT * FROM {verdict} WHERE verdict = 'ok')")}),
near AS (  -- an equi-join on spans of time, or the range join would meet every pair of an entity
  SELECT *, explode(sequence({_floored("low", "span")} div span, {_floored("high", "span")} div span)) AS bucket
  FROM ask WHERE low <= high),
placed AS (
  SELECT a.*, wid, {_floored("et", "span")} div span AS bucket FROM accepted a CROSS JOIN win WHERE entity IS NOT NULL),
hit AS (
  SELECT n.pid, n.wid, x.* EXCEPT (entity, wid, bucket)
  FROM near n JOIN placed x ON n.entity = x.entity AND n.wid = x.wid AND n.bucket = x.bucket AND x.et BETWEEN n.low AND n.high
  JOIN mine c ON c.pid = n.pid AND c.part = x.part AND x.off < c.next_offset),
acc AS (
  SELECT pid AS __pid, wid AS __wid, max(et) AS newest, {", ".join(map(_slots_sql, measures))} FROM hit GROUP BY pid, wid),
full_ask AS (SELECT * FROM ask LEFT JOIN acc ON __pid = pid AND __wid = wid)
-- one pass for all terms: Spark would compute a CTE again for each SELECT that names it
SELECT pid, e.term, e.status, e.n, e.total, e.lo, e.hi, e.cells FROM (
  SELECT pid, wid, explode(array({structs})) AS e FROM full_ask)
WHERE e.wid = wid"""


def _floored(value: str, unit: str) -> str:
    """Largest multiple of unit not above value, also below zero; a unit of 0 gives null."""
    return f"({value} - pmod({value}, nullif({unit}, 0)))"


def _slots_sql(m: Measure) -> str:
    v, held = f"v_{m.id}", f"FILTER (WHERE v_{m.id} IS NOT NULL)"
    key = "named_struct('et', et, 'part', part, 'off', off, 'item', item)"
    square = f"(CAST({v} AS DECIMAL(38, 0)) * CAST({v} AS DECIMAL(19, 0)))"
    one = f"CAST({square} AS DECIMAL(38, 0))"
    slots = [f"count_if(w_{m.id}) AS rows_{m.id}", f"count({v}) AS nonnull_{m.id}", f"max(et) {held} AS last_at_{m.id}"]
    if "sum" in m.slots:
        slots.append(f"sum({v}) AS sum_{m.id}")
    if "min" in m.slots:
        slots.append(f"min({v}) AS min_{m.id}")
    if "max" in m.slots:
        slots.append(f"max({v}) AS max_{m.id}")
    if "last" in m.slots:
        slots.append(f"max_by({v}, {key}) {held} AS last_{m.id}")
    if "first" in m.slots:
        slots.append(f"min_by({v}, {key}) {held} AS first_{m.id}")
    if "square_lo" in m.slots:
        slots.append(f"CAST(sum({one} % 4294967296) AS BIGINT) AS lo_{m.id}, sum({one} div 4294967296) AS hi_{m.id}")
    if "recent" in m.slots:
        placed = f"named_struct('et', et, 'part', part, 'off', off, 'item', item, 'v', {v})"
        listed = f"sort_array(collect_list({placed}) {held}, false)"
        slots.append(f"transform(slice({listed}, 1, {m.size}), e -> e.v) AS recent_{m.id}")
    if "distinct" in m.slots:
        slots.append(f"slice(sort_array(collect_set({v}), false), 1, {m.size}) AS distinct_{m.id}")
    if "registers" in m.slots:
        slots.append(f"collect_set({_register_rank(v, m.size)}) AS registers_{m.id}")
    if "histogram" in m.slots:
        slots.append(f"collect_list({_bucket_of(v, m.edges)}) {held} AS histogram_{m.id}")
    return ", ".join(slots)


def _register_rank(hashed_value: str, registers: int) -> str:
    """register * 2**32 + rank of a hash: sketches.register_rank_sql."""
    bits = rank_bits(registers)
    low = f"({hashed_value} & {(1 << bits) - 1}L)"
    zeros = f"CASE WHEN {low} = 0 THEN {bits} ELSE bit_count(({low} & -{low}) - 1) END"
    return f"(shiftright({hashed_value}, {bits}) * 4294967296L + {zeros} + 1)"


def _bucket_of(value: str, edges: tuple[int, ...]) -> str:
    listed = ", ".join(f"CAST({edge} AS BIGINT)" for edge in edges)
    return f"CAST(size(filter(array({listed}), e -> e <= {value})) AS BIGINT)"


def _term_sql(number: int, term: Term, m: Measure, wid: int, stale_after_ms: int) -> str:
    newest = "newest" if term.hop_ms else f"last_at_{m.id}"
    n, total, cells = _integers_sql(term, m)
    missing = "false" if term.kind in COUNTS else f"coalesce({n}, 0) = 0"
    lo, hi = (f"lo_{m.id}", f"hi_{m.id}") if term.kind in SQUARED else ("0", "0")
    status = f"""CASE WHEN low < floor THEN {int(Status.EXPIRED)} WHEN {newest} > t THEN {int(Status.AHEAD)}
    WHEN {missing} THEN {int(Status.MISSING)}
    WHEN top IS NULL OR t - top > {stale_after_ms} THEN {int(Status.STALE)} ELSE {int(Status.FRESH)} END"""
    integers = {"n": n, "total": total, "lo": lo, "hi": hi}
    held = ", ".join(f"'{name}', CAST(coalesce({value}, 0) AS BIGINT)" for name, value in integers.items())
    head = f"named_struct('wid', {wid}, 'term', {number}, 'status', {status}"
    return f"{head}, {held}, 'cells', CAST({cells} AS ARRAY<BIGINT>))"


def _integers_sql(term: Term, m: Measure) -> tuple[str, str, str]:
    """Count, total and cells of a term over the accumulated columns."""
    kind, nonnull, histogram, recent = term.kind, f"nonnull_{m.id}", f"histogram_{m.id}", f"recent_{m.id}"
    if kind == "bucket":
        return f"size(filter({histogram}, e -> e = {term.argument}))", "0", "NULL"
    if kind in ("quantile", "top"):
        counted = f"e * 4294967296L + size(filter({histogram}, x -> x = e))"
        return nonnull, "0", f"transform(array_distinct({histogram}), e -> {counted})"
    if kind == "distinct":
        return "0", "0", f"{cells_slot(m, term)}_{m.id}"
    if kind == "recent":
        one = f"get({recent}, {term.argument})"
        return f"CASE WHEN {one} IS NOT NULL THEN 1 ELSE 0 END", one, "NULL"
    if kind in RECENT:
        return f"size({recent})", f"aggregate({recent}, 0L, (a, x) -> a + x)", "NULL"
    if kind == "since":
        return nonnull, f"t - last_at_{m.id}", "NULL"
    slot = value_slot(term)
    return f"{count_slot(m)}_{m.id}", "0" if slot is None else f"{slot}_{m.id}", "NULL"
