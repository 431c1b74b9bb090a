"""Before a replica is ready it reads back recent passports, so that repeated request ids get the answer they had."""

from __future__ import annotations

from headrace.chassis.bus import Bus, Record, TopicPartition
from headrace.chassis.logs import logger
from headrace.contracts.codec import Codec
from headrace.contracts.errors import Poison, Retryable
from headrace.contracts.records import PredictionMade
from svc_serve.domain.answered import Answered
from svc_serve.domain.reply import reply_of

READ_RECORDS = 2_000
SILENT_ROUNDS_MAX = 30  # of one second each
_log = logger(__name__)


def read_back(bus: Bus, codec: Codec, topic: str, partitions: int, answered: Answered, records_max: int, client_id: str) -> int:
    """Read the newest records_max passports of a topic into `answered`; returns how many.

    Called after the replica's producers are initialised: what a dead replica left open is aborted by then.
    Raises: Retryable if the log falls silent before its end.
    """
    consumer = bus.consumer(None, client_id)
    try:
        ends: dict[TopicPartition, int] = {}
        starts: dict[TopicPartition, int] = {}
        for number in range(partitions):
            partition = TopicPartition(topic, number)
            low, high = consumer.watermarks(partition)
            ends[partition] = high
            starts[partition] = max(low, high - records_max // partitions)
        consumer.assign(starts)
        count = silent = 0
        while any((consumer.position(p) or starts[p]) < end for p, end in ends.items()):
            records = consumer.consume(READ_RECORDS, 1.0)
            silent = 0 if records else silent + 1
            if silent > SILENT_ROUNDS_MAX:
                raise Retryable(f"passports of {topic} cannot be read back: the log is silent before its end")
            passports = [p for r in records if (p := _passport(codec, r)) is not None]
            answered.settle({p.request_id: reply_of(p) for p in passports})
            count += len(passports)
        return count
    finally:
        consumer.close()


def _passport(codec: Codec, record: Record) -> PredictionMade | None:
    """None for what is no passport: it answered nobody, and must not keep the replica from starting."""
    try:
        return codec.decode(record.value, PredictionMade)
    except Poison as poison:
        _log.warning("passport_unreadable", topic=record.topic, offset=record.offset, reason=poison.reason.value)
        return None
