"""Reading a topic whole on the in-memory bus; transactions leave markers and aborted records in the log."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.chassis import whole
from headrace.chassis.bus import TopicPartition, TopicSpec
from headrace.chassis.bus_memory import MemoryBus, MemoryConsumer
from headrace.chassis.errors import Retryable
from headrace.chassis.whole import read_whole

TOPIC, PARTITIONS = "test.inputs.v1", 3
Steps = list[tuple[str, int, int]]  # how, partition, records

STEPS: st.SearchStrategy[Steps] = st.lists(
    st.tuples(st.sampled_from(["plain", "committed", "aborted"]), st.integers(0, PARTITIONS - 1), st.integers(0, 7)), max_size=8
)


def filled(steps: Steps) -> tuple[MemoryBus, dict[int, list[bytes]]]:
    """A topic written in these steps, and what of it counts, by partition."""
    bus = MemoryBus()
    bus.admin().ensure_topics([TopicSpec(TOPIC, PARTITIONS)])
    plain, inside = bus.producer("plain"), bus.producer("inside", transactional_id="inside")
    inside.init_transactions()
    counts: dict[int, list[bytes]] = {p: [] for p in range(PARTITIONS)}
    for at, (how, partition, records) in enumerate(steps):
        values = [f"{at}-{i}".encode() for i in range(records)]
        producer = plain if how == "plain" else inside
        if how != "plain":
            inside.begin()
        for value in values:
            producer.produce(TOPIC, value, b"k", partition)
        if how == "committed":
            inside.commit()
        elif how == "aborted":
            inside.abort()
        counts[partition] += [] if how == "aborted" else values
    return bus, counts


@settings(deadline=None)
@given(STEPS, st.integers(1, 5))
def test_every_committed_record_comes_once_by_partition_and_offset_in_bounded_batches(steps: Steps, batch: int) -> None:
    bus, counts = filled(steps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whole, "READ_RECORDS_MAX", batch)
        patch.setattr(whole, "POLL_S", 0.0)
        batches = list(read_whole(bus, TOPIC, "test"))
    assert [r.value for records in batches for r in records] == [v for p in sorted(counts) for v in counts[p]]
    assert all(0 < len(records) <= batch for records in batches)


@settings(deadline=None)
@given(st.lists(st.integers(0, 12), min_size=PARTITIONS, max_size=PARTITIONS), st.integers(0, 40))
def test_only_the_newest_are_read_where_asked(sizes: list[int], newest_max: int) -> None:
    bus, counts = filled([("plain", p, size) for p, size in enumerate(sizes)])
    share = newest_max // PARTITIONS
    found = [r.value for records in read_whole(bus, TOPIC, "test", newest_max=newest_max) for r in records]
    assert found == [v for p in sorted(counts) for v in counts[p][max(0, len(counts[p]) - share) :]]


def test_what_is_appended_meanwhile_is_not_waited_for_nor_given() -> None:
    bus, _ = filled([("plain", 0, 2), ("plain", 2, 1)])
    reading = read_whole(bus, TOPIC, "test")
    first = next(reading)
    producer = bus.producer("later")
    for partition in range(PARTITIONS):
        producer.produce(TOPIC, b"later", b"k", partition)
    rest = [r.value for records in reading for r in records]
    assert [r.value for r in first] + rest == [b"0-0", b"0-1", b"1-0"]


def test_a_topic_that_is_not_there_or_empty_gives_nothing() -> None:
    bus, _ = filled([])
    assert list(read_whole(bus, TOPIC, "test")) == []
    assert list(read_whole(bus, "no.such.v1", "test")) == []


def test_a_reader_that_stops_early_gives_its_client_back(monkeypatch: pytest.MonkeyPatch) -> None:
    bus, _ = filled([("plain", 0, 3)])
    closed: list[bool] = []
    real = MemoryConsumer.close

    def close(consumer: MemoryConsumer) -> None:
        closed.append(True)
        real(consumer)

    monkeypatch.setattr(MemoryConsumer, "close", close)
    reading = read_whole(bus, TOPIC, "test")
    next(reading)
    assert closed == []
    reading.close()  # type: ignore[attr-defined]
    assert closed == [True]


def test_a_broker_that_falls_silent_before_the_end_is_told_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    bus, _ = filled([("plain", 1, 2)])
    rounds: list[float] = []

    def silent(consumer: MemoryConsumer, records_max: int, timeout_s: float) -> list[object]:
        rounds.append(timeout_s)
        return []

    monkeypatch.setattr(MemoryConsumer, "consume", silent)
    monkeypatch.setattr(MemoryConsumer, "position", lambda consumer, place: None)
    with pytest.raises(Retryable, match="read to 0 of 2"):
        list(read_whole(bus, TOPIC, "test"))
    assert len(rounds) == whole.QUIET_ROUNDS_MAX + 1


def test_the_watermarks_of_the_start_bound_every_partition() -> None:
    """The end of the last partition is asked before the first is read."""
    bus, _ = filled([("plain", 0, 1), ("plain", 2, 1)])
    reading = read_whole(bus, TOPIC, "test")
    next(reading)
    bus.broker.append(TopicPartition(TOPIC, 2), b"k", b"later", [], None)
    assert [r.value for records in reading for r in records] == [b"1-0"]
