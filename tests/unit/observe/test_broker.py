"""What is told of the broker: lag, and how positions are asked about."""

from __future__ import annotations

from headrace_observe.broker import BrokerMetrics, Found, batches, lags
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

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


def test_the_last_look_is_on_the_page() -> None:
    registry = CollectorRegistry()
    metrics = BrokerMetrics(registry)
    metrics.took(Found(1, {("t", 0): 12}, {("t", 0): 10}, {("g", "t", 0): (3, 1.5)}))
    told = {"topic": "t", "partition": "0"}
    assert registry.get_sample_value("kafka_log_end_offset", told) == 12
    assert registry.get_sample_value("kafka_last_stable_offset", told) == 10
    assert registry.get_sample_value("kafka_group_lag_records", {"group": "g", **told}) == 3
    assert registry.get_sample_value("kafka_group_lag_seconds", {"group": "g", **told}) == 1.5
    assert (registry.get_sample_value("kafka_look_timestamp_seconds") or 0) > 0
