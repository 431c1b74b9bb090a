"""Work queues: topics whose records are tasks for one member of a group, handled by coroutines. On FastStream.

FastStream's other acknowledgement policies commit before the handler, or lose a failed record once the next one is
acknowledged; so here: NACK_ON_ERROR, and an offset is stored only when its record is done (the client would else commit the
position of a partition that was just sought back, with the next acknowledgement of any other partition).
At least once: handlers are idempotent. One record at a time per topic and replica.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka import TopicPartition as Position
from faststream import AckPolicy
from faststream.confluent import KafkaBroker
from faststream.confluent.message import KafkaMessage

from headrace.chassis.access import AccessSettings
from headrace.chassis.bus import Producer, Record
from headrace.chassis.bus_confluent import record_of
from headrace.chassis.clock import Clock
from headrace.chassis.errors import Fatal, Poison, Retryable
from headrace.chassis.logs import logger
from headrace.chassis.metrics import ChassisMetrics
from headrace.chassis.records import EncodeRejected, Outgoing, dead_letter
from headrace.chassis.retry import Backoff, RetryPolicy
from headrace.chassis.tracing import Tracing, inject

FLUSH_TIMEOUT_S = 35.0
POLL_INTERVAL_MAX_MS = 600_000  # the longest a handler may take before the group gives its partition away
SESSION_TIMEOUT_MS = 10_000

_log = logger("headrace.queue")

TaskHandler = Callable[[Record], Awaitable[Iterable[Outgoing] | None]]


class _NotDone(Exception):
    """Tells FastStream to take the record back; its cause is logged already."""


def _unexpected(line: logging.LogRecord) -> bool:
    return not (line.exc_info and line.exc_info[0] is _NotDone)


_broker_log = logging.getLogger("headrace.queue.broker")
_broker_log.addFilter(_unexpected)  # FastStream logs every exception of a handler as an error; ours is told already


@dataclass(slots=True)
class _Trial:
    record: Record
    backoff: Backoff


class WorkQueue:
    """A part of the service: register handlers with on, then start. wait raises the Fatal of any handler."""

    name = "queue"

    def __init__(
        self,
        *,
        bootstrap: str,
        group: str,
        producer: Producer,
        encode_rejected: EncodeRejected,
        clock: Clock,
        metrics: ChassisMetrics,
        tracing: Tracing,
        instance_id: str | None = None,
        retry: RetryPolicy | None = None,
        access: AccessSettings | None = None,
    ) -> None:
        """producer: idempotent, not transactional; used for what handlers return and for dead letters, closed by stop.
        access: who this process is; none talks plain.
        """
        self._group = group
        self._instance_id = instance_id
        self._producer = producer
        self._encode_rejected = encode_rejected
        self._clock = clock
        self._metrics = metrics
        self._tracing = tracing
        self._retry = retry or RetryPolicy()
        self._rng = random.Random()
        self._trials: dict[tuple[str, int], _Trial] = {}
        self._producing = asyncio.Lock()  # flush answers for all that was produced: one handler at a time
        self._broken = asyncio.Event()
        self._failure: Fatal | None = None
        config = {"enable.auto.offset.store": False, **({} if access is None else access.kafka())}
        self._broker = KafkaBroker(
            bootstrap,
            allow_auto_create_topics=False,
            config=config,  # pyright: ignore[reportArgumentType]
            apply_types=False,
            logger=_broker_log,
            log_level=logging.DEBUG,
            graceful_timeout=10.0,
        )

    def on(self, topic: str, handle: TaskHandler) -> None:
        """Handle the records of a topic. The handler raises Retryable, Poison or Fatal; all else is Fatal."""
        subscriber = self._broker.subscriber(
            topic,
            group_id=self._group,
            group_instance_id=None if self._instance_id is None else f"{self._instance_id}.{topic}",
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            partition_assignment_strategy=("range",),
            max_poll_interval_ms=POLL_INTERVAL_MAX_MS,
            session_timeout_ms=SESSION_TIMEOUT_MS,
            ack_policy=AckPolicy.NACK_ON_ERROR,
            decoder=_decode,
            no_reply=True,
        )

        async def consume(record: Record) -> None:
            await self._consume(record, handle)
            self._done(subscriber, record)

        subscriber(consume)

    async def start(self) -> None:
        await self._broker.start()

    async def wait(self) -> None:
        await self._broken.wait()
        if self._failure is not None:
            raise self._failure

    async def stop(self) -> None:
        """Lets the handlers under way end, bounded; what they do not end comes again."""
        await self._broker.stop()
        await asyncio.to_thread(self._producer.close)

    async def _consume(self, record: Record, handle: TaskHandler) -> None:
        """Handle one record to its end; raises where it must come again."""
        if self._failure is not None:
            await asyncio.sleep(1.0)  # the service is about to end: take nothing more, do not spin
            raise _NotDone
        outcome = "handled"
        try:
            with self._tracing.process_span(record, self._group):
                try:
                    outgoing = list(await handle(record) or ())
                except Poison as poison:
                    outcome = "poisoned"
                    _log.info("record_rejected", reason=poison.reason, topic=record.topic, offset=record.offset)
                    outgoing = [dead_letter(record, self._group, poison, self._clock.now_ms(), self._encode_rejected)]
                await self._produce(outgoing)
        except Retryable as error:
            await self._again(record, error)
        except Exception as error:
            self._fail(error if isinstance(error, Fatal) else Fatal(f"handler of {record.topic}: {error!r}"), error)
        else:
            self._trials.pop((record.topic, record.partition), None)
            self._metrics.records.labels(record.topic, self._group, outcome).inc()

    async def _produce(self, outgoing: list[Outgoing]) -> None:
        if not outgoing:
            return
        async with self._producing:
            for out in outgoing:
                self._producer.produce(out.topic, out.value, out.key, out.partition, inject(out.headers))
            await asyncio.to_thread(self._producer.flush, FLUSH_TIMEOUT_S)

    async def _again(self, record: Record, error: Retryable) -> None:
        """Wait, then give the record back: it is the next one of its partition."""
        place, now_s = (record.topic, record.partition), self._clock.monotonic_s()
        trial = self._trials.get(place)
        if trial is None or trial.record.offset != record.offset:
            trial = self._trials[place] = _Trial(record, Backoff(self._retry, now_s, self._rng))
        self._metrics.records.labels(record.topic, self._group, "retried").inc()
        try:
            trial.backoff.failed(now_s, error)
        except Fatal as spent:
            self._fail(spent, error)
        _log.warning(
            "record_to_be_retried", topic=record.topic, offset=record.offset, attempt=trial.backoff.attempts, error=str(error)
        )
        await asyncio.sleep(max(0.0, trial.backoff.due_s - now_s))
        raise _NotDone from error

    def _fail(self, failure: Fatal, cause: Exception) -> None:
        self._failure = failure
        self._broken.set()
        raise _NotDone from cause

    def _done(self, subscriber: Any, record: Record) -> None:
        """Let the acknowledgement that follows commit this record; one whose partition has moved comes again elsewhere."""
        try:
            subscriber.consumer.consumer.store_offsets(offsets=[Position(record.topic, record.partition, record.offset + 1)])
        except KafkaException as error:
            _log.warning("offset_not_stored", topic=record.topic, offset=record.offset, error=str(error))


async def _decode(message: KafkaMessage) -> Record:
    raw = message.raw_message
    if isinstance(raw, tuple):
        raise Fatal("work queues take records one by one")
    return record_of(raw)  # not message.body, which turns a tombstone into b""
