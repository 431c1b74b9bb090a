"""Verdicts: pronounced once per record on its source partition, from nothing but that partition's log since the base.

Order of the rules (the first that holds): undecodable, poison, late, duplicate, ok. M, the largest event time of
the earlier records that passed the first two rules, runs per record, never per batch, so any batching, crash or
engine gives the same verdicts. The ids of the duplicate rule need no changelog: `rewind_point` says from where the
partition is read again to rebuild them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from headrace.plan.ir import EventType

Int64s = npt.NDArray[np.int64]
Int8s = npt.NDArray[np.int8]
Bools = npt.NDArray[np.bool_]

NO_MAXIMUM = int(np.iinfo(np.int64).min)  # stands for "no M yet" inside arrays; no event time is this small
_RAISES_PER_HORIZON = 64  # bounds the memory of the rewind point; it may lie this fraction of a horizon too early
_PRUNE_SLACK = 1024


class Verdict(IntEnum):
    """What became of a record. The numbers are also the precedence of the rules that reject."""

    OK = 0
    UNDECODABLE = 1
    POISON = 2
    LATE = 3
    DUPLICATE = 4


class Raise(NamedTuple):
    """A record that raised M: where, from what (None: there was none), to what."""

    offset: int
    before_ms: int | None
    after_ms: int


@dataclass(slots=True)
class SourceState:
    """What one source partition remembers between batches: a fold over its log prefix.

    `ids` maps an id to M after its latest occurrence that passed undecodable, poison and late.
    """

    maximum_ms: int | None = None
    ids: dict[str, int] = field(default_factory=dict)
    raises: deque[Raise] = field(default_factory=deque)
    ids_after_prune: int = 0


_OK, _UNDECODABLE, _POISON, _LATE, _DUPLICATE = map(int, Verdict)  # plain: looked up and kept per record


@dataclass(frozen=True, slots=True)
class Judged:
    """Verdicts of one batch, in its order. Shapes (n,); `maximum_after_ms` is NO_MAXIMUM where M does not exist yet."""

    verdicts: Int8s
    maximum_after_ms: Int64s

    @property
    def accepted(self) -> Bools:
        return self.verdicts == Verdict.OK


def judge(
    state: SourceState,
    event: EventType,
    offsets: Int64s,
    event_time_ms: Int64s,
    append_time_ms: Int64s,
    ids: Sequence[str | None] | None,
    decodable: Bools,
) -> Judged:
    """Pronounce on the next records of one partition, in offset order; mutates `state`.

    Args:
        state: the fold over everything before `offsets[0]` since the base.
        offsets, event_time_ms, append_time_ms: shape (n,). Event times of undecodable records are ignored.
        ids: the values of `event.dedup_id` as text, or None when the event declares none.
        decodable: shape (n,); False also for values out of their declared range.
    """
    poison = decodable & (event_time_ms > append_time_ms + event.poison_bound_ms)
    valid = decodable & ~poison
    before, after = running_maximum(state.maximum_ms, event_time_ms, valid)
    # Written as a sum: `before - lateness` would wrap where there is no M yet.
    late = valid & (event_time_ms + np.where(valid, event.lateness_ms, 0) < before)
    verdicts = np.zeros(len(offsets), np.int8)
    verdicts[~decodable] = Verdict.UNDECODABLE
    verdicts[poison] = Verdict.POISON
    verdicts[late] = Verdict.LATE
    if len(offsets):
        state.maximum_ms = None if after[-1] == NO_MAXIMUM else int(after[-1])
    if event.dedup_id is not None and ids is not None:
        passing = np.flatnonzero(valid & ~late)
        verdicts[duplicates(state, event.dedup_horizon_ms, passing, ids, before, after)] = Verdict.DUPLICATE
        _note_raises(state, event.dedup_horizon_ms, offsets, before, after)
        _prune_if_grown(state, event.dedup_horizon_ms)
    return Judged(verdicts, after)


def judge_each(
    state: SourceState,
    event: EventType,
    offsets: Sequence[int],
    event_time_ms: Sequence[int],
    append_time_ms: Sequence[int],
    ids: Sequence[str | None] | None,
    decodable: Sequence[bool],
) -> tuple[list[int], list[int]]:
    """`judge` record by record, for batches so small that arrays cost more; `state` ends as there.

    Returns: verdicts, and M after each record, NO_MAXIMUM where there is none.
    """
    horizon, known = event.dedup_horizon_ms, state.ids
    judging_ids = ids if event.dedup_id is not None else None
    top = NO_MAXIMUM if state.maximum_ms is None else state.maximum_ms
    verdicts: list[int] = []
    maxima: list[int] = []
    raised: list[tuple[int, int, int]] = []
    for row, (offset, at_ms) in enumerate(zip(offsets, event_time_ms, strict=True)):
        before, verdict = top, _OK
        if not decodable[row]:
            verdict = _UNDECODABLE
        elif at_ms > append_time_ms[row] + event.poison_bound_ms:
            verdict = _POISON
        else:
            if at_ms > top:
                top = at_ms
                raised.append((offset, before, top))
            if at_ms + event.lateness_ms < before:
                verdict = _LATE
            elif judging_ids is not None and (key := judging_ids[row]) is not None:
                previous = known.get(key)
                if previous is not None and before - previous <= horizon:
                    verdict = _DUPLICATE
                known[key] = top
        verdicts.append(verdict)
        maxima.append(top)
    state.maximum_ms = None if top == NO_MAXIMUM else top
    if judging_ids is not None:
        _keep_raises(state, horizon, raised)
        _prune_if_grown(state, horizon)
    return verdicts, maxima


def running_maximum(maximum_ms: int | None, event_time_ms: Int64s, valid: Bools) -> tuple[Int64s, Int64s]:
    """M before and after each record, shapes (n,), NO_MAXIMUM where there is none. Invalid records are invisible."""
    first = NO_MAXIMUM if maximum_ms is None else maximum_ms
    seen = np.concatenate((np.array([first], np.int64), np.where(valid, event_time_ms, NO_MAXIMUM)))
    running = np.maximum.accumulate(seen)
    return running[:-1], running[1:]


def duplicates(
    state: SourceState, horizon_ms: int, passing: Int64s, ids: Sequence[str | None], before: Int64s, after: Int64s
) -> list[int]:
    """Positions of duplicates among `passing`; remembers every occurrence, duplicates included.

    An id that comes once here and is not known cannot be one: all these are told apart at once.
    """
    known, found, rows = state.ids, list[int](), passing.tolist()
    texts = ids if len(rows) == len(ids) else [ids[i] for i in rows]
    if None in texts:
        rows = [i for i, key in zip(rows, texts, strict=True) if key is not None]
        texts = [ids[i] for i in rows]
    place = dict(zip(texts, range(len(texts)), strict=True))  # of the last with this id
    again = known.keys() & place.keys()
    if len(place) < len(texts):
        last = np.fromiter(map(place.__getitem__, texts), np.int64, len(texts))
        again |= {texts[i] for i in np.flatnonzero(last != np.arange(len(texts))).tolist()}
    if again:
        at = [i for i, key in zip(rows, texts, strict=True) if key in again]
        found = _repeated(state, horizon_ms, at, ids, before, after)
    known.update(zip(texts, after[rows].tolist(), strict=True))  # type: ignore[arg-type]
    return found


def _repeated(
    state: SourceState, horizon_ms: int, rows: Sequence[int], ids: Sequence[str | None], before: Int64s, after: Int64s
) -> list[int]:
    """`duplicates` of these rows, one by one; none of their ids is null."""
    known, found = state.ids, list[int]()
    for i, m_before, m_after in zip(rows, before[rows].tolist(), after[rows].tolist(), strict=True):
        key = ids[i]
        assert key is not None
        previous = known.get(key)
        if previous is not None and m_before - previous <= horizon_ms:
            found.append(i)
        known[key] = m_after
    return found


def _prune_if_grown(state: SourceState, horizon_ms: int) -> None:
    if len(state.ids) > 2 * state.ids_after_prune + _PRUNE_SLACK:
        prune_ids(state, horizon_ms)


def prune_ids(state: SourceState, horizon_ms: int) -> None:
    """Forget ids that can never again make a duplicate. Exact: M only grows."""
    if state.maximum_ms is not None:
        floor = state.maximum_ms - horizon_ms
        state.ids = {key: m for key, m in state.ids.items() if m >= floor}
    state.ids_after_prune = len(state.ids)


def rewind_point(state: SourceState) -> tuple[int, int | None] | None:
    """(offset, M before it) from where the partition must be read again to rebuild the ids; None: nothing to rebuild.

    To restore, judge from that offset to the committed position with `SourceState(maximum_ms=M before)` and drop the
    verdicts: M is exact from the first record on, and every occurrence still within the horizon is met again.
    """
    if not state.raises:
        return None
    first = state.raises[0]
    return first.offset, first.before_ms


def _note_raises(state: SourceState, horizon_ms: int, offsets: Int64s, before: Int64s, after: Int64s) -> None:
    """Keep the first raise of M in each 1/64 of a horizon, and of those the ones a restore may still need."""
    if state.maximum_ms is None:
        return
    grain = max(1, horizon_ms // _RAISES_PER_HORIZON)
    at = np.flatnonzero((after > before) & ((before == NO_MAXIMUM) | (after // grain != before // grain)))
    floor = state.maximum_ms - horizon_ms
    gone = int(np.searchsorted(before[at], floor))  # raises that start below the floor: only the last of them is needed
    if gone:
        at = at[gone - 1 :]
        state.raises.clear()
    for offset, low, high in zip(offsets[at].tolist(), before[at].tolist(), after[at].tolist(), strict=True):
        state.raises.append(Raise(offset, None if low == NO_MAXIMUM else low, high))
    _forget_raises(state, floor)


def _keep_raises(state: SourceState, horizon_ms: int, raised: Sequence[tuple[int, int, int]]) -> None:
    """`_note_raises` of these: (offset, M before, M after)."""
    if state.maximum_ms is None:
        return
    grain = max(1, horizon_ms // _RAISES_PER_HORIZON)
    for offset, low, high in raised:
        if low == NO_MAXIMUM or high // grain != low // grain:
            state.raises.append(Raise(offset, None if low == NO_MAXIMUM else low, high))
    _forget_raises(state, state.maximum_ms - horizon_ms)


def _forget_raises(state: SourceState, floor_ms: int) -> None:
    """Of those that start below the floor only the last is needed."""
    while len(state.raises) > 1 and (low := state.raises[1].before_ms) is not None and low < floor_ms:
        state.raises.popleft()
