"""How the year is cut into steps, and which flights carry a trace."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import orjson
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from headrace_demo.year import DATA, HOUR_MS, Year, traceparent

PLAY_MS = 1000 * HOUR_MS


@dataclass
class Stream:
    """As the pipeline's source makes them."""

    frame: pl.DataFrame
    times: np.ndarray

    def between(self, start_ms: int, end_ms: int) -> pl.DataFrame:
        low, high = np.searchsorted(self.times, (start_ms, end_ms), side="left")
        return self.frame.slice(int(low), int(high - low))


def stream(times: list[int], prefix: str = "f") -> Stream:
    times = sorted(times)
    frame = pl.DataFrame(
        {"flight_id": [f"{prefix}{at}" for at in range(len(times))], "carrier": "UA", "at": times},
        schema={"flight_id": pl.String, "carrier": pl.String, "at": pl.Int64},
    )
    return Stream(frame, np.array(times, dtype=np.int64))


def year(asked: list[int], data: list[int], end_ms: int, traces: dict[str, str] | None = None) -> Year:
    streams = {"scheduled": stream(asked), **{name: stream(data) for name in DATA}}
    return Year(streams, PLAY_MS - 48 * HOUR_MS, PLAY_MS, end_ms, 1, traces or {})


times = st.lists(st.integers(PLAY_MS - 40 * HOUR_MS, PLAY_MS + 90 * HOUR_MS), min_size=1, max_size=40)


@given(times, times)
def test_steps_of_play_follow_each_other_without_gap_to_the_end(asked: list[int], data: list[int]) -> None:
    end = PLAY_MS + 100 * HOUR_MS
    steps = list(year(asked, data, end).steps())
    assert steps[0].start_ms == PLAY_MS
    assert steps[-1].end_ms == end
    assert all(before.end_ms == after.start_ms for before, after in pairwise(steps))


@given(times, times)
def test_no_request_is_more_than_an_hour_after_the_start_of_its_step(asked: list[int], data: list[int]) -> None:
    """What features must have seen ends at the step's start, so this bounds their lag."""
    for step in year(asked, data, PLAY_MS + 100 * HOUR_MS).steps():
        inside = [at for at in asked if step.start_ms <= at < step.end_ms]
        assert all(at - step.start_ms < HOUR_MS for at in inside)


@given(times, times)
def test_a_step_needs_the_last_event_of_each_stream_before_it(asked: list[int], data: list[int]) -> None:
    for step in year(asked, data, PLAY_MS + 100 * HOUR_MS).steps():
        before = [at for at in data if at < step.start_ms]
        assert step.needs == (dict.fromkeys(DATA, max(before)) if before else {})


def test_a_traced_flight_carries_the_same_trace_in_all_its_events() -> None:
    context = traceparent(7, "f0")
    played = year([PLAY_MS + 1], [PLAY_MS + 1], PLAY_MS + HOUR_MS, {"f0": context})
    found = {
        name: [orjson.loads(line) for line in played.lines(name, PLAY_MS, PLAY_MS + HOUR_MS)]
        for name in ("scheduled", "departures", "arrivals")
    }
    assert {name: rows[0]["_traceparent"] for name, rows in found.items()} == dict.fromkeys(found, context)


def test_a_trace_context_is_sampled_and_well_formed_and_differs_by_flight_and_seed() -> None:
    contexts = {traceparent(seed, ident) for seed in (1, 2) for ident in ("a", "b")}
    assert len(contexts) == 4
    for context in contexts:
        version, trace_id, span_id, flags = context.split("-")
        assert (version, len(trace_id), len(span_id), flags) == ("00", 32, 16, "01")
