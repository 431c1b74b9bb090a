"""Rows an operator had to refuse, as late records: event time had gone on without them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from headrace.contracts.errors import Reason
from headrace.contracts.records import RecordRejected
from headrace.plan.ir import EventType, Stream
from headrace.plan.streams.frames import OFFSET, PARTITION, TIME
from svc_stream.handlers import GROUP


def refused_letters(stream: Stream, events: Sequence[EventType], refused: pl.DataFrame) -> Iterator[RecordRejected]:
    """One per source record. Its bytes stay where it came from: topic, partition and offset say where."""
    of = {event.name: event for event in events}
    rows = refused.unique(["input", PARTITION, OFFSET], keep="first", maintain_order=True)
    for index, partition, offset, at_ms in rows.select("input", PARTITION, OFFSET, TIME).iter_rows():
        event = of[stream.inputs[index].event]
        yield RecordRejected(
            topic=event.topic, partition=partition, offset=offset, append_time_ms=0, group=GROUP, reason=Reason.LATE.value,
            detail=f"{stream.name}: event time {at_ms} lies below a watermark that had gone on without the partition",
            key=None, value=None, origin_id=f"{event.topic}-{partition}-{offset}",
        )  # fmt: skip
