"""What has broken in other engines, each by name."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from headrace.contracts.errors import Fatal
from headrace.plan.ir import Window
from headrace.plan.oracle import RawRecord
from headrace.plan.streams.memory_tables import MemoryTables
from headrace.plan.streams.operator import Batch, Operator, Outcome
from headrace.plan.streams.window_operators import operator
from headrace.plan.streams.window_prepare import build_prepare
from support.stream_windows import PAYMENTS, WINDOWS, Step, World, expected, frame_of, live, stream_of

DAY = 86_400_000


def paid(offset: int, time: int, card: str = "a", amount: int | None = 100, partition: int = 0) -> RawRecord:
    fields = {"card": card, "shop": None, "paid_at": time, "amount": amount, "refunded": False, "note": None, "prices": []}
    return RawRecord("payments", partition, offset, 0, fields)


def said(outcome: Outcome, *names: str) -> list[tuple[Any, ...]]:
    return outcome.results.select(*names).rows()


class Desk:
    """An operator that is given rows by hand."""

    def __init__(self, window: Window, **given: Any) -> None:
        self.stream, self.events = stream_of(window, **given)
        self.prepare = build_prepare(self.stream, 0, self.events)
        self.acting: Operator = operator(self.stream, self.events, MemoryTables())

    def take(self, rows: list[RawRecord], watermark_ms: int | None, doubtful: set[tuple[int, int]] | None = None) -> Outcome:
        frame = frame_of(Step(rows, doubtful or set(), watermark_ms))
        return self.acting.take([Batch(0, self.prepare(frame))] if rows else [], watermark_ms)


def test_a_row_between_them_makes_three_sessions_one() -> None:
    """Goal: the bridge meets a session on either side and one of its own batch."""
    desk = Desk(Window("session", gap_ms=10, emit="both"))
    desk.take([paid(0, 100), paid(1, 120), paid(2, 140)], None)
    assert desk.acting.tables["sessions"].entries() == 3
    outcome = desk.take([paid(3, 110), paid(4, 130)], 0)
    assert said(outcome, "w_start", "w_end", "n", "w_final") == [(100, 141, 5, False)]
    assert desk.acting.tables["sessions"].entries() == 1
    assert said(desk.take([], 150), "n") == []
    assert said(desk.take([], 151), "w_start", "w_end", "n", "w_final") == [(100, 141, 5, True)]


def test_a_session_that_begins_earlier_than_thought_is_closed_once() -> None:
    desk = Desk(Window("session", gap_ms=10))
    desk.take([paid(0, 100)], 50)
    desk.take([paid(1, 95)], 50)
    assert said(desk.take([], 1000), "w_start", "w_end", "n") == [(95, 101, 2)]


@pytest.mark.parametrize("kind", ["tumbling", "hopping", "sliding", "session"])
def test_a_key_that_goes_quiet_still_closes(kind: str) -> None:
    """By the rows of another key."""
    desk = Desk(WINDOWS[kind])
    desk.take([paid(0, 10, "quiet")], 10)
    outcome = desk.take([paid(1, 10_000, "loud")], 9_000)
    assert {card for (card,) in said(outcome, "card")} == {"quiet"}


@pytest.mark.parametrize("kind", list(WINDOWS))
def test_a_late_row_never_reopens_a_closed_window(kind: str) -> None:
    """A row that comes below a watermark which went on without it is handed back, and nothing is said of it ever."""
    desk = Desk(WINDOWS[kind])
    desk.take([paid(0, 10), paid(1, 11), paid(2, 12)], 5_000)
    outcome = desk.take([paid(0, 13, partition=1), paid(1, 5_000, partition=1)], 5_000, {(1, 0)})
    assert outcome.refused.rows() == [(0, 1, 0, 0, 13)]
    assert said(outcome, "n") == []
    last = desk.take([], 9_000)
    assert all(start >= 4_900 for (start,) in said(last, "w_start"))


def test_a_doubtful_row_that_still_has_its_place_is_taken() -> None:
    desk = Desk(WINDOWS["tumbling"])
    desk.take([paid(0, 10)], 20)
    assert said(desk.take([paid(1, 20, partition=1)], 50, {(1, 1)}), "n") == [(2,)]


@pytest.mark.parametrize("kind", [kind for kind in WINDOWS if kind != "count"])  # whose rows all have their origin
def test_rows_below_what_has_closed_that_nobody_announced_stop_the_operator(kind: str) -> None:
    """They were promised not to come: to take them would say a window twice, to drop them would lose them."""
    desk = Desk(WINDOWS[kind])
    desk.take([paid(0, 10)], 5_000)
    with pytest.raises(Fatal):
        desk.take([paid(1, 12)], 5_000)


@pytest.mark.parametrize("kind", list(WINDOWS))
def test_a_hot_key_with_nine_rows_of_ten_and_a_key_of_no_length(kind: str) -> None:
    rng = random.Random(7)
    stream, events = stream_of(WINDOWS[kind], rich=True)
    steps, time = list[Step](), 0
    for batch in range(6):
        rows: list[RawRecord] = []
        for i in range(50):
            time += rng.choice((0, 1, 1, 30))
            rows.append(paid(batch * 50 + i, time, "hot" if rng.random() < 0.9 else "", rng.choice((None, 0, -5, 7))))
        steps.append(Step(rows, set(), time - 60))
    world = World([*steps, Step([], set(), time + 1000)])
    assert live(stream, events, world, rng, restores=0.3).taken == expected(stream, events, world)[0]


@pytest.mark.parametrize("kind", list(WINDOWS))
def test_a_time_far_ahead_makes_no_windows_between(kind: str) -> None:
    """A clock a year ahead, allowed by its bound: only windows that rows are in are said, and time goes on."""
    rng = random.Random(3)
    stream, events = stream_of(WINDOWS[kind])
    ahead = 365 * DAY
    steps = [Step([paid(0, 5), paid(1, ahead, "b")], set(), None), Step([paid(0, 6, partition=1)], set(), 0)]
    steps += [Step([], set(), ahead - 1), Step([paid(2, ahead + 1)], set(), ahead + 1), Step([], set(), ahead + 5_000)]
    world = World(steps)
    assert live(stream, events, world, rng).taken == expected(stream, events, world)[0]


def test_hopping_replay_yields_exactly_the_windows_of_real_time() -> None:
    """Row by row with the watermark close behind, against everything in one batch: the same windows, byte for byte."""
    rng = random.Random(11)
    rows, time = list[RawRecord](), 0
    for offset in range(400):
        time += rng.choice((0, 2, 9, 500))
        rows.append(paid(offset, time - rng.randint(0, 30), rng.choice(("a", "b")), rng.choice((None, 1, -2))))
    desk, replay = Desk(WINDOWS["hopping"], rich=True), Desk(WINDOWS["hopping"], rich=True)
    top, real = 0, list[dict[str, Any]]()
    for row in rows:
        top = max(top, (row.fields or {})["paid_at"])
        real += desk.take([row], top - 40).results.to_dicts()
    real += desk.take([], time + 1000).results.to_dicts()
    again = replay.take(rows, time + 1000).results.to_dicts()
    assert sorted(real, key=str) == sorted(again, key=str) and len(real) > 400


def test_rows_of_one_time_are_counted_off_by_partition_offset_and_item() -> None:
    desk = Desk(Window("count", rows=2), rich=True)
    desk.take([paid(9, 5, amount=9, partition=1), paid(10, 5, amount=1), paid(2, 5, amount=2, partition=0)], 5)
    outcome = desk.take([paid(0, 6, amount=4, partition=10)], 7)
    assert said(outcome, "oldest", "newest", "w_start", "w_end") == [(0.02, 1, 5, 6), (0.09, 4, 5, 7)]


@pytest.mark.parametrize("kind", list(WINDOWS))
def test_the_watermark_that_is_due_gives_something_and_none_before_does(kind: str) -> None:
    desk = Desk(WINDOWS[kind])
    assert desk.acting.due_ms() is None
    desk.take([paid(0, 7), paid(1, 9), paid(2, 11)], None)
    due = desk.acting.due_ms()
    assert due is not None
    assert said(desk.take([], due - 1), "n") == []
    assert len(said(desk.take([], due), "n")) == (0 if kind == "count" else 1)


def test_a_stream_without_a_window_has_no_window_operator() -> None:
    stream, events = stream_of(WINDOWS["count"])
    with pytest.raises(Fatal):
        operator(replace(stream, window=None), events, MemoryTables())
    assert PAYMENTS in events
