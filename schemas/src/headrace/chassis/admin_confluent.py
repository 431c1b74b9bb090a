"""Topics on Apache Kafka: created and checked from their declaration, never altered in place."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka import TopicPartition as Position
from confluent_kafka.admin import (
    AdminClient,
    ConfigResource,  # pyright: ignore[reportPrivateImportUsage]
    NewTopic,  # pyright: ignore[reportPrivateImportUsage]
    ResourceType,  # pyright: ignore[reportPrivateImportUsage]
    TopicDescription,  # pyright: ignore[reportPrivateImportUsage]
)

from headrace.chassis.bus import TopicPartition, TopicSpec
from headrace.chassis.client_errors import of_exception
from headrace.chassis.errors import Fatal, Retryable
from headrace.chassis.logs import kafka_log
from headrace.contracts.topics import COMPACTION_LAG, compaction_waits_ms

CALL_TIMEOUT_S = 10.0
VISIBLE_TIMEOUT_S = 10.0  # a created or deleted topic shows in every answer within this


def topic_config(spec: TopicSpec) -> dict[str, str]:
    """Kafka's settings for a topic of ours: log append time, so that replayed history outlives its retention."""
    config = {"message.timestamp.type": "LogAppendTime", "cleanup.policy": "compact" if spec.compacted else "delete"}
    if not spec.compacted:
        config["retention.ms"] = str(spec.retention_ms)
    return config | dict(spec.config)


class ConfluentAdmin:
    def __init__(self, base: Mapping[str, Any]) -> None:
        self._client = AdminClient(dict(base), logger=kafka_log)

    def ensure_topics(self, specs: Sequence[TopicSpec]) -> None:
        if not specs:
            return
        described = self._describe([s.name for s in specs])
        missing = [s for s in specs if s.name not in described]
        if missing:
            self._create(missing)
            described = self._await_all([s.name for s in specs])
        for spec in specs:
            found = len(described[spec.name].partitions)
            if found != spec.partitions:
                raise Fatal(f"topic {spec.name} has {found} partitions, declared {spec.partitions}")
        self._check_policies(specs)

    def partitions(self, topic: str) -> int | None:
        found = self._describe([topic]).get(topic)
        return None if found is None else len(found.partitions)

    def topic_id(self, topic: str) -> str:
        found = self._describe([topic]).get(topic)
        if found is None:
            raise Retryable(f"topic {topic} does not exist")
        return str(found.topic_id)

    def topic_ids(self, topics: Sequence[str]) -> dict[str, str]:
        return {name: str(found.topic_id) for name, found in self._describe(topics).items()} if topics else {}

    def retention_ms(self, topics: Sequence[str]) -> dict[str, int | None]:
        resources = {ConfigResource(ResourceType.TOPIC, name): name for name in topics}
        futures = self._client.describe_configs(list(resources), request_timeout=CALL_TIMEOUT_S) if resources else {}
        found: dict[str, int | None] = {}
        for resource, future in futures.items():
            name = resources[resource]
            entries = self._result(f"describe topic {name}", future, tolerated=KafkaError.UNKNOWN_TOPIC_OR_PART)
            if entries is not None:
                kept_ms, policy = int(entries["retention.ms"].value), entries["cleanup.policy"].value
                found[name] = None if kept_ms < 0 or "delete" not in policy else kept_ms
        return found

    def delete_topics(self, topics: Sequence[str]) -> None:
        present = list(self._describe(topics)) if topics else []
        if not present:
            return
        for topic, future in self._client.delete_topics(present, request_timeout=CALL_TIMEOUT_S).items():
            self._result(f"delete topic {topic}", future, tolerated=KafkaError.UNKNOWN_TOPIC_OR_PART)
        _await(lambda: not self._describe(topics), "deleted topics still show")

    def delete_records(self, before: Mapping[TopicPartition, int]) -> None:
        wanted = [Position(p.topic, p.partition, offset) for p, offset in before.items()]
        futures = self._client.delete_records(wanted, request_timeout=CALL_TIMEOUT_S) if wanted else {}
        for position, future in futures.items():
            self._result(f"delete records of {position.topic}-{position.partition}", future)

    def delete_groups(self, groups: Sequence[str]) -> None:
        if not groups:
            return
        futures = self._client.delete_consumer_groups(list(groups), request_timeout=CALL_TIMEOUT_S)
        for group, future in futures.items():
            self._result(f"delete group {group}", future, tolerated=KafkaError.GROUP_ID_NOT_FOUND)

    def _create(self, missing: Sequence[TopicSpec]) -> None:
        new = [NewTopic(s.name, num_partitions=s.partitions, replication_factor=-1, config=topic_config(s)) for s in missing]
        for topic, future in self._client.create_topics(new, request_timeout=CALL_TIMEOUT_S).items():
            self._result(f"create topic {topic}", future, tolerated=KafkaError.TOPIC_ALREADY_EXISTS)

    def _await_all(self, names: Sequence[str]) -> dict[str, TopicDescription]:
        described: dict[str, TopicDescription] = {}

        def complete() -> bool:
            described.update(self._describe(names))
            return len(described) == len(set(names)) and all(p.leader for d in described.values() for p in d.partitions)

        _await(complete, "created topics do not show")
        return described

    def _check_policies(self, specs: Sequence[TopicSpec]) -> None:
        resources = {ConfigResource(ResourceType.TOPIC, s.name): s for s in specs}
        for resource, future in self._client.describe_configs(list(resources), request_timeout=CALL_TIMEOUT_S).items():
            spec = resources[resource]
            entries = self._result(f"describe topic {spec.name}", future)
            declared, found = topic_config(spec)["cleanup.policy"], entries["cleanup.policy"].value
            if set(found.split(",")) != set(declared.split(",")):
                raise Fatal(f"topic {spec.name} has cleanup.policy {found}, declared {declared}")
            lag, waits = compaction_waits_ms(topic_config(spec)), int(entries[COMPACTION_LAG].value)
            if lag is not None and waits < lag:
                raise Fatal(f"topic {spec.name} has {COMPACTION_LAG} {waits}, declared {lag}: raise it")

    def _result(self, what: str, future: Any, tolerated: int | None = None) -> Any:
        """The answer of one admin call; None if it failed in the tolerated way."""
        try:
            return future.result(timeout=CALL_TIMEOUT_S * 2)
        except KafkaException as error:
            cause = error.args[0]
            if isinstance(cause, KafkaError) and cause.code() == tolerated:
                return None
            raise of_exception(what, error) from error
        except TimeoutError as error:
            raise Retryable(f"{what}: no answer") from error
        finally:
            self._client.poll(0)  # hands what the client logged to the logger

    def _describe(self, names: Sequence[str]) -> dict[str, TopicDescription]:
        """What exists of these."""
        found = {}
        futures = self._client.describe_topics(TopicCollection(list(names)), request_timeout=CALL_TIMEOUT_S)
        for name, future in futures.items():
            description = self._result(f"describe topic {name}", future, tolerated=KafkaError.UNKNOWN_TOPIC_OR_PART)
            if description is not None:
                found[name] = description
        return found


def _await(condition: Any, complaint: str) -> None:
    deadline = time.monotonic() + VISIBLE_TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise Retryable(f"{complaint} after {VISIBLE_TIMEOUT_S} s")
        time.sleep(0.05)
