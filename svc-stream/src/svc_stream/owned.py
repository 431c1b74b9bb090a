"""The worker of a set with placement `owned`: it answers requests at their rows, and commits what it holds now and then.

    consume -> judge -> answer, merge --.           rounds go on while a commit is under way
       ^________________________________|-- due --> changed blocks, Progress, offsets; answers landed; commit; local write

An answer is sent as soon as its row is read, outside the transaction: it is a pure function of the log and of the cut it
carries. A transaction commits only once the answers of its rows have arrived, so each request is answered at least
once; after a crash a second answer may carry another cut, and svc-serve keeps the first. A commit runs beside the rounds
and holds what was taken before it began: no request waits for it. A partition that moves away first waits for the commit
under way; rows no commit has begun with are read again by its new owner.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from headrace.chassis.bus import Committed, Delivered, Producer, Record, TopicPartition
from headrace.chassis.errors import HeadraceError, OutcomeUnknown, Retryable
from headrace.chassis.tracing import TRACEPARENT
from headrace.contracts.records import RecordRejected, ScoringInput
from headrace.plan.ir import FeatureSet, Plan
from headrace.plan.rows import lifter_of
from headrace.plan.topics import scoring_inputs_topic
from headrace.plan.verdicts import Verdict
from svc_stream.domain.entity import Commit
from svc_stream.domain.owned import Answer, Batch, Waiting, WaitingFrame, WaitingRows, metadata_with, take_rows
from svc_stream.domain.source import SourceTask
from svc_stream.engine import CONSUME_RECORDS, SetWorker
from svc_stream.handlers import LETTER_BYTES_MAX, Pronounced, fitting, judge_batch, judge_rows
from svc_stream.tasks import Surroundings, Written
from svc_stream.telemetry import source_spans

ANSWER_POLL_S, ANSWER_POLLS_MAX = 0.01, 1_000  # answers not acknowledged by then: the rows are done again
COMMIT_LOOK_S = 0.01  # how soon the end of a commit is noticed while nothing comes
ROWS_MAX = 64  # batches up to here are taken row by row, as quick as a frame of so many; smaller ones are several times quicker


@dataclass(slots=True)
class Flight:
    """Answers sent since the last commit began."""

    sent: int = 0
    landed: list[Exception | None] = field(default_factory=list)  # appended to by whichever thread polls

    def told(self, error: Exception | None, _: Delivered | None) -> None:
        """Delivery callback of an answer."""
        self.landed.append(error)

    def land(self, producer: Producer) -> None:
        """Wait for all of them. Raises Retryable if one does not arrive."""
        for _ in range(ANSWER_POLLS_MAX):
            if len(self.landed) >= self.sent:
                break
            producer.poll(ANSWER_POLL_S)
        if failed := next((error for error in self.landed if error is not None), None):
            raise failed
        if missing := self.sent - len(self.landed):
            raise Retryable(f"{missing} answers were not acknowledged in {ANSWER_POLL_S * ANSWER_POLLS_MAX:g} s")


@dataclass(slots=True)
class Taken:
    """What was taken since the last commit began: the entity tasks with their sources, letters, answers."""

    since_s: float
    touched: dict[TopicPartition, set[TopicPartition]] = field(default_factory=dict)
    letters: list[RecordRejected] = field(default_factory=list)
    flight: Flight = field(default_factory=Flight)
    records: int = 0


@dataclass(slots=True)
class Committing:
    """A commit: changes and offsets when it began, and what it wrote."""

    taken: Taken
    changes: dict[TopicPartition, Commit]
    offsets: dict[TopicPartition, Committed]
    written: dict[TopicPartition, Written] = field(default_factory=dict)


class OwnedWorker(SetWorker):
    """Runs one owned feature set. No partials: the records of a partition go straight into its state."""

    def __init__(self, plan: Plan, feature_set: FeatureSet, around: Surroundings, reports: frozenset[str]) -> None:
        super().__init__(plan, feature_set, around, reports)
        models = [m for m in plan.models if any(i.feature_set == feature_set.name for i in m.inputs)]
        self._asks = {m.request for m in models}
        self._inputs = scoring_inputs_topic(plan.pipeline)
        self._answers = around.bus.producer(f"{self._member}.answers", linger_ms=0)
        self._commit_s = around.settings.owned_commit_interval_ms / 1000
        self._taken = Taken(0.0)
        self._committing: Committing | None = None
        self._background = around.background(f"{self._member}.commits")
        self._broken: HeadraceError | None = None  # what became of a commit that ended inside a rebalance
        self.tasks.settle = self._settle
        self.rows_path_max = ROWS_MAX

    def topics(self) -> list[str]:
        return [e.topic for e in self._events.values()]

    def _gather(self) -> list[Record]:
        """What is there, or nothing once a commit is due or may have ended: a request waits for no other."""
        wait_s = self._around.settings.idle_wait_ms / 1000
        if self._committing is not None:
            wait_s = min(wait_s, COMMIT_LOOK_S)
        elif self._taken.touched:
            wait_s = min(wait_s, max(self._taken.since_s + self._commit_s - self._around.clock.monotonic_s(), 0.0))
        return self._consumer.consume(min(CONSUME_RECORDS, self.rows_max), wait_s)

    def _ready(self) -> bool:
        """A rebalance while rows wait for their commit: they are given up, and read again by whoever owns them now."""
        if self._broken is not None:
            broken, self._broken = self._broken, None
            raise broken
        if self.tasks.stale:
            self._end_commit()
            if self._taken.touched:
                raise Retryable("partitions moved before the commit")
        return super()._ready()

    def _handle(self, batches: Mapping[TopicPartition, list[Record]]) -> int:
        clock, busy = self._around.clock, self._committing is not None
        if self._background.ended() or self._taken.records > self._around.settings.batch_rows_max:
            self._end_commit()
        if batches and not self._taken.touched:
            self._taken.since_s = clock.monotonic_s()
        for tp, records in sorted(batches.items(), key=self._requests_first):
            self._take(tp, records)
        if self._committing is None and self._taken.touched and clock.monotonic_s() >= self._taken.since_s + self._commit_s:
            self._begin_commit()
            busy = True
        return sum(map(len, batches.values())) or int(busy)

    def _requests_first(self, batch: tuple[TopicPartition, list[Record]]) -> tuple[bool, TopicPartition]:
        """They wait for nothing that came in the same moment to another topic."""
        tp = batch[0]
        return self.tasks.sources[tp].event.name not in self._asks, tp

    # -- rows

    def _take(self, tp: TopicPartition, records: list[Record]) -> None:
        """Judge, answer and merge the records of one source partition."""
        task, entity = self.tasks.sources[tp], self.tasks.entity_of(tp)
        state, taken = self.tasks.entities[entity], self._taken
        taken.touched.setdefault(entity, set()).add(tp)
        taken.records += len(records)
        with self._computing():
            outcome, batch, waiting = (self._rows if len(records) <= self.rows_path_max else self._frame)(task, records)
            self.metrics.judged(task.event.name, outcome.counts)
            for answer in take_rows(state, batch, waiting, task.event.name in self._asks):
                self._send(answer, records[answer.row])
            state.carry(source_spans(self._around.tracing, outcome.sampled, self.group))
        self._answers.poll(0)
        if task.event.name in self.reports:
            taken.letters += [fitting(record, LETTER_BYTES_MAX) for record in outcome.rejected]

    def _rows(self, task: SourceTask, records: list[Record]) -> tuple[Pronounced, Batch, Waiting]:
        found = judge_rows(task, self._schemas[task.event.name], self._around.codec, records)
        lifter = lifter_of(self.feature_set, task.event)
        entities = [None if fields is None else lifter.entity(fields) for fields in found.fields]
        batch = Batch(task.event, task.partition, found.offsets, found.maxima_ms, found.verdicts, entities, found.times_ms)
        return found, batch, WaitingRows(lifter, found.fields, batch)

    def _frame(self, task: SourceTask, records: list[Record]) -> tuple[Pronounced, Batch, Waiting]:
        found = judge_batch(task, self._schemas[task.event.name], self._around.codec, records)
        entities = found.frame[self.feature_set.entity[0]].to_list()
        offsets, maxima_ms, verdicts = found.offsets.tolist(), found.maxima_ms.tolist(), found.verdicts.tolist()
        batch = Batch(task.event, task.partition, offsets, maxima_ms, verdicts, entities, found.frame["__time"].to_list())
        accepted = [row for row, verdict in enumerate(batch.verdicts) if verdict == Verdict.OK]
        return found, batch, WaitingFrame(self.feature_set, task.event, found.frame, accepted)

    # -- commits

    def _begin_commit(self) -> None:
        """Everything taken until now; what is taken from here on belongs to the next."""
        offsets: dict[TopicPartition, Committed] = {}
        changes: dict[TopicPartition, Commit] = {}
        with self._computing():
            for entity, sources in sorted(self._taken.touched.items()):
                changes[entity] = self.tasks.entities[entity].commit()
                for tp in sources:
                    task = self.tasks.sources[tp]
                    metadata = metadata_with(task, changes[entity].progress.commit_sequence)
                    offsets[tp] = Committed(task.next_offset, metadata)
        committing = self._committing = Committing(self._taken, changes, offsets)
        self._taken = Taken(self._around.clock.monotonic_s())
        self._background.start(lambda: self._commit(committing))

    def _commit(self, committing: Committing) -> None:
        """In the background: nothing here looks at what the rounds change."""
        with self._computing():
            written = committing.written = {tp: self.tasks.encoded(c) for tp, c in committing.changes.items()}
        committing.taken.flight.land(self._answers)
        self._transactions.begin()
        for letter in committing.taken.letters:
            self._reject(letter)
        for tp, changes in committing.changes.items():
            self._produce_state(tp.partition, changes, written[tp])
        self._transactions.commit(committing.offsets, self._consumer)
        self.tasks.store(written)

    def _end_commit(self) -> None:
        """Wait for the commit under way, if there is one. Raises what it raised."""
        committing, self._committing = self._committing, None
        if committing is None:
            return
        self._background.result()
        self.tasks.settled(committing.written)
        self.metrics.committed(committing.taken.records, self._around.clock.monotonic_s() - committing.taken.since_s)

    def _settle(self) -> None:
        """Called inside a rebalance, before anything is taken away: nothing may be raised there."""
        try:
            self._end_commit()
        except HeadraceError as error:
            self._broken = error

    def _recover(self, error: Retryable) -> None:
        """What the commit under way says of its outcome counts for more than why it is given up."""
        self._settle()
        self._taken = Taken(0.0)
        broken, self._broken = self._broken, None
        if broken is not None and not isinstance(broken, Retryable):
            raise broken
        super()._recover(broken if isinstance(broken, OutcomeUnknown) else error)

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
        headers, flight = [h for h in record.headers if h[0] == TRACEPARENT], self._taken.flight
        flight.sent += 1
        self._answers.produce(
            self._inputs, self._around.codec.encode(self._inputs, value), answer.entity.encode(), None, headers, flight.told
        )

    def close(self) -> None:
        with ExitStack() as ends:
            ends.callback(self._background.close)
            ends.callback(super().close)
            ends.callback(self._answers.close)
            ends.callback(self._settle)


def worker_of(plan: Plan, feature_set: FeatureSet, around: Surroundings, reports: frozenset[str]) -> SetWorker:
    """The worker a set's placement asks for."""
    kind = OwnedWorker if feature_set.placement == "owned" else SetWorker
    return kind(plan, feature_set, around, reports)
