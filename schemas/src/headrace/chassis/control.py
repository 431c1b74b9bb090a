"""Compacted control topics: read whole before the service is ready, followed ever after. Without a group: every replica
sees every record. Control is data: what a record means, and whether its signature holds, the caller's function decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as Position
from aiokafka.errors import KafkaError

from headrace.chassis.access import AccessSettings
from headrace.chassis.bus import Record
from headrace.chassis.errors import Fatal, Poison, Retryable
from headrace.chassis.health import Health
from headrace.chassis.logs import logger
from headrace.chassis.metrics import ChassisMetrics

POLL_MS = 200
RECORDS_MAX = 500
TOPIC_WAIT_S = 30.0  # how long a topic may be missing at start before the service gives up
CONNECT_RETRY_S = 0.5
METADATA_MAX_AGE_MS = 10_000

_log = logger("headrace.control")

OnControl = Callable[[Record], None]
"""Called with the records of `Newest` first, in order of append, then with each record as it comes; tombstones included.
Raises Poison to refuse a record (counted, logged, nothing changes); what else it raises ends the service."""

Rank = Callable[[Record], int | None]
"""Epoch of a record whose signature holds, None for any other. Raises Retryable to be asked again."""


class Newest:
    """What of a topic read whole is to be acted on: per key the record that counts, and the newest that does not.

    Without a rank the newest record of a key counts. With one it is the newest of the highest rank: whoever can write the
    topic hides a good record neither behind a forged one nor behind an old one sent again. What does not count is kept
    while it is newer than what does, so that it is refused aloud, as compaction would leave it.
    """

    def __init__(self, ranks: Mapping[str, Rank]) -> None:
        self._ranks = ranks
        self._counts: dict[tuple[str, bytes | None], tuple[int, Record]] = {}
        self._beside: dict[tuple[str, bytes | None], Record] = {}

    def add(self, record: Record) -> None:
        """The next record of its partition. Raises: Retryable; then nothing has changed."""
        place = (record.topic, record.key)
        rank = self._ranks[record.topic](record) if record.topic in self._ranks else 0
        if rank is not None and (place not in self._counts or rank >= self._counts[place][0]):
            self._counts[place] = (rank, record)
            self._beside.pop(place, None)
        else:
            self._beside[place] = record

    def records(self, topics: Sequence[str]) -> list[Record]:
        """By topic as given, then in order of append."""
        found = [record for _, record in self._counts.values()] + list(self._beside.values())
        return sorted(found, key=lambda r: (topics.index(r.topic), r.append_time_ms, r.partition, r.offset))


class ControlReader:
    """A part of the service. start returns when everything up to the end seen at the start has been given to on_record."""

    name = "control"

    def __init__(
        self,
        bootstrap: str,
        topics: Sequence[str],
        on_record: OnControl,
        health: Health,
        metrics: ChassisMetrics,
        ranks: Mapping[str, Rank] | None = None,
        access: AccessSettings | None = None,
    ) -> None:
        """ranks: by topic; see Newest. access: who this process is; none talks plain. Raises: Fatal."""
        self._context = None if access is None else access.kafka_context()
        self._bootstrap = bootstrap
        self._topics = tuple(topics)
        self._ranks = dict(ranks or {})
        self._on_record = on_record
        self._health = health
        self._metrics = metrics
        self._consumer: AIOKafkaConsumer | None = None
        self._follower: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises Fatal if the topics do not appear in time; broker errors are waited out as long."""
        self._health.wait_for(self.name, f"reading {', '.join(self._topics)}")
        try:
            async with asyncio.timeout(TOPIC_WAIT_S):
                self._consumer = await self._connect()
                positions = await self._positions(self._consumer)
        except TimeoutError:
            topics = ", ".join(self._topics)
            raise Fatal(f"control topics {topics} not found on {self._bootstrap} in {TOPIC_WAIT_S:.0f} s: is it up?") from None
        self._consumer.assign(positions)
        await self._consumer.seek_to_beginning(*positions)
        count = await self._read_whole(self._consumer, positions)
        _log.info("control_read", topics=list(self._topics), records=count)
        self._health.ready(self.name)
        self._follower = asyncio.create_task(self._follow(self._consumer), name="control")

    async def wait(self) -> None:
        if self._follower is not None:
            await asyncio.shield(self._follower)

    async def stop(self) -> None:
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.wait({self._follower})
        if self._consumer is not None:
            await self._consumer.stop()

    async def _connect(self) -> AIOKafkaConsumer:
        while True:
            consumer = AIOKafkaConsumer(
                bootstrap_servers=self._bootstrap,
                security_protocol="PLAINTEXT" if self._context is None else "SSL",
                ssl_context=self._context,
                group_id=None,
                enable_auto_commit=False,
                isolation_level="read_committed",
                auto_offset_reset="earliest",
                metadata_max_age_ms=METADATA_MAX_AGE_MS,
            )
            try:
                await consumer.start()
            except KafkaError as error:
                _log.warning("control_broker_not_reached", error=str(error))
                await consumer.stop()
                await asyncio.sleep(CONNECT_RETRY_S)
            else:
                return consumer

    async def _positions(self, consumer: AIOKafkaConsumer) -> list[Position]:
        """All partitions of all topics; waits for topics that are being created."""
        while True:
            try:
                known = await consumer._client.fetch_all_metadata()  # the public topics() may answer from its cache
                found = {topic: known.partitions_for_topic(topic) for topic in self._topics}
            except KafkaError as error:
                found = dict.fromkeys(self._topics)
                _log.warning("control_metadata_not_read", error=str(error))
            if all(found.values()):
                return [Position(topic, p) for topic, partitions in found.items() for p in sorted(partitions or ())]
            await asyncio.sleep(CONNECT_RETRY_S)

    async def _read_whole(self, consumer: AIOKafkaConsumer, positions: list[Position]) -> int:
        """Up to the end as of now; then what of it counts. Memory is bounded by the keys, not by the log."""
        ends = await consumer.end_offsets(positions)
        newest = Newest(self._ranks)
        while any([await consumer.position(p) < ends[p] for p in positions]):
            for record in await _take(consumer):
                await _patiently(newest, record)
        records = newest.records(self._topics)
        for record in records:
            self._apply(record)
        return len(records)

    async def _follow(self, consumer: AIOKafkaConsumer) -> None:
        while True:
            try:
                records = await _take(consumer)
            except KafkaError as error:
                _log.warning("control_poll_failed", error=str(error))
                await asyncio.sleep(CONNECT_RETRY_S)
                continue
            for record in records:
                self._apply(record)

    def _apply(self, record: Record) -> None:
        try:
            self._on_record(record)
        except Poison as poison:
            outcome = "refused"
            _log.error(
                "control_record_refused", reason=poison.reason, detail=poison.detail, topic=record.topic, offset=record.offset
            )
        except Fatal:
            raise
        except Exception as error:
            raise Fatal(f"control record {record.topic}/{record.partition}/{record.offset}: {error!r}") from error
        else:
            outcome = "applied"
        self._metrics.control_records.labels(record.topic, outcome).inc()


async def _patiently(newest: Newest, record: Record) -> None:
    """A rank needs the schema registry, which may still be starting. Raises: Fatal when it stays away."""
    for _ in range(int(TOPIC_WAIT_S / CONNECT_RETRY_S)):
        try:
            return newest.add(record)
        except Retryable as error:
            _log.warning("control_record_not_read", topic=record.topic, offset=record.offset, error=str(error))
            await asyncio.sleep(CONNECT_RETRY_S)
    raise Fatal(f"control record {record.topic}/{record.partition}/{record.offset} cannot be read: is the registry up?")


async def _take(consumer: AIOKafkaConsumer) -> list[Record]:
    batches = await consumer.getmany(timeout_ms=POLL_MS, max_records=RECORDS_MAX)
    return [
        Record(m.topic, m.partition, m.offset, m.timestamp, m.key, m.value, tuple((k, v or b"") for k, v in m.headers))
        for messages in batches.values()
        for m in messages
    ]
