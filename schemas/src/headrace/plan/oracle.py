"""The naive oracle: what the law says, in plain Python over the raw log. It wins every argument.

No tiles, no batches, no numpy: each question walks the log again. Slow on purpose; for tests and single decisions.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from headrace.plan import expressions
from headrace.plan.ir import EventType, Feature, FeatureSet, Measure, Step, Term
from headrace.plan.items import array_of, item_column
from headrace.plan.lower import Status
from headrace.plan.sketches import estimate_of
from headrace.plan.verdicts import Verdict

Cut = Mapping[tuple[str, int], int]  # (event, partition) -> next offset not included; absent: nothing is
Answer = tuple[list[float | None], list[Status]]


@dataclass(frozen=True, slots=True)
class RawRecord:
    """One record as it lies in the log. `fields` None: undecodable, or out of declared range."""

    event: str
    partition: int
    offset: int
    append_ms: int
    fields: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class JudgedRecord:
    raw: RawRecord
    verdict: Verdict
    maximum_after_ms: int | None
    time_ms: int  # 0 where undecodable


class Oracle:
    """The law over one log: all records of all partitions since the base, in offset order within each partition."""

    def __init__(self, events: Sequence[EventType], log: Sequence[RawRecord]) -> None:
        self.events = {e.name: e for e in events}
        self.log = [judged for part in _partitions(log).values() for judged in self._judge(part)]

    def _judge(self, records: Sequence[RawRecord]) -> list[JudgedRecord]:
        """Word for word: each record against all earlier ones of its partition."""
        out: list[JudgedRecord] = []
        for raw in records:
            event = self.events[raw.event]
            passed = [j.time_ms for j in out if j.verdict not in (Verdict.UNDECODABLE, Verdict.POISON)]
            before = max(passed, default=None)
            if raw.fields is None:
                out.append(JudgedRecord(raw, Verdict.UNDECODABLE, before, 0))
                continue
            time = raw.fields[event.time]
            if time > raw.append_ms + event.poison_bound_ms:
                out.append(JudgedRecord(raw, Verdict.POISON, before, time))
                continue
            verdict, after = Verdict.OK, time if before is None else max(before, time)
            if before is not None and time < before - event.lateness_ms:
                verdict = Verdict.LATE
            elif event.dedup_id is not None and raw.fields[event.dedup_id] is not None and before is not None:
                near = [j for j in out if j.verdict in (Verdict.OK, Verdict.DUPLICATE) and j.raw.fields is not None]
                same = [j for j in near if (j.raw.fields or {})[event.dedup_id] == raw.fields[event.dedup_id]]
                if same and before - (same[-1].maximum_after_ms or 0) <= event.dedup_horizon_ms:
                    verdict = Verdict.DUPLICATE
            out.append(JudgedRecord(raw, verdict, after, time))
        return out

    def verdicts(self) -> dict[tuple[str, int, int], Verdict]:
        """By (event, partition, offset)."""
        return {(j.raw.event, j.raw.partition, j.raw.offset): j.verdict for j in self.log}

    def maxima(self, cut: Cut) -> dict[str, int | None]:
        """Per event the largest M over its partitions under the cut."""
        out: dict[str, int | None] = dict.fromkeys(self.events)
        for j in self.log:
            if _under(j.raw, cut) and j.verdict not in (Verdict.UNDECODABLE, Verdict.POISON):
                known = out[j.raw.event]
                out[j.raw.event] = j.time_ms if known is None else max(known, j.time_ms)
        return out

    def watermarks(self, cut: Cut, advances: Sequence[tuple[str, int, int, int]]) -> dict[tuple[str, int], int]:
        """Per source partition under the cut: largest M minus lateness, or what was logged as (event, partition, next
        offset, watermark) no further than the cut, whichever is larger. Of a state that has taken these advances: one of an
        offset may still be on its way to it, and then its watermark is that of an earlier one."""
        out: dict[tuple[str, int], int] = {}
        for j in self.log:
            if _under(j.raw, cut) and j.maximum_after_ms is not None:
                out[j.raw.event, j.raw.partition] = j.maximum_after_ms - self.events[j.raw.event].lateness_ms
        for event, partition, next_offset, watermark_ms in advances:
            if next_offset <= cut.get((event, partition), 0):
                out[event, partition] = max(watermark_ms, out.get((event, partition), watermark_ms))
        return out

    def answer(self, feature_set: FeatureSet, entity: str, t: int, cut: Cut, base_floor_ms: int | None) -> Answer:
        """Features as served: accepted records under the cut, whole tiles at both edges of a window."""
        maxima, parts = self.maxima(cut), []
        accepted = [j for j in self.log if j.verdict == Verdict.OK and _under(j.raw, cut) and j.raw.event in feature_set.events]
        records = [j for j in accepted if self._entity(feature_set, j) == entity]
        for measure, term in _terms(feature_set):
            mine, top, hop = [j for j in records if j.raw.event == measure.event], maxima[measure.event], term.hop_ms
            floors = [top - feature_set.ttl_ms] if top is not None else []
            floor = max(floors + ([base_floor_ms] if base_floor_ms is not None else []), default=None)
            low = _floor(t - term.window_ms, hop)
            if floor is not None and low < floor:
                parts.append((Status.EXPIRED, None))
                continue
            if hop:
                mine = [j for j in mine if low <= _floor(j.time_ms, hop) <= t]
            else:
                mine = [j for j in self._held(measure, mine)[-max(1, measure.size) :] if j.time_ms >= low]
            value = self.value(measure, term, mine, t)
            if mine and max(j.time_ms for j in mine) > t:
                parts.append((Status.AHEAD, value))
            elif value is None:
                parts.append((Status.MISSING, None))
            else:
                parts.append((Status.STALE if top is None or t - top > feature_set.stale_after_ms else Status.FRESH, value))
        return _features(feature_set, parts)

    def as_of(self, feature_set: FeatureSet, entity: str, t: int) -> Answer:
        """Features as of t: event time < t, available by t, one per id within the horizon (the first available)."""
        parts = []
        for measure, term in _terms(feature_set):
            low = _floor(t - term.window_ms, term.hop_ms)
            mine = [
                j
                for available, j in self._first_available(self.events[measure.event])
                if available <= t and low <= j.time_ms < t and self._entity(feature_set, j) == entity
            ]
            value = self.value(measure, term, mine, t)
            parts.append((Status.MISSING if value is None else Status.FRESH, value))
        return _features(feature_set, parts)

    def _first_available(self, event: EventType) -> list[tuple[int, JudgedRecord]]:
        passed = [j for j in self.log if j.raw.event == event.name and j.verdict not in (Verdict.UNDECODABLE, Verdict.POISON)]
        delay = event.available_after_ms
        timed = [(max(j.time_ms, j.raw.append_ms) if delay is None else j.time_ms + delay, j) for j in passed]
        timed.sort(key=lambda x: (x[0], x[1].raw.partition, x[1].raw.offset))
        seen: dict[Any, int] = {}
        out = []
        for available, j in timed:
            key = (j.raw.fields or {})[event.dedup_id] if event.dedup_id is not None else None
            if key is None or key not in seen or available - seen[key] > event.dedup_horizon_ms:
                out.append((available, j))
            if key is not None:
                seen[key] = available
        return out

    def _entity(self, feature_set: FeatureSet, j: JudgedRecord) -> str | None:
        values = [(j.raw.fields or {})[name] for name in feature_set.entity]
        return None if None in values else "\x1f".join(_text(v) for v in values)

    def _held(self, measure: Measure, records: Sequence[JudgedRecord]) -> list[JudgedRecord]:
        """Records that count for a measure (where holds, value not null) in the order of `last`; or of each its items."""
        fields = {f.name: f for f in self.events[measure.event].fields}
        array = array_of(measure, fields)
        if array is not None:
            records = [item for j in records for item in _items(j, array)]
        if measure.where is not None:
            where = expressions.parse(measure.where, fields).compile()
            records = [j for j in records if where(j.raw.fields or {}) is True]
        if measure.value is not None:
            value = expressions.parse(measure.value, fields).compile()
            records = [j for j in records if value(j.raw.fields or {}) is not None]
        return sorted(records, key=lambda j: (j.time_ms, j.raw.partition, j.raw.offset))

    def value(self, measure: Measure, term: Term, records: Sequence[JudgedRecord], t: int) -> Fraction | None:
        """Of these records, exactly; of a stddev the square. None over nothing but for counts."""
        held = self._held(measure, records)
        if term.kind == "count":
            return Fraction(len(held))
        if term.kind == "since":
            return Fraction(t - held[-1].time_ms, max(1, term.argument)) if held else None
        fields = {f.name: f for f in self.events[measure.event].fields}
        value = expressions.parse(measure.value or "", fields).compile()
        found = [value(j.raw.fields or {}) for j in held]
        if term.kind == "distinct":
            return _distinct(measure, {str(v) for v in found})
        if measure.edges:
            return _of_buckets(measure, term, [sum(edge <= v for edge in measure.edges) for v in found])
        values = [Fraction(int(v), 10**measure.scale) for v in found]
        if term.kind in ("recent", "recent_sum", "recent_mean"):
            values = values[-measure.size :][::-1]
            values = values[term.argument : term.argument + 1] if term.kind == "recent" else values
        if not values:
            return None
        total = sum(values, Fraction(0))
        mean = total / len(values)
        if term.kind in ("variance", "stddev"):
            return sum(((v - mean) ** 2 for v in values), Fraction(0)) / len(values)
        sums = {"sum": total, "mean": mean, "recent_sum": total, "recent_mean": mean, "recent": values[0]}
        return {**sums, "min": min(values), "max": max(values), "last": values[-1], "first": values[0]}[term.kind]


def _items(j: JudgedRecord, array: str) -> list[JudgedRecord]:
    """The record once for each item of an array, the item beside its fields; one taken apart already is left alone."""
    fields = j.raw.fields or {}
    if item_column(array) in fields:
        return [j]
    return [replace(j, raw=replace(j.raw, fields={**fields, item_column(array): item})) for item in fields[array] or ()]


def _distinct(measure: Measure, texts: set[str]) -> Fraction:
    """Distinct values, exact while few; else from the density of the greatest hashes, or from the registers."""
    digests = [hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() for text in texts]
    hashes = sorted((max(1, int(digest[:16], 16) // 2) for digest in digests), reverse=True)
    if "distinct" in measure.slots:
        if len(hashes) < measure.size:
            return Fraction(len(hashes))
        return (measure.size - 1) / (1 - Fraction(hashes[measure.size - 1], 2**63))
    bits = 64 - measure.size.bit_length()
    ranks: dict[int, int] = {}
    for h in hashes:
        low = format(h % 2**bits, f"0{bits}b")
        rank = bits - len(low.rstrip("0")) + 1
        ranks[h // 2**bits] = max(rank, ranks.get(h // 2**bits, 0))
    return Fraction(*estimate_of([ranks.get(i, 0) for i in range(measure.size)]))


def _of_buckets(measure: Measure, term: Term, buckets: list[int]) -> Fraction | None:
    if term.kind == "bucket":
        return Fraction(buckets.count(term.argument))
    if term.kind == "top":
        order = sorted(set(buckets), key=lambda b: (-buckets.count(b), b))
        return Fraction(order[term.argument]) if term.argument < len(order) else None
    if not buckets:
        return None
    rank = max(1, math.ceil(Fraction(term.argument, 10_000) * len(buckets)))
    at, last = sorted(buckets)[rank - 1], len(measure.edges)
    ends = (measure.edges[0],) * 2 if at == 0 else (measure.edges[-1],) * 2 if at == last else measure.edges[at - 1 : at + 1]
    return Fraction(sum(ends), 2 * 10**measure.scale)


def _partitions(log: Sequence[RawRecord]) -> dict[tuple[str, int], list[RawRecord]]:
    out: dict[tuple[str, int], list[RawRecord]] = {}
    for raw in log:
        out.setdefault((raw.event, raw.partition), []).append(raw)
    return out


def _under(raw: RawRecord, cut: Cut) -> bool:
    return raw.offset < cut.get((raw.event, raw.partition), 0)


def _floor(time_ms: int, hop_ms: int) -> int:
    return time_ms // hop_ms * hop_ms if hop_ms else time_ms


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _terms(feature_set: FeatureSet) -> list[tuple[Measure, Term]]:
    measures = {m.id: m for m in feature_set.measures}
    return [(measures[t.measure], t) for f in feature_set.features for t in f.terms]


def _features(feature_set: FeatureSet, parts: Sequence[tuple[Status, Fraction | None]]) -> Answer:
    values, statuses, at = [], [], 0
    for feature in feature_set.features:
        mine = parts[at : at + len(feature.terms)]
        at += len(feature.terms)
        value, status = _feature(feature, mine)
        values.append(value)
        statuses.append(status)
    return values, statuses


def _feature(feature: Feature, parts: Sequence[tuple[Status, Fraction | None]]) -> tuple[float | None, Status]:
    status, value = max(s for s, _ in parts), parts[0][1]
    root = feature.terms[0].kind == "stddev"  # the value is its square until it is lowered
    if feature.lowering != "value":
        other = parts[1][1]
        if value is None or other is None:
            value = None
        elif feature.lowering == "difference":
            value -= other
        else:
            value = value / other if other else None
    for step in feature.steps:
        if value is not None:
            value, root = _step(step, value, root)
    if status == Status.EXPIRED:
        return None, status
    if value is None:
        return (None if feature.impute is None else float(feature.impute)), max(status, Status.MISSING)
    return (root_of_square(value) if root else float(value)), status


def _step(step: Step, value: Fraction, root: bool) -> tuple[Fraction, bool]:
    low, high, *edges = [None if x is None else Fraction(x) ** (2 if root else 1) for x in (step.low, step.high, *step.edges)]
    below, above = low is not None and value < low, high is not None and value > high
    if step.kind == "clip":
        return (low if low is not None and below else high if high is not None and above else value), root
    if step.kind == "outlier":
        return Fraction(int(below or above)), False
    return Fraction(sum(edge is not None and edge <= value for edge in edges)), False


def root_of_square(square: Fraction) -> float:
    """The float64 nearest to the root: of the neighbours of a first guess the one whose interval holds it."""
    guess = math.sqrt(square)
    for candidate in (guess, math.nextafter(guess, math.inf), math.nextafter(guess, 0.0)):
        here, up, down = (Fraction(x) for x in (candidate, math.nextafter(candidate, math.inf), math.nextafter(candidate, 0.0)))
        if ((here + down) / 2) ** 2 <= square <= ((here + up) / 2) ** 2:
            return candidate
    raise AssertionError("no float64 is nearest")
