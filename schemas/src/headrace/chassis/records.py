"""What handlers give back: records to produce, and records to reject. No Kafka types."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from headrace.chassis.bus import Header, Record
from headrace.chassis.errors import Poison, Reason


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record to produce. Without a partition, murmur2 of the key decides."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    partition: int | None = None
    headers: tuple[Header, ...] = ()


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record on its way to a dead-letter topic: the original, where it came from, and why."""

    record: Record
    group: str
    reason: Reason
    detail: str
    rejected_at_ms: int


EncodeRejected = Callable[[Rejected], bytes]
"""Rejected -> value of the dead letter (RecordRejected on the wire), given by the service so that this needs no codec."""


def dead_letter_topic(topic: str, group: str) -> str:
    return f"{topic}.{group}.dlq"


def dead_letter(record: Record, group: str, poison: Poison, now_ms: int, encode: EncodeRejected) -> Outgoing:
    """The original key and headers, the value as encoded: raw bytes, origin and reason."""
    rejected = Rejected(record, group, poison.reason, poison.detail, now_ms)
    return Outgoing(dead_letter_topic(record.topic, group), encode(rejected), record.key, None, record.headers)
