"""The gate: requests are let go when the views have seen enough, and not before."""

from __future__ import annotations

import pytest

from headrace_demo.board import Board
from headrace_demo.player import Gate
from headrace_demo.waiting import GaveUp, Stopped, until
from headrace_demo.year import Step


class Views(Gate):
    """A gate whose views move at every look."""

    def __init__(self, board: Board, looks: list[dict[str, int]]) -> None:
        super().__init__("http://127.0.0.1:1", "flights", board)
        self._usual_s = 0.0
        self.looks = looks

    def seen(self) -> dict[str, int]:
        return self.looks.pop(0)


def test_the_gate_opens_at_the_first_look_that_shows_every_needed_stream() -> None:
    views = Views(Board(), [{}, {"arrivals": 9, "departures": 4}, {"arrivals": 9, "departures": 5}, {}])
    views.wait(Step(10, 20, {"arrivals": 8, "departures": 5}))
    assert views.looks == [{}]
    views.close()


def test_an_open_gate_is_not_asked_again() -> None:
    views = Views(Board(), [{"arrivals": 9}])
    views.wait(Step(10, 20, {"arrivals": 8}))
    views.wait(Step(20, 30, {"arrivals": 9}))
    assert views.looks == []
    views.close()


def test_a_gate_does_not_outlive_the_demo() -> None:
    board = Board()
    board.stop.set()
    views = Views(board, [])
    with pytest.raises(Stopped):
        views.wait(Step(10, 20, {"arrivals": 8}))
    views.close()


def test_waiting_gives_up_with_the_name_of_what_it_waited_for() -> None:
    with pytest.raises(GaveUp, match="the moon"):
        until("the moon", lambda: None, timeout_s=-1.0)
