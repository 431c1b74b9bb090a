"""How far the archive is behind: by a log in memory, by hand-counted offsets, and against a naive count."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from headrace.chassis.bus import TopicPartition, TopicSpec
from headrace.chassis.bus_memory import MemoryAdmin, MemoryBus
from headrace.chassis.clock import ManualClock
from headrace.chassis.errors import Fatal, Retryable
from headrace.chassis.memory_broker import MemoryBroker
from support.law_worlds import make_world
from svc_features.lag import LOOKS, Behind, Lag, behind
from svc_features.telemetry import FeaturesMetrics
from unit.svc_features.worlds import EVENTS, GARBAGE, Rig, played

HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("log", "position", "appended_ms", "seen_ms", "retention_ms", "told"),
    [
        ((0, 10), 10, 0, 0, HOUR_MS, Behind()),
        ((0, 10), 12, 0, 0, HOUR_MS, Behind()),  # past the markers at the end
        ((0, 10), 6, HOUR_MS // 2, 0, HOUR_MS, Behind(4, 1800.0, 0.5)),
        ((0, 10), 6, HOUR_MS // 2, 0, None, Behind(4, 1800.0, 0.0)),
        ((0, 10), None, None, HOUR_MS - 9_000, HOUR_MS, Behind(10, 9.0, 0.0025)),  # nothing archived: since it was seen
        ((100, 110), 102, HOUR_MS, 0, None, Behind(8, 0.0, 0.8)),  # the broker deletes, by size it seems: two records are left
        ((100, 110), None, HOUR_MS, 0, None, Behind(10, 0.0, 1.0)),
        ((100, 110), 40, HOUR_MS, 0, HOUR_MS, Behind(10, 0.0, 1.0)),
        ((100, 100), None, None, 0, HOUR_MS, Behind()),
    ],
)
def test_a_lag_is_told_in_records_in_seconds_and_as_a_share_of_what_is_left_of_their_lives(
    log: tuple[int, int], position: int | None, appended_ms: int | None, seen_ms: int, retention_ms: int | None, told: Behind
) -> None:
    assert behind(*log, position, HOUR_MS, appended_ms, seen_ms, retention_ms) == told


@given(st.integers(0, 50), st.integers(0, 50), st.none() | st.integers(0, 120), st.none() | st.integers(1, 10_000))
def test_records_behind_are_those_of_the_log_from_the_position_on(
    start: int, length: int, position: int | None, retention_ms: int | None
) -> None:
    """Goal: the count of the naive list. A share reaches one when the next record to go is not archived."""
    kept = list(range(start, start + length))
    lacking = [offset for offset in kept if offset >= (position or 0)]
    found = behind(start, start + length, position, 5_000, 1_000, 0, retention_ms)
    assert found.records == len(lacking)
    if not lacking:
        assert found == Behind()
    elif start > 0 and lacking == kept:
        assert found.retention_used >= 1


class World:
    """Two topics in memory, their gauges."""

    def __init__(self, partitions: int = 1, retention_ms: int = -1) -> None:
        self.clock = ManualClock(HOUR_MS)
        self.broker = MemoryBroker(self.clock)
        self.bus = MemoryBus(self.broker)
        self.admin: MemoryAdmin = self.bus.admin()
        self.metrics = FeaturesMetrics(CollectorRegistry())
        for topic in ("a", "b"):
            self.broker.create(TopicSpec(topic, partitions, retention_ms=retention_ms))
        self.partitions = [TopicPartition(topic, p) for topic in ("a", "b") for p in range(partitions)]
        self.consumer = self.bus.consumer(None, "lag")
        self.consumer.assign(dict.fromkeys(self.partitions, 0))
        self.lag = Lag(self.consumer, self.admin, self.clock, self.metrics, ["a", "b"])

    def produce(self, topic: str, partition: int, count: int) -> None:
        producer = self.bus.producer("p")
        for _ in range(count):
            producer.produce(topic, b"v", partition=partition)
        producer.flush(1.0)

    def told(self, topic: str) -> tuple[float, float, float]:
        gauges = self.metrics.lag_records, self.metrics.lag_seconds, self.metrics.retention_used
        records, seconds, used = (gauge.labels(topic)._value.get() for gauge in gauges)
        return records, seconds, used


def test_partitions_are_asked_about_a_few_a_look_until_all_were() -> None:
    """Goal: a thousand partitions cost no more a second than eight. Method: records in all; looks are counted."""
    world = World(partitions=10)
    for partition in world.partitions:
        world.produce(partition.topic, partition.partition, 3)
    seen = []
    for _ in range(3):
        world.lag.look({}, {})
        world.lag.look({}, {})  # not due
        seen.append((world.told("a")[0], world.told("b")[0]))
        world.clock.advance(1_000)
    assert LOOKS == 8
    assert seen == [(24, 0), (30, 18), (30, 30)]


def test_age_grows_while_a_position_stands_and_ends_when_it_moves_on() -> None:
    world = World(retention_ms=100_000)
    world.produce("a", 0, 4)
    at = TopicPartition("a", 0)
    for _ in range(4):
        world.lag.look({}, {})
        world.clock.advance(10_000)
    assert world.told("a") == (4, 30.0, 0.3)
    world.lag.look({at: 2}, {at: world.clock.now_ms() - 50_000})
    assert world.told("a") == (2, 50.0, 0.5)
    world.clock.advance(1_000)
    world.lag.look({at: 4}, {at: world.clock.now_ms()})
    assert world.told("a") == (0, 0.0, 0.0)


def test_a_broker_that_does_not_answer_is_asked_again_later_and_one_that_may_not_say_its_retention_stops_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(retention_ms=100_000)
    world.produce("a", 0, 4)

    def away(*_: object) -> tuple[int, int]:
        raise Retryable("away")

    def forbidden(*_: object) -> dict[str, int | None]:
        raise Fatal("not allowed")

    real = world.consumer.watermarks
    monkeypatch.setattr(world.admin, "retention_ms", forbidden, raising=False)
    monkeypatch.setattr(world.consumer, "watermarks", away, raising=False)
    world.lag.look({}, {})
    monkeypatch.setattr(world.consumer, "watermarks", real, raising=False)
    world.clock.advance(10_000)
    world.lag.look({}, {})
    assert world.told("a") == (0, 0.0, 0.0)
    world.clock.advance(700_000)
    world.lag.look({}, {})
    world.clock.advance(10_000)
    world.lag.look({}, {})
    assert world.told("a") == (4, 10.0, 0.0)


def test_the_archive_tells_its_lag_and_has_none_once_all_is_in_the_lake(tmp_path: Path) -> None:
    rig = played(make_world(4, 40), random.Random(4), asks=0)
    metrics = FeaturesMetrics(CollectorRegistry())
    topic = EVENTS["departures"].topic
    archive = rig.archive(tmp_path, interval_ms=60_000, metrics=metrics)
    archive.step()
    assert metrics.lag_records.labels(topic)._value.get() == len(rig.broker.records(topic)) > 0
    for _ in range(40):
        rig.clock.advance(60_000)
        archive.step()
    assert metrics.lag_records.labels(topic)._value.get() == 0
    assert metrics.lag_seconds.labels(topic)._value.get() == 0


def test_a_marker_behind_the_last_record_is_no_lag(tmp_path: Path) -> None:
    """Goal: an idle archive of a topic with transactions has no lag. Method: one committed transaction, archived."""
    rig = Rig()
    metrics = FeaturesMetrics(CollectorRegistry())
    producer = rig.bus.producer("loader", transactional_id="loader")
    producer.init_transactions()
    producer.begin()
    producer.produce(EVENTS["departures"].topic, GARBAGE, partition=0)
    producer.commit()
    archive = rig.archive(tmp_path, interval_ms=50, metrics=metrics)
    for _ in range(40):
        archive.step()
        rig.clock.advance(5_000)
    assert metrics.lag_records.labels(EVENTS["departures"].topic)._value.get() == 0
