"""What a stream keeps: entries per key, their bytes, and for how long. From the plan alone, and rates where they are given.

    bytes = keys * entries per key * bytes of an entry
    entries per key = what rows of the time an entry is held can make, at most what the operator allows

An entry is counted with its key, its place and eight bytes for each number; a store's compression comes on top.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd

from headrace.plan.ir import EventType, FeatureSet, Field, Plan, Stream, StreamInput
from headrace.plan.slots import layout_of

DAY_MS = 86_400_000
KEY_BYTES = 16  # sixteen characters: a card token, half a UUID
PLACE_BYTES = 32  # window or pane; of a row: time, partition, offset, item
NUMBER_BYTES = 8
TEXT_BYTES = 16


@dataclass(frozen=True, slots=True)
class Held:
    """One kind of entry that an operator keeps."""

    what: str  # in the plural
    entry_bytes: int
    span_ms: int | None  # how long after its event time; None: for ever, one for each key that ever came
    most: int | None  # of a key at once; None: as many as rows come
    event: str  # whose rows make them

    def per_key(self, events_a_day: float | None) -> float | None:
        """Entries of a key, None if only its rate would tell."""
        if self.span_ms is None or events_a_day is None:
            return self.most
        coming = events_a_day * self.span_ms / DAY_MS
        return coming if self.most is None else min(float(self.most), coming)


def stateless(stream: Stream) -> bool:
    """Rows are filtered and mapped, no more."""
    return stream.window is None and stream.join is None and stream.distinct is None


def keyed_already(plan: Plan, stream: Stream) -> bool:
    """Whether each key of the stream lies in one partition of all its events, the one with the number of its task.

    Only topics of this pipeline are known to be partitioned by their key's murmur2; adopted ones may be by anything.
    """
    events = {event.name: event for event in plan.events}
    return not stateless(stream) and all(
        read.key == (events[read.event].key,)
        and events[read.event].partitions == stream.partitions
        and events[read.event].topic.startswith(f"{plan.pipeline}.")
        for read in stream.inputs
    )


def held(plan: Plan, stream: Stream) -> list[Held]:
    """What the stream's tables hold; nothing of a stream that only filters and maps.

    Rows wait until the watermark has passed them, which is at most the greatest lateness of the inputs behind.
    """
    events = {event.name: event for event in plan.events}
    names = [read.event for read in stream.inputs]
    late = max(events[name].lateness_ms for name in names)
    rows = [_row_bytes(read, events[read.event]) for read in stream.inputs]
    if stream.distinct is not None:
        waiting = Held(f"rows of {names[0]}", rows[0], late, None, names[0])
        return [Held("last times", KEY_BYTES + PLACE_BYTES, stream.distinct.horizon_ms + late, 1, names[0]), waiting]
    if stream.join is None:
        return _windows(stream, names[0], late)
    join, sides = stream.join, [f"rows of {name}" for name in names]
    if join.kind == "interval":
        return [
            Held(sides[0], rows[0], late + join.after_ms, None, names[0]),
            Held(sides[1], rows[1], late + join.before_ms, None, names[1]),
        ]
    waiting = Held(sides[0], rows[0], late, None, names[0])
    if join.kind == "as_of":
        return [waiting, Held(sides[1], rows[1], late + (join.max_age_ms or 0), None, names[1])]
    return [waiting, Held(f"entries of {names[1]}", rows[1], None, 1, names[1])]


def _windows(stream: Stream, event: str, late_ms: int) -> list[Held]:
    window = stream.window
    if window is None:
        return []
    pseudo = FeatureSet(stream.name, (), (event,), stream.measures, (), 0, 0)
    size = KEY_BYTES + PLACE_BYTES + NUMBER_BYTES * layout_of(pseudo, event).width
    if window.kind == "tumbling":
        return [Held("windows", size, window.size_ms + late_ms, late_ms // window.size_ms + 2, event)]
    if window.kind == "hopping":
        pane = gcd(window.size_ms, window.hop_ms)
        return [Held("panes", size, window.size_ms + late_ms, (window.size_ms + late_ms) // pane + 2, event)]
    if window.kind == "session":
        return [Held("sessions", size, window.gap_ms + late_ms, late_ms // window.gap_ms + 2, event)]
    if window.kind == "sliding":
        return [Held("event times", size, window.size_ms + late_ms, None, event)]
    return [Held("windows", size, None, 1, event), Held("waiting rows", size, late_ms, None, event)]


def _row_bytes(read: StreamInput, event: EventType) -> int:
    """A carried expression is taken to be a number where it is not a field."""
    fields = {field.name: field for field in event.fields}
    return KEY_BYTES + PLACE_BYTES + sum(_width(fields.get(column.expression)) for column in read.columns)


def _width(field: Field | None) -> int:
    return TEXT_BYTES if field is not None and field.type == "string" else NUMBER_BYTES


def bytes_per_key(plan: Plan, stream: Stream, events_a_day: Mapping[str, float]) -> float | None:
    """Of all its tables; None where a rate would have to be known."""
    found = [(item.per_key(events_a_day.get(item.event)), item.entry_bytes) for item in held(plan, stream)]
    return None if any(count is None for count, _ in found) else sum((count or 0) * size for count, size in found)
