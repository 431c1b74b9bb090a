"""What is told of the broker: the last look, as metrics."""

from __future__ import annotations

from headrace_observe.broker import BrokerMetrics
from prometheus_client import CollectorRegistry

from headrace.client.lag import Found


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
