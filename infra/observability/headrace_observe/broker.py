"""What only the broker can tell, as Prometheus metrics: how far logs and groups are, lag in records and in seconds.

A stopped service cannot report its own lag, so this runs beside the services:

    python -m headrace_observe.broker --bootstrap 127.0.0.1:19092 --port 19308

What lag means here, and how it is found out, says headrace.client.lag.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable

from confluent_kafka import KafkaException
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from headrace.chassis.access import AccessSettings
from headrace.client.lag import Found, Looker

EVERY_S = 5.0
REPLACED_AFTER = 3  # looks in a row without an answer


class BrokerMetrics(Collector):
    """The last look as metric families. Labels: topics and groups of admitted plans, numbered partitions."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._found = Found()
        self.failed = Counter("kafka_looks_failed_total", "Looks at the broker that were not answered.", registry=registry)
        self.looked = Gauge("kafka_look_timestamp_seconds", "When the broker last answered, Unix time.", registry=registry)
        registry.register(self)

    def took(self, found: Found) -> None:
        self._found = found
        self.looked.set_to_current_time()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        found, at = self._found, ("topic", "partition")
        yield GaugeMetricFamily("kafka_brokers", "Brokers of the cluster.", float(found.brokers))
        for name, says, values in (
            ("kafka_log_end_offset", "Next offset of a partition (high watermark).", found.ends),
            ("kafka_last_stable_offset", "Offset up to which read-committed consumers can read.", found.stable),
        ):
            family = GaugeMetricFamily(name, says, labels=at)
            for (topic, partition), offset in values.items():
                family.add_metric((topic, str(partition)), float(offset))
            yield family
        records = GaugeMetricFamily("kafka_group_lag_records", "Records a group has not taken.", labels=("group", *at))
        seconds = GaugeMetricFamily(
            "kafka_group_lag_seconds", "Age of the first record a group has not taken.", labels=("group", *at)
        )
        for (group, topic, partition), (behind, age_s) in found.lags.items():
            labels = (group, topic, str(partition))
            records.add_metric(labels, float(behind))
            seconds.add_metric(labels, age_s)
        yield from (records, seconds)


class Lookers:
    """Who looks, and another one in its place when it has gone unanswered too often in a row.

    A client that was connected to a broker while that stood still did not come back by itself; and librdkafka crashed where
    one with an unanswered request was destroyed. So it is left lying: after 3, 6, 12, ... failures, few even in a long outage.
    """

    def __init__(self, make: Callable[[], Looker]) -> None:
        self._make, self._now = make, make()
        self._failed, self._due = 0, REPLACED_AFTER
        self.left: list[Looker] = []

    def look(self) -> Found:
        """Raises: KafkaException."""
        try:
            found = self._now.look()
        except KafkaException:
            self._failed += 1
            if self._failed >= self._due:
                self._due *= 2
                self.left.append(self._now)
                self._now = self._make()
            raise
        self._failed, self._due = 0, REPLACED_AFTER
        return found


def follow(lookers: Lookers, metrics: BrokerMetrics, stop: threading.Event, every_s: float = EVERY_S) -> None:
    """Look until stopped; a broker that is away is counted and asked again."""
    while not stop.is_set():
        try:
            metrics.took(lookers.look())
        except KafkaException as error:
            metrics.failed.inc()
            print(f"broker_not_looked_at error={error}", flush=True)
        stop.wait(every_s)


def main() -> int:
    """Serve /metrics until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bootstrap", default="127.0.0.1:19092")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=19308)
    parser.add_argument("--every", type=float, default=EVERY_S, help="seconds between looks")
    given = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    registry = CollectorRegistry()
    metrics = BrokerMetrics(registry)
    server, _ = start_http_server(given.port, given.host, registry)
    access = AccessSettings().kafka()
    follow(Lookers(lambda: Looker(given.bootstrap, access=access)), metrics, stop, given.every)
    server.shutdown()
    sys.stdout.flush()
    os._exit(0)  # without destroying clients that may wait for an answer


if __name__ == "__main__":
    raise SystemExit(main())
