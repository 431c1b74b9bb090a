"""Dead letters: reading them out of their topics, sending them again. Late records: reading them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from headrace.chassis.bus import Bus
from headrace.chassis.whole import read_whole
from headrace.client.ingest import IngestClient, Receipt, Refused
from headrace.contracts.catalogue import LATE
from headrace.contracts.codec import Codec
from headrace.contracts.errors import Poison
from headrace.contracts.records import RecordRejected

SUFFIX = ".dlq"
LATE_SUFFIX = LATE.removeprefix("[pipeline]")  # of the one topic of a pipeline that keeps what came too late
OUTSIDE = -1  # partition of a letter that never was a record: a row of a source
ROWS_PER_BATCH = 500
FLUSH_S = 30.0


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter and where it lies."""

    topic: str
    partition: int
    offset: int
    record: RecordRejected

    @property
    def pipeline(self) -> str:
        return self.topic.partition(".")[0]

    @property
    def late(self) -> bool:
        """A sound record that came after its lateness: not dead, and not to be sent again."""
        return keeps_late(self.topic)


def keeps_late(topic: str) -> bool:
    """Whether a topic is a pipeline's `<pipeline>.late.v1`."""
    return topic.endswith(LATE_SUFFIX) and "." not in topic.removesuffix(LATE_SUFFIX)


def holds_letters(topic: str) -> bool:
    """Whether a topic keeps what was rejected: dead letters or late records."""
    return topic.endswith(SUFFIX) or keeps_late(topic)


def read_letters(bus: Bus, codec: Codec, topic: str) -> Iterator[Letter]:
    """Every letter of a dead-letter topic as of the call, by partition and offset; unreadable ones are skipped.

    Raises: Retryable if the broker stops answering before the end.
    """
    for records in read_whole(bus, topic, "headrace.dlq"):
        for record in records:
            try:
                yield Letter(topic, record.partition, record.offset, codec.decode(record.value, RecordRejected))
            except Poison:
                continue


@dataclass(slots=True)
class Replayed:
    """What became of letters sent again."""

    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    produced: int = 0  # to the topic they came from; its readers judge them again
    skipped: int = 0  # only part of their bytes was kept
    repeated: int = 0  # another letter of the same record: it is sent once
    late: int = 0  # not sent: they would be later still
    refused: str = ""  # the first refusal of a whole batch

    def add(self, receipt: Receipt) -> None:
        self.accepted += receipt.accepted
        self.duplicates += receipt.duplicates
        self.rejected += receipt.rejected_total


def replay(letters: Iterable[Letter], bus: Bus, ingest: IngestClient) -> Replayed:
    """Send letters again, bytes as they were: rows of a source through svc-ingest, records to the partition they came from.

    A record may have several letters (of several services, or of a feature set that judged its history anew): it is sent
    once per call. Another call sends it again; where the event has an id, the stream drops it as a duplicate then.
    A row that is refused again gets a new letter, since it came in a new batch. An event that was accepted meanwhile is a
    duplicate. A record sent again is judged at its new place: it enters state only if it is not late there, and else `as of`
    sees it alone. So records of a late topic are not sent: M only grows, and `as of` sees them where they lie.
    Raises: Unanswered, Retryable.
    """
    done = Replayed()
    rows: dict[tuple[str, str], list[bytes]] = defaultdict(list)
    records: list[RecordRejected] = []
    origins: set[tuple[str, str]] = set()
    for letter in letters:
        record = letter.record
        if letter.late:
            done.late += 1
            continue
        origin = (record.topic, record.origin_id)
        if origin in origins:
            done.repeated += 1
            continue
        if record.value is None or "(kept: the first" in record.detail:
            done.skipped += 1
            continue
        origins.add(origin)
        if record.partition == OUTSIDE:
            rows[letter.pipeline, record.topic].append(record.value)
        else:
            records.append(record)
    _produce(bus, records, done)
    kinds = {name: source.get("kind") for name, source in ingest.status().items()} if rows else {}
    for (pipeline, source), values in rows.items():
        is_csv = kinds.get(f"{pipeline}/{source}") == "csv_folder"
        for body in values if is_csv else _batches(values):  # a letter of a CSV row is a file in itself
            try:
                done.add(ingest.send(pipeline, source, body, media_type="text/csv" if is_csv else "application/x-ndjson"))
            except Refused as refusal:
                done.rejected += 1 if is_csv else body.count(b"\n") + 1
                done.refused = done.refused or str(refusal)
    return done


def _batches(values: list[bytes]) -> Iterator[bytes]:
    for start in range(0, len(values), ROWS_PER_BATCH):
        yield b"\n".join(values[start : start + ROWS_PER_BATCH])


def _produce(bus: Bus, records: list[RecordRejected], done: Replayed) -> None:
    if not records:
        return
    producer = bus.producer("headrace.dlq")
    try:
        for record in records:
            producer.produce(record.topic, record.value, record.key, record.partition)  # where its id is known
        producer.flush(FLUSH_S)
        done.produced = len(records)
    finally:
        producer.close()
