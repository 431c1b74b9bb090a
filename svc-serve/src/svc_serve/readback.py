"""Before a replica is ready it reads back recent passports, so that repeated request ids get the answer they had."""

from __future__ import annotations

from headrace.chassis.bus import Bus, Record
from headrace.chassis.logs import logger
from headrace.chassis.whole import read_whole
from headrace.contracts.codec import Codec
from headrace.contracts.errors import Poison
from headrace.contracts.records import PredictionMade
from svc_serve.domain.answered import Answered
from svc_serve.domain.reply import reply_of

_log = logger(__name__)


def read_back(bus: Bus, codec: Codec, topic: str, answered: Answered, records_max: int, client_id: str) -> int:
    """Read the newest records_max passports of a topic into `answered`; returns how many.

    Called after the replica's producers are initialised: what a dead replica left open is aborted by then.
    Raises: Retryable if the log falls silent before its end.
    """
    count = 0
    for records in read_whole(bus, topic, client_id, newest_max=records_max):
        passports = [p for r in records if (p := _passport(codec, r)) is not None]
        answered.settle({p.request_id: reply_of(p) for p in passports})
        count += len(passports)
    return count


def _passport(codec: Codec, record: Record) -> PredictionMade | None:
    """None for what is no passport: it answered nobody, and must not keep the replica from starting."""
    try:
        return codec.decode(record.value, PredictionMade)
    except Poison as poison:
        _log.warning("passport_unreadable", topic=record.topic, offset=record.offset, reason=poison.reason.value)
        return None
