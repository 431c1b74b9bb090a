"""Each rule of streams, broken alone in a sound plan, is told at its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.declare import compile, load
from headrace.plan.expressions import parse
from headrace.plan.hashes import PlanFormatError, from_json, sealed, to_json
from headrace.plan.ir import (
    Carried,
    Distinct,
    EventType,
    Field,
    Join,
    NestedRecord,
    Plan,
    Source,
    Stream,
    StreamInput,
    Window,
)
from headrace.plan.stream_types import may_be_null
from headrace.plan.validate import PlanError, validate

CLICKS = compile(load(Path(__file__).parents[3] / "schemas" / "pipelines" / "clicks"))
Change = Callable[[Plan], Plan]


def on(name: str, change: Callable[[Stream], Stream]) -> Change:
    return lambda plan: replace(plan, streams=tuple(change(item) if item.name == name else item for item in plan.streams))


def on_event(name: str, change: Callable[[EventType], EventType]) -> Change:
    return lambda plan: replace(plan, events=tuple(change(item) if item.name == name else item for item in plan.events))


def on_input(name: str, index: int, **changes: Any) -> Change:
    def changed(stream: Stream) -> Stream:
        inputs = [replace(read, **changes) if at == index else read for at, read in enumerate(stream.inputs)]
        return replace(stream, inputs=tuple(inputs))

    return on(name, changed)


def on_output(stream_name: str, field: str, /, **changes: Any) -> Change:
    """Of the results' fields in the stream."""

    def changed(stream: Stream) -> Stream:
        return replace(stream, fields=tuple(replace(f, **changes) if f.name == field else f for f in stream.fields))

    return on(stream_name, changed)


def on_field(event: str, field: str, /, **changes: Any) -> Change:
    """Of the results' fields in the event."""
    return on_event(
        event, lambda e: replace(e, fields=tuple(replace(f, **changes) if f.name == field else f for f in e.fields))
    )


def on_measure(name: str, **changes: Any) -> Change:
    return on(name, lambda s: replace(s, measures=(replace(s.measures[0], **changes), *s.measures[1:])))


def windowed(name: str, **changes: Any) -> Change:
    return on(name, lambda s: replace(s, window=replace(s.window or Window("tumbling"), **changes)))


def joined(name: str, **changes: Any) -> Change:
    return on(name, lambda s: replace(s, join=replace(s.join or Join("interval"), **changes)))


def moved_last(name: str) -> Change:
    def changed(plan: Plan) -> Plan:
        (item,) = [item for item in plan.streams if item.name == name]
        return replace(plan, streams=(*(other for other in plan.streams if other.name != name), item))

    return changed


def test_the_plan_to_break_is_sound() -> None:
    validate(CLICKS)


@pytest.mark.parametrize(
    ("change", "path", "detail"),
    [
        (on("visit", lambda s: replace(s, name="Visit")), ("stream", "Visit"), "stream name 'Visit'"),
        (on("visit", lambda s: replace(s, name="burst")), ("stream", "burst"), "declared twice"),
        (on("visit", lambda s: replace(s, output="visit")), ("stream", "visit"), "unknown event 'visit'"),
        (on("visit", lambda s: replace(s, output="bursts")), ("stream", "visit"), "written by burst and visit"),
        (on("visit", lambda s: replace(s, distinct=Distinct(1))), ("stream", "visit"), "more than one of window"),
        (on("visit", lambda s: replace(s, inputs=())), ("stream", "visit"), "0 inputs"),
        (on("view_outcome", lambda s: replace(s, inputs=s.inputs[:1])), ("stream", "view_outcome"), "1 inputs"),
        (on("visit", lambda s: replace(s, partitions=0)), ("stream", "visit"), "0 partitions"),
        (on("visit", lambda s: replace(s, partitions=3)), ("stream", "visit"), "3 partitions, its topic 4"),
        (on("visit", lambda s: replace(s, tick_ms=0)), ("stream", "visit"), "tick is not positive"),
        (on_input("visit", 0, event="clickz"), ("stream", "visit"), "unknown event 'clickz'"),
        (on_input("visit", 0, event="visits"), ("stream", "visit"), "reads its own results"),
        (on_input("purchase_line", 0, event="view_outcomes"), ("stream", "purchase_line"), "makes only after it"),
        (moved_last("view"), ("stream", "view_outcome"), "reads views, which view makes only after it"),
        (lambda p: replace(p, sources=(Source("s", "visits", "http_json_lines"),)), ("source", "s"), "what stream visit makes"),
        # keys
        (on_input("visit", 0, key=("visitr",)), ("stream", "visit"), "unknown key field 'visitr'"),
        (on_input("visit", 0, key=("visitor", "visitor")), ("stream", "visit"), "names a field twice"),
        (on_input("purchase_line", 0, key=("products",)), ("stream", "purchase_line"), "'products' is a array"),
        (on_input("dear_line", 0, key=("price",)), ("stream", "dear_line"), "'price' is a decimal"),
        (on_input("view_outcome", 1, key=("visitor",)), ("stream", "view_outcome"), "keys differ"),
        (on_input("last_touch", 1, key=("dwell",)), ("stream", "last_touch"), "keys differ: purchases.visitor (string)"),
        (on_input("last_touch", 0, key=()), ("stream", "last_touch"), "keys differ"),
        # what is read
        (on_input("visit", 0, each="page"), ("stream", "visit"), "each: 'page' is a string"),
        (on_input("visit", 0, each="pages"), ("stream", "visit"), "unknown array 'pages'"),
        (on_input("visit", 0, where="dwel > 1"), ("stream", "visit"), "unknown column 'dwel'"),
        (on_input("visit", 0, where="dwell"), ("stream", "visit"), "where `dwell` is a integer"),
        (on_input("visit", 0, where="(dwell > 1)"), ("stream", "visit"), "is not canonical"),
        (on_input("purchase_line", 0, each=None), ("stream", "purchase_line", "product"), "for each item of 'products'"),
        (on_input("view", 0, columns=(Carried("page", "page"),) * 2), ("stream", "view", "page"), "comes twice"),
        (on_input("view", 0, columns=(Carried("page", "pag"),)), ("stream", "view", "page"), "unknown column 'pag'"),
        (on_input("visit", 0, columns=(Carried("page", "page"),)), ("stream", "visit"), "columns beside a window"),
        (on_input("purchase_line", 0, columns=(Carried("a", "products"),)), ("stream", "purchase_line", "a"), "is a array of"),
        (on_input("visit", 0, table=True), ("stream", "visit"), "clicks is read as a table"),
        (on_input("priced_line", 0, table=True), ("stream", "priced_line"), "purchase_lines is read as a table"),
        (on_input("priced_line", 1, table=False), ("stream", "priced_line"), "products is not read as a table"),
        (on_input("priced_line", 1, key=("category",)), ("stream", "priced_line"), "table products by category"),
        (on_input("priced_line", 1, where="price > 1"), ("stream", "priced_line"), "where on a table"),
        (on_input("view_outcome", 1, event="views"), ("stream", "view_outcome"), "joined with itself"),
        # windows
        (windowed("visit", gap_ms=0), ("stream", "visit"), "gap of a session is not positive"),
        (windowed("visit", size_ms=1), ("stream", "visit"), "size_ms of a session window"),
        (windowed("page_minutes", size_ms=-1), ("stream", "page_minutes"), "size of a hopping window is not positive"),
        (windowed("page_minutes", hop_ms=0), ("stream", "page_minutes"), "hop 0s of a window of 10m"),
        (windowed("page_minutes", hop_ms=600_001), ("stream", "page_minutes"), "hop 10m1ms of a window"),
        (windowed("page_minutes", hop_ms=59_999), ("stream", "page_minutes"), "600,000 panes of 1ms"),
        (windowed("page_hundred", rows=100_001), ("stream", "page_hundred"), "100001 rows"),
        (windowed("burst", size_ms=2**60), ("stream", "burst"), "state without an end"),
        # joins
        (joined("view_outcome", before_ms=-1), ("stream", "view_outcome"), "before or after is negative"),
        (joined("view_outcome", after_ms=0), ("stream", "view_outcome"), "the interval is not positive"),
        (joined("view_outcome", max_age_ms=1), ("stream", "view_outcome"), "max_age of a interval join"),
        (joined("last_touch", max_age_ms=None), ("stream", "last_touch"), "an as-of join without max_age"),
        (joined("last_touch", after_ms=1), ("stream", "last_touch"), "an interval of a as_of join"),
        (joined("last_touch", how="outer"), ("stream", "last_touch"), "a as_of join is inner or left"),
        (joined("priced_line", how="outer"), ("stream", "priced_line"), "a table join is inner or left"),
        (on("view", lambda s: replace(s, distinct=Distinct(0))), ("stream", "view"), "distinct is not positive"),
        # measures
        (on_measure("visit", id="x"), ("stream", "visit"), "measure ids are not m0"),
        (on_measure("visit", event="purchases"), ("stream", "visit", "m0"), "is over purchases, the stream reads clicks"),
        (on_measure("visit", where="dwell >1"), ("stream", "visit", "m0"), "is not canonical"),
        (on_measure("visit", slots=("nonnull",)), ("stream", "visit", "clicks"), "lacks rows"),
        (on("view", lambda s: replace(s, measures=CLICKS.streams[0].measures)), ("stream", "view"), "measures without"),
        (on_output("visit", "clicks", measure="m9"), ("stream", "visit", "clicks"), "unknown measure 'm9'"),
        (on_output("visit", "clicks", argument=1), ("stream", "visit", "clicks"), "argument 1 of count"),
        # results
        (on_output("visit", "clicks", name="klicks"), ("stream", "visit"), "results hold visitor, at"),
        (on_output("visit", "visitor", index=1), ("stream", "visit", "visitor"), "part 1 of the key"),
        (on_output("view", "page", column="pag"), ("stream", "view", "page"), "unknown column 'pag'"),
        (on_output("view", "page", index=1), ("stream", "view", "page"), "column of input 1"),
        (on_output("view", "clicked_at", source="window_end"), ("stream", "view", "clicked_at"), "window end without"),
        (on_output("visit", "clicks", source="column"), ("stream", "visit", "clicks"), "a column of a window"),
        (on_output("visit", "clicks", source="final"), ("stream", "visit", "clicks"), "every result is of one kind"),
        (on_field("visits", "clicks", type="int"), ("stream", "visit", "clicks"), "declared a int, but comes out as a long"),
        (on_field("dear_lines", "cents", scale=1), ("stream", "dear_line", "cents"), "decimal of scale 1"),
        (on_field("view_outcomes", "purchase_id", nullable=False), ("stream", "view_outcome", "purchase_id"), "can be null"),
        (on_event("visits", lambda e: replace(e, dedup_id="visitor")), ("stream", "visit"), "results have a duplicate id"),
        (on_event("visits", lambda e: replace(e, time="window_end")), ("stream", "visit"), "results is 'window_end'"),
        (on_event("views", lambda e: replace(e, key="visitor")), ("stream", "view"), "results are keyed by 'visitor'"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_told_at_its_place(change: Change, path: tuple[str, ...], detail: str) -> None:
    with pytest.raises(PlanError) as caught:
        validate(change(CLICKS), check_hashes=False)
    found = [problem for problem in caught.value.problems if detail in problem.detail]
    assert found, str(caught.value)
    assert path in [problem.path for problem in found]


def test_results_have_no_records_inside() -> None:
    nested = on_event(
        "visits", lambda e: replace(e, records=(NestedRecord("a", "A"),), fields=(*e.fields, Field("a.b", "long")))
    )
    with pytest.raises(PlanError):
        validate(nested(CLICKS), check_hashes=False)


def test_two_streams_that_read_each_other_are_refused() -> None:
    """Goal: no circle. Method: a stream reads what is made of its own results."""
    circle = on_input("view", 0, event="view_outcomes", where=None, columns=())
    with pytest.raises(PlanError) as caught:
        validate(circle(CLICKS), check_hashes=False)
    assert any("two that read each other never end" in problem.hint for problem in caught.value.problems)


def test_a_stream_altered_after_sealing_is_refused() -> None:
    with pytest.raises(PlanError, match="hashes do not match"):
        validate(windowed("visit", gap_ms=60_000)(CLICKS))
    validate(sealed(windowed("visit", gap_ms=60_000)(CLICKS)))


@pytest.mark.parametrize(
    ("written", "path", "detail"),
    [
        (b'"kind":"session"', "streams[3].window.kind", "none of 'tumbling'"),
        (b'"store":"memory"', "streams[2].store", "none of 'rocksdb'"),
        (b'"source":"window_start"', "streams[0].fields[2].source", "none of"),
        (b'"how":"left"', "streams[7].join.how", "none of 'inner'"),
    ],
)
def test_a_word_a_plan_does_not_know_is_refused_when_it_is_read(written: bytes, path: str, detail: str) -> None:
    name = written.partition(b":")[0]
    altered = to_json(CLICKS).replace(written, name + b':"other"', 1)
    assert altered != to_json(CLICKS)
    with pytest.raises(PlanFormatError) as caught:
        from_json(altered)
    assert (caught.value.path, detail in caught.value.detail) == (path, True)


FIELDS = {
    "a": Field("a", "long", minimum=0, maximum=9),
    "n": Field("n", "long", nullable=True, minimum=0, maximum=9),
    "s": Field("s", "string"),
    "d": Field("d", "double"),
    "xs": Field("xs", "array", item="long", items_max=3),
}


@pytest.mark.parametrize(
    ("text", "nullable"),
    [
        ("a", False), ("n", True), ("a + 1", False), ("a + n", True), ("a // 2", True), ("a % 2", True), ("-a", False),
        ("abs(n)", True), ("n is null", False), ("a > 1 and n > 1", True), ("not a > 1", False), ("coalesce(n, a)", False),
        ("coalesce(n, n)", True), ("case when n > 1 then 1 end", True), ("case when n > 1 then a else 0 end", False),
        ("greatest(a, n)", False), ("upper(s)", True), ("d", False), ("d * 2", True), ("each(xs)", False), ("'x'", False),
    ],
)  # fmt: skip
def test_only_what_is_shown_never_to_be_null_is_taken_as_such(text: str, nullable: bool) -> None:
    assert may_be_null(parse(text, FIELDS, allow_float=True).root, FIELDS) is nullable


def test_an_input_without_each_reads_no_items_in_its_measures() -> None:
    read = StreamInput("purchases", ("visitor",))
    stream = next(item for item in CLICKS.streams if item.name == "visit")
    measure = replace(stream.measures[0], event="purchases", value="EACH(products)", slots=("distinct",), size=64)
    plan = on("visit", lambda s: replace(s, inputs=(read,), measures=(measure,), fields=s.fields[:4]))(CLICKS)
    with pytest.raises(PlanError) as caught:
        validate(plan, check_hashes=False)
    assert any("is over items of 'products'" in problem.detail for problem in caught.value.problems)
