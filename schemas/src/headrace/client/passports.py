"""Finding one decision's passport, and what became of it: in the archive, else in its topic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow.compute as pc

from headrace.chassis.bus import Bus, Record, TopicPartition
from headrace.contracts.catalogue import predictions_topic
from headrace.contracts.codec import Codec
from headrace.contracts.errors import HeadraceError, Poison, Retryable
from headrace.contracts.records import PredictionMade

READ_RECORDS_MAX = 500
QUIET_S = 1.0
QUIET_ROUNDS_MAX = 30  # a broker that sends nothing for so long is not going to


@dataclass(frozen=True, slots=True)
class Found:
    """A passport as plain fields (as its Avro schema names them), and when it was appended, ms UTC."""

    passport: dict[str, Any]
    append_ms: int
    where: str


def from_lake(lake: Path, pipeline: str, request_id: str) -> Found | None:
    """The passport in the archive; None if there is none, or no archive."""
    rows = lake_rows(lake, predictions_topic(pipeline), "request_id", request_id)
    if not rows:
        return None
    row = rows[0]
    return Found({name: row[name] for name in row if name not in _HEAD}, row["append_ms"], f"archive {lake}")


_HEAD = {"part", "off", "append_ms", "decodable", "reason", "raw"}


def lake_rows(lake: Path, topic: str, field: str, value: str, limit: int = 1) -> list[dict[str, Any]]:
    """Archived records of a topic whose field has a value. Empty if the topic was never archived."""
    from deltalake import DeltaTable  # only where an archive is read

    folder = str(lake / topic)
    if not DeltaTable.is_deltatable(folder):
        return []
    dataset = DeltaTable(folder).to_pyarrow_dataset()
    return dataset.scanner(filter=pc.field(field) == value).head(limit).to_pylist()


def from_topic(bus: Bus, codec: Codec, pipeline: str, request_id: str) -> Found | None:
    """The passport in its topic, read from the beginning. Raises: Retryable, HeadraceError."""
    topic = predictions_topic(pipeline)
    for record in read_topic(bus, topic):
        if (record.key or b"").decode(errors="replace") != request_id:
            continue
        try:
            made = codec.decode(record.value, PredictionMade)
        except Poison:
            continue
        return Found(
            as_fields(made), record.append_time_ms, f"topic {topic}, partition {record.partition}, offset {record.offset}"
        )
    return None


def read_topic(bus: Bus, topic: str) -> Iterator[Record]:
    """Every record of a topic as of the call. Raises: Retryable if the broker stops answering before the end."""
    partitions = bus.admin().partitions(topic)
    if partitions is None:
        raise HeadraceError(f"there is no topic {topic}: is the pipeline's name right?")
    consumer = bus.consumer(None, "headrace.reader")
    try:
        for number in range(partitions):
            partition = TopicPartition(topic, number)
            start, end = consumer.watermarks(partition)
            position, quiet = start, 0
            if start < end:
                consumer.assign({partition: start})
            while position < end:
                records = consumer.consume(READ_RECORDS_MAX, QUIET_S)
                quiet = 0 if records else quiet + 1
                if quiet > QUIET_ROUNDS_MAX:
                    raise Retryable(f"{topic} was read to {position} of {end}, then the broker was silent")
                for record in records:
                    position = record.offset + 1
                    yield record
                position = max(position, consumer.position(partition) or 0)
    finally:
        consumer.close()


def as_fields(made: PredictionMade) -> dict[str, Any]:
    """A passport as plain fields."""
    from dataclasses import asdict

    return asdict(made)


def request_of(passport: dict[str, Any]) -> dict[str, Any]:
    """The fields of the request."""
    return orjson.loads(passport["request_body"])
