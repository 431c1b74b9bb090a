"""The naive oracle of windows: plain Python over all accepted rows at once. It wins every argument.

No panes, no vectors, no batches: each question walks the rows again. For tests and single results.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from headrace.contracts.errors import Fatal
from headrace.plan import expressions
from headrace.plan.ir import EventType, Field, Measure, OutputField, Stream, Term, Window
from headrace.plan.items import ITEM_STRIDE, item_column
from headrace.plan.lower import COUNTS
from headrace.plan.oracle import JudgedRecord, Oracle, RawRecord, root_of_square
from headrace.plan.streams.frames import ESCAPE, SEPARATOR
from headrace.plan.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class NaiveWindow:
    """[start, end) of a key, and the rows in it by (time, partition, offset, item)."""

    key: str
    parts: tuple[Any, ...]
    start: int
    end: int
    rows: tuple[JudgedRecord, ...]

    @property
    def identity(self) -> tuple[str, int, int, frozenset[tuple[int, int]]]:
        return self.key, self.start, self.end, frozenset((row.raw.partition, row.raw.offset) for row in self.rows)


class WindowOracle:
    """One windowed stream."""

    def __init__(self, stream: Stream, events: Sequence[EventType]) -> None:
        if stream.window is None:
            raise Fatal(f"stream {stream.name} has no window")
        self.stream, self.window = stream, stream.window
        self.event = next(e for e in events if e.name == stream.inputs[0].event)
        self.output = next(e for e in events if e.name == stream.output)
        self._law = Oracle((self.event,), ())

    def windows(self, log: Iterable[RawRecord], watermark_ms: int | None) -> list[NaiveWindow]:
        """Every window that a row is in. Of count windows only rows below the watermark, the last of a key unfinished."""
        out: list[NaiveWindow] = []
        for parts, rows in self._by_key(log).items():
            if self.window.kind == "count":
                rows = [row for row in rows if watermark_ms is not None and row.time_ms < watermark_ms]
            texts = [_text(part) for part in parts]
            if len(parts) > 1:
                texts = [text.replace(ESCAPE, ESCAPE + "0").replace(SEPARATOR, ESCAPE + "1") for text in texts]
            key = SEPARATOR.join(texts)
            out += [NaiveWindow(key, parts, start, end, tuple(mine)) for start, end, mine in _cut(self.window, rows)]
        return out

    def closed(self, window: NaiveWindow, watermark_ms: int | None) -> bool:
        """Whether no row of it can be missing any more."""
        if watermark_ms is None:
            return False
        match self.window.kind:
            case "session":
                return watermark_ms > window.end - 1 + self.window.gap_ms
            case "count":
                return len(window.rows) == self.window.rows
            case _:
                return watermark_ms >= window.end

    def finals(self, log: Iterable[RawRecord], watermark_ms: int | None) -> list[dict[str, Any]]:
        """Final results due at this watermark, by (event time, key, start)."""
        found = [w for w in self.windows(log, watermark_ms) if self.closed(w, watermark_ms)]
        return [self.result(w, True) for w in sorted(found, key=lambda w: (w.end, w.key, w.start))]

    def result(self, window: NaiveWindow, final: bool) -> dict[str, Any]:
        """The output event's fields; of an update as of the rows in the window so far."""
        time = window.end - 1 if final else max(row.time_ms for row in window.rows)
        fields = {field.name: field for field in self.output.fields}
        return {one.name: self._field(fields[one.name], one, window, time, final) for one in self.stream.fields}

    def _field(self, field: Field, one: OutputField, window: NaiveWindow, time: int, final: bool) -> Any:
        if one.source == "key":
            return window.key if one.index < 0 else window.parts[one.index]
        if one.source == "aggregate" and one.kind is not None:
            measure = next(m for m in self.stream.measures if m.id == one.measure)
            term = Term(one.measure, one.kind, 0, 0, one.argument)
            return _typed(field, measure, term, self._law.value(measure, term, window.rows, time))
        return {"window_start": window.start, "window_end": window.end, "time": time, "final": final}[one.source]

    def _by_key(self, log: Iterable[RawRecord]) -> dict[tuple[Any, ...], list[JudgedRecord]]:
        """Rows that the input lets through, in order."""
        given, fields = self.stream.inputs[0], {f.name: f for f in self.event.fields}
        where = None if given.where is None else expressions.parse(given.where, fields, allow_float=True).compile()
        out: dict[tuple[Any, ...], list[JudgedRecord]] = {}
        for row in (item for raw in log for item in self._items(raw)):
            of = row.raw.fields or {}
            parts = tuple(of[name] for name in given.key)
            if None not in parts and (where is None or where(of) is True):
                out.setdefault(parts, []).append(row)
        return {key: sorted(rows, key=lambda r: (r.time_ms, r.raw.partition, r.raw.offset)) for key, rows in out.items()}

    def _items(self, raw: RawRecord) -> list[JudgedRecord]:
        """The row, or one per item of `each`, numbered within its offset."""
        fields, each = raw.fields or {}, self.stream.inputs[0].each
        rows = [raw]
        if each is not None:
            rows = [
                replace(raw, offset=raw.offset * ITEM_STRIDE + i, fields={**fields, item_column(each): item})
                for i, item in enumerate(fields[each] or ())
            ]
        return [JudgedRecord(row, Verdict.OK, None, fields[self.event.time]) for row in rows]


def _cut(window: Window, rows: Sequence[JudgedRecord]) -> list[tuple[int, int, list[JudgedRecord]]]:
    """(start, end, rows) of every window of a key's rows, which come in order."""
    match window.kind:
        case "tumbling" | "hopping":
            hop = window.hop_ms if window.kind == "hopping" else window.size_ms
            starts = {s for row in rows for s in _starts(row.time_ms, window.size_ms, hop)}
            return [(s, s + window.size_ms, _within(rows, s, s + window.size_ms)) for s in sorted(starts)]
        case "sliding":
            times = sorted({row.time_ms for row in rows})
            return [(t - window.size_ms + 1, t + 1, _within(rows, t - window.size_ms + 1, t + 1)) for t in times]
        case "session":
            sessions: list[list[JudgedRecord]] = []
            for row in rows:
                if sessions and row.time_ms - sessions[-1][-1].time_ms <= window.gap_ms:
                    sessions[-1].append(row)
                else:
                    sessions.append([row])
        case "count":
            sessions = [list(rows[i : i + window.rows]) for i in range(0, len(rows), window.rows)]
    return [(mine[0].time_ms, mine[-1].time_ms + 1, mine) for mine in sessions]


def _starts(time: int, size: int, hop: int) -> range:
    """Multiples of hop in (time - size, time]."""
    last = time // hop * hop
    return range(last, time - size, -hop)


def _within(rows: Sequence[JudgedRecord], start: int, end: int) -> list[JudgedRecord]:
    return [row for row in rows if start <= row.time_ms < end]


def _typed(field: Field, measure: Measure, term: Term, value: Fraction | None) -> Any:
    if value is None:
        return None
    if field.type in ("float", "double"):
        rounded = root_of_square(value) if term.kind == "stddev" else float(value)
        return struct.unpack("f", struct.pack("f", rounded))[0] if field.type == "float" else rounded
    if field.type == "boolean":
        return value != 0
    if term.kind == "since":
        return math.floor(value)
    if term.kind == "stddev":
        return round(root_of_square(value))
    if term.kind in COUNTS or term.kind in ("mean", "variance", "recent_mean", "quantile", "top"):
        return math.floor(value + Fraction(1, 2))
    return int(value * 10**measure.scale)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
