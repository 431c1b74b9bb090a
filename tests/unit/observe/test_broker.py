"""What is told of the broker: the last look, as metrics."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import cast

from confluent_kafka import KafkaError, KafkaException
from headrace_observe.broker import BrokerMetrics, follow
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


def test_after_a_look_that_was_not_answered_a_new_client_looks() -> None:
    """Goal: a client that has lost its broker for good is not asked for ever; every one that was made is closed."""
    stop, made, closed = threading.Event(), list[int](), list[int]()

    class Looks:
        def __init__(self) -> None:
            self.number = len(made)
            made.append(self.number)

        def look(self) -> Found:
            if self.number == 0:
                raise KafkaException(KafkaError(KafkaError._TRANSPORT))
            stop.set()
            return Found(brokers=3)

        def close(self) -> None:
            closed.append(self.number)

    registry = CollectorRegistry()
    follow(cast("Callable[[], Looker]", Looks), BrokerMetrics(registry), stop, 0.0)
    assert (made, closed) == ([0, 1], [0, 1])
    assert registry.get_sample_value("kafka_brokers") == 3
    assert registry.get_sample_value("kafka_looks_failed_total") == 1
