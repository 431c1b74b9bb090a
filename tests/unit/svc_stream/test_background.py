"""Work beside the caller's thread: one piece at a time, and what it raises is raised where it is asked for."""

from __future__ import annotations

import threading

import pytest

from headrace.chassis.errors import Retryable
from svc_stream.background import ThreadBackground


def test_work_runs_beside_its_caller_who_sees_when_it_ends_and_what_it_raised() -> None:
    beside, gate, names = ThreadBackground("commits"), threading.Event(), list[str]()
    assert beside.ended()
    beside.result()

    def work() -> None:
        gate.wait(10)
        names.append(threading.current_thread().name)

    beside.start(work)
    assert not beside.ended() and not names
    gate.set()
    beside.result()
    assert beside.ended() and names != [threading.current_thread().name]

    def fails() -> None:
        raise Retryable("down")

    beside.start(fails)
    with pytest.raises(Retryable, match="down"):
        beside.result()
    beside.result()
    beside.close()


def test_a_second_piece_is_refused_while_one_is_under_way() -> None:
    beside, gate = ThreadBackground("commits"), threading.Event()

    def work() -> None:
        gate.wait(10)

    beside.start(work)
    with pytest.raises(AssertionError, match="one piece"):
        beside.start(lambda: None)
    gate.set()
    beside.close()
