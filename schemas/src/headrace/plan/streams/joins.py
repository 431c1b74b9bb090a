"""Operators over rows: interval join, as-of join, join with a table, distinct."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.plan.ir import EventType, Stream
from headrace.plan.streams.as_of import NewestJoin
from headrace.plan.streams.distinct import DistinctRows
from headrace.plan.streams.interval import IntervalJoin
from headrace.plan.streams.operator import Operator
from headrace.plan.streams.rows import Tables


def operator(stream: Stream, events: Sequence[EventType], tables: Tables) -> Operator:
    """One task's operator of a stream with a join or distinct, over tables that are new or as they were left."""
    if stream.join is not None and stream.join.kind == "interval":
        return IntervalJoin(stream, events, tables)
    if stream.join is not None:
        return NewestJoin(stream, events, tables)
    if stream.distinct is not None:
        return DistinctRows(stream, events, tables)
    raise ValueError(f"stream {stream.name} has neither join nor distinct")
