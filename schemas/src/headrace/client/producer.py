"""A producer that is not ours: confluent-kafka with the registry's Avro serializer, straight to an event topic.

Anybody who has the topic's schema may publish; nothing of Headrace is needed to do so. Duplicates are then judged by the
stream alone, and values outside their declared range become dead letters there instead of an answer here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import KafkaError, Message, Producer
from confluent_kafka.schema_registry import SchemaRegistryClient, topic_subject_name_strategy
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from headrace.chassis.access import AccessSettings
from headrace.chassis.logs import kafka_log

FLUSH_S = 30.0
# Confluent's client waits for ever unless told; it repeats a request that timed out.
REGISTRY_PATIENCE = {"timeout": 5.0}


def publish(
    bootstrap: str,
    registry_url: str,
    topic: str,
    key: str,
    rows: Iterable[Mapping[str, Any]],
    *,
    id_field: str | None = None,
    access: AccessSettings | None = None,
) -> int:
    """Publish rows of an event topic with its registered schema; returns how many the broker acknowledged.

    Args:
        key: field that is the message key.
        rows: field to value, with times as ms or datetimes, decimals as scaled integers: as the schema says.
        id_field: field that becomes the header `event-id`, so that tools can follow it.
        access: who the producer is; none: as the environment says (HEADRACE_KAFKA_*, HEADRACE_REGISTRY_*).
    Raises: RuntimeError if a record was not delivered.
    """
    access = access or AccessSettings()
    registry = SchemaRegistryClient({"url": registry_url, **REGISTRY_PATIENCE, **access.registry()})
    schema = registry.get_latest_version(f"{topic}-value").schema
    # The default strategy first asks for associations, which only Confluent's own registry knows.
    strategy = {"subject.name.strategy": topic_subject_name_strategy}
    conf = {"auto.register.schemas": False, "use.latest.version": True, **strategy}
    serialize: Any = AvroSerializer(registry, schema.schema_str, conf=conf)  # pyright: ignore[reportCallIssue]  untyped class
    # murmur2 places a key as Java clients do: the same key of all producers then lies in one partition
    config = {"bootstrap.servers": bootstrap, "enable.idempotence": True, "partitioner": "murmur2_random", **access.kafka()}
    producer = Producer(config, logger=kafka_log)
    failures: list[KafkaError] = []

    def delivered(error: KafkaError | None, message: Message) -> None:
        del message
        if error is not None:
            failures.append(error)

    count = 0
    for row in rows:
        count += 1
        value = serialize(dict(row), SerializationContext(topic, MessageField.VALUE))
        headers: dict[str, str | bytes | None] = {"event-id": str(row[id_field])} if id_field else {}
        producer.produce(topic, value, str(row[key]).encode(), headers=headers, on_delivery=delivered)
        producer.poll(0)
    left = producer.flush(FLUSH_S)
    if failures or left:
        raise RuntimeError(
            f"{left + len(failures)} of {count} records were not delivered: {failures[:1] or 'no answer in time'}"
        )
    return count
