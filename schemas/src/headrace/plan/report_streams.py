"""Streams in the report: a tree from topics to readers, then each stream with what happens to a row on its way.

clicks.clicks.v1  4 partitions
|- visit  session, gap 30m, by visitor -> clicks.visits.v1
|  `- visitor_week  feature set
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from headrace.plan.hashes import hash8
from headrace.plan.ir import EventType, Plan, Stream, StreamInput
from headrace.plan.problems import duration_text
from headrace.plan.stream_costs import bytes_per_key, held, keyed_already, stateless
from headrace.plan.stream_types import lateness_ms
from headrace.plan.view_sizes import bytes_text


class Load(Protocol):
    """What the report knows of keys and rates."""

    @property
    def keys(self) -> Mapping[str, int]: ...
    @property
    def events_a_day(self) -> Mapping[str, float]: ...


def key_text(stream: Stream) -> str:
    """Fields of the key, as the left input names them."""
    return ", ".join(stream.inputs[0].key) or "one key"


def operator_text(stream: Stream) -> str:
    """Such as `hopping 10m by 1m, updates`; the join names its two events."""
    window, join = stream.window, stream.join
    if window is not None:
        span = {
            "tumbling": duration_text(window.size_ms),
            "hopping": f"{duration_text(window.size_ms)} by {duration_text(window.hop_ms)}",
            "sliding": duration_text(window.size_ms),
            "session": f"gap {duration_text(window.gap_ms)}",
            "count": f"{window.rows:,} rows",
        }[window.kind]
        told = {"close": "on close", "update": "updates", "both": "updates and on close"}[window.emit]
        return f"{window.kind} {span}, {told}"
    if join is not None:
        reach = {
            "interval": f" from {duration_text(join.before_ms)} before to {duration_text(join.after_ms)} after",
            "as_of": f" not older than {duration_text(join.max_age_ms or 0)}",
            "table": "",
        }[join.kind]
        left, right = stream.inputs
        return f"{join.how} {join.kind.replace('_', '-')} join of {left.event} with {right.event}{reach}"
    if stream.distinct is not None:
        return f"first in {duration_text(stream.distinct.horizon_ms)}"
    return "map" if stream.inputs[0].each is None else f"one row for each of {stream.inputs[0].each}"


def tree_lines(plan: Plan) -> list[str]:
    """Topics that producers write, and under each its readers, down to the last. A join stands under both its topics."""
    made = {item.output for item in plan.streams}
    lines: list[str] = []
    for event in plan.events:
        if event.name not in made:
            origins = ", ".join(source.name for source in plan.sources if source.event == event.name)
            lines.append(f"{event.topic}  {event.partitions} partitions  from {origins or 'producers'}")
            lines += _readers(plan, event, "", set())
    return lines


def _readers(plan: Plan, event: EventType, margin: str, shown: set[str]) -> Iterator[str]:
    events = {item.name: item for item in plan.events}
    streams = [item for item in plan.streams if any(read.event == event.name for read in item.inputs)]
    ends = reader_texts(plan, event.name)
    for number, item in enumerate([*streams, *ends], start=1):
        last = number == len(streams) + len(ends)
        branch, inner = ("`- ", "   ") if last else ("|- ", "|  ")
        if isinstance(item, str):
            yield f"{margin}{branch}{item}"
            continue
        again = item.name in shown
        more = " (see above)" if again else ""
        yield f"{margin}{branch}{item.name}  {operator_text(item)}, by {key_text(item)} -> {events[item.output].topic}{more}"
        if not again:
            shown.add(item.name)
            yield from _readers(plan, events[item.output], margin + inner, shown)


def reader_texts(plan: Plan, event: str) -> list[str]:
    """Who reads an event but streams: feature sets, and models as request or as label."""
    found = [f"{item.name}  feature set" for item in plan.feature_sets if event in item.events]
    for model in plan.models:
        roles = [role for role, name in (("requests", model.request), ("labels", model.label.event)) if name == event]
        found += [f"{model.name}  model, {' and '.join(roles)}"] if roles else []
    return found


def stream_lines(plan: Plan, load: Load) -> list[str]:
    """Each stream: its inputs with what is done to a row, its operator and state, its results and who reads them."""
    events = {event.name: event for event in plan.events}
    lines: list[str] = []
    for item in plan.streams:
        output = events[item.output]
        lines.append(f"{item.name} {hash8(item.hash)}  {item.owner}".rstrip())
        for read in item.inputs:
            lines.append(f"  {events[read.event].topic} -> {' -> '.join(_steps(plan, item, read, events[read.event]))}")
        lines.append(f"  {operator_text(item)}: {len(item.fields)} fields, {item.partitions} partitions{_clock(item)}")
        lines += [f"  {line}" for line in _state_lines(plan, item, load)]
        names = [other.name for other in plan.streams if any(read.event == item.output for read in other.inputs)]
        readers = ", ".join([*names, *(text.partition("  ")[0] for text in reader_texts(plan, item.output))])
        late = f"late up to {duration_text(output.lateness_ms)}"
        lines.append(f"  -> {output.topic}  by {output.key}, {late}; read by {readers or 'nobody in this plan'}")
    return lines


def _steps(plan: Plan, stream: Stream, read: StreamInput, event: EventType) -> Iterator[str]:
    repeats = f", {event.dedup_id} once in {duration_text(event.dedup_horizon_ms)}" if event.dedup_id else ""
    yield f"judge (late {duration_text(event.lateness_ms)}, ahead {duration_text(event.poison_bound_ms)}{repeats})"
    if read.where is not None:
        yield f"filter `{read.where}`"
    if read.each is not None:
        yield f"each of {read.each}"
    name = ", ".join(read.key) or "one key"
    if stateless(stream):
        yield f"key {name}"
    elif keyed_already(plan, stream):
        yield f"keyed already by {name}"
    else:
        yield f"rekey by {name} over {stream.partitions} partitions"


def _clock(stream: Stream) -> str:
    return f", closed by the clock after {duration_text(stream.tick_ms)} of silence" if stream.tick_ms is not None else ""


def _state_lines(plan: Plan, stream: Stream, load: Load) -> Iterator[str]:
    if stateless(stream):
        yield "no state"
        return
    parts = []
    for item in held(plan, stream):
        most = f"at most {item.most:,}" if item.most is not None else "as many as come"
        span = f" in {duration_text(item.span_ms)}" if item.span_ms is not None else ""
        parts.append(f"{item.what}: {most}{span}, {item.entry_bytes} bytes each")
    yield f"{stream.store}, per key: {'; '.join(parts)}"
    keys, rates = keys_of(stream, load.keys), rates_of(stream, load.events_a_day)
    per_key = bytes_per_key(plan, stream, rates)
    missing = sorted({item.event for item in held(plan, stream) if item.per_key(rates.get(item.event)) is None})
    if per_key is None:
        asked = " ".join(f"--rate {stream.name}.{event}=N" for event in missing)
        yield f"how much that is depends on how often rows of a key come in a day: {asked}"
    elif keys is None:
        name = ",".join(stream.inputs[0].key)
        yield f"some {bytes_text(per_key)} per key; how many keys there are is not known: --keys {name}=N"
    else:
        total, noun = keys * per_key, "key" if keys == 1 else "keys"
        yield (
            f"estimated state of {keys:,} {noun}: {bytes_text(total)}, {bytes_text(total / stream.partitions)} in each of "
            f"{stream.partitions} partitions"
        )


def keys_of(stream: Stream, keys: Mapping[str, int]) -> int | None:
    """How many keys it has: given by its name or by its key fields; a stream without a key has one."""
    if not stream.inputs[0].key:
        return 1
    return keys.get(stream.name, keys.get(",".join(stream.inputs[0].key)))


def rates_of(stream: Stream, given: Mapping[str, float]) -> dict[str, float]:
    """Rows of one key a day, by event: given for the stream as `visit.clicks`, or for its events where it has a key."""
    found: dict[str, float] = {}
    for name in {read.event for read in stream.inputs}:
        own = f"{stream.name}.{name}"
        if own in given:
            found[name] = given[own]
        elif name in given and stream.inputs[0].key:
            found[name] = given[name]
    return found


def stream_warnings(plan: Plan) -> list[str]:
    """What works but may surprise."""
    events, found = {event.name: event for event in plan.events}, list[str]()
    for item in plan.streams:
        needed = lateness_ms(max(events[read.event].lateness_ms for read in item.inputs), item.window, item.join)
        given = events[item.output].lateness_ms
        if given < needed:
            found.append(
                f"results of {item.name} are taken as late after {duration_text(given)}, but may come {duration_text(needed)} "
                "behind others: their readers leave those out"
            )
        tables = [read.event for read in item.inputs if read.table]
        if tables and item.tick_ms is None:
            found.append(
                f"{item.name} waits for {tables[0]}: no result comes while it is silent; tick=... lets the clock go on for it"
            )
        if item.store == "memory" and item.join is not None and item.join.kind == "table":
            found.append(f"{item.name} keeps the whole of {tables[0]} in memory: every entry there ever was")
    return found
