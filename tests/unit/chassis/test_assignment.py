"""Records of two generations never mix: what a rebalance may have touched is read again from what is committed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import pytest

from headrace.chassis.assignment import AssignedConsumer
from headrace.chassis.bus import AssignmentCallback, Committed, Record, TopicPartition
from headrace.chassis.bus_memory import MemoryBus, MemoryConsumer
from headrace.chassis.errors import Fatal, Retryable
from headrace.chassis.retry import Backoff, RetryPolicy

HERE = TopicPartition("t", 0)


class Scripted(MemoryConsumer):
    """A consumer whose next call returns old records and rebalances, as a batch call of the real client may."""

    def __init__(self, committed: Committed | None, unstable: int = 0) -> None:
        bus = MemoryBus()
        super().__init__(bus.broker, "g", "m", False, False)
        self._answer, self._unstable = committed, unstable
        self.sought: list[int] = []
        self.calls = [[Record("t", 0, 7, 0, None, b"old")], [Record("t", 0, 3, 0, None, b"right")]]

    def subscribe(
        self, topics: Sequence[str], on_assign: AssignmentCallback | None = None, on_revoke: AssignmentCallback | None = None
    ) -> None:
        assert on_assign is not None
        self._assigned_to = on_assign

    def consume(self, records_max: int, timeout_s: float) -> list[Record]:
        records = self.calls.pop(0)
        if records[0].value == b"old":
            self._assigned_to([HERE])
        return records

    def assignment(self) -> list[TopicPartition]:
        return [HERE]

    def committed(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Committed | None]:
        if self._unstable:
            self._unstable -= 1
            raise Retryable("unstable")
        return dict.fromkeys(partitions, self._answer)

    def watermarks(self, partition: TopicPartition) -> tuple[int, int]:
        return 2, 9

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.sought.append(offset)

    def commit(self, offsets: Mapping[TopicPartition, Committed]) -> None:
        raise AssertionError("not this one's to commit")


@pytest.mark.parametrize(("committed", "start"), [(Committed(3), 3), (None, 2)])
def test_what_came_with_a_rebalance_is_read_again_from_the_commit(committed: Committed | None, start: int) -> None:
    """Without a commit, from the start of the log: records before the returned one may never have been handled."""
    consumer = Scripted(committed)
    assigned = AssignedConsumer(consumer, ["t"])
    assert assigned.consume(10, 0) == []
    assert consumer.sought == [start]
    assert [r.value for r in assigned.consume(10, 0)] == [b"right"]


def test_nothing_is_consumed_until_the_committed_offsets_are_known() -> None:
    """A transaction of the former owner may still be open; going on would skip what it covers."""
    consumer = Scripted(Committed(3), unstable=2)
    assigned = AssignedConsumer(consumer, ["t"])
    for _ in range(2):
        with pytest.raises(Retryable):
            assigned.consume(10, 0)
    assert [r.value for r in assigned.consume(10, 0)] == [b"right"]
    assert consumer.sought == [3]


def test_waits_grow_with_jitter_up_to_a_cap_inside_a_budget() -> None:
    """Each wait lies in the upper half of its step; the budget counts from the first failure."""
    backoff = Backoff(RetryPolicy(budget_s=10, base_s=1, cap_s=4), 0.0, random.Random(7))
    for now, longest in ((0.0, 1), (1.0, 2), (3.0, 4), (7.0, 4)):
        backoff.failed(now, Retryable("x"))
        assert longest / 2 <= backoff.due_s - now <= longest
    with pytest.raises(Fatal, match="gave up after 5 tries in 10 s"):
        backoff.failed(10.0, Retryable("x"))


def test_a_failure_long_after_the_last_one_begins_anew() -> None:
    """The budget is for one outage, not for the life of the process."""
    backoff = Backoff(RetryPolicy(budget_s=10, base_s=1, cap_s=4), 0.0, random.Random(7))
    backoff.failed(0.0, Retryable("x"))
    backoff.failed(1000.0, Retryable("x"))
    assert backoff.attempts == 1
