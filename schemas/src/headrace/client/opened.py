"""One dead letter opened: where it lies, what its bytes say as far as they can be read, and what to do about its reason."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import fastavro
import orjson
from fastavro.schema import SchemaParseException, UnknownType

from headrace.chassis.bus import Bus, TopicPartition
from headrace.chassis.whole import read_between
from headrace.client.letters import OUTSIDE, Letter, read_letters
from headrace.contracts.codec import Codec
from headrace.contracts.errors import HeadraceError, Poison, Reason
from headrace.contracts.records import RecordRejected
from headrace.contracts.registry import Registry
from headrace.contracts.wire import plain, read_body, schema_id_of

_PLACE = re.compile(r"(?P<topic>[^/]+)/(?:(?P<partition>\d+)/)?(?P<offset>\d+)")

# By reason: whose fault it is, and what helps. Every reason has its line.
ADVICE: Mapping[Reason, str] = {
    Reason.BROKEN_JSON: "the producer wrote no JSON: have it mended; the same bytes will be refused again",
    Reason.BROKEN_CSV: "the file is no CSV with the declared columns: have it mended and drop it again",
    Reason.WRONG_TYPE: "another type than declared: mend the producer, or widen the declaration and apply it, then replay",
    Reason.UNKNOWN_FIELD: "a field nobody declared: mend the producer, or declare the field and apply, then replay",
    Reason.MISSING_FIELD: "a declared field is not there: mend the producer, or declare it nullable and apply, then replay",
    Reason.OUT_OF_RANGE: "outside the declared range: if the value is right, widen the range and apply, then replay",
    Reason.TOO_LARGE: "longer than the service takes: split it at the producer; a cut letter cannot be replayed",
    Reason.NULL_KEY: "the key field is null or empty: only the producer knows it",
    Reason.BAD_FRAME: "not the registry's frame (zero byte, schema id, Avro): the producer uses another serializer",
    Reason.UNKNOWN_SCHEMA: "the registry does not know its schema: have producer and services use one registry, then replay",
    Reason.TRUNCATED: "the bytes end early: the producer or something between cut them",
    Reason.FAR_FUTURE: "its event time lies beyond the poison bound: mend the producer's clock, or its unit (ms UTC)",
    Reason.LATE: "it came later than declared: `as of` sees it, served values do not; if that is usual, declare more lateness",
    Reason.NOT_FINITE: "a number is NaN or infinite: mend the producer, or send null where the field may be null",
    Reason.UNSIGNED: "nobody who may has signed it: if it was meant, give the command through svc-governance",
    Reason.BAD_SIGNATURE: "the signature is not of these bytes: changed or forged; find out who writes to the topic",
    Reason.BAD_DIGEST: "the body is not the one that was named: look at the object store, train or build it again",
    Reason.UNSAFE_FORMAT: "a format that could run code: never loaded; export the model as ONNX",
    Reason.LOWER_EPOCH: "an older order than the one in force: nothing to do, unless somebody replays the topic",
    Reason.HANDLER: "the service could not handle it: its log at that time says why; replay once that is mended",
}


@dataclass(frozen=True, slots=True)
class Opened:
    """fields: name and value as text; empty if it could not be read, and then `complaint` says why. schema_id: of a frame."""

    letter: Letter
    fields: Sequence[tuple[str, str]] = ()
    complaint: str = ""
    schema_id: int | None = None


def place_of(text: str) -> tuple[str, int, int] | None:
    """TOPIC/PARTITION/OFFSET, or TOPIC/OFFSET in partition 0; None if it is no such place."""
    found = _PLACE.fullmatch(text)
    return None if found is None else (found["topic"], int(found["partition"] or 0), int(found["offset"]))


def letter_at(bus: Bus, codec: Codec, topic: str, partition: int, offset: int) -> Letter | None:
    """The letter at a place; None if nothing lies there. Raises: Poison if it is no letter, Retryable, HeadraceError."""
    count = bus.admin().partitions(topic)
    if count is None or partition >= count:
        raise HeadraceError(f"there is no {topic}/{partition}: `headrace dlq list` shows the topics there are")
    consumer = bus.consumer(None, "headrace.dlq")
    try:
        place = TopicPartition(topic, partition)
        low, high = consumer.watermarks(place)
        if not low <= offset < high:
            return None
        for records in read_between(consumer, place, offset, offset + 1):
            for record in records:
                if record.offset == offset:
                    return Letter(topic, partition, offset, codec.decode(record.value, RecordRejected))
    finally:
        consumer.close()
    return None


def letters_of(bus: Bus, codec: Codec, topics: Sequence[str], name: str) -> Iterator[Letter]:
    """Letters whose origin id or key is this. Raises: Retryable."""
    for topic in topics:
        for letter in read_letters(bus, codec, topic):
            if letter.record.origin_id == name or letter.record.key == name.encode():
                yield letter


def opened(letter: Letter, registry: Registry) -> Opened:
    """Read the original's value as far as it goes: by its registered schema, or as the row it was. Raises: Retryable."""
    value = letter.record.value
    if value is None:
        return Opened(letter, complaint="no value was kept: a null value, or a tombstone")
    if letter.record.partition == OUTSIDE:
        return _row(letter, value)
    schema_id: int | None = None
    try:
        schema_id = schema_id_of(value)
        schema = registry.schema(schema_id)
        row = read_body(value, fastavro.parse_schema(plain(schema)))
    except Poison as poison:
        return Opened(letter, complaint=poison.detail, schema_id=schema_id)
    except (SchemaParseException, UnknownType) as error:
        return Opened(letter, complaint=f"schema {schema_id} does not parse: {error}", schema_id=schema_id)
    times = {part["name"] for part in schema.get("fields", ()) if "timestamp-millis" in str(part.get("type"))}
    return Opened(letter, [(name, _told(item, name in times)) for name, item in row.items()], schema_id=schema_id)


def _row(letter: Letter, value: bytes) -> Opened:
    """A row of a source: a JSON object, or a CSV header with a line."""
    try:
        row = orjson.loads(value)
        if isinstance(row, dict):
            return Opened(letter, [(str(name), _told(item, False)) for name, item in row.items()])
        return Opened(letter, complaint=f"JSON, but a {type(row).__name__} where an object is expected")
    except orjson.JSONDecodeError as error:
        said = str(error)
    lines = value.decode(errors="replace").splitlines()
    if len(lines) == 2 and "," in lines[0] and not lines[0].lstrip().startswith(("{", "[")):
        rows = list(csv.reader(io.StringIO("\n".join(lines))))
        if len(rows) == 2 and len(rows[0]) == len(rows[1]):
            return Opened(letter, list(zip(rows[0], rows[1], strict=True)))
    return Opened(letter, complaint=f"neither a JSON object ({said}) nor a CSV header with one line")


def _told(item: Any, is_time: bool) -> str:
    if is_time and isinstance(item, int):
        try:
            return f"{item} ({datetime.fromtimestamp(item / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC)"
        except (ValueError, OverflowError, OSError):
            return f"{item} (no time between the years 1 and 9999)"
    if isinstance(item, bytes):
        return item.hex()
    return orjson.dumps(item, option=orjson.OPT_NON_STR_KEYS, default=str).decode()


def advice(record: RecordRejected) -> str:
    """What helps. A reason of a later version has none yet."""
    try:
        return ADVICE[Reason(record.reason)]
    except ValueError:
        return "a reason this version does not know: ask the service that wrote it"


def never_again(record: RecordRejected) -> str:
    """Why a letter cannot be sent again; empty if it can."""
    if record.reason == Reason.LATE:  # whatever its topic is called
        return "not to be replayed: sent again it would be later still"
    if record.value is None or "(kept: the first" in record.detail:
        return "not to be replayed from here: only part of its bytes was kept"
    return ""


def dump(value: bytes, limit: int) -> list[str]:
    """Lines of 16 bytes: offset, hex, what of it is printable ASCII. limit: bytes shown."""
    lines: list[str] = []
    for start in range(0, min(len(value), limit), 16):
        part = value[start : min(start + 16, limit)]
        seen = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{start:06x}  {part.hex(' '):<47}  {seen}")
    if len(value) > limit:
        lines.append(f"... {len(value) - limit} bytes more: --raw FILE writes all of them")
    return lines
