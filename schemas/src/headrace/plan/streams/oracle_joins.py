"""Results of streams without windows, the naive way: over all accepted rows at once, each against every other.

Nothing here is batched, kept or forgotten. A row is a dict: KEY, TIME, PARTITION, OFFSET, ITEM, GONE and what it carries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from headrace.plan import expressions
from headrace.plan.ir import EventType, Join, Stream
from headrace.plan.items import item_column
from headrace.plan.streams.frames import GONE, ITEM, KEY, OFFSET, PARTITION, SEPARATOR, TIME, input_event

Row: TypeAlias = Mapping[str, Any]


def prepared(stream: Stream, index: int, events: Sequence[EventType], records: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows of accepted records: the event's fields, TIME, PARTITION, OFFSET, and GONE of a table."""
    asked = stream.inputs[index]
    fields = {field.name: field for field in input_event(stream, index, events).fields}
    columns = {c.name: expressions.parse(c.expression, fields, allow_float=True).compile() for c in asked.columns}
    where = None if asked.where is None else expressions.parse(asked.where, fields, allow_float=True).compile()
    rows: list[dict[str, Any]] = []
    for record in records:
        items = [None] if asked.each is None else record[asked.each] or []
        for number, item in enumerate(items):
            seen = dict(record) | ({} if asked.each is None else {item_column(asked.each): item})
            parts = [seen[name] for name in asked.key]
            gone = bool(record.get(GONE))
            if None in parts or (where is not None and where(seen) is not True and not gone):
                continue
            texts = [str(part).lower() if isinstance(part, bool) else str(part) for part in parts]
            origin = {name: record[name] for name in (TIME, PARTITION, OFFSET)}
            carried = {name: value(seen) for name, value in columns.items()}
            rows.append({KEY: SEPARATOR.join(texts), **origin, ITEM: number, GONE: gone, **carried})
    return rows


def results(stream: Stream, sides: Sequence[Sequence[Row]], watermark_ms: int) -> list[dict[str, Any]]:
    """What must have been written when event time is at a watermark, sorted by (event time, key): output fields, TIME, KEY."""
    if stream.distinct is not None:
        found = [(row, None) for row in _distinct(sides[0], stream.distinct.horizon_ms) if row[TIME] < watermark_ms]
    elif stream.join is None:
        found = [(row, None) for row in sides[0]]
    elif stream.join.kind == "interval":
        found = _interval(stream.join, sides[0], sides[1], watermark_ms)
    else:
        found = _newest(stream.join, sides[0], sides[1], watermark_ms)
    return sorted((_result(stream, pair) for pair in found), key=lambda result: (result[TIME], result[KEY]))


def _interval(join: Join, left: Sequence[Row], right: Sequence[Row], watermark_ms: int) -> list[tuple[Row | None, Row | None]]:
    def joins(a: Row, b: Row) -> bool:
        return a[KEY] == b[KEY] and a[TIME] - join.before_ms <= b[TIME] <= a[TIME] + join.after_ms

    found: list[tuple[Row | None, Row | None]] = [(a, b) for a in left for b in right if joins(a, b)]
    if join.how in ("left", "outer"):
        due = [a for a in left if a[TIME] + join.after_ms < watermark_ms]
        found += [(a, None) for a in due if not any(joins(a, b) for b in right)]
    if join.how == "outer":
        due = [b for b in right if b[TIME] + join.before_ms < watermark_ms]
        found += [(None, b) for b in due if not any(joins(a, b) for a in left)]
    return found


def _newest(join: Join, left: Sequence[Row], right: Sequence[Row], watermark_ms: int) -> list[tuple[Row | None, Row | None]]:
    found: list[tuple[Row | None, Row | None]] = []
    for a in left:
        if a[TIME] >= watermark_ms:
            continue
        versions = [b for b in right if b[KEY] == a[KEY] and b[TIME] <= a[TIME]]
        newest = max(versions, key=_order, default=None)
        if newest is not None and newest[GONE]:
            newest = None
        if newest is not None and join.max_age_ms is not None and newest[TIME] < a[TIME] - join.max_age_ms:
            newest = None
        if newest is not None or join.how != "inner":
            found.append((a, newest))
    return found


def _distinct(rows: Sequence[Row], horizon_ms: int) -> list[Row]:
    last: dict[str, int] = {}
    found: list[Row] = []
    for row in sorted(rows, key=_order):
        if row[KEY] not in last or row[TIME] - last[row[KEY]] > horizon_ms:
            found.append(row)
        last[row[KEY]] = row[TIME]
    return found


def _order(row: Row) -> tuple[int, int, int, int]:
    return row[TIME], row[PARTITION], row[OFFSET], row[ITEM]


def _result(stream: Stream, pair: tuple[Row | None, Row | None]) -> dict[str, Any]:
    rows = [row for row in pair if row is not None]
    time = rows[0][TIME] if stream.join and stream.join.kind != "interval" else max(row[TIME] for row in rows)
    result: dict[str, Any] = {TIME: time, KEY: rows[0][KEY]}
    for field in stream.fields:
        if field.source == "key":
            result[field.name] = rows[0][KEY] if field.index < 0 else rows[0][KEY].split(SEPARATOR)[field.index]
        elif field.source == "time":
            result[field.name] = time
        else:
            row = pair[field.index]
            result[field.name] = None if row is None else row[field.column]
    return result
