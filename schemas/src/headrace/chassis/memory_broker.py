"""The in-memory broker: topics, transactions by transactional id, consumer groups with an eager rebalance, faults on order.

It does what a test must be able to see of Apache Kafka and nothing else; the conformance suite holds it to the real one.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from headrace.chassis.bus import Committed, Delivered, Header, Record, TopicPartition, TopicSpec
from headrace.chassis.clock import Clock, SystemClock
from headrace.chassis.errors import Fatal, Fenced, GenerationLost, Retryable, TransactionAborted
from headrace.chassis.memory_log import PartitionLog, Txn, TxnState


@dataclass(slots=True)
class Topic:
    spec: TopicSpec
    id: str
    partitions: list[PartitionLog]


@dataclass(slots=True)
class Member:
    """One place in a group. A static member keeps it over restarts: owner is None between two incarnations."""

    id: str
    topics: tuple[str, ...]
    owner: object | None
    static: bool
    joined: bool = True  # has given up its partitions for the rebalance under way
    assigned: tuple[TopicPartition, ...] = ()


@dataclass(slots=True)
class Group:
    offsets: dict[TopicPartition, Committed] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)
    generation: int = 0
    rebalancing: bool = False


@dataclass(slots=True)
class _Fault:
    operation: str
    error: BaseException
    after: bool


class MemoryBroker:
    """Shared by all buses of one test. Thread-safe; LogAppendTime comes from the clock."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or SystemClock()
        self.changed = threading.Condition(threading.RLock())
        self._topics: dict[str, Topic] = {}
        self._groups: dict[str, Group] = defaultdict(Group)
        self._epochs: dict[str, int] = {}
        self._open: dict[str, Txn] = {}  # transactional id -> its open transaction
        self._faults: deque[_Fault] = deque()
        self._created = 0

    # -- what only tests call -----------------------------------------------------------------------------------------

    def fail(self, operation: str, error: BaseException, *, times: int = 1, after: bool = False) -> None:
        """Let the next calls of an operation raise: consume, commit, produce, deliver, flush, send_offsets,
        commit_transaction, abort_transaction, topic_ids. With after, the operation is done before it raises."""
        self._faults.extend(_Fault(operation, error, after) for _ in range(times))

    def records(self, topic: str) -> list[Record]:
        """Everything a fresh read-committed reader would see, by partition and offset."""
        with self.changed:
            return [r for log in self.topic(topic).partitions for r in log.read(log.start, 1 << 62)[0]]

    def compact(self, topic: str) -> None:
        with self.changed:
            for log in self.topic(topic).partitions:
                log.compact()

    def truncate_before(self, partition: TopicPartition, offset: int) -> None:
        with self.changed:
            self.log(partition).truncate_before(offset)

    def expire_session(self, consumer: object) -> None:
        """The group stops hearing from this consumer, as after a kill and session.timeout.ms."""
        with self.changed:
            for group in self._groups.values():
                for member in [m for m in group.members.values() if m.owner is consumer]:
                    self._remove(group, member)

    # -- faults -------------------------------------------------------------------------------------------------------

    @contextmanager
    def operation(self, name: str) -> Iterator[None]:
        """Guard one broker operation: raises an ordered fault before or after it, holds the lock while it runs."""
        with self.changed:
            fault = next((f for f in self._faults if f.operation == name), None)
            if fault is not None:
                self._faults.remove(fault)
                if not fault.after:
                    raise fault.error
            self._expire_transactions()
            yield
            self.changed.notify_all()
            if fault is not None:
                raise fault.error

    # -- topics -------------------------------------------------------------------------------------------------------

    def create(self, spec: TopicSpec) -> None:
        with self.changed:
            self._created += 1
            logs = [PartitionLog() for _ in range(spec.partitions)]
            self._topics[spec.name] = Topic(spec, f"topic-{self._created}", logs)
            self.changed.notify_all()

    def drop(self, name: str) -> None:
        with self.changed:
            self._topics.pop(name, None)

    def find(self, name: str) -> Topic | None:
        return self._topics.get(name)

    def topic(self, name: str) -> Topic:
        topic = self._topics.get(name)
        if topic is None:
            raise Retryable(f"topic {name} does not exist")
        return topic

    def log(self, partition: TopicPartition) -> PartitionLog:
        logs = self.topic(partition.topic).partitions
        if not 0 <= partition.partition < len(logs):
            raise Fatal(f"partition {partition.partition} of {partition.topic} does not exist: it has {len(logs)}")
        return logs[partition.partition]

    def append(
        self, where: TopicPartition, key: bytes | None, value: bytes | None, headers: Sequence[Header], txn: Txn | None
    ) -> Delivered:
        log = self.log(where)
        record = Record(
            where.topic, where.partition, log.next_offset, self.clock.now_ms(), key, value, tuple((k, v) for k, v in headers)
        )
        if txn is not None:
            txn.touched.add(where)
        return Delivered(where.topic, where.partition, log.append(record, txn))

    # -- transactions -------------------------------------------------------------------------------------------------

    def init_transactions(self, transactional_id: str) -> int:
        """A new incarnation: fences the older ones and aborts what they left open. Returns its epoch."""
        self._close(transactional_id, TxnState.ABORTED)
        self._epochs[transactional_id] = self._epochs.get(transactional_id, -1) + 1
        return self._epochs[transactional_id]

    def check_epoch(self, transactional_id: str, epoch: int) -> None:
        if self._epochs.get(transactional_id) != epoch:
            raise Fenced(f"producer {transactional_id} fenced by a newer instance")

    def open_transaction(self, transactional_id: str, timeout_ms: int) -> Txn:
        txn = Txn(deadline_s=self.clock.monotonic_s() + timeout_ms / 1000)
        self._open[transactional_id] = txn
        return txn

    def close_transaction(self, transactional_id: str, state: TxnState) -> None:
        self._close(transactional_id, state)

    def _close(self, transactional_id: str, state: TxnState) -> None:
        txn = self._open.pop(transactional_id, None)
        if txn is None:
            return
        txn.state = state
        for partition in sorted(txn.touched):
            if partition.topic in self._topics:
                self.log(partition).append(None, txn)
        if state is TxnState.COMMITTED:
            for group, offsets in txn.offsets.items():
                self._groups[group].offsets.update(offsets)

    def _expire_transactions(self) -> None:
        """What the coordinator does with a dead producer: abort its transaction and fence it."""
        for transactional_id, txn in list(self._open.items()):
            if self.clock.monotonic_s() >= txn.deadline_s:
                self._close(transactional_id, TxnState.ABORTED)
                self._epochs[transactional_id] += 1

    # -- groups -------------------------------------------------------------------------------------------------------

    def join(self, group_id: str, owner: object, member_id: str, topics: Sequence[str], static: bool) -> None:
        group = self._groups[group_id]
        seat = group.members.get(member_id)
        if seat is not None and seat.static and seat.topics == tuple(topics):
            seat.owner = owner  # a static member comes back to its own partitions, without a rebalance
            return
        group.members[member_id] = Member(member_id, tuple(topics), owner, static)
        self._rebalance(group)

    def leave(self, group_id: str, owner: object) -> None:
        group = self._groups[group_id]
        for member in [m for m in group.members.values() if m.owner is owner]:
            if member.static:
                member.owner = None
                self._complete(group)
            else:
                self._remove(group, member)

    def member(self, group_id: str, member_id: str, owner: object) -> Member | None:
        """This consumer's place; None if the group dropped it. Raises Fenced if another one sits there."""
        member = self._groups[group_id].members.get(member_id)
        if member is not None and member.owner is not owner:
            raise Fenced(f"group instance {member_id} fenced by a newer instance")
        return member

    def group(self, group_id: str) -> Group:
        return self._groups[group_id]

    def give_up(self, group_id: str, member: Member) -> None:
        """The member has revoked its partitions; when all have, the next generation begins."""
        member.joined = True
        self._complete(self._groups[group_id])

    def refresh(self, group_id: str) -> None:
        """Notice topics that appeared or vanished since the assignment was made."""
        group = self._groups[group_id]
        if not group.rebalancing and self._plan(group) != {m.id: m.assigned for m in group.members.values()}:
            self._rebalance(group)

    def commit_offsets(self, group_id: str, offsets: Mapping[TopicPartition, Committed], generation: int | None) -> None:
        """generation None: manual assignment, allowed only while the group has no members."""
        group = self._groups[group_id]
        if generation is None and group.members:
            raise Fatal(f"group {group_id} has members: a manual assignment cannot commit to it")
        if generation is not None and generation != group.generation:
            raise GenerationLost(f"group {group_id} is at generation {group.generation}, not {generation}")
        group.offsets.update(offsets)

    def stage_offsets(
        self, txn: Txn, group_id: str, offsets: Mapping[TopicPartition, Committed], generation: int | None
    ) -> None:
        group = self._groups[group_id]
        if generation is not None and generation != group.generation:
            raise TransactionAborted(f"group {group_id} is at generation {group.generation}, not {generation}")
        txn.offsets.setdefault(group_id, {}).update(offsets)

    def committed(self, group_id: str, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Committed | None]:
        pending = {p for txn in self._open.values() for p in txn.offsets.get(group_id, ())}
        if pending & set(partitions):
            raise Retryable(f"offsets of {group_id} unstable: a transaction that carries them is open")
        offsets = self._groups[group_id].offsets
        return {p: offsets.get(p) for p in partitions}

    def _remove(self, group: Group, member: Member) -> None:
        del group.members[member.id]
        self._rebalance(group)

    def _rebalance(self, group: Group) -> None:
        group.rebalancing = bool(group.members)
        for member in group.members.values():
            member.joined = member.owner is None or not member.assigned
        self._complete(group)

    def _complete(self, group: Group) -> None:
        if not group.rebalancing or not all(m.joined or m.owner is None for m in group.members.values()):
            return
        for member_id, assigned in self._plan(group).items():
            group.members[member_id].assigned = assigned
        group.generation += 1
        group.rebalancing = False
        self.changed.notify_all()

    def _plan(self, group: Group) -> dict[str, tuple[TopicPartition, ...]]:
        """Range assignment: per topic, members in order of id get neighbouring partitions."""
        shares: dict[str, list[TopicPartition]] = {member_id: [] for member_id in group.members}
        for topic in sorted({t for m in group.members.values() for t in m.topics} & self._topics.keys()):
            readers = sorted(m.id for m in group.members.values() if topic in m.topics)
            count = len(self._topics[topic].partitions)
            for partition in range(count):
                shares[readers[partition * len(readers) // count]].append(TopicPartition(topic, partition))
        return {member_id: tuple(share) for member_id, share in shares.items()}
