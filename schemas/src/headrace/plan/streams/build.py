"""From a stream of a plan to what runs: its two halves, and the way between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from headrace.plan.ir import EventType, Stream
from headrace.plan.streams import joins, prepare_rows, rows, vectors, window_operators, window_prepare
from headrace.plan.streams.frames import Prepare
from headrace.plan.streams.operator import Operator


class Tables(rows.Tables, vectors.Tables, Protocol):
    """Where operators keep what they remember."""


def prepare_of(stream: Stream, index: int, events: Sequence[EventType]) -> Prepare:
    """What an input's accepted rows become where they were judged."""
    build = prepare_rows.build_prepare if stream.window is None else window_prepare.build_prepare
    return build(stream, index, events)


def operator_of(stream: Stream, events: Sequence[EventType], tables: Tables) -> Operator:
    """What runs where the key lives. Only of a stream with state."""
    module = joins if stream.window is None else window_operators
    return module.operator(stream, events, tables)
