"""The year of flights as the demo plays it: the streams of schemas/pipelines/flights, cut into steps of event time."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl

from headrace.plan.routing import sampled

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
DATA = ("departures", "arrivals", "weather")  # what features are made of
TRACE_SALT, TRACE_BP = "trace", 40  # of the flights that ask: about one a day
OWN_PRODUCER = "HA"  # this carrier publishes its arrivals itself, with a producer that is not ours


def load_source(root: Path) -> ModuleType:
    """The flights pipeline's data source; pipelines are no package, users keep theirs anywhere."""
    path = root / "schemas" / "pipelines" / "flights" / "source.py"
    spec = importlib.util.spec_from_file_location("flights_source", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True, slots=True)
class Step:
    """Events of [start_ms, end_ms). `needs` is what features must have seen before its requests may be asked: per data
    stream the event time of its last event before start_ms."""

    start_ms: int
    end_ms: int
    needs: Mapping[str, int]

    def hours(self) -> Iterator[Step]:
        """The same cut into steps of an hour."""
        for low in range(self.start_ms, self.end_ms, HOUR_MS):
            yield Step(low, min(low + HOUR_MS, self.end_ms), self.needs)


@dataclass(frozen=True)
class Year:
    """Streams by name, and which flights carry a trace."""

    streams: Mapping[str, Any]
    begin_ms: int
    play_ms: int
    end_ms: int
    seed: int
    traces: Mapping[str, str] = field(default_factory=dict)  # flight_id -> traceparent

    @classmethod
    def load(cls, root: Path, folder: Path, *, null: bool, seed: int, until: tuple[int, int, int] | None = None) -> Year:
        """Args: null: whole days permuted by `seed`; until: first local day that is not played any more."""
        source = load_source(root)
        streams = source.event_streams(folder, permute_days_seed=seed if null else None)
        play_ms = source.utc_ms(*source.PLAY_FROM)
        begin_ms = min(int(stream.times[0]) for stream in streams.values()) // HOUR_MS * HOUR_MS
        last = source.utc_ms(*until) if until else max(int(stream.times[-1]) for stream in streams.values()) + 1
        asked = streams["scheduled"].between(play_ms, last).filter(pl.col("ask"))["flight_id"].to_list()
        traced = {ident: traceparent(seed, ident) for ident in asked if sampled(TRACE_SALT, ident, TRACE_BP)}
        return cls(streams, begin_ms, play_ms, last, seed, traced)

    def history(self, step_ms: int) -> Iterator[Step]:
        """Steps from the first event to the first day of play."""
        for low in range(self.begin_ms, self.play_ms, step_ms):
            yield Step(low, min(low + step_ms, self.play_ms), self.needs(low))

    def steps(self, step_ms: int = HOUR_MS) -> Iterator[Step]:
        """Steps of play, at most `step_ms` long; hours in which nobody asks are joined to the one before."""
        times = self.streams["scheduled"].times
        low = self.play_ms
        while low < self.end_ms:
            high = low + step_ms
            after = int(np.searchsorted(times, high, side="left"))
            following = int(times[after]) // HOUR_MS * HOUR_MS if after < len(times) else self.end_ms
            high = min(max(high, following), self.end_ms)
            yield Step(low, high, self.needs(low))
            low = high

    def needs(self, before_ms: int) -> dict[str, int]:
        """Per data stream the time of its last event before `before_ms`."""
        found = {}
        for name in DATA:
            at = int(np.searchsorted(self.streams[name].times, before_ms, side="left"))
            if at:
                found[name] = int(self.streams[name].times[at - 1])
        return found

    def requests(self, step: Step) -> int:
        return self.streams["scheduled"].between(step.start_ms, step.end_ms).height

    def last_request_ms(self, step: Step) -> int:
        """Event time of the step's last request; there must be one."""
        times = self.streams["scheduled"].times
        return int(times[int(np.searchsorted(times, step.end_ms, side="left")) - 1])

    def lines(self, name: str, start_ms: int, end_ms: int) -> list[bytes]:
        """JSON lines of a stream, without those another producer publishes in play, traced flights with their context."""
        part = self.streams[name].between(start_ms, end_ms)
        if name == "arrivals" and start_ms >= self.play_ms:
            part = part.filter(pl.col("carrier") != OWN_PRODUCER)
        if not part.height:
            return []
        lines = part.write_ndjson().encode().splitlines()
        if name != "weather" and start_ms >= self.play_ms:
            for at in np.flatnonzero(part["flight_id"].is_in(self._traced).to_numpy()):
                context = self.traces[part["flight_id"][int(at)]]
                lines[at] = lines[at][:-1] + b',"_traceparent":"' + context.encode() + b'"}'
        return lines

    @cached_property
    def _traced(self) -> list[str]:
        return list(self.traces)

    def published(self, start_ms: int, end_ms: int) -> list[dict[str, Any]]:
        """Arrivals the carrier publishes itself, as rows of the topic's schema."""
        if start_ms < self.play_ms:
            return []
        return self.streams["arrivals"].between(start_ms, end_ms).filter(pl.col("carrier") == OWN_PRODUCER).to_dicts()


def traceparent(seed: int, flight_id: str) -> str:
    """A sampled W3C trace context of its own for a flight, the same for all its events."""
    digest = hashlib.sha256(f"{seed}/{flight_id}".encode()).hexdigest()
    return f"00-{digest[:32]}-{digest[32:48]}-01"
