"""What a topic must look like: the words the catalogue and the bus share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

COMPACTION_LAG = "min.compaction.lag.ms"


def compaction_waits_ms(config: Mapping[str, str]) -> int | None:
    """How long compaction leaves a record alone, of a topic's settings; None if they do not say."""
    found = config.get(COMPACTION_LAG)
    return None if found is None else int(found)


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """What a topic must look like; extra config keys are Kafka's own names."""

    name: str
    partitions: int
    compacted: bool = False
    retention_ms: int = -1
    config: tuple[tuple[str, str], ...] = ()
