"""The bus port: what services need of Kafka, as protocols both adapters (memory, confluent) satisfy."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Protocol

from headrace.contracts.topics import TopicSpec

Header = tuple[str, bytes]


@dataclass(frozen=True, slots=True, order=True)
class TopicPartition:
    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class Record:
    """One consumed record. append_time_ms is the Kafka timestamp (LogAppendTime on our topics)."""

    topic: str
    partition: int
    offset: int
    append_time_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...] = ()


@dataclass(frozen=True, slots=True)
class Delivered:
    """Where a produced record landed."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Committed:
    """A group's committed position: next offset to read and the metadata written with it."""

    offset: int
    metadata: str = ""


DeliveryCallback = Callable[[Exception | None, Delivered | None], None]
AssignmentCallback = Callable[[Sequence[TopicPartition]], None]


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """Consumed records of one partition as columns, in offset order: an object per record would cost more than reading it.

    offsets, append_times_ms, values: of n records. record: the whole of one, by its place. traced: those with headers.
    """

    place: TopicPartition
    offsets: list[int]
    append_times_ms: list[int]
    values: list[bytes | None]
    record: Callable[[int], Record]
    traced: Sequence[int] = ()

    @classmethod
    def of(cls, records: Sequence[Record]) -> list[RecordBatch]:
        """By partition, in the order in which partitions come first."""
        found: dict[TopicPartition, list[Record]] = {}
        for record in records:
            found.setdefault(TopicPartition(record.topic, record.partition), []).append(record)
        return [cls.one(place, rows) for place, rows in found.items()]

    @classmethod
    def one(cls, place: TopicPartition, rows: Sequence[Record]) -> RecordBatch:
        """Records of one partition."""
        return cls(
            place, [r.offset for r in rows], [r.append_time_ms for r in rows], [r.value for r in rows], rows.__getitem__,
            [i for i, r in enumerate(rows) if r.headers],
        )  # fmt: skip

    @classmethod
    def joined(cls, parts: Sequence[RecordBatch]) -> RecordBatch:
        """Batches of one partition that follow each other, as one."""
        if len(parts) == 1:
            return parts[0]
        ends = list(accumulate(len(p.offsets) for p in parts))

        def record(row: int) -> Record:
            part = bisect_right(ends, row)
            return parts[part].record(row - (ends[part - 1] if part else 0))

        return cls(
            parts[0].place,
            list(chain.from_iterable(p.offsets for p in parts)),
            list(chain.from_iterable(p.append_times_ms for p in parts)),
            list(chain.from_iterable(p.values for p in parts)),
            record,
            [row + end - len(p.offsets) for p, end in zip(parts, ends, strict=True) for row in p.traced],
        )


class Consumer(Protocol):
    """Reads committed records only (isolation.level=read_committed), never auto-commits. Not thread-safe."""

    def subscribe(
        self, topics: Sequence[str], on_assign: AssignmentCallback | None = None, on_revoke: AssignmentCallback | None = None
    ) -> None: ...
    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        """Manual assignment at exact offsets; -2 means earliest, -1 latest."""
        ...

    def consume(self, records_max: int, timeout_s: float) -> list[Record]:
        """Up to records_max records; empty on timeout. Raises Retryable or Fatal, never a client error."""
        ...

    def consume_batches(self, records_max: int, timeout_s: float) -> list[RecordBatch]:
        """The same as columns, each partition once."""
        ...

    def commit(self, offsets: Mapping[TopicPartition, Committed]) -> None: ...
    def committed(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Committed | None]: ...
    def seek(self, partition: TopicPartition, offset: int) -> None: ...
    def pause(self, partitions: Sequence[TopicPartition]) -> None: ...
    def resume(self, partitions: Sequence[TopicPartition]) -> None: ...
    def position(self, partition: TopicPartition) -> int | None:
        """Next offset the client would read; steps over transaction markers. None before the first fetch."""
        ...

    def watermarks(self, partition: TopicPartition) -> tuple[int, int]:
        """(log start, read-committed end): asks the broker."""
        ...

    def assignment(self) -> list[TopicPartition]: ...
    def close(self) -> None: ...


class Producer(Protocol):
    """Idempotent, acks=all. With a transactional id, all produce calls lie between begin and commit or abort."""

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Sequence[Header] = (),
        on_delivery: DeliveryCallback | None = None,
    ) -> None:
        """Enqueue; without a partition, murmur2 of the key as Java clients do. A full queue blocks, bounded, then Retryable."""
        ...

    def poll(self, timeout_s: float = 0.0) -> None: ...
    def flush(self, timeout_s: float) -> None:
        """Return only when all is acknowledged; else Retryable. A failed delivery raises."""
        ...

    def init_transactions(self) -> None: ...
    def begin(self) -> None: ...
    def send_offsets(self, offsets: Mapping[TopicPartition, Committed], consumer: Consumer) -> None: ...
    def commit(self) -> None: ...
    def abort(self) -> None: ...
    def close(self) -> None: ...


class Admin(Protocol):
    def ensure_topics(self, specs: Sequence[TopicSpec]) -> None:
        """Create what is missing, check what exists. Fatal if partitions or cleanup policy differ."""
        ...

    def partitions(self, topic: str) -> int | None:
        """Partition count, None if the topic does not exist."""
        ...

    def topic_id(self, topic: str) -> str:
        """The broker's id of this incarnation of the topic. Retryable if it does not exist."""
        ...

    def topic_ids(self, topics: Sequence[str]) -> dict[str, str]:
        """As `topic_id`, of many in one call; what does not exist is absent. An id never comes back once it is gone."""
        ...

    def retention_ms(self, topics: Sequence[str]) -> dict[str, int | None]:
        """How long the broker keeps records before it may delete them, None for ever; what does not exist is absent.

        Raises: Fatal if it may not be asked.
        """
        ...

    def delete_topics(self, topics: Sequence[str]) -> None: ...
    def delete_records(self, before: Mapping[TopicPartition, int]) -> None:
        """Let the logs begin at these offsets. Fatal if it may not be asked."""
        ...

    def delete_groups(self, groups: Sequence[str]) -> None:
        """Forget committed offsets; a group that does not exist is fine. Retryable while one still has members."""
        ...


class Bus(Protocol):
    def consumer(
        self, group: str | None, client_id: str, *, instance_id: str | None = None, from_latest: bool = False
    ) -> Consumer:
        """group None: manual assignment only, offsets never committed."""
        ...

    def producer(
        self, client_id: str, *, transactional_id: str | None = None, transaction_timeout_ms: int = 10_000, linger_ms: int = 2
    ) -> Producer: ...
    def admin(self) -> Admin: ...
