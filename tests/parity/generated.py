"""Generated logs: late, duplicate, tied, deleted, null, skewed clocks, rekeyed, lagging, two sources, hot key.

Feature sets are those of the law's worlds (whatever kinds they hold), with windows drawn anew; the fields of an event
are filled by their types, so that new fields and kinds join by being declared there. Topics take the producers' time:
the append time is the generator's, and the edges of poison can be met exactly.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from headrace.contracts.partition import partition_for
from headrace.plan.ir import EventType, Feature, FeatureSet, Field, Plan, Term
from parity.owned import REQUEST, asking, keyed_by_entity
from parity.worlds import UNDECODABLE, How, Mode, Questions, Segment, Sent, World, shifts
from support import law_worlds
from support.law_sets import random_set

MIN_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
START_MS = 1_370_000_000_000 // HOUR_MS * HOUR_MS
PLACES = ("EWR", "JFK", "LGA", "BOS", "", "Zürich", "東京")
WORDS = (*PLACES, "AA", "UA")
SEEN = (How.PLAIN, How.COMMITTED)  # what readers get to see
RANDOM_SETS = 2  # of each world
REMEMBERED = 60


@dataclass(frozen=True, slots=True)
class Shape:
    """What is special about one world. rates: records a day and event; hot: share of the hot key."""

    records: int
    rate_day: int
    hot: float
    lag_ms: int  # the last partition of each event runs behind by so much
    sleeps: bool  # and is silent in the middle
    skew_ms: int  # clocks of producers and brokers differ by up to this
    transactions: float  # share of segments
    mode: Mode = Mode.ONE


SHAPES = (
    Shape(0, 400, 0.2, 0, False, 0, 0.2),
    Shape(0, 400, 0.6, 3 * HOUR_MS, True, 20 * MIN_MS, 0.3, Mode.TWO),
    Shape(0, 1_200, 0.9, 0, False, 5 * MIN_MS, 0.1, Mode.IMPORTED),
    Shape(0, 500, 0.5, 2 * HOUR_MS, False, 10 * MIN_MS, 0.3, Mode.OWNED),
    Shape(0, 300, 0.4, 20 * HOUR_MS, True, 25 * MIN_MS, 0.6),
    Shape(0, 600, 0.3, 5 * HOUR_MS, False, 0, 0.4, Mode.TWO),
    Shape(0, 300, 0.6, 20 * HOUR_MS, True, 25 * MIN_MS, 0.3, Mode.IMPORTED),
)


def law_world(seed: int, number: int, records: int, reads: int) -> World:
    """records: of the busier event; reads: at least so many values are asked, of each set about the same entities."""
    rng, shape = random.Random(f"{seed}/{number}"), replace(SHAPES[number % len(SHAPES)], records=records)
    name = f"law{seed}x{number}"
    owned = shape.mode is Mode.OWNED
    events = tuple(replace(e, topic=f"{name}.{e.name}.v1") for e in law_worlds.EVENTS.values())
    sets = tuple(drawn(rng, s, name) for s in (owned_sets(rng) if owned else feature_sets(rng)))
    if owned:
        events, sets = keyed_by_entity(events, sets)
    models = tuple(asking(s, REQUEST) for s in sets if owned)
    plan = Plan(name, "ops", events, (), sets, models, hash=hashlib.sha256(name.encode()).hexdigest())
    span = records * DAY_MS // shape.rate_day
    log = sorted((r for e in events for r in _log(rng, e, shape, span, sets)), key=lambda r: r[0])
    steps = _steps(rng, [sent for _, sent in log], shape)
    asks = 0 if owned else -(-reads // sum(len(s.features) for s in sets))
    drawing = np.random.default_rng([seed, number])
    questions = {s.name: _questions(rng, drawing, s, events, shape, span, asks) for s in sets}
    requests = sum(
        1 for step in steps for s in step if s.how in SEEN for r in s.records if r.event == REQUEST and r.fields is not None
    )  # fmt: skip
    return World(
        name, plan, lambda: iter(steps), len(steps), questions, 5, (1, 7, 60, 1_000, 8_000), True, mode=shape.mode,
        requests=requests if owned else 0,
    )  # fmt: skip


def feature_sets(rng: random.Random) -> list[FeatureSet]:
    """Every feature set the law's worlds declare, and some of their random sets, which hold every kind there is."""
    found = {v.name: v for v in vars(law_worlds).values() if isinstance(v, FeatureSet)}
    sets = [found[name] for name in sorted(found)]
    sets += [replace(random_set(rng.randrange(1 << 30)), name=f"random_{i}") for i in range(RANDOM_SETS)]
    return sets


def owned_sets(rng: random.Random) -> list[FeatureSet]:
    """One declared set and random ones of one entity field, which is all an owner can have."""
    found = [law_worlds.ORIGIN_LOAD]
    while len(found) < 1 + RANDOM_SETS:
        made = replace(random_set(rng.randrange(1 << 30)), name=f"random_{len(found)}")
        found += [made] if made.entity == law_worlds.ORIGIN_LOAD.entity and REQUEST in made.events else []
    return found


def drawn(rng: random.Random, feature_set: FeatureSet, salt: str) -> FeatureSet:
    """The same measures and hops under other windows, never longer, whole hops or not."""

    def window(feature: Feature) -> Feature:
        return replace(feature, terms=tuple(replace(t, window_ms=_window(rng, t)) for t in feature.terms))

    digest = hashlib.sha256(f"{salt}/{feature_set.name}".encode()).hexdigest()
    features = tuple(window(f) for f in feature_set.features)
    return replace(feature_set, features=features, hash=digest, partitions=rng.randint(1, 3))


def _window(rng: random.Random, term: Term) -> int:
    x = rng.random()
    if x < 0.3:
        return term.window_ms
    if x < 0.8 and term.hop_ms:
        return rng.randint(1, max(1, term.window_ms // term.hop_ms)) * term.hop_ms
    return rng.randint(MIN_MS, term.window_ms)


# ---------------------------------------------------------------- records


@dataclass(slots=True)
class _Part:
    """What the generator remembers of one source partition: M, and ids with M after them."""

    maximum: int | None = None
    ids: deque[tuple[int, dict[str, Any]]] = field(default_factory=lambda: deque(maxlen=4_000))


def _log(
    rng: random.Random, event: EventType, shape: Shape, span: int, sets: Sequence[FeatureSet]
) -> Iterator[tuple[int, Sent]]:
    """(moment of sending, record) of one event."""
    parts = [_Part() for _ in range(event.partitions)]
    skews = [rng.randint(-shape.skew_ms, shape.skew_ms) if shape.skew_ms else 0 for _ in parts]
    past: deque[tuple[int, dict[str, Any]]] = deque(maxlen=REMEMBERED)
    entity_fields = {name for s in sets for name in s.entity}
    count = shape.records if event.dedup_id else shape.records // 3
    for number, at in enumerate(sorted(START_MS + rng.randint(0, span) for _ in range(count))):
        p = rng.randrange(len(parts))
        last = p == len(parts) - 1 and len(parts) > 1
        if last and shape.sleeps and 0.4 < (at - START_MS) / span < 0.6:
            p, last = 0, False
        part, append = parts[p], at + skews[p] - rng.randint(0, 5 * MIN_MS)  # append times go back too
        old = rng.choice(past)[1] if past and rng.random() < 0.15 else None
        origin: object = None
        if shape.mode is Mode.OWNED:  # the entity says the partition
            origin = old["origin"] if old else _entity_part(rng, Field("origin", "string"), shape.hot)
            p = partition_for(str(origin), len(parts))
            part, append, last = parts[p], at + skews[p] - rng.randint(0, 5 * MIN_MS), p == len(parts) - 1
        time = _time(rng, event, part, append) - (shape.lag_ms if last else 0)
        if past and rng.random() < 0.1:
            time = past[-1][0]  # tied
        fields = _fields(rng, event, entity_fields, shape.hot, time, f"F{number}", old)
        if shape.mode is Mode.OWNED:
            fields["origin"] = origin
        edge = _edge(rng, event, part, append)
        if edge is not None:  # M rises by the horizon to the millisecond, then the id comes again
            raised = {**fields, event.time: edge[0]}
            yield at, Sent(event.name, str(raised[event.key]), raised, p, append)
            part.maximum = edge[0]
            fields = {**edge[1], event.time: edge[0] - rng.choice((0, MIN_MS))}
        past.append((fields[event.time], fields))
        yield at, _sent(rng, event, fields, p, append)
        if fields[event.time] <= append + event.poison_bound_ms:
            time = int(fields[event.time])
            top = part.maximum = time if part.maximum is None else max(part.maximum, time)
            if event.dedup_id and fields[event.dedup_id] is not None:
                part.ids.append((top, fields))


def _time(rng: random.Random, event: EventType, part: _Part, append: int) -> int:
    x = rng.random()
    late, bound = event.lateness_ms, event.poison_bound_ms
    if x < 0.12 and part.maximum is not None:
        return part.maximum - late - rng.randint(0, 1)  # the last in time, the first late
    if x < 0.16:
        return append + bound + rng.randint(0, 1)  # the last credible, the first poison
    time = append - (
        rng.randint(0, 2 * MIN_MS) if x < 0.6
        else rng.randint(0, late) if x < 0.8
        else rng.randint(late, 4 * HOUR_MS) if x < 0.86
        else -rng.randint(0, min(bound, 5 * MIN_MS)) if x < 0.97
        else -bound - 10 * HOUR_MS
    )  # fmt: skip
    return time // (5 * MIN_MS) * (5 * MIN_MS) if rng.random() < 0.3 else time


def _edge(rng: random.Random, event: EventType, part: _Part, append: int) -> tuple[int, dict[str, Any]] | None:
    """(event time that raises M exactly to, or one beyond, the horizon of an earlier id, that record)."""
    while event.dedup_id and part.ids and part.maximum is not None:
        after, fields = part.ids[0]
        target = after + event.dedup_horizon_ms + rng.randint(0, 1)
        if target <= part.maximum or target < append - 10 * MIN_MS:
            part.ids.popleft()
            continue
        return (target, fields) if target <= append + event.poison_bound_ms and rng.random() < 0.3 else None
    return None


def _fields(
    rng: random.Random, event: EventType, entity: set[str], hot: float, time: int, ident: str, old: dict[str, Any] | None
) -> dict[str, Any]:
    if old is not None:  # the same id again, perhaps with another body
        fields = dict(old)
        return fields if rng.random() < 0.5 else {**fields, event.time: time}
    out: dict[str, Any] = {}
    for f in event.fields:
        if f.name == event.time:
            out[f.name] = time
        elif f.name == event.dedup_id:
            out[f.name] = None if f.nullable and rng.random() < 0.04 else ident
        elif f.name in entity:
            out[f.name] = _entity_part(rng, f, hot)
        else:
            out[f.name] = None if f.nullable and rng.random() < 0.15 else value_of(rng, f)
    for record in event.records:
        if any(out[path] is None for path in record.required):  # then it is no such record, and nothing is in it
            out |= {f.name: None for f in event.fields if f.name.startswith(record.path + ".")}
    return out


def _entity_part(rng: random.Random, f: Field, hot: float) -> object:
    if f.nullable and rng.random() < 0.04:
        return None
    if f.type == "string":
        return PLACES[0] if rng.random() < hot else rng.choice(PLACES)
    return rng.random() < 0.5 if f.type == "boolean" else rng.randint(0, 2)


def value_of(rng: random.Random, f: Field) -> object:
    """A value of the field's type inside its declared range: often small, sometimes at the edges; arrays hold a few."""
    if f.item is not None:
        one = replace(f, type=f.item, item=None)
        return [value_of(rng, one) for _ in range(rng.choice((0, 1, 1, 3, f.items_max)))]
    if f.type == "string":
        return rng.choice(WORDS)
    if f.type == "boolean":
        return rng.random() < 0.5
    if f.type == "timestamp":
        return START_MS + rng.randint(0, 100 * DAY_MS)
    limit = 2**31 - 1 if f.type == "int" else 2**39
    low = -limit if f.minimum is None else f.minimum
    high = limit if f.maximum is None else f.maximum
    x = rng.random()
    number = (
        min(high, max(low, rng.randint(-9, 60))) if x < 0.6
        else rng.choice((low, high, min(high, max(low, 0)))) if x < 0.65
        else rng.randint(low, high)
    )  # fmt: skip
    return number / 4 if f.type in ("float", "double") else number


def _sent(rng: random.Random, event: EventType, fields: dict[str, Any], p: int, append: int) -> Sent:
    x, key = rng.random(), str(fields[event.key])
    if x < 0.02:
        return Sent(event.name, key, None, p, append)  # deleted
    if x < 0.04:
        return Sent(event.name, key, None, p, append, UNDECODABLE)
    return Sent(event.name, key, fields, p, append)


# ---------------------------------------------------------------- how they are sent, what is asked


def _steps(rng: random.Random, records: list[Sent], shape: Shape) -> list[list[Segment]]:
    steps: list[list[Segment]] = []
    start = 0
    while start < len(records):
        step: list[Segment] = []
        for _ in range(rng.randint(1, 8)):
            size = rng.choice((1, 3, 20, 200))
            piece = records[start : start + size]
            start += size
            if not piece:
                break
            if rng.random() >= shape.transactions:
                step.append(Segment(How.PLAIN, piece))
            elif rng.random() < 0.5:
                step.append(Segment(How.COMMITTED, piece))
            else:  # what is aborted looks as good as what is not
                ghosts = rng.sample(records[max(0, start - 400) : start], min(len(piece), 30))
                step.append(Segment(How.ABORTED if rng.random() < 0.5 else How.INTERLEAVED, ghosts))
                step.append(Segment(How.PLAIN, piece))
        steps.append(step)
    return steps


def _questions(
    rng: random.Random, asking: np.random.Generator, feature_set: FeatureSet, events: Sequence[EventType], shape: Shape,
    span: int, asks: int,
) -> Questions:  # fmt: skip
    fields = {f.name: f for e in events for f in e.fields}
    rows = [{n: _entity_part(rng, fields[n], shape.hot) for n in feature_set.entity} for _ in range(asks)]
    shift, anchored = shifts(asking, asks, feature_set.stale_after_ms, feature_set.ttl_ms)
    due = np.sort(START_MS + HOUR_MS + asking.integers(0, span, asks))
    return Questions(due, rows, shift, anchored)
