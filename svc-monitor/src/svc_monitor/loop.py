"""Reading one pipeline's decisions and outcomes from the beginning, and saying what follows from them.

No group, no state on disk: at start everything is read again and nothing is said before the logs' ends as of the start;
what was said in an earlier life is read back first. Outputs carry deterministic ids.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TypeVar

from headrace.chassis.app import Chassis
from headrace.chassis.bus import Bus, Record, TopicPartition
from headrace.chassis.errors import PipelineFault
from headrace.chassis.health import Heartbeat
from headrace.chassis.logs import logger
from headrace.chassis.whole import read_whole
from headrace.contracts.catalogue import FINDINGS, PERFORMANCE, ROLLOUT_VERDICTS
from headrace.contracts.codec import AvroRecord, Codec
from headrace.contracts.errors import Poison
from headrace.contracts.records import FindingRaised, PerformanceMeasured, PredictionMade, RolloutChanged, RolloutJudged
from headrace.plan.avro import event_schema
from headrace.plan.ir import Plan
from headrace.plan.profile import DayHistograms
from headrace.plan.topics import predictions_topic
from svc_monitor.domain.event_time import EventTime
from svc_monitor.saying import COMPONENT, Said
from svc_monitor.settings import MonitorSettings
from svc_monitor.telemetry import MonitorMetrics
from svc_monitor.watching import ModelWatch

CONSUME_RECORDS = 2_000
POLL_S = 0.1
ADVANCE_EVERY_S = 0.2
FLUSH_S = 30.0
GROUP = "svc-monitor"
_SPOKEN = {ROLLOUT_VERDICTS: RolloutJudged, FINDINGS: FindingRaised, PERFORMANCE: PerformanceMeasured}
_log = logger(__name__)
T = TypeVar("T")


class MonitorLoop:
    """One pipeline. Built and stepped in its own thread; rollouts and questions come through queues."""

    def __init__(self, plan: Plan, chassis: Chassis[MonitorSettings], codec: Codec, metrics: MonitorMetrics) -> None:
        """Raises: PipelineFault where a topic of the plan is not there."""
        self.name = f"monitor {plan.pipeline}"
        self.heartbeat = Heartbeat(self.name, chassis.clock)
        self.rollouts: queue.SimpleQueue[tuple[RolloutChanged, DayHistograms | None]] = queue.SimpleQueue()
        self._questions: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._plan, self._codec, self._metrics = plan, codec, metrics
        self._clock, self._tracing = chassis.clock, chassis.tracing
        limit = chassis.settings.served_rows_max
        self.watches = {m.name: ModelWatch(plan, m, chassis.clock.now_ms, limit) for m in plan.models}
        events = {e.name: e for e in plan.events}
        self._label_topic = {m.name: events[m.label.event].topic for m in plan.models}
        self._labels = {self._label_topic[m.name]: event_schema(plan, m.label.event) for m in plan.models}
        self._predictions = predictions_topic(plan.pipeline)
        client = f"svc-monitor.{plan.pipeline}.{chassis.settings.instance}"
        count = chassis.bus.admin().partitions
        partitions = [TopicPartition(t, p) for t in (self._predictions, *self._labels) for p in range(self._count(count, t))]
        self._producer = chassis.bus.producer(client)
        self._read_back(chassis.bus, f"{client}.said")
        self._consumer = chassis.bus.consumer(None, client)
        self._ends = {tp: self._consumer.watermarks(tp)[1] for tp in partitions}
        self._consumer.assign(dict.fromkeys(partitions, 0))
        self._caught_up = False
        self._advance_due_s = 0.0

    def _count(self, count: Callable[[str], int | None], topic: str) -> int:
        found = count(topic)
        if found is None:
            raise PipelineFault(self._plan.pipeline, f"topic {topic} is not there: was the plan admitted?")
        return found

    def _read_back(self, bus: Bus, client: str) -> None:
        """Verdicts, findings and figures of an earlier life."""
        for topic in _SPOKEN:
            for records in read_whole(bus, topic, client):
                for record in records:
                    self._remember(record)

    def _remember(self, record: Record) -> None:
        try:
            spoken = self._codec.decode(record.value, _SPOKEN[record.topic])
        except Poison as poison:  # anyone may write findings; one that cannot be read is none of ours
            _log.warning("spoken_unreadable", topic=record.topic, offset=record.offset, reason=poison.reason.value)
            return
        watch = self.watches.get(spoken.model or "") if spoken.pipeline == self._plan.pipeline else None
        if watch is not None and getattr(spoken, "component", COMPONENT) == COMPONENT:
            watch.spoken.remember(spoken)

    def ask(self, question: Callable[[], T]) -> Future[T]:
        """Have a question about the watches answered in the loop's thread, between two rounds."""
        answer: Future[T] = Future()

        def reply() -> None:
            if answer.set_running_or_notify_cancel():
                try:
                    answer.set_result(question())
                except Exception as error:
                    answer.set_exception(error)

        self._questions.put(reply)
        return answer

    def step(self) -> int:
        """Read, join, and say what event time allows."""
        self.heartbeat.beat()
        records = self._consumer.consume(CONSUME_RECORDS, POLL_S)
        for record in records:
            self._take(record)
        while not self._questions.empty():
            self._questions.get_nowait()()
        if not self._caught_up:
            self._caught_up = all((self._consumer.position(tp) or 0) >= end for tp, end in self._ends.items())
            return len(records)
        while not self.rollouts.empty():
            rollout, profile = self.rollouts.get_nowait()
            if rollout.model in self.watches:
                self.watches[rollout.model].rollout(rollout, profile)
        if self._clock.monotonic_s() >= self._advance_due_s:
            for name, watch in self.watches.items():
                idle = (
                    self._idle(self._predictions, watch.decided_time),
                    self._idle(self._label_topic[name], watch.labelled_time),
                )
                self._say(watch, watch.advance(*idle))
            self._advance_due_s = self._clock.monotonic_s() + ADVANCE_EVERY_S
        return len(records)

    def _idle(self, topic: str, time: EventTime) -> list[int]:
        """Of the partitions that hold event time back, those read to their end: nothing older is still to come from them."""
        behind = [TopicPartition(topic, p) for p in time.behind()]
        return [tp.partition for tp in behind if (self._consumer.position(tp) or 0) >= self._consumer.watermarks(tp)[1]]

    def _take(self, record: Record) -> None:
        with self._tracing.process_span(record, GROUP) as span:
            try:
                if record.topic == self._predictions:
                    passport = self._codec.decode(record.value, PredictionMade)
                    if span is not None:
                        span.set_attribute("headrace.request_id", passport.request_id)
                    if passport.model in self.watches:
                        self.watches[passport.model].decided(passport, record)
                    return
                fields = self._codec.decode_event(self._labels[record.topic], record.value)
            except Poison as poison:  # the stream's dead letter; here it only is no label
                self._metrics.unreadable.labels(self._plan.pipeline, poison.reason.value).inc()
                return
            for name, watch in self.watches.items():
                if self._label_topic[name] == record.topic:
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
            self._producer.produce(topic, self._codec.encode(topic, record), _key(topic, record).encode())
        if out:
            self._producer.flush(FLUSH_S)
        self._metrics.told(labels, watch, said)

    def close(self) -> None:
        self._consumer.close()
        self._producer.close()


def _key(topic: str, record: AvroRecord) -> str:
    """Findings of a pipeline keep their order, everything else that of its model."""
    fields: Mapping[str, object] = record.to_avro()
    return str(fields["pipeline"]) if topic == FINDINGS else f"{fields['pipeline']}/{fields['model']}"
