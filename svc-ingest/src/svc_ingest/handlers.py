"""One batch of outside rows in; typed events and dead letters out. No Kafka types, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from headrace.contracts.errors import Poison, Reason
from headrace.contracts.records import RecordRejected
from svc_ingest.domain.identity import event_identity, letter_identity
from svc_ingest.ports import LINE_BYTES_MAX, Batch, Receipt

GROUP = "svc-ingest"


class Outgoing(NamedTuple):
    """An event ready to be produced, unless it is there already."""

    identity: bytes  # header event-id
    key: bytes
    value: bytes
    event_time_ms: int
    traceparent: str | None


@dataclass(slots=True)
class Judged:
    """A batch after every row was judged. Nothing of it is written yet."""

    batch: Batch
    events: list[Outgoing] = field(default_factory=list)
    letters: list[RecordRejected] = field(default_factory=list)
    receipt: Receipt = field(default_factory=Receipt)


def judge(batch: Batch, now_ms: int) -> Judged:
    """Judge and encode every row; what cannot be an event becomes a dead letter with its reason.

    Args:
        now_ms: ingest time, ms UTC.
    """
    judged = Judged(batch)
    events, receipt = judged.events, judged.receipt
    normalise, encode = batch.route.rows.normalise, batch.route.encode
    for line, raw, values in batch.rows:
        try:
            if isinstance(values, Poison):
                raise values
            if len(raw) > LINE_BYTES_MAX:
                raise Poison(Reason.TOO_LARGE, f"the row has {len(raw)} bytes, at most {LINE_BYTES_MAX} fit a message")
            row, key, event_time_ms, declared, traceparent = normalise(values, now_ms)
            value = encode(row)
        except Poison as fault:
            receipt.reject(line, fault)
            judged.letters.append(_letter(batch, line, raw, fault, now_ms))
            continue
        identity = event_identity(declared, batch.origin, line)
        events.append(Outgoing(identity.encode(), key, value, event_time_ms, traceparent or batch.traceparent))
    return judged


def _letter(batch: Batch, line: int, raw: bytes, fault: Poison, now_ms: int) -> RecordRejected:
    kept = raw[:LINE_BYTES_MAX]
    cut = "" if kept == raw else f" (kept: the first {len(kept)} of {len(raw)} bytes)"
    return RecordRejected(
        topic=batch.route.source.name,
        partition=-1,
        offset=line,
        append_time_ms=now_ms,
        group=GROUP,
        reason=fault.reason.value,
        detail=fault.detail + cut,
        key=None,
        value=kept,
        origin_id=letter_identity(batch.origin, line, raw),
        lateness_ms=None,
    )
