"""The worker of a set with placement `owned`: it answers requests at their rows, and commits what it holds now and then.

    consume -> judge -> answer, merge --.         a transaction stays open over several of these rounds
       ^________________________________|-- due --> changed blocks, Progress, offsets; answers flushed; commit; local write

An answer is sent as soon as its row is read, outside the transaction: it is a pure function of the log and of the cut it
carries. A transaction commits only once the answers of its rows have arrived, so each request is answered at least
once; after a crash a second answer may carry another cut, and svc-serve keeps the first. Requests wait only for a
commit under way, so commits are rare; a partition that moves away before one is read again by its new owner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from headrace.chassis.bus import Committed, Record, TopicPartition
from headrace.chassis.errors import Retryable
from headrace.chassis.tracing import TRACEPARENT
from headrace.contracts.records import ScoringInput
from headrace.plan.ir import FeatureSet, Plan
from headrace.plan.topics import scoring_inputs_topic
from svc_stream.domain.entity import EntityState
from svc_stream.domain.owned import Answer, metadata_with, take_rows
from svc_stream.engine import CONSUME_RECORDS, LETTER_BYTES_MAX, SetWorker
from svc_stream.handlers import SourceOutcome, fitting
from svc_stream.tasks import Surroundings, Written
from svc_stream.telemetry import source_spans

ANSWER_TIMEOUT_S = 10.0  # answers not acknowledged by then: the round is done again


class OwnedWorker(SetWorker):
    """Runs one owned feature set. No partials: the records of a partition go straight into its state."""

    def __init__(self, plan: Plan, feature_set: FeatureSet, around: Surroundings, reports: frozenset[str]) -> None:
        super().__init__(plan, feature_set, around, reports)
        models = [m for m in plan.models if any(i.feature_set == feature_set.name for i in m.inputs)]
        self._asks = {m.request for m in models}
        self._inputs = scoring_inputs_topic(plan.pipeline)
        self._answers = around.bus.producer(f"{self._member}.answers")
        self._commit_s = around.settings.owned_commit_interval_ms / 1000
        self._touched: dict[TopicPartition, set[TopicPartition]] = {}  # entity tasks of the open transaction, their sources
        self._uncommitted = 0  # records
        self._started_s = self._due_s = 0.0

    def topics(self) -> list[str]:
        return [e.topic for e in self._events.values()]

    def _gather(self) -> list[Record]:
        """What is there, or nothing once a commit is due: a request waits for no other."""
        wait_s = self._around.settings.idle_wait_ms / 1000
        if self._touched:
            wait_s = min(wait_s, max(self._due_s - self._around.clock.monotonic_s(), 0.0))
        return self._consumer.consume(min(CONSUME_RECORDS, self.rows_max), wait_s)

    def _ready(self) -> bool:
        """A rebalance while rows wait for their commit: they are given up, and read again by whoever owns them now."""
        if self.tasks.stale and self._touched:
            raise Retryable("partitions moved before the commit")
        return super()._ready()

    def _handle(self, batches: Mapping[TopicPartition, list[Record]]) -> int:
        clock = self._around.clock
        if batches and not self._open:
            self._started_s, self._due_s = clock.monotonic_s(), clock.monotonic_s() + self._commit_s
            self._producer.begin()
            self._open = True
        for tp, records in sorted(batches.items()):
            task, entity = self.tasks.sources[tp], self.tasks.entity_of(tp)
            self._touched.setdefault(entity, set()).add(tp)
            outcome = self._judge(task, records)
            self._take(self.tasks.entities[entity], outcome, records)
            self._answers.poll(0)
            if task.event.name in self.reports:
                for record in outcome.rejected:
                    self._reject(fitting(record, LETTER_BYTES_MAX))
        taken = sum(map(len, batches.values()))
        self._uncommitted += taken
        if self._touched and clock.monotonic_s() >= self._due_s:
            self._commit()
            return max(taken, 1)
        return taken

    def _commit(self) -> None:
        """Everything taken since the transaction began."""
        offsets: dict[TopicPartition, Committed] = {}
        written: dict[TopicPartition, Written] = {}
        for entity, sources in sorted(self._touched.items()):
            with self._computing():
                changes = self.tasks.entities[entity].commit()
                written[entity] = self.tasks.encoded(changes)
            self._produce_state(entity.partition, changes, written[entity])
            for tp in sources:
                task = self.tasks.sources[tp]
                offsets[tp] = Committed(task.next_offset, metadata_with(task, changes.progress.commit_sequence))
        self._answers.flush(ANSWER_TIMEOUT_S)
        self._finish(offsets, written)
        self.metrics.committed(self._uncommitted, self._around.clock.monotonic_s() - self._started_s)
        self._forget()

    def _forget(self) -> None:
        self._touched, self._uncommitted = {}, 0

    def _recover(self, error: Retryable) -> None:
        self._forget()
        super()._recover(error)

    def _take(self, state: EntityState, outcome: SourceOutcome, records: Sequence[Record]) -> None:
        rows = outcome.rows
        asked = rows.event.name in self._asks
        with self._computing():
            for answer in take_rows(self.feature_set, state, rows, outcome.frame, outcome.verdicts.tolist(), asked):
                self._send(answer, records[answer.row])
            state.carry(source_spans(self._around.tracing, outcome.sampled, self.group))

    def _send(self, answer: Answer, record: Record) -> None:
        traceparent = next((v for name, v in record.headers if name == TRACEPARENT), None)
        value = ScoringInput(
            plan_hash=self.plan.hash,
            set=self.feature_set.name,
            set_hash=self.feature_set.hash,
            entity=answer.entity,
            t_ms=answer.t_ms,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            append_time_ms=record.append_time_ms,
            traceparent=None if traceparent is None else traceparent.decode("ascii", "replace"),
            request=record.value or b"",
            commit_sequence=answer.commit_sequence,
            cut=answer.cut,
            base_floor_ms=answer.base_floor_ms,
            statuses=answer.statuses,
            values=answer.values,
        )
        headers = [h for h in record.headers if h[0] == TRACEPARENT]
        self._answers.produce(
            self._inputs, self._around.codec.encode(self._inputs, value), answer.entity.encode(), None, headers
        )

    def close(self) -> None:
        with ExitStack() as ends:
            ends.callback(super().close)
            ends.callback(self._answers.close)


def worker_of(plan: Plan, feature_set: FeatureSet, around: Surroundings, reports: frozenset[str]) -> SetWorker:
    """The worker a set's placement asks for."""
    kind = OwnedWorker if feature_set.placement == "owned" else SetWorker
    return kind(plan, feature_set, around, reports)
