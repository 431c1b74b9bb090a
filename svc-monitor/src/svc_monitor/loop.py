"""Reading one pipeline's decisions and outcomes from the beginning, and saying what follows from them.

No group, no state on disk: at start everything is read again and nothing is said before the logs' ends as of the start;
what was said in an earlier life is read back first. Outputs carry deterministic ids.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable

from headrace.chassis.app import Chassis
from headrace.chassis.bus import Consumer, Record, TopicPartition
from headrace.chassis.health import Heartbeat
from headrace.chassis.logs import logger
from headrace.contracts.catalogue import FINDINGS, PERFORMANCE, ROLLOUT_VERDICTS
from headrace.contracts.codec import AvroRecord, Codec
from headrace.contracts.errors import Poison
from headrace.contracts.records import FindingRaised, PredictionMade, RolloutChanged, RolloutJudged
from headrace.plan.avro import event_schema
from headrace.plan.ir import Plan
from headrace.plan.profile import DayHistograms
from headrace.plan.topics import predictions_topic
from svc_monitor.settings import MonitorSettings
from svc_monitor.telemetry import MonitorMetrics
from svc_monitor.watching import COMPONENT, ModelWatch, Said

CONSUME_RECORDS = 2_000
POLL_S = 0.1
ADVANCE_EVERY_S = 0.2
FLUSH_S = 30.0
GROUP = "svc-monitor"
_log = logger(__name__)


class MonitorLoop:
    """One pipeline. Built and stepped in its own thread; rollouts come through a queue."""

    def __init__(self, plan: Plan, chassis: Chassis[MonitorSettings], codec: Codec, metrics: MonitorMetrics) -> None:
        self.name = f"monitor {plan.pipeline}"
        self.heartbeat = Heartbeat(self.name, chassis.clock)
        self.rollouts: queue.SimpleQueue[tuple[RolloutChanged, DayHistograms | None]] = queue.SimpleQueue()
        self._plan, self._codec, self._metrics, self._tracing = plan, codec, metrics, chassis.tracing
        limit = chassis.settings.served_rows_max
        self.watches = {m.name: ModelWatch(plan, m, chassis.clock.now_ms, limit) for m in plan.models}
        events = {e.name: e for e in plan.events}
        self._labels = {events[m.label.event].topic: event_schema(plan, m.label.event) for m in plan.models}
        self._predictions = predictions_topic(plan.pipeline)
        self._by_label = {
            topic: [w for w in self.watches.values() if events[w.model.label.event].topic == topic] for topic in self._labels
        }
        client = f"svc-monitor.{plan.pipeline}.{chassis.settings.instance}"
        self._producer = chassis.bus.producer(client)
        admin = chassis.bus.admin()
        self._read_back(chassis.bus.consumer(None, f"{client}.said"), admin.partitions)
        self._consumer = chassis.bus.consumer(None, client)
        partitions = [TopicPartition(t, p) for t in (self._predictions, *self._labels) for p in range(admin.partitions(t) or 0)]
        self._ends = {tp: self._consumer.watermarks(tp)[1] for tp in partitions}
        self._consumer.assign(dict.fromkeys(partitions, 0))
        self._caught_up = False
        self._advanced_s = 0.0

    def _read_back(self, consumer: Consumer, count: Callable[[str], int | None]) -> None:
        """Verdicts and findings of an earlier life."""
        partitions = [TopicPartition(t, p) for t in (ROLLOUT_VERDICTS, FINDINGS) for p in range(count(t) or 0)]
        ends = {tp: consumer.watermarks(tp)[1] for tp in partitions}
        consumer.assign(dict.fromkeys(partitions, 0))
        verdicts: list[str] = []
        findings: list[str] = []
        while any((consumer.position(tp) or 0) < end for tp, end in ends.items()):
            for record in consumer.consume(CONSUME_RECORDS, POLL_S):
                if record.topic == FINDINGS:
                    found = self._codec.decode(record.value, FindingRaised)
                    findings += [found.finding_id] if found.component == COMPONENT else []
                else:
                    verdicts.append(self._codec.decode(record.value, RolloutJudged).verdict_id)
        consumer.close()
        for watch in self.watches.values():
            watch.remember(verdicts, findings)

    def step(self) -> int:
        """Read, join, and say what event time allows."""
        self.heartbeat.beat()
        records = self._consumer.consume(CONSUME_RECORDS, POLL_S)
        for record in records:
            self._take(record)
        if not self._caught_up:
            self._caught_up = all((self._consumer.position(tp) or 0) >= end for tp, end in self._ends.items())
            return len(records)
        while not self.rollouts.empty():
            rollout, profile = self.rollouts.get_nowait()
            if rollout.model in self.watches:
                self.watches[rollout.model].rollout(rollout, profile)
        if time.monotonic() - self._advanced_s >= ADVANCE_EVERY_S:
            self._advanced_s = time.monotonic()
            for watch in self.watches.values():
                self._say(watch, watch.advance())
        return len(records)

    def _take(self, record: Record) -> None:
        with self._tracing.process_span(record, GROUP) as span:
            try:
                if record.topic == self._predictions:
                    passport = self._codec.decode(record.value, PredictionMade)
                    if span is not None:
                        span.set_attribute("headrace.request_id", passport.request_id)
                    if passport.model in self.watches:
                        self.watches[passport.model].decided(passport)
                    return
                fields = self._codec.decode_event(self._labels[record.topic], record.value)
            except Poison as poison:  # the stream's dead letter; here it only is no label
                _log.debug("label_unreadable", topic=record.topic, offset=record.offset, reason=poison.reason.value)
                return
            for watch in self._by_label[record.topic]:
                watch.outcome(fields, record)

    def _say(self, watch: ModelWatch, said: Said) -> None:
        labels = (self._plan.pipeline, watch.model.name)
        key = "/".join(labels)
        out: list[tuple[str, AvroRecord]] = [(PERFORMANCE, p) for p in said.performance]
        for verdict in said.verdicts:
            out.append((ROLLOUT_VERDICTS, verdict))
            self._metrics.verdicts.labels(*labels, verdict.verdict.value.lower()).inc()
            _log.info("rollout_judged", model=key, epoch=verdict.epoch, step=verdict.step, verdict=verdict.verdict.value)
        for finding in said.findings:
            out.append((FINDINGS, finding))
            self._metrics.findings.labels(*labels, finding.kind).inc()
            _log.info("finding_raised", model=key, kind=finding.kind, evidence=finding.evidence)
        for topic, record in out:
            self._producer.produce(topic, self._codec.encode(topic, record), key.encode())
        if out:
            self._producer.flush(FLUSH_S)
        self._measure(watch, labels)

    def _measure(self, watch: ModelWatch, labels: tuple[str, str]) -> None:
        self._metrics.open.labels(*labels).set(watch.join.open_decisions)
        if watch.watermark_ms is not None:
            self._metrics.watermark_ms.labels(*labels).set(watch.watermark_ms)
        if watch.looks:
            self._metrics.psi.labels(*labels).set(watch.looks[-1].worst_psi)

    def close(self) -> None:
        self._consumer.close()
        self._producer.close()
