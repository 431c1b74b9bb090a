"""Rows as JSON lines on stdin, one event each: BOOTSTRAP REGISTRY TOPIC KEY_FIELD. Times are milliseconds UTC."""

import json
import sys

from confluent_kafka import Producer
from confluent_kafka.schema_registry import SchemaRegistryClient, topic_subject_name_strategy
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

bootstrap, registry, topic, key = sys.argv[1:5]
schemas = SchemaRegistryClient({"url": f"{registry}/apis/ccompat/v7"})
schema = schemas.get_latest_version(f"{topic}-value").schema.schema_str  # the one the plan registered
settings = {
    "auto.register.schemas": False,
    "use.latest.version": True,
    "subject.name.strategy": topic_subject_name_strategy,
}
serialize = AvroSerializer(schemas, schema, conf=settings)  # pyright: ignore[reportCallIssue]  untyped class
# murmur2, as Java clients place a key; librdkafka's own default is another
producer = Producer({"bootstrap.servers": bootstrap, "partitioner": "murmur2_random", "enable.idempotence": True})
lost = []


def delivered(error, _message):
    if error is not None:
        lost.append(error)


sent = 0
for line in sys.stdin:
    row = json.loads(line)
    value = serialize(row, SerializationContext(topic, MessageField.VALUE))
    producer.produce(topic, value, str(row[key]), on_delivery=delivered)
    producer.poll(0)
    sent += 1
left = producer.flush(30)
if lost or left:
    sys.exit(f"{left + len(lost)} of {sent} events were not delivered: {lost[:1] or 'no answer'}")
print(f"{sent} events in {topic}")
