"""What is told of the broker: the last look, as metrics."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import cast

import pytest
from confluent_kafka import KafkaError, KafkaException
from headrace_observe.broker import BrokerMetrics, Lookers, follow
from prometheus_client import CollectorRegistry

from headrace.client.lag import Found, Looker


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


def test_after_looks_that_were_not_answered_another_client_looks_and_none_is_destroyed() -> None:
    """Goal: a client that has lost its broker for good is not asked for ever, and a long outage makes few of them."""
    made: list[int] = []

    class Looks:
        def __init__(self) -> None:
            self.number = len(made)
            made.append(self.number)

        def look(self) -> Found:
            if away or self.number == 0:
                raise KafkaException(KafkaError(KafkaError._TRANSPORT))
            return Found(brokers=3)

    away = True
    lookers = Lookers(cast("Callable[[], Looker]", Looks))
    for _ in range(100):
        with pytest.raises(KafkaException):
            lookers.look()
    assert len(made) == 7, "after 3, 6, 12, 24, 48 and 96 failures"
    away = False
    assert lookers.look().brokers == 3
    assert len(lookers.left) == 6


def test_an_unanswered_look_is_counted_and_the_next_one_is_on_the_page() -> None:
    stop, answers = threading.Event(), [False, True]

    class Looks:
        def look(self) -> Found:
            if answers.pop(0):
                stop.set()
                return Found(brokers=3)
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    registry = CollectorRegistry()
    follow(Lookers(cast("Callable[[], Looker]", Looks)), BrokerMetrics(registry), stop, 0.0)
    assert registry.get_sample_value("kafka_brokers") == 3
    assert registry.get_sample_value("kafka_looks_failed_total") == 1
