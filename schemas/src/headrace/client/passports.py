"""Finding one decision's passport, and what became of it: in the archive, else in its topic."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow.compute as pc

from headrace.chassis.bus import Bus
from headrace.chassis.whole import read_whole
from headrace.contracts.catalogue import predictions_topic
from headrace.contracts.codec import Codec
from headrace.contracts.errors import HeadraceError, Poison
from headrace.contracts.records import PredictionMade


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
    """Archived records of a topic whose field has a value, nested ones by their paths. Empty if it was never archived."""
    from deltalake import DeltaTable  # only where an archive is read

    folder = str(lake / topic)
    if not DeltaTable.is_deltatable(folder):
        return []
    dataset = DeltaTable(folder).to_pyarrow_dataset()
    rows = dataset.scanner(filter=pc.field(*field.split(".")) == value).head(limit).to_pylist()
    return [_flat(row) for row in rows]


LATELY_MS = 600_000  # before the newest passport: where the newest ones are looked for
_TOLD = ["request_id", "model", "decision", "decision_source", "arm", "t_ms", "received_ms", "decided_ms", "append_ms"]


def newest(lake: Path, pipeline: str, count: int) -> list[dict[str, Any]]:
    """The newest archived decisions, newest first, as fields of the passport and append_ms. Empty if there is no archive."""
    from deltalake import DeltaTable  # only where an archive is read

    folder = str(lake / predictions_topic(pipeline))
    if not DeltaTable.is_deltatable(folder):
        return []
    table = DeltaTable(folder)
    tops = [top for top in table.get_add_actions(flatten=True)["max.append_ms"].to_pylist() if top is not None]
    late = pc.field("append_ms") > max(tops, default=0) - LATELY_MS
    rows = table.to_pyarrow_dataset().to_table(columns=_TOLD, filter=late & pc.field("decodable")).to_pylist()
    return sorted(rows, key=lambda row: row["append_ms"], reverse=True)[:count]


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Structs taken apart beside themselves: passports hold structs that are read as such."""
    found = dict(row)
    for name, value in row.items():
        if isinstance(value, dict):
            found |= {f"{name}.{inner}": item for inner, item in _flat(value).items()}
    return found


def from_topic(bus: Bus, codec: Codec, pipeline: str, request_id: str) -> Found | None:
    """The passport in its topic, read from the beginning. Raises: Retryable, HeadraceError."""
    topic = predictions_topic(pipeline)
    if bus.admin().partitions(topic) is None:
        raise HeadraceError(f"there is no topic {topic}: is the pipeline's name right?")
    for record in (r for records in read_whole(bus, topic, "headrace.reader") for r in records):
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


def as_fields(made: PredictionMade) -> dict[str, Any]:
    """A passport as plain fields."""
    from dataclasses import asdict

    return asdict(made)


def request_of(passport: dict[str, Any]) -> dict[str, Any]:
    """The fields of the request."""
    return orjson.loads(passport["request_body"])
