"""Deviations of the online side from the law, as patches: what mutants are made of. The recomputation speaks the law."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from headrace.plan import lower, read, slots, tiles, verdicts
from headrace.plan.ir import EventType, FeatureSet
from headrace.plan.oracle import RawRecord
from support import law_worlds
from support.law_worlds import EVENTS, MIN, Passport, World

Patch = pytest.MonkeyPatch

# ---------------------------------------------------------------- accumulators


def float_sum(patch: Patch) -> None:
    """Sums kept as doubles."""
    real = slots.reduce_by

    def reduce_by(layout: slots.Layout, groups: Any, rows: Any) -> Any:
        ids, out = real(layout, groups, rows)
        for at in [s["sum"] for s in layout.of.values() if "sum" in s]:
            out[:, at] = np.bincount(np.searchsorted(ids, groups), rows[:, at].astype(np.float64)).astype(np.int64)
        return ids, out

    patch.setattr(tiles, "reduce_by", reduce_by)


def division_before_sum(patch: Patch) -> None:
    """The scale divided away in floats before the mean divides: two roundings."""
    one, many = lower._exact_one, lower.exact

    def rounded(total: int, n: int, unit: int) -> tuple[int, int]:
        early = Fraction(total / unit)
        return early.numerator, early.denominator * max(n, 1)

    def exact_one(kind: Any, unit: int, term: lower.TermIntegers) -> Any:
        return rounded(term.total, term.n, unit) if kind == "mean" and term.n else one(kind, unit, term)

    def exact(what: Any, of: Any, columns: lower.TermColumns) -> Any:
        """what and of: the term and its measure, or its kind and scale."""
        value, scale = many(what, of, columns), getattr(of, "scale", of)
        if getattr(what, "kind", what) != "mean":
            return value
        pairs = zip(columns.total.tolist(), columns.count.tolist(), strict=True)
        above, below = zip(*(rounded(total, n, 10**scale) for total, n in pairs), strict=True)
        return lower.Rational(np.array(above, object), np.array(below, object), value.given)

    patch.setattr(lower, "_exact_one", exact_one)
    patch.setattr(lower, "exact", exact)


def one_limb(patch: Patch) -> None:
    """Squares in one int64."""
    patch.setattr(slots, "square_limbs", lambda v: (v * v, np.zeros_like(v)))


def nulls_are_zeros(patch: Patch) -> None:
    """A null value counted as 0."""
    real = slots.row_vectors

    def vectors(layout: Any, times: Any, parts: Any, offsets: Any, included: Any, values: Any) -> Any:
        filled = [None if v is None else (v[0], np.ones_like(v[1])) for v in values]
        return real(layout, times, parts, offsets, included, filled)

    patch.setattr(tiles, "row_vectors", vectors)


def last_by_arrival(patch: Patch) -> None:
    """`last` ordered by offset instead of event time."""
    real = slots.row_vectors

    def vectors(layout: slots.Layout, times: Any, *rest: Any) -> Any:
        rows = real(layout, times, *rest)
        for at in layout.lasts:
            rows[:, at] = np.where(rows[:, at + 1] > 0, rows[:, at + 3], 0)
        return rows

    patch.setattr(tiles, "row_vectors", vectors)


# ---------------------------------------------------------------- verdicts


def maximum_per_batch(patch: Patch) -> None:
    """M taken from the batches before, not from the records before."""
    real = verdicts.running_maximum

    def running(maximum_ms: Any, times: Any, valid: Any) -> Any:
        before, after = real(maximum_ms, times, valid)
        return np.full_like(before, verdicts.NO_MAXIMUM if maximum_ms is None else maximum_ms), after

    patch.setattr(verdicts, "running_maximum", running)


def late_after_rekey(patch: Patch) -> None:
    """Lateness judged where records of all source partitions have been mixed."""
    tops: dict[str, int] = {}
    real = law_worlds.judge_frame

    def judge_frame(state: Any, event: EventType, frame: Any) -> Any:
        judged = real(state, replace(event, lateness_ms=1 << 50), frame)
        said = judged.verdicts.copy()
        for i, time in enumerate(map(int, frame["__time"].to_list())):
            if said[i] in (verdicts.Verdict.OK, verdicts.Verdict.DUPLICATE):
                top = tops.get(event.name, time)
                if time < top - event.lateness_ms:
                    said[i] = verdicts.Verdict.LATE
                tops[event.name] = max(top, time)
        return replace(judged, verdicts=said)

    patch.setattr(law_worlds, "judge_frame", judge_frame)


def late_bound_inclusive(patch: Patch) -> None:
    """`<=` where the law says `<`."""
    real = law_worlds.judge_frame
    patch.setattr(law_worlds, "judge_frame", lambda s, e, f: real(s, replace(e, lateness_ms=e.lateness_ms - 1), f))


def late_is_accepted(patch: Patch) -> None:
    """Late records enter the tiles."""
    patch.setattr(verdicts.Judged, "accepted", property(lambda j: (j.verdicts == 0) | (j.verdicts == verdicts.Verdict.LATE)))


def poison_raises_maximum(patch: Patch) -> None:
    """A clock far ahead moves M."""
    real = verdicts.running_maximum
    patch.setattr(verdicts, "running_maximum", lambda m, times, valid: real(m, times, np.ones_like(valid)))


def poison_is_accepted(patch: Patch) -> None:
    """No bound against clocks far ahead."""
    real = law_worlds.judge_frame
    patch.setattr(law_worlds, "judge_frame", lambda s, e, f: real(s, replace(e, poison_bound_ms=1 << 50), f))


def _duplicates(patch: Patch, clock: str, *, exclusive: bool = False, from_accepted: bool = False) -> None:
    """The duplicate rule on another clock: M ("m"), append time ("append") or event time ("event")."""
    real, box = verdicts.judge, dict[str, Any]()

    def judge(state: Any, event: Any, offsets: Any, times: Any, appended: Any, *rest: Any) -> Any:
        box.update(append=appended, event=times)
        return real(state, event, offsets, times, appended, *rest)

    def duplicates(state: Any, horizon: int, passing: Any, ids: Any, before: Any, after: Any) -> list[int]:
        now, then = (before, after) if clock == "m" else (box[clock], box[clock])
        found = []
        for i in passing.tolist():
            previous = None if ids[i] is None else state.ids.get(ids[i])
            if ids[i] is None:
                continue
            near = previous is not None and (now[i] - previous < horizon if exclusive else now[i] - previous <= horizon)
            if near:
                found.append(i)
            if not (near and from_accepted):
                state.ids[ids[i]] = int(then[i])
        return found

    patch.setattr(verdicts, "judge", judge)
    patch.setattr(verdicts, "duplicates", duplicates)


def dedup_by_wall_clock(patch: Patch) -> None:
    """The horizon measured in append time."""
    _duplicates(patch, "append")


def dedup_by_event_time(patch: Patch) -> None:
    """The horizon measured in the records' own times."""
    _duplicates(patch, "event")


def dedup_from_the_accepted(patch: Patch) -> None:
    """A duplicate does not renew the horizon."""
    _duplicates(patch, "m", from_accepted=True)


def dedup_forgets_between_batches(patch: Patch) -> None:
    """Ids known within a batch only."""
    real = verdicts.duplicates

    def duplicates(state: Any, *rest: Any) -> Any:
        state.ids.clear()
        return real(state, *rest)

    patch.setattr(verdicts, "duplicates", duplicates)


def aborted_records_read(patch: Patch) -> None:
    """What an aborted transaction left in the log is read too."""

    def records(self: World, event: str, partition: int) -> list[RawRecord]:
        out: list[RawRecord] = []
        for r in (r for r in self.log if r.event == event and r.partition == partition):
            if out and r.offset > out[-1].offset + 1 and out[-1].fields is not None:
                ident = EVENTS[event].dedup_id
                ghost = dict(out[-1].fields) | ({ident: f"ghost {r.offset}"} if ident else {})
                out.append(replace(out[-1], offset=out[-1].offset + 1, fields=ghost))
            out.append(r)
        return out

    patch.setattr(World, "records", records)


# ---------------------------------------------------------------- cuts, floors, reading


def cut_one_too_far(patch: Patch) -> None:
    """The state holds what it should, the passport claims one record more."""

    def claimed(entity: str, t: int, cut: dict[tuple[str, int], int], values: Any, statuses: Any) -> Passport:
        return Passport(entity, t, {k: o + 1 for k, o in cut.items()}, values, statuses)

    patch.setattr(law_worlds, "Passport", claimed)


def cut_one_too_short(patch: Patch) -> None:
    """The passport claims one record less."""

    def claimed(entity: str, t: int, cut: dict[tuple[str, int], int], values: Any, statuses: Any) -> Passport:
        return Passport(entity, t, {k: o - 1 for k, o in cut.items()}, values, statuses)

    patch.setattr(law_worlds, "Passport", claimed)


def edge_low(patch: Patch) -> None:
    """The window's first hop left out."""
    patch.setattr(read, "window_start", lambda t, w, hop: (t - w) // hop * hop + hop if hop else t - w)


def edge_high(patch: Patch) -> None:
    """The tile that starts at t left out."""
    real = slots.ranges
    patch.setattr(read, "ranges", lambda owner, position, asked, low, high: real(owner, position, asked, low, high - 1))


def head_tile_from_the_future(patch: Patch) -> None:
    """One tile more than the one that holds t."""
    real = read._window
    patch.setattr(read, "_window", lambda level, held, times, low: real(level, held, times + level.hop_ms, low))


def truncated_division(patch: Patch) -> None:
    """Tiles by division towards zero."""

    def start(t: Any, hop: int) -> Any:
        return np.trunc(t / hop).astype(np.int64) * hop if hop else np.zeros_like(t)

    patch.setattr(tiles, "tile_start", start)
    patch.setattr(read, "tile_start", start)


def never_ahead(patch: Patch) -> None:
    """Tiles that hold the future of t are not told."""
    real = read._term
    patch.setattr(read, "_term", lambda where, hop, v, p, t, low, base: real(where, hop, v, p, t + (1 << 50), low, base))


def floor_by_watermark(patch: Patch) -> None:
    """The TTL counted from the watermark instead of the largest M."""
    real = tiles.floor_ms

    def floor(feature_set: FeatureSet, event: str, maxima: Any, base: Any) -> Any:
        held_back = {n: None if m is None else m - EVENTS[n].lateness_ms for n, m in maxima.items()}
        return real(feature_set, event, held_back, base)

    patch.setattr(read, "floor_ms", floor)


def floor_by_clock(patch: Patch) -> None:
    """The TTL counted from a clock."""

    def floor(feature_set: FeatureSet, _event: str, maxima: Any, base: Any) -> Any:
        now = max((m for m in maxima.values() if m is not None), default=None)
        return base if now is None else now + 10 * MIN - feature_set.ttl_ms

    patch.setattr(read, "floor_ms", floor)


def expired_is_answered(patch: Patch) -> None:
    """A window that begins below the floor is answered in part."""
    patch.setattr(read, "floor_ms", lambda *_: None)


def tiles_gone_too_early(patch: Patch) -> None:
    """Tiles dropped that windows still read."""
    real = tiles.floor_ms
    patch.setattr(tiles, "floor_ms", lambda *a: None if (f := real(*a)) is None else f + 6 * 60 * MIN)


ONLINE: tuple[Callable[[Patch], None], ...] = (
    float_sum, division_before_sum, one_limb, nulls_are_zeros, last_by_arrival, maximum_per_batch, late_after_rekey,
    late_bound_inclusive, late_is_accepted, poison_raises_maximum, poison_is_accepted, dedup_by_wall_clock, dedup_by_event_time,
    dedup_from_the_accepted, dedup_forgets_between_batches, aborted_records_read, cut_one_too_far, cut_one_too_short, edge_low,
    edge_high, head_tile_from_the_future, truncated_division, never_ahead, floor_by_watermark, floor_by_clock,
    expired_is_answered, tiles_gone_too_early,
)  # fmt: skip
