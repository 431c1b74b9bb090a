"""Committed results as a reader of the output topic sees them, and what they say."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl
from confluent_kafka import Consumer, Message, TopicPartition
from pyruhvro import deserialize_array  # pyright: ignore[reportAttributeAccessIssue]

from bench.stream.broker import CALL_S, Broker

FRAME_BYTES = 5
SchemaOf = Callable[[int], Mapping[str, Any]]


class Reader:
    """Reads an output topic from its beginning, committed records only. Not thread-safe."""

    def __init__(self, broker: Broker, topic: str, on_messages: Callable[[list[Message]], None] | None = None) -> None:
        self._consumer = Consumer({
            "bootstrap.servers": broker.bootstrap, "group.id": "bench-reader-unused", "enable.auto.commit": False,
            "isolation.level": "read_committed", "auto.offset.reset": "earliest", "fetch.queue.backoff.ms": 1,
            "fetch.wait.max.ms": 20, "log_level": 3,
        })  # fmt: skip
        found = self._consumer.list_topics(topic, CALL_S).topics[topic].partitions
        self._places = [TopicPartition(topic, p, 0) for p in found]
        self._consumer.assign(self._places)
        self._on_messages = on_messages
        self.values: list[bytes] = []
        self.last_s = 0.0  # monotonic, when the newest result was there

    def read(self, timeout_s: float) -> int:
        """Take what is there. Returns how many came."""
        return self._took(self._consumer.consume(10_000, timeout_s))

    def read_at_once(self, timeout_s: float) -> int:
        """As `read`, but without waiting for more once something is there: for latencies."""
        first = self._consumer.consume(1, timeout_s)
        return self._took(first + self._consumer.consume(10_000, 0)) if first else 0

    def _took(self, messages: list[Message]) -> int:
        found = [m for m in messages if m.error() is None]
        if found:
            self.last_s = time.monotonic()
            self.values += [m.value() or b"" for m in found]
            if self._on_messages is not None:
                self._on_messages(found)
        return len(found)

    def drain(self, silent_s: float = 1.0) -> None:
        """Until nothing more has come for a while: what nobody expects must be found too."""
        until = time.monotonic() + silent_s
        while time.monotonic() < until:
            if self.read(0.1):
                until = time.monotonic() + silent_s

    def close(self) -> None:
        self._consumer.close()


def decoded(values: Sequence[bytes], schema_of: SchemaOf) -> pl.DataFrame:
    """Framed values as columns; timestamps as Int64 ms. Raises ValueError if the frame is not the registry's."""
    by_schema: dict[bytes, list[bytes]] = {}
    for value in values:
        by_schema.setdefault(value[:FRAME_BYTES], []).append(value[FRAME_BYTES:])
    frames: list[pl.DataFrame] = []
    for head, bodies in by_schema.items():
        if len(head) != FRAME_BYTES or head[0] != 0:
            raise ValueError(f"a value without the Confluent frame: {head!r}")
        schema = schema_of(int.from_bytes(head[1:], "big"))
        frames.append(pl.DataFrame(deserialize_array(bodies, json.dumps(schema))))
    found = pl.concat(frames, how="vertical_relaxed") if frames else pl.DataFrame()
    return found.with_columns(pl.selectors.temporal().dt.epoch("ms"))
