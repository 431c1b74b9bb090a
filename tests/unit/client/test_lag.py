"""How lag is told from offsets, and how positions are asked about."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from confluent_kafka import TopicPartition as Position
from hypothesis import given
from hypothesis import strategies as st

from headrace.client.lag import GroupLag, Looker, batches, by_group, lags

NOW = 1_000_000
positions = st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.integers(0, 4))


@given(st.lists(positions, max_size=30))
def test_batches_hold_every_position_once_and_no_partition_twice(asked: list[tuple[str, int, int]]) -> None:
    made = list(batches(asked))
    flat = [at for batch in made for at in batch]
    assert sorted(flat) == sorted(set(asked))
    for batch in made:
        assert len({(topic, partition) for topic, partition, _ in batch}) == len(batch)


def test_what_is_behind_is_as_old_as_the_first_record_not_taken() -> None:
    found = lags({("g", "t", 0): 5}, {("t", 0): 9}, {("t", 0, 5): NOW - 7_500}, NOW)
    assert found == {("g", "t", 0): (4, 7.5)}


def test_markers_and_aborted_records_alone_are_no_lag() -> None:
    found = lags({("g", "t", 0): 5}, {("t", 0): 9}, {("t", 0, 5): None}, NOW)
    assert found == {("g", "t", 0): (0, 0.0)}


def test_a_position_not_asked_about_counts_by_its_offsets_without_an_age() -> None:
    assert lags({("g", "t", 0): 5}, {("t", 0): 9}, {}, NOW) == {("g", "t", 0): (4, 0.0)}


@given(
    st.dictionaries(st.integers(0, 20), st.sampled_from(["record", "marker"]), max_size=20),
    st.integers(0, 20), st.integers(0, 20),
)  # fmt: skip
def test_lag_is_nothing_exactly_if_a_reader_would_get_nothing(log: dict[int, str], committed: int, stable: int) -> None:
    """Oracle: read the log from the committed offset to the last stable one, markers skipped."""
    unread = [offset for offset in sorted(log) if committed <= offset < stable and log[offset] == "record"]
    first = NOW - 1_000 - unread[0] if unread else None
    records, seconds = lags({("g", "t", 0): committed}, {("t", 0): stable}, {("t", 0, committed): first}, NOW)["g", "t", 0]
    assert bool(records) == bool(unread)
    assert seconds == ((1_000 + unread[0]) / 1_000 if unread else 0.0)
    assert records >= len(unread)


taken = st.tuples(st.sampled_from("gh"), st.sampled_from("tuv"), st.integers(0, 2))


@given(st.dictionaries(taken, st.tuples(st.integers(0, 9), st.floats(0, 99))))
def test_a_group_is_behind_by_the_sum_of_its_records_and_its_oldest_one(
    found: dict[tuple[str, str, int], tuple[int, float]],
) -> None:
    """Oracle: one pass per group. The group furthest behind comes first."""
    told = by_group(found)
    assert {line.group for line in told} == {group for group, _, _ in found}
    assert [line.seconds for line in told] == sorted((line.seconds for line in told), reverse=True)
    for line in told:
        mine = {at: lag for at, lag in found.items() if at[0] == line.group}
        assert line.records == sum(records for records, _ in mine.values())
        assert line.seconds == max(seconds for _, seconds in mine.values())
        assert line.partitions == len(mine)
        most = max(records for records, _ in mine.values())
        assert line.topic in {topic for (_, topic, _), (records, _) in mine.items() if records == most}


def test_no_group_at_all_is_no_line() -> None:
    assert by_group({}) == []
    assert by_group({("g", "t", 0): (3, 1.5), ("g", "u", 1): (1, 9.0)}) == [GroupLag("g", 4, 9.0, 2, "t")]


class Paused:
    """A consumer as librdkafka keeps it: what is paused stays so over its next assignment, and answers nothing."""

    def __init__(self) -> None:
        self.assigned: list[Position] = []
        self.paused: set[tuple[str, int]] = set()

    def assign(self, positions: list[Position]) -> None:
        self.assigned = positions

    def unassign(self) -> None:
        self.assigned = []

    def pause(self, positions: list[Position]) -> None:
        self.paused |= {(at.topic, at.partition) for at in positions}

    def resume(self, positions: list[Position]) -> None:
        self.paused -= {(at.topic, at.partition) for at in positions}

    def consume(self, count: int, timeout: float) -> list[Message]:
        return [Message(at.topic, at.partition) for at in self.assigned if (at.topic, at.partition) not in self.paused]


@dataclass
class Message:
    """A record appended at NOW."""

    of: str
    number: int

    def topic(self) -> str:
        return self.of

    def partition(self) -> int:
        return self.number

    def error(self) -> None:
        return None

    def timestamp(self) -> tuple[int, int]:
        return 1, NOW


def test_a_second_look_gets_an_answer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a lag that lasts grows older with each look; a partition that stays paused would say it is 0 s old."""
    monkeypatch.setattr("headrace.client.lag.PROBE_S", 0.01)
    looker = Looker.__new__(Looker)
    looker._consumer = Paused()  # pyright: ignore[reportAttributeAccessIssue]
    batch = [("t", 0, 5), ("t", 1, 7)]
    for _ in range(3):
        assert looker._first_unread(batch) == {("t", 0, 5): NOW, ("t", 1, 7): NOW}
