"""What a process is found to be when Prometheus asks: ready or not, parked pipelines, loops, views, local state, disk,
certificates.

Nothing is counted on the way: stores, views and health are looked at on each scrape, so what was closed is gone from the page.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from headrace.chassis.access import expires
from headrace.chassis.clock import Clock
from headrace.chassis.health import Health
from headrace.chassis.state import open_stores
from headrace.chassis.view import open_views

Family = GaugeMetricFamily
DAY_S = 86_400.0


class ProcessFacts(Collector):
    """Gauges alike in all services, made when they are read."""

    def __init__(self, health: Health, state_dir: Path, clock: Clock, certificates: Mapping[str, Path]) -> None:
        """certificates: as `AccessSettings.certificates`. They are read now, as this life's clients read them: one that is
        renewed later counts from the next life on, because until then the old one is shown."""
        self._health, self._state_dir, self._clock = health, state_dir, clock
        ends = {name: expires(name, file) for name, file in certificates.items()}
        self._ends_s = {name: end.timestamp() for name, end in ends.items() if end is not None}

    def collect(self) -> Iterable[Family]:
        yield from self._healths()
        yield from self._views()
        yield from self._stores()
        yield from self._disk()
        yield self._certificates()

    def _healths(self) -> Iterator[Family]:
        report = self._health.report()
        yield Family("service_ready", "1 while the service is ready, else 0.", float(report.ready))
        parked = Family("service_parked", "1 for each pipeline that stands on its last-known-good.", labels=("pipeline",))
        for pipeline in report.parked:
            parked.add_metric((pipeline,), 1.0)
        yield parked
        silent = Family("service_loop_silent_seconds", "Since a loop last went round.", labels=("loop",))
        for name, age_s in self._health.ages().items():
            silent.add_metric((name,), age_s)
        yield silent

    def _views(self) -> Iterator[Family]:
        offset = Family("view_next_offset", "Next offset of a state topic its view takes.", labels=("topic", "partition"))
        live = Family("view_live", "1 once a view reached the log end it saw at its start.", labels=("topic", "partition"))
        for view in open_views():
            labels = (view.partition.topic, str(view.partition.partition))
            offset.add_metric(labels, float(view.position))
            live.add_metric(labels, float(view.live))
        yield from (offset, live)

    def _stores(self) -> Iterator[Family]:
        size = Family("state_store_bytes", "Local state on disk and in memory tables.", labels=("store",))
        keys = Family("state_store_keys", "Keys of local state, as RocksDB estimates them.", labels=("store",))
        for store in open_stores():
            measured = store.measure()
            if measured is not None:
                size.add_metric((store.path.name,), float(measured[0]))
                keys.add_metric((store.path.name,), float(measured[1]))
        yield from (size, keys)

    def _disk(self) -> Iterator[Family]:
        try:
            usage = shutil.disk_usage(self._state_dir if self._state_dir.exists() else self._state_dir.absolute().anchor)
        except OSError:
            return
        yield Family("state_disk_free_bytes", "Free space where local state lies.", float(usage.free))
        yield Family("state_disk_size_bytes", "Size of the disk where local state lies.", float(usage.total))

    def _certificates(self) -> Family:
        left = Family(
            "certificate_left_days",
            "Days until a certificate this process began its life with expires; below 0 it has.",
            labels=("certificate",),
        )
        for name, end_s in self._ends_s.items():
            left.add_metric((name,), (end_s - self._clock.now_ms() / 1000) / DAY_S)
        return left
