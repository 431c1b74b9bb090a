"""The bus in memory: same port, same visible behaviour as the confluent adapter, no network. For unit tests."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

from headrace.chassis.bus import (
    AssignmentCallback,
    Committed,
    Delivered,
    DeliveryCallback,
    Header,
    Record,
    RecordBatch,
    TopicPartition,
    TopicSpec,
)
from headrace.chassis.bus import Consumer as ConsumerPort
from headrace.chassis.errors import Fatal, GenerationLost, Retryable, TransactionAborted
from headrace.chassis.memory_broker import MemoryBroker
from headrace.chassis.memory_log import Txn, TxnState
from headrace.contracts.partition import partition_of

_EARLIEST, _LATEST = -2, -1


def _nothing(_partitions: Sequence[TopicPartition]) -> None:
    """The default assignment callback."""


class MemoryConsumer:
    def __init__(self, broker: MemoryBroker, group: str | None, member_id: str, static: bool, from_latest: bool) -> None:
        self._broker = broker
        self.group_id = group
        self._member_id = member_id
        self._static = static
        self._reset = _LATEST if from_latest else _EARLIEST
        self._topics: tuple[str, ...] | None = None
        self._on_assign: AssignmentCallback = _nothing
        self._on_revoke: AssignmentCallback = _nothing
        self._generation: int | None = None  # of the group, as of the assignment held
        self._positions: dict[TopicPartition, int] = {}
        self._fetched: set[TopicPartition] = set()
        self._paused: set[TopicPartition] = set()
        self._turn = 0
        self._closed = False

    def subscribe(
        self, topics: Sequence[str], on_assign: AssignmentCallback | None = None, on_revoke: AssignmentCallback | None = None
    ) -> None:
        if self.group_id is None:
            raise Fatal("a consumer without a group cannot subscribe: assign partitions")
        self._on_assign, self._on_revoke = on_assign or _nothing, on_revoke or _nothing
        self._topics = tuple(topics)
        with self._broker.operation("subscribe"):
            self._broker.join(self.group_id, self, self._member_id, self._topics, self._static)

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        with self._broker.operation("assign"):
            self._take({p: self._resolve(p, offset) for p, offset in positions.items()})

    def consume(self, records_max: int, timeout_s: float) -> list[Record]:
        self._open()
        with self._broker.operation("consume"):
            pass
        self._follow_group()
        with self._broker.changed:
            found = self._fetch(records_max)
            if not found and timeout_s > 0:
                self._broker.changed.wait(timeout_s)
        return found or (self._after_wait(records_max) if timeout_s > 0 else [])

    def consume_batches(self, records_max: int, timeout_s: float) -> list[RecordBatch]:
        return RecordBatch.of(self.consume(records_max, timeout_s))

    def commit(self, offsets: Mapping[TopicPartition, Committed]) -> None:
        group = self._group()
        with self._broker.operation("commit"):
            self._broker.commit_offsets(group, offsets, self._live_generation())

    def committed(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Committed | None]:
        if self.group_id is None:
            return dict.fromkeys(partitions)
        with self._broker.operation("committed"):
            return self._broker.committed(self.group_id, partitions)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        if partition not in self._positions:
            raise Fatal(f"cannot seek {partition}: not assigned")
        with self._broker.changed:
            self._positions[partition] = self._resolve(partition, offset)

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        self._paused.update(partitions)

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        self._paused.difference_update(partitions)

    def position(self, partition: TopicPartition) -> int | None:
        return self._positions[partition] if partition in self._fetched else None

    def watermarks(self, partition: TopicPartition) -> tuple[int, int]:
        with self._broker.operation("watermarks"):
            log = self._broker.log(partition)
            return log.start, log.stable_end()

    def assignment(self) -> list[TopicPartition]:
        return sorted(self._positions)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._topics is not None and self._positions:
            self._on_revoke(self.assignment())
        with self._broker.operation("close"):
            if self._topics is not None:
                self._broker.leave(self._group(), self)
        self._take({})

    def staged_by(self) -> tuple[str, int | None]:
        """Group and generation a transaction's offsets are checked against."""
        return self._group(), self._live_generation()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        if self._closed:
            raise Fatal("consumer is closed")

    def _group(self) -> str:
        if self.group_id is None:
            raise Fatal("a consumer without a group has no committed offsets")
        return self.group_id

    def _live_generation(self) -> int | None:
        if self._topics is None:
            return None
        member = self._broker.member(self._group(), self._member_id, self)
        if member is None or self._generation is None:
            raise GenerationLost(f"not a member of group {self.group_id}")
        return self._generation

    def _after_wait(self, records_max: int) -> list[Record]:
        self._follow_group()
        with self._broker.changed:
            return self._fetch(records_max)

    def _follow_group(self) -> None:
        """Take part in the group: revoke when it rebalances, take what the new generation gives. Callbacks run unlocked."""
        if self._topics is None:
            return
        group_id = self._group()
        with self._broker.operation("poll"):
            self._broker.refresh(group_id)
            member = self._broker.member(group_id, self._member_id, self)
            rebalancing = self._broker.group(group_id).rebalancing
        if member is None or (rebalancing and not member.joined):
            held, self._generation = self.assignment(), self._generation if member else None
            if held:
                self._on_revoke(held)
            self._take({})
            self._generation = None
            with self._broker.operation("poll"):
                if member is None:
                    self._broker.join(group_id, self, self._member_id, self._topics, self._static)
                else:
                    self._broker.give_up(group_id, member)
        self._take_share(group_id)

    def _take_share(self, group_id: str) -> None:
        with self._broker.operation("poll"):
            group = self._broker.group(group_id)
            member = self._broker.member(group_id, self._member_id, self)
            if member is None or group.rebalancing or self._generation == group.generation:
                return
            held = self.assignment()
            starts = {p: self._resolve(p, c.offset if c else self._reset) for p, c in self._stable(group_id, member.assigned)}
            generation = group.generation
        if held:
            self._on_revoke(held)
        self._take(starts)
        self._generation = generation
        self._on_assign(self.assignment())

    def _stable(self, group_id: str, partitions: Sequence[TopicPartition]) -> list[tuple[TopicPartition, Committed | None]]:
        return list(self._broker.committed(group_id, partitions).items())

    def _take(self, positions: dict[TopicPartition, int]) -> None:
        self._positions = positions
        self._fetched.clear()
        self._paused.clear()

    def _resolve(self, partition: TopicPartition, offset: int) -> int:
        log = self._broker.log(partition)
        if offset == _LATEST:
            return log.stable_end()
        return max(log.start, 0 if offset == _EARLIEST else offset)

    def _fetch(self, records_max: int) -> list[Record]:
        """One turn over the partitions, another one first each time, as fair as the real fetcher."""
        ready = [p for p in sorted(self._positions) if p not in self._paused]
        self._turn += 1
        found: list[Record] = []
        for i in range(len(ready)):
            partition = ready[(i + self._turn) % len(ready)]
            log = self._broker.log(partition)
            position = max(self._positions[partition], log.start)
            records, self._positions[partition] = log.read(position, records_max - len(found))
            self._fetched.add(partition)
            found += records
        return found


class MemoryProducer:
    def __init__(self, broker: MemoryBroker, transactional_id: str | None, transaction_timeout_ms: int) -> None:
        self._broker = broker
        self._id = transactional_id
        self._timeout_ms = transaction_timeout_ms
        self._epoch: int | None = None
        self._txn: Txn | None = None
        self._deliveries: list[Callable[[], None]] = []
        self._failed: Exception | None = None
        self._scatter = itertools.count()

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Sequence[Header] = (),
        on_delivery: DeliveryCallback | None = None,
    ) -> None:
        if self._id is not None and self._txn is None:
            raise Fatal("produce outside a transaction: begin first")
        with self._broker.operation("produce"):
            self._alive()
            count = len(self._broker.topic(topic).partitions)
            if partition is None:
                partition = next(self._scatter) % count if key is None else partition_of(key, count)
            try:
                with self._broker.operation("deliver"):
                    landed = self._broker.append(TopicPartition(topic, partition), key, value, headers, self._txn)
            except Retryable as error:
                self._failed = error
                self._note(on_delivery, error, None)
            else:
                self._note(on_delivery, None, landed)

    def poll(self, timeout_s: float = 0.0) -> None:
        deliveries, self._deliveries = self._deliveries, []
        for deliver in deliveries:
            deliver()

    def flush(self, timeout_s: float) -> None:
        with self._broker.operation("flush"):
            pass
        self.poll()
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed

    def init_transactions(self) -> None:
        with self._broker.operation("init_transactions"):
            self._epoch = self._broker.init_transactions(self._transactional())
            self._txn = None

    def begin(self) -> None:
        with self._broker.operation("begin"):
            self._alive()
            if self._txn is not None or self._epoch is None:
                raise Fatal("a transaction is open, or init_transactions was not called")
            self._txn = self._broker.open_transaction(self._transactional(), self._timeout_ms)

    def send_offsets(self, offsets: Mapping[TopicPartition, Committed], consumer: ConsumerPort) -> None:
        if not isinstance(consumer, MemoryConsumer):
            raise Fatal("send_offsets needs a consumer of the same bus")
        with self._broker.operation("send_offsets"):
            self._alive()
            try:
                group, generation = consumer.staged_by()
            except GenerationLost as error:
                raise TransactionAborted(str(error)) from error
            self._broker.stage_offsets(self._current(), group, offsets, generation)

    def commit(self) -> None:
        self.poll()
        with self._broker.operation("commit_transaction"):
            self._alive()
            self._current()
            if self._failed is not None:
                raise TransactionAborted(f"a delivery failed: {self._failed}")
            self._end(TxnState.COMMITTED)

    def abort(self) -> None:
        with self._broker.operation("abort_transaction"):
            self._alive()
            self._current()
            self._failed = None
            self._end(TxnState.ABORTED)
        self.poll()

    def close(self) -> None:
        """Aborts what is open. A producer dropped without close leaves its transaction to the timeout, as a kill does."""
        if self._txn is not None and self._txn.state is TxnState.OPEN:
            with self._broker.operation("close"):
                self._end(TxnState.ABORTED)

    def _note(self, callback: DeliveryCallback | None, error: Exception | None, landed: Delivered | None) -> None:
        if callback is not None:
            self._deliveries.append(lambda: callback(error, landed))

    def _transactional(self) -> str:
        if self._id is None:
            raise Fatal("producer has no transactional id")
        return self._id

    def _current(self) -> Txn:
        if self._txn is None:
            raise Fatal("no transaction is open")
        return self._txn

    def _alive(self) -> None:
        if self._id is not None and self._epoch is not None:
            self._broker.check_epoch(self._id, self._epoch)

    def _end(self, state: TxnState) -> None:
        self._broker.close_transaction(self._transactional(), state)
        self._txn = None


class MemoryAdmin:
    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    def ensure_topics(self, specs: Sequence[TopicSpec]) -> None:
        for spec in specs:
            found = self._broker.find(spec.name)
            if found is None:
                self._broker.create(spec)
            elif found.spec.partitions != spec.partitions:
                raise Fatal(f"topic {spec.name} has {found.spec.partitions} partitions, declared {spec.partitions}")
            elif found.spec.compacted != spec.compacted:
                raise Fatal(f"topic {spec.name} differs in cleanup.policy from its declaration")

    def partitions(self, topic: str) -> int | None:
        found = self._broker.find(topic)
        return None if found is None else len(found.partitions)

    def topic_id(self, topic: str) -> str:
        return self._broker.topic(topic).id

    def topic_ids(self, topics: Sequence[str]) -> dict[str, str]:
        with self._broker.operation("topic_ids"):
            return {name: found.id for name in topics if (found := self._broker.find(name)) is not None}

    def retention_ms(self, topics: Sequence[str]) -> dict[str, int | None]:
        known = [found for name in topics if (found := self._broker.find(name)) is not None]
        return {t.spec.name: None if t.spec.compacted or t.spec.retention_ms < 0 else t.spec.retention_ms for t in known}

    def delete_topics(self, topics: Sequence[str]) -> None:
        for topic in topics:
            self._broker.drop(topic)

    def delete_records(self, before: Mapping[TopicPartition, int]) -> None:
        with self._broker.operation("delete_records"):
            for partition, offset in before.items():
                self._broker.log(partition).truncate_before(offset)

    def delete_groups(self, groups: Sequence[str]) -> None:
        for group in groups:
            if self._broker.group(group).members:
                raise Retryable(f"group {group} still has members")
            self._broker.group(group).offsets.clear()


class MemoryBus:
    """One process's view of a MemoryBroker."""

    def __init__(self, broker: MemoryBroker | None = None) -> None:
        self.broker = broker or MemoryBroker()
        self._members = itertools.count()

    def consumer(
        self, group: str | None, client_id: str, *, instance_id: str | None = None, from_latest: bool = False
    ) -> MemoryConsumer:
        member_id = instance_id or f"{client_id}-{next(self._members)}-{id(self)}"
        return MemoryConsumer(self.broker, group, member_id, instance_id is not None, from_latest)

    def producer(
        self, client_id: str, *, transactional_id: str | None = None, transaction_timeout_ms: int = 10_000, linger_ms: int = 2
    ) -> MemoryProducer:
        return MemoryProducer(self.broker, transactional_id, transaction_timeout_ms)

    def admin(self) -> MemoryAdmin:
        return MemoryAdmin(self.broker)
