"""The single writer: one thread owns the chain, people's commands and consumed records queue up before it.

open:   fence earlier writers -> read the chain -> verify -> compare with the heads kept outside -> fold
round:  each waiting command, then one batch of records:
        decide on the state -> ONE transaction {entries, what they announce, dead letters, offsets}
        -> sign the new head -> publish the new state to readers -> answer
When a transaction's outcome is not known the writer opens again: the chain itself tells what was committed.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from headrace.chassis.bus import Bus, Committed, Consumer, Record, TopicPartition
from headrace.chassis.clock import Clock
from headrace.chassis.logs import logger
from headrace.contracts.audit import Head, sign_head
from headrace.contracts.errors import Fatal, Poison, Retryable
from headrace.contracts.records import AuditEntryAppended
from svc_governance.adapters.heads import HeadsFile
from svc_governance.adapters.journal import GROUP
from svc_governance.chain import Extension, restored
from svc_governance.domain.facts import Decision, Refusal
from svc_governance.domain.pipelines import removable, removed
from svc_governance.domain.state import State
from svc_governance.handlers import CONSUMED, Handlers
from svc_governance.ports import Commit, Journal, Rejected, Resources
from svc_governance.telemetry import Telemetry

BATCH_RECORDS_MAX = 200
POLL_S = 0.05  # how long a command may wait for an idle consumer
COMMANDS_MAX = 256  # waiting; more people than that do not press at once
BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)
EARLIEST = -2
TIDY_S = 5.0  # between looks at what may go: nobody waits for it

log = logger("svc_governance.writer")

Decide = Callable[[State, int], Decision]  # state, wall clock ms


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a command: a refusal or nothing, and the state after it."""

    state: State
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True)
class _Command:
    decide: Decide
    answer: Future[Outcome] = field(default_factory=Future)


class Writer:
    """Runs in its own thread (`run`); `submit` and the read properties may be used from any."""

    def __init__(
        self,
        *,
        bus: Bus,
        journal: Journal,
        handlers: Handlers,
        resources: Resources,
        private: Ed25519PrivateKey,
        heads: HeadsFile | None,
        clock: Clock,
        telemetry: Telemetry,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._bus, self._journal, self._handlers, self._resources = bus, journal, handlers, resources
        self._private, self._heads, self._clock, self._telemetry = private, heads, clock, telemetry
        self._progress = progress
        self._commands: queue.Queue[_Command] = queue.Queue(COMMANDS_MAX)
        self._consumer: Consumer | None = None
        self._entries: list[AuditEntryAppended] = []
        self._head: Head | None = None
        self._state = State()
        self._tidy_due_s = 0.0
        self.opened = threading.Event()

    @property
    def state(self) -> State:
        """The last committed state: an immutable snapshot."""
        return self._state

    @property
    def head(self) -> Head | None:
        """The signed head of that state; None while the chain is empty."""
        return self._head

    def entries(self) -> list[AuditEntryAppended]:
        """The chain up to now."""
        return list(self._entries)

    def submit(self, decide: Decide) -> Future[Outcome]:
        """Queue a command; the future raises Retryable if it could not be carried out.

        Raises: Retryable if too many wait.
        """
        command = _Command(decide)
        try:
            self._commands.put_nowait(command)
        except queue.Full:
            raise Retryable(f"{COMMANDS_MAX} commands wait: try again") from None
        return command.answer

    def run(self, stop: threading.Event) -> None:
        """Until stopped. Raises: Fatal."""
        attempt = 0
        try:
            while not stop.is_set():
                try:
                    self.open()
                    while not stop.is_set():
                        self.round()
                        attempt = 0
                except Retryable as error:
                    self._progress()  # waiting for the world is not being stuck
                    log.warning("chain_reopened", error=str(error), attempt=attempt)
                    stop.wait(BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)])
                    attempt += 1
        finally:
            self.close()

    def open(self) -> None:
        """Read everything anew; also settles what an interrupted transaction did."""
        self.close()
        self._resources.prepare_platform()
        entries = self._read_chain()
        heads = [] if self._heads is None else self._heads.read()
        state = restored(entries, heads, self._private.public_key())
        self._entries = entries
        self._consumer = self._bus.consumer(GROUP, GROUP)
        self._consumer.assign(self._positions(self._consumer))
        self._publish(state)
        self.opened.set()
        log.info("chain_opened", entries=state.entries, head=state.head)

    def _read_chain(self) -> list[AuditEntryAppended]:
        try:
            return self._journal.open()
        except Poison as fault:
            raise Fatal(f"the audit topic holds a record that is no entry: {fault.detail}") from fault

    def _positions(self, consumer: Consumer) -> dict[TopicPartition, int]:
        """Assigned by hand, not by the group: there is one writer, and the fencing id keeps it one."""
        admin = self._bus.admin()
        partitions = [TopicPartition(topic, p) for topic in CONSUMED for p in range(admin.partitions(topic) or 0)]
        found = consumer.committed(partitions)
        return {p: EARLIEST if (committed := found.get(p)) is None else committed.offset for p in partitions}

    def round(self) -> None:
        """Commands first: the kill switch does not queue behind a batch."""
        for _ in range(COMMANDS_MAX):
            try:
                command = self._commands.get_nowait()
            except queue.Empty:
                break
            self._carry_out(command)
        assert self._consumer is not None
        records = self._consumer.consume(BATCH_RECORDS_MAX, POLL_S)
        if records:
            self._take(records)
        self._tidy()
        self._progress()

    def _tidy(self) -> None:
        """Remove what no version of a plan holds any more. What cannot go yet is tried again."""
        now_s = self._clock.monotonic_s()
        if now_s < self._tidy_due_s:
            return
        self._tidy_due_s = now_s + TIDY_S
        for name, pipeline in self._state.pipelines.items():
            sets = removable(pipeline)
            if not sets:
                continue
            try:
                self._resources.remove(pipeline.plan, sets)
            except Retryable as error:
                log.info("sets_not_removed_yet", pipeline=name, error=str(error))
                continue
            self._commit(Extension(self._state).extend([removed(name, sets)], self._clock.now_ms()), Commit())

    def _take(self, records: Sequence[Record]) -> None:
        now_ms = self._clock.now_ms()
        extension, rejected = Extension(self._state), list[Rejected]()
        for record in records:
            try:
                decision = self._handlers.handle(extension.state, record, now_ms)
                extension = extension.extend(decision.facts, now_ms)
                self._telemetry.consumed(record.topic, "changed" if decision.facts else "known")
            except Poison as fault:
                rejected.append(Rejected(record, fault))
                self._telemetry.consumed(record.topic, "rejected")
                log.warning("record_rejected", topic=record.topic, offset=record.offset, reason=fault.reason.value)
        offsets = {TopicPartition(r.topic, r.partition): Committed(r.offset + 1) for r in records}
        self._commit(extension, Commit((), (), rejected, offsets, self._consumer))

    def _carry_out(self, command: _Command) -> None:
        """Decide, write, answer; whatever happens the caller hears of it."""
        if not command.answer.set_running_or_notify_cancel():
            return
        extension, refusal = Extension(self._state), None
        try:
            now_ms = self._clock.now_ms()
            extension, refusal = self._prepared(command.decide(self._state, now_ms), now_ms)
            if extension.entries:
                self._commit(extension, Commit())
        except Retryable as error:
            self._settle(command, extension, refusal, error)
        except BaseException as error:
            command.answer.set_exception(error)
            raise
        else:
            command.answer.set_result(Outcome(self._state, refusal))

    def _prepared(self, decision: Decision, now_ms: int) -> tuple[Extension, Refusal | None]:
        """Topics of an admitted plan come before its record; if they cannot, the plan is refused."""
        extension = Extension(self._state).extend(decision.facts, now_ms)
        try:
            for fact in decision.facts:
                if fact.action == "pipeline.admitted":
                    self._resources.prepare(extension.state.pipelines[fact.subject].plan)
        except Fatal as error:
            return Extension(self._state), Refusal(409, str(error))
        return extension, decision.refusal

    def _settle(self, command: _Command, extension: Extension, refusal: Refusal | None, error: Retryable) -> None:
        """A command whose transaction was in doubt: the chain, read anew, holds its last entry or does not."""
        try:
            self.open()
        except BaseException:
            command.answer.set_exception(Retryable("the outcome is not known: look before trying again"))
            raise
        if extension.entries and self._state.head == extension.entries[-1].hash:
            command.answer.set_result(Outcome(self._state, refusal))
        else:
            command.answer.set_exception(error)

    def _commit(self, extension: Extension, commit: Commit) -> None:
        self._journal.write(replace(commit, entries=extension.entries, announced=extension.announced))
        self._entries.extend(extension.entries)
        for entry in extension.entries:
            self._telemetry.appended(entry.action)
            log.info("entry_appended", sequence=entry.sequence, actor=entry.actor, action=entry.action, subject=entry.subject)
        self._publish(extension.state)

    def _publish(self, state: State) -> None:
        """Sign the head and keep it outside before anyone sees the state it stands for."""
        if self._entries and (self._head is None or self._head.hash != state.head):
            self._head = sign_head(self._private, GROUP, self._entries[-1], self._clock.now_ms())
            if self._heads is not None:
                self._heads.append(self._head)
        self._state = state
        self._telemetry.chain(state.entries)
        self._telemetry.standing(state)

    def close(self) -> None:
        self.opened.clear()
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None
        self._journal.close()
