"""Rules of streams: what they read, how they key, window and join it, that state stays bounded, and what results hold."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from math import gcd

from headrace.plan.expressions import Expression, ExpressionError, parse
from headrace.plan.ir import EventType, Field, Join, Plan, Stream, StreamInput, Term, Window
from headrace.plan.problems import NAME, Path, Problem, duration_text, known_as, partition_problems, repeated
from headrace.plan.stream_types import KEY_TYPES
from headrace.plan.validate_aggregates import measure_problems, term_problems
from headrace.plan.validate_results import result_problems

PANES_MAX = 10_000  # of one window: what a row is added to, at worst
ROWS_MAX = 100_000  # of a count window
DURATION_MAX_MS = 3_660 * 86_400_000  # ten years; beyond, somebody means for ever
WINDOW_NUMBERS: dict[str, tuple[str, ...]] = {
    "tumbling": ("size_ms",), "hopping": ("size_ms", "hop_ms"), "sliding": ("size_ms",), "session": ("gap_ms",),
    "count": ("rows",),
}  # fmt: skip
PLAIN = frozenset({"integer", "boolean", "string", "timestamp", "float"})


def stream_problems(plan: Plan, events: Mapping[str, EventType]) -> Iterator[Problem]:
    """Of all streams of a plan, and of what they mean to each other."""
    outputs = [item.output for item in plan.streams]
    for name in repeated(outputs):
        writers = [item.name for item in plan.streams if item.output == name]
        yield Problem(("stream", writers[-1]), f"{name} is written by {' and '.join(writers)}", "one stream writes a topic")
    for source in plan.sources:
        if source.event in outputs:
            hint = "a source reads from outside into a topic of its own"
            yield Problem(("source", source.name), f"{source.event} is what stream {_maker(plan, source.event)} makes", hint)
    made: set[str] = set()
    for item in plan.streams:
        yield from _order_problems(plan, item, made)
        yield from _stream_problems(item, events)
        made.add(item.output)


def _maker(plan: Plan, event: str) -> str:
    return next(item.name for item in plan.streams if item.output == event)


def _order_problems(plan: Plan, stream: Stream, made: set[str]) -> Iterator[Problem]:
    """Streams stand after those they read, so none reads in a circle what it makes."""
    for read in stream.inputs:
        if read.event in made or read.event not in {item.output for item in plan.streams}:
            continue
        here: Path = ("stream", stream.name)
        if read.event == stream.output:
            yield Problem(here, f"reads its own results, {read.event}", "a stream makes other events than it reads")
        else:
            detail = f"reads {read.event}, which {_maker(plan, read.event)} makes only after it"
            yield Problem(here, detail, "streams stand after those they read; two that read each other never end")


def _stream_problems(stream: Stream, events: Mapping[str, EventType]) -> Iterator[Problem]:
    here: Path = ("stream", stream.name)
    if not NAME.fullmatch(stream.name):
        yield Problem(here, f"stream name '{stream.name}'", "snake_case")
    unknown = [name for name in (*(read.event for read in stream.inputs), stream.output) if name not in events]
    for name in unknown:
        yield from known_as(here, "event", name, events)
    operators = [item for item in (stream.window, stream.join, stream.distinct) if item is not None]
    if len(operators) > 1:
        yield Problem(here, "more than one of window, join and distinct", "make two streams: one reads the other")
        return
    if len(stream.inputs) != (2 if stream.join is not None else 1):
        yield Problem(here, f"{len(stream.inputs)} inputs", "a join has two, everything else one")
        return
    if unknown:
        return
    yield from partition_problems(here, stream.partitions)
    if stream.tick_ms is not None:
        yield from _duration_problems(here, "tick", stream.tick_ms, 'such as tick="5s", or leave it out')
    broken = list(_input_problems(here, stream, events))
    yield from broken
    if stream.window is not None:
        yield from _window_problems(here, stream.window)
    if stream.join is not None:
        yield from _join_problems(here, stream, stream.join, events)
    if stream.distinct is not None:
        yield from _duration_problems(here, "distinct", stream.distinct.horizon_ms, 'such as distinct="6h"')
    measured = list(_measure_problems(here, stream, events))
    yield from measured
    if not broken and not measured:
        yield from result_problems(here, stream, events)


def _duration_problems(here: Path, name: str, duration_ms: int, hint: str) -> Iterator[Problem]:
    if duration_ms <= 0:
        yield Problem(here, f"{name} is not positive", hint)
    elif duration_ms > DURATION_MAX_MS:
        detail = f"{name} of {duration_text(duration_ms)} is state without an end"
        yield Problem(here, detail, f"at most {duration_text(DURATION_MAX_MS)}")


def _input_problems(here: Path, stream: Stream, events: Mapping[str, EventType]) -> Iterator[Problem]:
    names = [read.event for read in stream.inputs]
    for name in repeated(names):
        yield Problem(here, f"{name} joined with itself", "make a stream of it under another name, and join that")
    for index, read in enumerate(stream.inputs):
        fields = {field.name: field for field in events[read.event].fields}
        if repeated(read.key):
            yield Problem(here, f"key {', '.join(read.key)} names a field twice", "name each once")
        for part in read.key:
            yield from known_as(here, "key field", part, fields, f" of {events[read.event].record}")
            if part in fields and fields[part].type not in KEY_TYPES:
                hint = "texts, integers, booleans and timestamps make keys"
                yield Problem(here, f"key field '{part}' is a {fields[part].type}", hint)
        yield from _each_problems(here, read, fields)
        yield from _read_problems(here, stream, read, fields)
        if read.table and (stream.join is None or stream.join.kind != "table" or index != 1):
            yield Problem(here, f"{read.event} is read as a table", "only the right side of a table join is one")


def _each_problems(here: Path, read: StreamInput, fields: Mapping[str, Field]) -> Iterator[Problem]:
    if read.each is None:
        return
    yield from known_as(here, "array", read.each, fields)
    if read.each in fields and fields[read.each].type != "array":
        yield Problem(here, f"each: '{read.each}' is a {fields[read.each].type}", "name an array")
    if read.table:
        yield Problem(here, "items of a table's array", "an entry is one row")


def _read_problems(here: Path, stream: Stream, read: StreamInput, fields: Mapping[str, Field]) -> Iterator[Problem]:
    """The condition and the carried values are canonical row expressions over the event, or over items of `each`."""
    if read.where is not None:
        parsed = yield from _parsed(here, "where", read.where, read, fields)
        if parsed is not None and parsed.type.kind != "boolean":
            yield Problem(here, f"where `{read.where}` is a {parsed.type}", "it must be a condition")
        if read.table:
            hint = "a row that is left out would leave the old entry standing: make a column of it, and filter the results"
            yield Problem(here, "where on a table", hint)
    for name in repeated([column.name for column in read.columns]):
        yield Problem((*here, name), f"column '{name}' comes twice")
    if stream.window is not None and read.columns:
        yield Problem(here, "columns beside a window", "a window holds aggregates")
    for column in read.columns:
        parsed = yield from _parsed((*here, column.name), column.name, column.expression, read, fields)
        if parsed is not None and parsed.type.kind not in PLAIN:
            yield Problem((*here, column.name), f"`{column.expression}` is a {parsed.type}", "results hold plain values")


def _parsed(
    here: Path, part: str, text: str, read: StreamInput, fields: Mapping[str, Field]
) -> Generator[Problem, None, Expression | None]:
    try:
        parsed = parse(text, fields, allow_float=True)
    except ExpressionError as error:
        yield Problem(here, str(error))
        return None
    if parsed.canonical != text:
        yield Problem(here, f"{part} `{text}` is not canonical", f"write `{parsed.canonical}`")
    for array in parsed.arrays:
        if array != read.each:
            yield Problem(here, f"`{text}` has a value for each item of '{array}'", f"read one row for each: each='{array}'")
    return parsed


def _window_problems(here: Path, window: Window) -> Iterator[Problem]:
    own = WINDOW_NUMBERS[window.kind]
    for name in ("size_ms", "hop_ms", "gap_ms", "rows"):
        if name not in own and getattr(window, name):
            yield Problem(here, f"{name} of a {window.kind} window", f"it has {' and '.join(own)}")
    shown = window.kind
    if window.kind in ("tumbling", "hopping", "sliding"):
        yield from _duration_problems(here, f"size of a {shown} window", window.size_ms, 'such as "1m"')
    if window.kind == "session":
        yield from _duration_problems(here, "gap of a session", window.gap_ms, 'such as gap="30s"')
    if window.kind == "count" and not 1 <= window.rows <= ROWS_MAX:
        yield Problem(here, f"a window of {window.rows} rows", f"1 to {ROWS_MAX:,}")
    if window.kind == "hopping":
        yield from _hop_problems(here, window)


def _hop_problems(here: Path, window: Window) -> Iterator[Problem]:
    if not 0 < window.hop_ms <= window.size_ms:
        detail = f"hop {duration_text(max(window.hop_ms, 0))} of a window of {duration_text(max(window.size_ms, 0))}"
        yield Problem(here, detail, "above nothing, and not above the size: between windows rows would be lost")
        return
    panes = window.size_ms // gcd(window.size_ms, window.hop_ms)
    if panes > PANES_MAX:
        detail = f"a window of {panes:,} panes of {duration_text(gcd(window.size_ms, window.hop_ms))}"
        yield Problem(here, detail, f"at most {PANES_MAX:,}: a hop that divides the size, or a longer one")


def _join_problems(here: Path, stream: Stream, join: Join, events: Mapping[str, EventType]) -> Iterator[Problem]:
    left, right = stream.inputs
    types = [[_type(events[read.event], part) for part in read.key] for read in stream.inputs]
    if types[0] != types[1] and None not in (*types[0], *types[1]):
        sides = [_key_text(read, kinds) for read, kinds in zip(stream.inputs, types, strict=True)]
        yield Problem(here, f"keys differ: {sides[0]} and {sides[1]}", "both sides are keyed by fields of the same types")
    if join.kind != "interval" and (join.before_ms or join.after_ms):
        yield Problem(here, f"an interval of a {join.kind} join", "before and after belong to interval joins")
    if join.kind != "as_of" and join.max_age_ms is not None:
        yield Problem(here, f"max_age of a {join.kind} join", "it belongs to as-of joins")
    if join.kind != "interval" and join.how == "outer":
        yield Problem(here, f"a {join.kind} join is inner or left", "only intervals tell of right rows without a partner")
    if join.kind == "interval":
        yield from _interval_problems(here, join)
    if join.kind == "as_of":
        hint = 'rows would be kept for ever: max_age="1m", or a TableJoin with a compacted topic'
        if join.max_age_ms is None:
            yield Problem(here, "an as-of join without max_age", hint)
        else:
            yield from _duration_problems(here, "max_age", join.max_age_ms, hint)
    if join.kind == "table":
        if not right.table:
            yield Problem(here, f"{right.event} is not read as a table", "the right side of a table join is one")
        if right.key != (events[right.event].key,):
            hint = f"a table is keyed by its message key, '{events[right.event].key}'"
            yield Problem(here, f"table {right.event} by {', '.join(right.key)}", hint)
    if not left.key:
        yield Problem(here, "a join without a key", "every row would meet every other: by=...")


def _key_text(read: StreamInput, kinds: Sequence[str | None]) -> str:
    return ", ".join(f"{read.event}.{part} ({kind})" for part, kind in zip(read.key, kinds, strict=True)) or "no key"


def _type(event: EventType, name: str) -> str | None:
    return next((field.type for field in event.fields if field.name == name), None)


def _interval_problems(here: Path, join: Join) -> Iterator[Problem]:
    if join.before_ms < 0 or join.after_ms < 0:
        yield Problem(here, "before or after is negative", "the interval holds the left row's own time")
    else:
        hint = 'say how far apart partners may be: after="1h"'
        yield from _duration_problems(here, "the interval", join.before_ms + join.after_ms, hint)


def _measure_problems(here: Path, stream: Stream, events: Mapping[str, EventType]) -> Iterator[Problem]:
    if stream.measures and stream.window is None:
        yield Problem(here, "measures without a window", "write window=...")
        return
    if [measure.id for measure in stream.measures] != [f"m{index}" for index in range(len(stream.measures))]:
        yield Problem(here, "measure ids are not m0, m1, ... in order")
        return
    read = stream.inputs[0]
    fields = {field.name: field for field in events[read.event].fields}
    for measure in stream.measures:
        place = (*here, measure.id)
        if measure.event != read.event:
            yield Problem(place, f"is over {measure.event}, the stream reads {read.event}", "a window reads one event")
            continue
        broken = list(measure_problems(place, measure, events[read.event]))
        yield from broken
        if broken:
            continue
        arrays = {array for text in (measure.value, measure.where) if text for array in parse(text, fields).arrays}
        for array in sorted(arrays - {read.each}):
            yield Problem(place, f"is over items of '{array}'", f"read one row for each: each='{array}'")
    yield from _term_problems(here, stream)


def _term_problems(here: Path, stream: Stream) -> Iterator[Problem]:
    measures = {measure.id: measure for measure in stream.measures}
    for item in stream.fields:
        if item.source != "aggregate":
            continue
        place = (*here, item.name)
        if item.kind is None or item.measure not in measures:
            yield Problem(place, f"{item.kind} of unknown measure '{item.measure}'")
            continue
        yield from term_problems(place, Term(item.measure, item.kind, 1, 0, item.argument), measures[item.measure])
