"""The operator of a windowed stream, by the kind of its window."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.contracts.errors import Fatal
from headrace.plan.ir import EventType, Stream
from headrace.plan.streams.counts import CountWindows
from headrace.plan.streams.operator import Operator
from headrace.plan.streams.sessions import SessionWindows
from headrace.plan.streams.sliding import SlidingWindows
from headrace.plan.streams.vectors import Tables
from headrace.plan.streams.windows import PaneWindows

_KINDS = {
    "tumbling": PaneWindows,
    "hopping": PaneWindows,
    "sliding": SlidingWindows,
    "session": SessionWindows,
    "count": CountWindows,
}


def operator(stream: Stream, events: Sequence[EventType], tables: Tables) -> Operator:
    """One task's operator over tables as they were left. Raises: Fatal if the stream has no window."""
    if stream.window is None:
        raise Fatal(f"stream {stream.name} has no window")
    return _KINDS[stream.window.kind](stream, events, tables)
