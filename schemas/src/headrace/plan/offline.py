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

from headrace.plan.ir import EventType, FeatureSet, Measure, Term, slot_width
from headrace.plan.items import ITEM_STRIDE
from headrace.plan.lower import COUNTS, FeatureRows, Status, TermColumns, cells_slot, lower, terms_of
from headrace.plan.offline_sql import as_of_sql, as_served_sql, event_terms, quoted, verdicts_sql
from headrace.plan.read import TermSlots, read_plan, window_start
from headrace.plan.slots import Layout, layout_of, ranges, reduce_ranges, row_vectors

__all__ = ["OfflineRows", "as_of", "as_of_records", "as_of_sql", "as_served", "as_served_sql", "execute", "quoted"]
__all__ += ["served_of_terms", "verdicts_sql"]

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


# ---------------------------------------------------------------- as served


def as_served(
    connection: duckdb.DuckDBPyConnection,
    feature_set: FeatureSet,
    events: Mapping[str, EventType],
    base_floor_ms: int | None = None,
) -> OfflineRows:
    """Features of all passports, recomputed from verdict tables and cuts."""
    return served_of_terms(feature_set, execute(connection, as_served_sql(feature_set, events, base_floor_ms)))


def served_of_terms(feature_set: FeatureSet, found: Mapping[str, npt.NDArray[Any]]) -> OfflineRows:
    """`lower` over the columns of `as_served_sql` in its order, whichever engine ran it."""
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


def as_of(connection: duckdb.DuckDBPyConnection, feature_set: FeatureSet, events: Mapping[str, EventType]) -> OfflineRows:
    """Features of all `requests`, point in time: statuses are missing or fresh.

    Requests are answered entity by entity, so many at a time that vectors stay within CELLS_MAX (an entity is not split).
    """
    asked = execute(connection, "select pid, entity, t from requests order by pid")
    found = {name: execute(connection, as_of_sql(feature_set, events[name])) for name in feature_set.events}
    return OfflineRows(asked["pid"].astype(np.int64), as_of_records(feature_set, found, asked["entity"], asked["t"]))


def as_of_records(
    feature_set: FeatureSet, found: Mapping[str, Mapping[str, npt.NDArray[Any]]], entities: npt.NDArray[Any], times: Int64s
) -> FeatureRows:
    """`as_of` once an engine has found the records: what Spark's tasks call too.

    Args:
        found: per event the columns of `as_of_sql` in its order; records of one entity lie together.
        entities, times: of the requests, shape (N,); None has no records.
    """
    times = times.astype(np.int64)
    records = {name: _Admitted(found[name], feature_set, name, entities) for name in feature_set.events}
    order = np.argsort(np.array(["" if e is None else e for e in entities.tolist()], object), kind="stable")
    values = np.empty((len(times), len(feature_set.features)), np.float64)
    statuses = np.empty(values.shape, np.int8)
    for which in _portions(list(records.values()), order):
        answered = _as_of_portion(feature_set, records, times, which)
        values[which], statuses[which] = answered.values, answered.statuses
    return FeatureRows(values, statuses)


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
        self, found: Mapping[str, npt.NDArray[Any]], feature_set: FeatureSet, event: str, entities: npt.NDArray[Any]
    ) -> None:
        self._found = found
        codes: dict[str, int] = {}
        self._owner = np.fromiter((codes.setdefault(e, len(codes)) for e in found["entity"].tolist()), np.int64)
        self._asked = np.fromiter((codes.get(e, -1) for e in entities.tolist()), np.int64, len(entities))
        self._feature_set, self._layout = feature_set, layout_of(feature_set, event)
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
    measures = {m.id: m for _, _, m in event_terms(feature_set, event)}
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
    times, parts, offsets, items = (found[k].astype(np.int64) for k in ("et", "part", "off", "item"))
    return row_vectors(layout, times, parts, offsets * ITEM_STRIDE + items, included, values)  # read by no one, but ordered by
