"""A stream's hash moves with all that can change a result, and takes along the streams, sets and models that read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.declare import compile, load
from headrace.plan import hashes
from headrace.plan.hashes import sealed, set_hash, stream_hash, to_json
from headrace.plan.ir import Carried, Distinct, EventType, Field, Plan, Stream

PIPELINES = Path(__file__).parents[3] / "schemas" / "pipelines"
CLICKS = compile(load(PIPELINES / "clicks"))
Change = Callable[[Plan], Plan]

# Over which streams each stands, itself included; and whether the feature set stands over it.
BELOW = {
    "clicks": {"shop_ten_seconds", "page_minutes", "burst", "visit", "page_hundred", "view", "view_outcome", "last_touch"},
    "purchases": {"purchase_line", "view_outcome", "priced_line", "dear_line", "last_touch"},
    "products": {"priced_line", "dear_line"},
}


def on(name: str, change: Callable[[Stream], Stream]) -> Change:
    return lambda plan: replace(plan, streams=tuple(change(item) if item.name == name else item for item in plan.streams))


def on_event(name: str, change: Callable[[EventType], EventType]) -> Change:
    return lambda plan: replace(plan, events=tuple(change(item) if item.name == name else item for item in plan.events))


def with_field(name: str, field: str, **changes: Any) -> Change:
    return on_event(name, lambda e: replace(e, fields=tuple(replace(f, **changes) if f.name == field else f for f in e.fields)))


def moved(change: Change) -> tuple[set[str], bool]:
    """Names of the streams whose hash a change moves, and whether the set's moves."""
    after = sealed(change(CLICKS))
    before = {item.name: item.hash for item in CLICKS.streams}
    streams = {item.name for item in after.streams if item.hash != before[item.name]}
    return streams, after.feature_sets[0].hash != CLICKS.feature_sets[0].hash


def window(**changes: Any) -> Callable[[Stream], Stream]:
    return lambda s: replace(s, window=replace(s.window, **changes)) if s.window else s


def join(**changes: Any) -> Callable[[Stream], Stream]:
    return lambda s: replace(s, join=replace(s.join, **changes)) if s.join else s


def read(index: int, **changes: Any) -> Callable[[Stream], Stream]:
    return lambda s: replace(s, inputs=tuple(replace(r, **changes) if at == index else r for at, r in enumerate(s.inputs)))


@pytest.mark.parametrize(
    "change",
    [
        window(gap_ms=1),
        window(emit="both"),
        read(0, where="dwell > 0"),
        read(0, key=("page",)),
        lambda s: replace(s, tick_ms=1_000),
        lambda s: replace(s, partitions=8),
        lambda s: replace(s, measures=(replace(s.measures[0], where="dwell > 1"), *s.measures[1:])),
        lambda s: replace(s, fields=(*s.fields[:-1], replace(s.fields[-1], kind="min"))),
    ],
)
def test_what_can_change_a_result_moves_the_stream_and_the_set_that_reads_it(change: Callable[[Stream], Stream]) -> None:
    assert moved(on("visit", change)) == ({"visit"}, True)


@pytest.mark.parametrize(
    ("name", "change", "streams"),
    [
        ("view", lambda s: replace(s, distinct=Distinct(1)), {"view", "view_outcome"}),
        ("purchase_line", read(0, where="amount > 1"), {"purchase_line", "view_outcome", "priced_line", "dear_line"}),
        ("priced_line", join(how="inner"), {"priced_line", "dear_line"}),
        ("last_touch", join(max_age_ms=1), {"last_touch"}),
        ("view_outcome", join(before_ms=1), {"view_outcome"}),
        ("dear_line", read(0, columns=(Carried("visitor", "visitor"), Carried("cents", "price * 10"))), {"dear_line"}),
    ],
)
def test_a_change_moves_every_stream_further_down(name: str, change: Callable[[Stream], Stream], streams: set[str]) -> None:
    assert moved(on(name, change)) == (streams, bool(streams & {"visit", "burst", "priced_line"}))


@pytest.mark.parametrize(
    "change",
    [
        on("visit", lambda s: replace(s, owner="someone")),
        on("visit", lambda s: replace(s, store="memory")),
        on_event("page_minutes", lambda e: replace(e, lateness_ms=e.lateness_ms + 1)),  # of its readers, and it has none
        with_field("page_minutes", "clicks", doc="how many", unit="1"),
        on_event("purchases", lambda e: replace(e, fields=(*e.fields, Field("extra", "string", nullable=True)))),
    ],
)
def test_owner_store_docs_and_fields_nobody_reads_move_nothing(change: Change) -> None:
    assert moved(change) == (set(), False)
    assert sealed(change(CLICKS)).hash != CLICKS.hash


@pytest.mark.parametrize("event", list(BELOW))
def test_the_law_of_an_event_moves_all_that_is_made_of_it(event: str) -> None:
    streams, moves = moved(on_event(event, lambda e: replace(e, lateness_ms=e.lateness_ms + 1)))
    assert (streams, moves) == (BELOW[event], bool(BELOW[event] & {"visit", "burst", "priced_line"}))


def test_a_field_moves_only_the_streams_that_read_it() -> None:
    """A range rejects whole records; a text without one matters to who reads it."""
    assert moved(with_field("clicks", "campaign", nullable=False))[0] == {"view", "view_outcome", "last_touch"}
    assert moved(with_field("clicks", "dwell", maximum=1))[0] == BELOW["clicks"]


def test_how_late_results_may_be_moves_their_readers_alone() -> None:
    assert moved(on_event("visits", lambda e: replace(e, lateness_ms=e.lateness_ms + 1))) == (set(), True)
    assert moved(on_event("views", lambda e: replace(e, lateness_ms=e.lateness_ms + 1))) == ({"view_outcome"}, False)


def test_the_topic_of_results_moves_the_stream() -> None:
    assert moved(on_event("page_minutes", lambda e: replace(e, topic="clicks.page-minutes.v2"))) == ({"page_minutes"}, False)


def test_the_semantics_version_and_the_layout_of_a_slot_move_what_they_concern(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = {item.name for item in CLICKS.streams}
    assert moved(lambda plan: replace(plan, semantics_version=plan.semantics_version + 1)) == (everything, True)
    monkeypatch.setitem(hashes.ir.SLOT_WIDTH, "histogram", 2)
    assert {item.name for item in CLICKS.streams if stream_hash(CLICKS, item.name) != item.hash} == {"page_hundred"}


@pytest.mark.parametrize("name", ["flights", "cards", "orders", "payments"])
def test_streams_move_no_hash_of_a_plan_without_them(name: str) -> None:
    """Goal: live state survives the release that brings streams. Method: the material of a set is as it was, byte for byte."""
    plan = compile(load(PIPELINES / name))
    assert b'"streams"' not in to_json(plan)
    for item in plan.feature_sets:
        assert hashes._derived(plan, item.events, None) == {}
        assert set_hash(plan, item.name) == item.hash


def test_a_set_over_a_derived_event_names_its_stream_and_no_other() -> None:
    events = CLICKS.feature_sets[0].events
    makers = {item.output: item.hash for item in CLICKS.streams}
    assert hashes._derived(CLICKS, events, None) == {"streams": {event: makers[event] for event in events}}


def test_a_ladder_of_joins_is_hashed_once_a_stream() -> None:
    """Goal: a plan sent to admission cannot stall it. Method: thirty streams that each read the last two, over their views."""
    first = next(item for item in CLICKS.streams if item.name == "view")
    output = next(event for event in CLICKS.events if event.name == "views")
    streams, events = [first], list(CLICKS.events)
    join = next(item for item in CLICKS.streams if item.name == "view_outcome")
    for number in range(30):
        below = [streams[-1].output, streams[max(0, len(streams) - 2)].output]
        inputs = tuple(replace(first.inputs[0], event=event, columns=()) for event in below)
        name = f"rung_{number}"
        streams.append(replace(join, name=name, output=name, inputs=inputs, fields=()))
        events.append(replace(output, name=name, topic=f"clicks.{name}.v1"))
    plan = sealed(replace(CLICKS, streams=tuple(streams), events=tuple(events), feature_sets=()))
    assert len({item.hash for item in plan.streams}) == 31


def test_streams_that_read_each_other_do_not_hang_what_seals_them() -> None:
    circle = on("view", read(0, event="view_outcomes", where=None, columns=()))(CLICKS)
    assert all(len(item.hash) == 64 for item in sealed(circle).streams)
