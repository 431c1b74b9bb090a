"""The broker of the bench: topics, records into them, and how far a group has got."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench.stream import encode
from bench.stream.inputs import PARTITIONS

CALL_S = 30.0
ROUND = 250_000  # records held as Python objects at a time
# Kept for all contenders, whatever the event times say; stamped by the broker, as topics of ours are.
KEPT = {"retention.ms": "-1", "message.timestamp.type": "LogAppendTime"}


@dataclass(frozen=True, slots=True)
class Broker:
    """An address and what is done there. Every call is blocking."""

    bootstrap: str

    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 3})

    def create(self, topics: Sequence[str], partitions: int = PARTITIONS, config: Mapping[str, str] | None = None) -> None:
        """Raises KafkaException if one is there already."""
        made = [NewTopic(t, partitions, 1, config=KEPT | dict(config or {})) for t in topics]
        admin = self.admin()  # a client that nobody holds ends, and its calls with it
        for future in admin.create_topics(made, operation_timeout=CALL_S).values():
            future.result(CALL_S)

    def drop(self, prefix: str) -> None:
        """Delete every topic whose name begins so: what a run leaves behind must not slow the next one."""
        admin = self.admin()
        names = [t for t in admin.list_topics(timeout=CALL_S).topics if t.startswith(prefix)]
        for future in (admin.delete_topics(names, operation_timeout=CALL_S) if names else {}).values():
            future.result(CALL_S)

    def fill(
        self, topic: str, values: npt.NDArray[np.uint8], keys: npt.NDArray[np.uint8], partitions: npt.NDArray[np.int8]
    ) -> None:
        """Append n framed values, keeping their order within each partition. Raises RuntimeError if any is not acknowledged."""
        failed: list[object] = []
        producer = Producer({
            "bootstrap.servers": self.bootstrap, "enable.idempotence": True, "linger.ms": 20,
            "batch.size": 1_000_000,
            "compression.type": "lz4", "log_level": 3, "queue.buffering.max.messages": 2 * ROUND,
            "queue.buffering.max.kbytes": 2_000_000,
        })  # fmt: skip

        def told(error: object, _message: object) -> None:
            if error is not None:
                failed.append(error)

        for start in range(0, len(values), ROUND):
            part = slice(start, start + ROUND)
            for partition in range(PARTITIONS):
                rows = partitions[part] == partition
                bodies, names = encode.slices(values[part][rows]), encode.slices(keys[part][rows])
                batch = [{"value": body, "key": name} for body, name in zip(bodies, names, strict=True)]
                while len(producer) > ROUND:
                    producer.poll(0.01)
                producer.produce_batch(topic, batch, partition, on_delivery=told)
        left = producer.flush(CALL_S * 4)
        if left or failed:
            raise RuntimeError(f"{topic}: {left} records not acknowledged, {len(failed)} refused: {failed[:1]}")


class Progress:
    """The committed offsets of a group over some input topics, asked again and again."""

    def __init__(self, broker: Broker, group: str, topics: Sequence[str]) -> None:
        self._admin, self._group = broker.admin(), group
        self._places = [TopicPartition(t, p) for t in topics for p in range(PARTITIONS)]

    def committed(self) -> int:
        """Records of the input that are committed; 0 where the group is unheard of."""
        asked = [ConsumerGroupTopicPartitions(self._group, self._places)]
        try:
            (found,) = self._admin.list_consumer_group_offsets(asked, request_timeout=CALL_S).values()
            return sum(max(0, place.offset) for place in found.result(CALL_S).topic_partitions or ())
        except KafkaException:
            return 0


def transaction_records(broker: Broker) -> int:
    """How many records the transaction log ever got; a transaction, however small, writes at least two."""
    name = "__transaction_state"
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "bench-unused", "log_level": 3})
    try:
        found = consumer.list_topics(name, CALL_S).topics[name].partitions
        return sum(consumer.get_watermark_offsets(TopicPartition(name, p), CALL_S)[1] for p in found)
    finally:
        consumer.close()
