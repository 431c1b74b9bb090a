"""What a topic must look like: the words the catalogue and the bus share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """What a topic must look like; extra config keys are Kafka's own names."""

    name: str
    partitions: int
    compacted: bool = False
    retention_ms: int = -1
    config: tuple[tuple[str, str], ...] = ()
