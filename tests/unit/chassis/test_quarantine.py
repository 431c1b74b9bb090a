"""A plan that kills the process twice is not started a third time, and its neighbours are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.chassis.quarantine import PROBATION_S, Quarantine

Life = Callable[[], Quarantine]


@pytest.fixture
def born(tmp_path: Path) -> Life:
    """A new process: reads what the last one left."""
    return lambda: Quarantine(tmp_path / "state" / "plan-starts.json")


def test_two_deaths_while_applying_quarantine_the_plan(born: Life) -> None:
    for _ in range(2):
        life = born()
        assert not life.refuses("p", "h", 1)
        life.starting("p", "h", 1)
    assert born().refuses("p", "h", 1)


def test_two_deaths_on_probation_quarantine_the_plan(born: Life) -> None:
    for _ in range(2):
        life = born()
        life.starting("p", "h", 1)
        life.applied("p", 0.0)
        life.lived(PROBATION_S - 1)
    assert born().refuses("p", "h", 1)


def test_a_changed_plan_or_a_new_epoch_starts_afresh(born: Life) -> None:
    for _ in range(2):
        born().starting("p", "h", 1)
    life = born()
    assert life.refuses("p", "h", 1)
    assert not life.refuses("p", "other", 2)
    assert not life.refuses("p", "h", 2)
    life.starting("p", "h", 2)
    assert not born().refuses("p", "h", 2)


def test_ends_in_order_do_not_count(born: Life) -> None:
    for _ in range(5):
        life = born()
        life.starting("p", "h", 1)
        life.applied("p", 0.0)
        life.ended_in_order()
    assert not born().refuses("p", "h", 1)


def test_a_plan_that_failed_without_killing_does_not_count(born: Life) -> None:
    for _ in range(5):
        life = born()
        life.starting("p", "h", 1)
        life.not_running("p")
    assert not born().refuses("p", "h", 1)


def test_a_proven_plan_is_not_suspected_for_what_its_neighbour_does(born: Life) -> None:
    life = born()
    life.starting("good", "g", 1)
    life.applied("good", 0.0)
    life.lived(PROBATION_S)
    for _ in range(2):
        life = born()
        life.starting("good", "g", 1)
        life.applied("good", 0.0)
        life.starting("bad", "b", 1)  # dies here
    life = born()
    assert life.refuses("bad", "b", 1)
    assert not life.refuses("good", "g", 1)


def test_a_proven_plan_that_kills_while_it_is_applied_is_quarantined_too(born: Life) -> None:
    life = born()
    life.starting("p", "h", 1)
    life.applied("p", 0.0)
    life.lived(PROBATION_S)
    for _ in range(2):
        born().starting("p", "h", 1)
    assert born().refuses("p", "h", 1)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"p": 1}', '{"p": {"x": 1}}'])
def test_a_file_that_does_not_parse_counts_as_none(born: Life, tmp_path: Path, text: str) -> None:
    life = born()
    (tmp_path / "state" / "plan-starts.json").write_text(text)
    life = born()
    life.starting("p", "h", 1)
    assert not life.refuses("p", "h", 1)
