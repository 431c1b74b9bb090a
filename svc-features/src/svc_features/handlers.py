"""What the archive does with consumed records: one function per kind of topic, records in, rows out."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from headrace.chassis.bus import Record
from headrace.contracts.catalogue import AUDIT_ENTRIES, PREDICTIONS, TIME_ADVANCES, schemas, topics
from headrace.contracts.codec import AvroRecord, Codec
from headrace.contracts.errors import Poison
from headrace.contracts.records import AuditEntryAppended, PredictionMade, TimeAdvanced
from headrace.plan.avro import event_schema
from headrace.plan.ir import EventType, Plan
from headrace.plan.topics import predictions_topic, time_advances_topic
from svc_features.archive import Feed
from svc_features.domain.columns import Place, event_columns, event_rows, record_columns, record_rows


def event_feed(plan: Plan, event: EventType, codec: Codec) -> Feed:
    """Archive one event topic."""
    schema, columns = event_schema(plan, event), event_columns(event)

    def rows(records: Sequence[Record]) -> pa.Table:
        place = _place(records)
        return event_rows(columns, place, codec.decode_events(schema, place.values))

    return Feed(event.topic, event.partitions, columns, rows, event.time)


def passport_feed(plan: Plan, codec: Codec) -> Feed:
    """Archive the decisions of a pipeline."""
    return _record_feed(predictions_topic(plan.pipeline), topics()[PREDICTIONS].partitions, PredictionMade, codec, "t_ms")


def time_feed(plan: Plan, codec: Codec) -> Feed:
    """Archive what moved event time without a record."""
    partitions = topics()[TIME_ADVANCES].partitions
    return _record_feed(time_advances_topic(plan.pipeline), partitions, TimeAdvanced, codec, "watermark_ms")


def audit_feed(codec: Codec) -> Feed:
    """Archive the audit chain."""
    return _record_feed(AUDIT_ENTRIES, topics()[AUDIT_ENTRIES].partitions, AuditEntryAppended, codec, "at_ms")


def _record_feed(topic: str, partitions: int, kind: type[AvroRecord], codec: Codec, time: str) -> Feed:
    columns = record_columns(schemas()[kind.FULLNAME])

    def read(value: bytes | None) -> AvroRecord | Poison:
        try:
            return codec.decode(value, kind)
        except Poison as poison:
            return poison

    def rows(records: Sequence[Record]) -> pa.Table:
        place = _place(records)
        return record_rows(columns, place, [read(value) for value in place.values])

    return Feed(topic, partitions, columns, rows, time)


def _place(records: Sequence[Record]) -> Place:
    return Place(
        [r.partition for r in records],
        [r.offset for r in records],
        [r.append_time_ms for r in records],
        [r.value for r in records],
    )
