"""The bus on Apache Kafka through confluent-kafka (librdkafka). Every data path uses this adapter."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, TypeVar

from confluent_kafka import Consumer as KafkaConsumer
from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import Producer as KafkaProducer
from confluent_kafka import TopicPartition as Position

from headrace.chassis.admin_confluent import ConfluentAdmin
from headrace.chassis.bus import (
    AssignmentCallback,
    Committed,
    Delivered,
    DeliveryCallback,
    Header,
    Record,
    RecordBatch,
    TopicPartition,
)
from headrace.chassis.bus import Consumer as ConsumerPort
from headrace.chassis.client_errors import of_commit, of_exception, translate
from headrace.chassis.errors import Fatal, HeadraceError, OutcomeUnknown, Retryable
from headrace.chassis.logs import kafka_log

CALL_TIMEOUT_S = 10.0  # one question to the broker
LEADER_RETRY_S = 0.1
PRODUCE_BLOCK_S = 30.0  # longest wait for room in a full queue
DELIVERY_TIMEOUT_MS = 30_000  # then a record outside a transaction counts as not delivered
PRODUCE_QUEUE_KB = 128 << 10  # bound on records not yet acknowledged
MESSAGE_BYTES_MAX = 2 << 20  # a dead letter holds a whole record of the default size, and why
FETCH_QUEUE_KB = 64 << 10  # bound on records fetched ahead, of one consumer
SESSION_TIMEOUT_MS = 10_000  # a killed member's partitions move after this
HEARTBEAT_MS = 1_000  # how soon a member hears that the group rebalances
POLL_INTERVAL_MAX_MS = 300_000  # a member that does not poll for so long is out

T = TypeVar("T")
_second: Callable[[tuple[int, int]], int] = itemgetter(1)


def _on_client_error(error: KafkaError) -> None:
    """What the client reports outside any call: it recovers by itself, or the next call raises."""
    kafka_log.warning("kafka_client_error", extra={"error_name": error.name(), "error_detail": error.str()})


class ConfluentConsumer:
    def __init__(self, config: dict[str, Any], group: str | None) -> None:
        self._client = KafkaConsumer(config, logger=kafka_log)
        self._group = group
        self._topic: str | None = None  # if only one is subscribed to
        self._ends: dict[TopicPartition, int] = {}  # next offset at the end of a partition, as its EOF event told
        self._closed = False

    def subscribe(
        self, topics: Sequence[str], on_assign: AssignmentCallback | None = None, on_revoke: AssignmentCallback | None = None
    ) -> None:
        if self._group is None:
            raise Fatal("a consumer without a group cannot subscribe: assign partitions")

        def assigned(_client: KafkaConsumer, partitions: list[Position]) -> None:
            self._ends.clear()
            if on_assign is not None:
                self._client.assign(partitions)  # before the callback, so that it may pause, seek and ask
                on_assign(_ours(partitions))

        def revoked(_client: KafkaConsumer, partitions: list[Position]) -> None:
            if on_revoke is not None:
                on_revoke(_ours(partitions))

        self._topic = topics[0] if len(topics) == 1 else None
        with _translated("subscribe"):
            self._client.subscribe(list(topics), on_assign=assigned, on_revoke=revoked)

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        self._ends.clear()
        self._topic = None
        with _translated("assign"):
            self._client.assign([Position(p.topic, p.partition, offset) for p, offset in positions.items()])

    def consume(self, records_max: int, timeout_s: float) -> list[Record]:
        if self._closed:
            raise Fatal("consumer is closed")
        deadline = time.monotonic() + timeout_s
        with _translated("consume"):
            records = self._records(self._client.consume(records_max, 0))
            # consume() of the client waits for a full batch or the whole timeout; we return with what is there
            while not records and (left := deadline - time.monotonic()) > 0:
                records = self._records(self._client.consume(1, left))
                if records and records_max > 1:
                    records += self._records(self._client.consume(records_max - 1, 0))
        return records

    def consume_batches(self, records_max: int, timeout_s: float) -> list[RecordBatch]:
        if self._closed:
            raise Fatal("consumer is closed")
        deadline = time.monotonic() + timeout_s
        with _translated("consume"):
            messages = self._good(self._client.consume(records_max, 0))
            while not messages and (left := deadline - time.monotonic()) > 0:
                messages = self._good(self._client.consume(1, left))
                if messages and records_max > 1:
                    messages += self._good(self._client.consume(records_max - 1, 0))
        return _by_partition(messages, self._topic)

    def commit(self, offsets: Mapping[TopicPartition, Committed]) -> None:
        if self._group is None:
            raise Fatal("a consumer without a group has no committed offsets")
        if not offsets:
            return
        with _translated("commit"):
            for position in self._client.commit(offsets=_theirs(offsets), asynchronous=False) or ():
                if position.error is not None:
                    raise translate("commit", position.error)

    def committed(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Committed | None]:
        if self._group is None or not partitions:
            return dict.fromkeys(partitions)
        with _translated("committed"):
            answer = self._client.committed([Position(p.topic, p.partition) for p in partitions], timeout=CALL_TIMEOUT_S)
        for position in answer:
            if position.error is not None:
                raise translate("committed", position.error)
        return {
            TopicPartition(p.topic, p.partition): Committed(p.offset, p.metadata or "") if p.offset >= 0 else None
            for p in answer
        }

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._ends.pop(partition, None)
        deadline = time.monotonic() + CALL_TIMEOUT_S
        while True:
            try:
                with _translated("seek"):
                    return self._client.seek(Position(partition.topic, partition.partition, offset))
            except Retryable:  # just assigned, its fetcher is not running yet
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        with _translated("pause"):
            self._client.pause([Position(p.topic, p.partition) for p in partitions])

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        with _translated("resume"):
            self._client.resume([Position(p.topic, p.partition) for p in partitions])

    def position(self, partition: TopicPartition) -> int | None:
        with _translated("position"):
            offset = self._client.position([Position(partition.topic, partition.partition)])[0].offset
        known = max(offset, self._ends.get(partition, -1))
        return known if known >= 0 else None

    def watermarks(self, partition: TopicPartition) -> tuple[int, int]:
        deadline = time.monotonic() + CALL_TIMEOUT_S
        while True:  # a partition just made, or one that moves, has no leader for a moment
            try:
                return self._watermarks(partition)
            except Retryable:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(LEADER_RETRY_S)

    def _watermarks(self, partition: TopicPartition) -> tuple[int, int]:
        with _translated("watermarks"):
            answer = self._client.get_watermark_offsets(Position(partition.topic, partition.partition), timeout=CALL_TIMEOUT_S)
        if answer is None:
            raise Retryable(f"watermarks of {partition} not answered in {CALL_TIMEOUT_S} s")
        return answer

    def assignment(self) -> list[TopicPartition]:
        with _translated("assignment"):
            return sorted(_ours(self._client.assignment()))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            with _translated("close"):
                self._client.close()

    def group_metadata(self) -> Any:
        """The client's own token of group and generation, for offsets inside a transaction."""
        return self._client.consumer_group_metadata()

    def _records(self, messages: list[Message]) -> list[Record]:
        return [record_of(message) for message in self._good(messages)]

    def _good(self, messages: list[Message]) -> list[Message]:
        """Those that are records. What the others tell is noted, or raised where nothing came before it."""
        if not any(map(Message.error, messages)):
            return messages
        records: list[Message] = []
        for message in messages:
            error = message.error()
            if error is None:
                records.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                self._ends[TopicPartition(_known(message.topic()), _known(message.partition()))] = _known(message.offset())
            elif records:
                # what came before the error must not be lost; an error that lasts comes again with the next call
                kafka_log.warning(
                    "kafka_consume_error_deferred", extra={"error_name": error.name(), "error_detail": error.str()}
                )
            else:
                raise translate("consume", error)
        return records


class ConfluentProducer:
    def __init__(self, config: dict[str, Any], transactional: bool) -> None:
        self._client = KafkaProducer(config, logger=kafka_log)
        self._transactional = transactional
        self._open = False
        self._failed: HeadraceError | None = None

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Sequence[Header] = (),
        on_delivery: DeliveryCallback | None = None,
    ) -> None:
        if self._transactional and not self._open:
            raise Fatal("produce outside a transaction: begin first")

        def told(error: KafkaError | None, message: Message) -> None:
            self._delivered(error, message)
            if on_delivery is not None:
                on_delivery(*_outcome(error, message))

        callback = self._delivered if on_delivery is None else told
        where = -1 if partition is None else partition  # -1: by the partitioner
        deadline = time.monotonic() + PRODUCE_BLOCK_S
        while True:
            try:
                with _translated(f"produce to {topic}"):
                    self._client.produce(topic, value, key, where, callback, headers=list(headers))
            except BufferError:
                if time.monotonic() > deadline:
                    raise Retryable(f"produce queue full for {PRODUCE_BLOCK_S} s: is the broker reachable?") from None
                self._client.poll(0.1)
            else:
                return

    def poll(self, timeout_s: float = 0.0) -> None:
        self._client.poll(timeout_s)

    def flush(self, timeout_s: float) -> None:
        with _translated("flush"):
            left = self._client.flush(timeout_s)
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed
        if left:
            raise Retryable(f"{left} records not acknowledged in {timeout_s} s")

    def init_transactions(self) -> None:
        with _translated("init transactions"):
            self._client.init_transactions(CALL_TIMEOUT_S * 3)  # the coordinator may first have to abort what is open
        self._open = False

    def begin(self) -> None:
        with _translated("begin transaction"):
            self._client.begin_transaction()
        self._open, self._failed = True, None

    def send_offsets(self, offsets: Mapping[TopicPartition, Committed], consumer: ConsumerPort) -> None:
        if not isinstance(consumer, ConfluentConsumer):
            raise Fatal("send_offsets needs a consumer of the same bus")
        if offsets:
            with _translated("send offsets"):
                self._client.send_offsets_to_transaction(_theirs(offsets), consumer.group_metadata(), CALL_TIMEOUT_S)

    def commit(self) -> None:
        try:
            self._client.commit_transaction(CALL_TIMEOUT_S)
        except KafkaException as error:
            translated = of_commit(error)
            if isinstance(translated, OutcomeUnknown):
                self._open = False  # close must not abort what may have committed
            raise translated from error
        self._open = False

    def abort(self) -> None:
        try:
            self._client.abort_transaction(CALL_TIMEOUT_S)
        except KafkaException as error:
            translated = of_exception("abort transaction", error)
            if type(translated) is Retryable:
                raise OutcomeUnknown(str(translated)) from error
            raise translated from error
        self._open, self._failed = False, None

    def close(self) -> None:
        """Aborts what is open, bounded; then gives up what is not acknowledged, which its owner never counted as done."""
        if self._open:
            self._open = False
            try:
                self.abort()
            except HeadraceError as error:
                kafka_log.warning("transaction_left_to_timeout", extra={"error_detail": str(error)})
        self._client.flush(1.0)

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self._failed = self._failed or translate("delivery", error)


class ConfluentBus:
    """One process's door to the cluster."""

    def __init__(self, bootstrap: str, client_config: Mapping[str, Any] | None = None) -> None:
        """client_config: settings for every client, such as security.protocol."""
        self._base: dict[str, Any] = {
            "bootstrap.servers": bootstrap,
            "socket.nagle.disable": True,  # a small request must not wait for the acknowledgement of the one before
            "error_cb": _on_client_error,
            **(client_config or {}),
        }

    def consumer(
        self, group: str | None, client_id: str, *, instance_id: str | None = None, from_latest: bool = False
    ) -> ConfluentConsumer:
        config = self._base | {
            "client.id": client_id,
            "group.id": group or f"unused-{client_id}",  # the client insists on a name; without commits none is made
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "latest" if from_latest else "earliest",
            "allow.auto.create.topics": False,
            "enable.partition.eof": True,  # tells the position in an empty or fully aborted partition
            "partition.assignment.strategy": "range",  # eager: revoke all, then assign; simple and enough
            "session.timeout.ms": SESSION_TIMEOUT_MS,
            "heartbeat.interval.ms": HEARTBEAT_MS,
            "max.poll.interval.ms": POLL_INTERVAL_MAX_MS,
            "fetch.queue.backoff.ms": 1,  # the default of 1000 costs a factor of three in throughput
            "queued.max.messages.kbytes": FETCH_QUEUE_KB,
            "topic.metadata.refresh.interval.ms": 10_000,
        }
        if instance_id is not None and group is not None:
            config["group.instance.id"] = instance_id
        return ConfluentConsumer(config, group)

    def producer(
        self, client_id: str, *, transactional_id: str | None = None, transaction_timeout_ms: int = 10_000, linger_ms: int = 2
    ) -> ConfluentProducer:
        config = self._base | {
            "client.id": client_id,
            "enable.idempotence": True,
            "acks": "all",
            "partitioner": "murmur2_random",  # as Java clients do
            "linger.ms": linger_ms,
            "compression.type": "lz4",
            "queue.buffering.max.kbytes": PRODUCE_QUEUE_KB,
            "message.max.bytes": MESSAGE_BYTES_MAX,
        }
        if transactional_id is None:
            config["message.timeout.ms"] = DELIVERY_TIMEOUT_MS
        else:
            config |= {"transactional.id": transactional_id, "transaction.timeout.ms": transaction_timeout_ms}
        return ConfluentProducer(config, transactional_id is not None)

    def admin(self) -> ConfluentAdmin:
        return ConfluentAdmin(self._base)


class _translated:
    """Turns the client's exception into ours; one object per call, cheaper than a generator."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, KafkaException):
            raise of_exception(self._what, error) from error
        if isinstance(error, RuntimeError):  # "Consumer closed"
            raise Fatal(f"{self._what}: {error}") from error


def _known(value: T | None) -> T:
    if value is None:
        raise Fatal("client message without a place")
    return value


def _by_partition(messages: list[Message], only: str | None) -> list[RecordBatch]:
    """Columns are drawn by the interpreter's own loops: a statement per record would double what reading costs.

    Args:
        only: the topic of all of them, where that is known.
    """
    if not messages:
        return []
    partitions: list[Any] = list(map(Message.partition, messages))
    topics: list[Any] = [only] if only is not None else list(map(Message.topic, messages))
    if len(set(partitions)) == 1 and len(set(topics)) == 1:
        return [_columns(TopicPartition(topics[0], partitions[0]), messages)]
    found: dict[tuple[Any, Any], list[Message]] = {}
    places = zip(topics * len(messages) if only is not None else topics, partitions, strict=True)
    for place, run in groupby(zip(places, messages, strict=True), itemgetter(0)):  # the client hands them over in runs
        found.setdefault(place, []).extend(map(itemgetter(1), run))
    return [_columns(TopicPartition(topic, partition), part) for (topic, partition), part in found.items()]


def _columns(place: TopicPartition, messages: list[Message]) -> RecordBatch:
    offsets: list[Any] = list(map(Message.offset, messages))
    values: list[Any] = list(map(Message.value, messages))
    times = list(map(_second, map(Message.timestamp, messages)))
    headers = list(map(Message.headers, messages))
    traced = [row for row, found in enumerate(headers) if found] if any(headers) else []
    return RecordBatch(place, offsets, times, values, lambda row: record_of(messages[row]), traced)


def record_of(message: Message) -> Record:
    """The client's message, which must not be an error, as ours."""
    headers = message.headers()
    return Record(
        _known(message.topic()),
        _known(message.partition()),
        _known(message.offset()),
        message.timestamp()[1],
        _bytes(message.key()),
        _bytes(message.value()),
        tuple((name, _bytes(value) or b"") for name, value in headers) if headers else (),
    )


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


def _outcome(error: KafkaError | None, message: Message) -> tuple[Exception | None, Delivered | None]:
    if error is not None:
        return translate("delivery", error), None
    return None, Delivered(_known(message.topic()), _known(message.partition()), _known(message.offset()))


def _ours(partitions: Sequence[Position]) -> list[TopicPartition]:
    return [TopicPartition(p.topic, p.partition) for p in partitions]


def _theirs(offsets: Mapping[TopicPartition, Committed]) -> list[Position]:
    return [Position(p.topic, p.partition, c.offset, c.metadata) for p, c in offsets.items()]
