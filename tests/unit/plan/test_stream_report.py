"""What `headrace plan` says of streams: the tree, the steps of a row, the state, what a change moves, and lineage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.declare import compile, load
from headrace.plan import difference, ir, report, report_streams, retained, stream_costs
from headrace.plan.hashes import sealed
from headrace.plan.ir import EventType, FeatureSet, Field, Measure, OutputField, Plan, Stream, StreamInput, Window
from headrace.plan.lineage import as_text, lineage
from headrace.plan.slots import layout_of
from headrace.plan.validate import validate

PIPELINES = Path(__file__).parents[3] / "schemas" / "pipelines"
CLICKS = compile(load(PIPELINES / "clicks"))
MINUTE_MS, DAY_MS = 60_000, 86_400_000


def on(plan: Plan, name: str, change: Callable[[Stream], Stream]) -> Plan:
    return sealed(replace(plan, streams=tuple(change(item) if item.name == name else item for item in plan.streams)))


def stream_of(name: str) -> Stream:
    return next(item for item in CLICKS.streams if item.name == name)


def block(plan: Plan, name: str, load: report.Load) -> list[str]:
    """Lines of one stream in the report."""
    lines = report_streams.stream_lines(plan, load)
    start = next(number for number, line in enumerate(lines) if line.startswith(f"{name} "))
    end = next((n for n in range(start + 1, len(lines)) if not lines[n].startswith(" ")), len(lines))
    return lines[start:end]


def test_the_tree_goes_from_every_producer_to_every_reader() -> None:
    lines = report_streams.tree_lines(CLICKS)
    roots = [line.partition("  ")[0] for line in lines if line[0] not in "|` "]
    assert roots == ["clicks.clicks.v1", "clicks.purchases.v1", "clicks.products.v1"]
    text = "\n".join(lines)
    for item in CLICKS.streams:
        output = next(event for event in CLICKS.events if event.name == item.output)
        assert f"{item.name}  {report_streams.operator_text(item)}" in text
        assert f"-> {output.topic}" in text
    assert text.count("- view_outcome  ") == 2  # under each side of the join
    assert text.count("- visitor_week  feature set") == 4


def test_a_row_is_told_where_it_is_judged_filtered_and_rekeyed() -> None:
    assert block(CLICKS, "visit", report.Load())[1] == (
        "  clicks.clicks.v1 -> judge (late 1m, ahead 1m, click_id once in 1h) -> keyed already by visitor"
    )
    assert "rekey by page over 2 partitions" in block(CLICKS, "page_minutes", report.Load())[1]
    assert "each of products -> key purchase_id" in block(CLICKS, "purchase_line", report.Load())[1]
    assert "filter `price > 500` -> key category" in block(CLICKS, "dear_line", report.Load())[1]
    assert "  no state" in block(CLICKS, "dear_line", report.Load())


@pytest.mark.parametrize("change", ["key", "partitions", "topic"])
def test_keys_lie_in_their_partition_only_if_key_count_and_partitioner_are_ours(change: str) -> None:
    visit = stream_of("visit")
    events = {event.name: event for event in CLICKS.events}
    altered = {
        "key": replace(events["clicks"], key="page"),
        "partitions": replace(events["clicks"], partitions=8),
        "topic": replace(events["clicks"], topic="shop.clicks.v1"),  # another's topic, another's partitioner
    }[change]
    plan = replace(CLICKS, events=tuple(altered if event.name == "clicks" else event for event in CLICKS.events))
    assert stream_costs.keyed_already(CLICKS, visit)
    assert not stream_costs.keyed_already(plan, visit)


def test_state_is_keys_times_open_windows_times_bytes() -> None:
    """By hand: a tile of rows, nonnull and sum is four numbers of eight bytes beside key and place."""
    stream = stream_of("visit")
    width = layout_of(_pseudo(stream), "clicks").width
    (held,) = stream_costs.held(CLICKS, stream)
    assert held.entry_bytes == 16 + 32 + 8 * width
    assert held.most == 60_000 // (30 * MINUTE_MS) + 2
    lines = block(CLICKS, "visit", report.Load(keys={"visitor": 1_000_000}))
    expected = 1_000_000 * held.most * held.entry_bytes
    assert f"estimated state of 1,000,000 keys: {report_streams.bytes_text(expected)}" in "\n".join(lines)


def _pseudo(stream: Stream):
    from headrace.plan.ir import FeatureSet

    return FeatureSet(stream.name, (), (stream.inputs[0].event,), stream.measures, (), 0, 0)


def test_seldom_rows_leave_few_windows_open_and_many_never_more_than_there_can_be() -> None:
    stream = stream_of("page_minutes")
    (held,) = stream_costs.held(CLICKS, stream)
    assert held.most == 11 + 2  # eleven panes of a minute, and both edges
    span = 11 * MINUTE_MS
    assert held.per_key(1.0) == span / DAY_MS
    assert held.per_key(1e9) == held.per_key(None) == held.most


def test_what_only_a_rate_would_tell_is_said_to_be_unknown() -> None:
    unknown = "\n".join(block(CLICKS, "view_outcome", report.Load(keys={"view_outcome": 10})))
    assert (
        "depends on how often rows of a key come in a day: --rate view_outcome.purchase_lines=N --rate view_outcome.views=N"
        in unknown
    )
    rates = {"purchase_lines": 1.0, "views": 2.0}
    known = "\n".join(block(CLICKS, "view_outcome", report.Load(keys={"view_outcome": 10}, events_a_day=rates)))
    assert "estimated state of 10 keys" in known
    views, lines = stream_costs.held(CLICKS, stream_of("view_outcome"))
    late = 5 * MINUTE_MS  # of the slower side
    assert (views.span_ms, lines.span_ms) == (late + DAY_MS, late)


def test_a_rate_of_an_event_is_of_a_key_unless_the_stream_has_its_own() -> None:
    given = {"clicks": 20.0, "page_minutes.clicks": 5_000.0}
    assert report_streams.rates_of(stream_of("visit"), given) == {"clicks": 20.0}
    assert report_streams.rates_of(stream_of("page_minutes"), given) == {"clicks": 5_000.0}
    assert report_streams.rates_of(stream_of("shop_ten_seconds"), given) == {}  # all rows have its one key


def test_a_stream_of_all_rows_has_one_key_whoever_asks() -> None:
    assert report_streams.keys_of(stream_of("shop_ten_seconds"), {}) == 1
    assert report_streams.keys_of(stream_of("view"), {"visitor,product": 5}) == 5
    assert report_streams.keys_of(stream_of("view"), {"view": 6, "visitor,product": 5}) == 6
    assert report_streams.keys_of(stream_of("view"), {}) is None


def test_the_report_is_stable_and_one_without_streams_does_not_speak_of_them() -> None:
    assert report.text(CLICKS) == report.text(CLICKS)
    assert "streams" not in report.text(compile(load(PIPELINES / "orders"))).split("feature sets")[0]


def test_a_table_that_falls_silent_and_results_later_than_allowed_are_warned_of() -> None:
    assert report_streams.stream_warnings(CLICKS) == []
    silent = on(CLICKS, "priced_line", lambda s: replace(s, tick_ms=None))
    assert "priced_line waits for products" in "\n".join(report.warnings(silent))
    events = tuple(replace(e, lateness_ms=1, poison_bound_ms=1) if e.name == "view_outcomes" else e for e in CLICKS.events)
    (line,) = report_streams.stream_warnings(sealed(replace(CLICKS, events=events)))
    assert line.startswith("results of view_outcome are taken as late after 1ms, but may come 1d5m behind")
    memory = on(CLICKS, "priced_line", lambda s: replace(s, store="memory"))
    assert "keeps the whole of products in memory" in "\n".join(report.warnings(memory))


def test_a_change_of_a_stream_is_told_with_what_it_moves() -> None:
    after = on(CLICKS, "visit", lambda s: replace(s, window=Window("session", gap_ms=60_000)))
    found = {change.name: change for change in difference.changes(after, CLICKS)}
    assert set(found) == {"visit", "visitor_week"}
    assert (found["visit"].verb, found["visit"].what) == ("changed", ("window",))
    assert "is built anew" in found["visit"].effect
    impact = difference.impact(after, CLICKS)
    assert impact.of("goes")[0] == f"visit {stream_of('visit').hash[:8]}"
    owned = on(CLICKS, "visit", lambda s: replace(s, owner="x"))
    (change,) = difference.changes(owned, CLICKS)
    assert change.effect == "no result moves: its state stays"
    fewer = sealed(replace(CLICKS, streams=tuple(s for s in CLICKS.streams if s.name != "last_touch")))
    assert ("last_touch", "removed") in {(change.name, change.verb) for change in difference.changes(fewer, CLICKS)}


def test_an_event_says_which_streams_its_change_moves() -> None:
    events = tuple(replace(e, lateness_ms=e.lateness_ms + 1) if e.name == "products" else e for e in CLICKS.events)
    changes = {change.name: change for change in difference.changes(sealed(replace(CLICKS, events=events)), CLICKS)}
    assert changes["products"].effect == "values move in priced_line"


def test_topics_say_who_makes_them() -> None:
    carried = {name: what for name, _, what in difference.topics(CLICKS)}
    assert carried["clicks.visits.v1"] == "Visit by visitor, made by visit"
    assert carried["clicks.clicks.v1"] == "Clicked by visitor"


def test_lineage_goes_through_streams_to_the_fields_producers_send() -> None:
    graph = lineage(CLICKS)
    read = graph.fields("feature:visitor_week.dwell_7d")
    assert {"visits.dwell", "clicks.dwell", "clicks.click_id", "visits.visitor", "clicks.visitor"} <= read
    assert "purchase_lines.product" in graph.fields("feature:visitor_week.spent_7d")
    assert "products.price" in graph.fields("feature:visitor_week.spent_7d")
    assert not any(name.startswith("products.") for name in graph.fields("field:visits.dwell"))
    text = as_text(graph)
    assert "topic clicks.visits.v1 <- visit" in text
    assert "field visits.dwell\n  <- sum of dwell (clicks.dwell)" in text
    assert "field last_touches.seconds\n  <- clicks.dwell (dwell // 1000)" in text


def test_a_stream_depends_on_a_field_exactly_if_its_hash_does() -> None:
    """Over every field of every event: a change there moves the streams that lineage says read it, those that read their
    results, and no other. Method: nullable where it was not, which parses everywhere but means another value."""
    graph = lineage(CLICKS)
    before = {item.name: item.hash for item in CLICKS.streams}
    for event in CLICKS.events:
        for field in event.fields:
            altered = replace(
                event, fields=tuple(replace(f, nullable=not f.nullable) if f == field else f for f in event.fields)
            )
            plan = sealed(replace(CLICKS, events=tuple(altered if e.name == event.name else e for e in CLICKS.events)))
            moved = {item.name for item in plan.streams if item.hash != before[item.name]}
            made = {item.name for item in CLICKS.streams if item.output == event.name}
            told = {
                item.name
                for item in CLICKS.streams
                if f"{event.name}.{field.name}" in graph.fields(f"topic:{_topic(item)}") | _values(graph.fields, item)
            }
            assert moved == _down(told | made), (event.name, field.name)


def _topic(stream: Stream) -> str:
    return next(event.topic for event in CLICKS.events if event.name == stream.output)


def _maker(event: str) -> str:
    return next((item.name for item in CLICKS.streams if item.output == event), "")


def _values(fields: Callable[[str], frozenset[str]], stream: Stream) -> frozenset[str]:
    return frozenset().union(*(fields(f"field:{stream.output}.{item.name}") for item in stream.fields))


def _down(names: set[str]) -> set[str]:
    """These streams and all that read what they make."""
    found = set(names)
    for item in CLICKS.streams:
        if any(_maker(read.event) in found for read in item.inputs):
            found.add(item.name)
    return found


def test_a_retained_version_keeps_the_streams_its_sets_stand_on() -> None:
    """A model of an older plan goes on; what makes the events its sets read goes on with it, and no other stream."""
    plan = _with_model()
    cut = retained.cut_down(plan, {"buys"})
    validate(cut)
    assert [item.name for item in cut.streams] == ["visits"]
    assert {event.name for event in cut.events} == {"clicks", "visits", "buys"}
    assert cut.streams[0].hash == next(item.hash for item in plan.streams if item.name == "visits")
    validate(retained.with_retained(plan, (cut,)))


def _with_model() -> Plan:
    clicks = EventType(
        "clicks", "Clicked", "small.clicks.v1", "user", "at", (Field("user", "string"), Field("at", "timestamp")), 60_000, 1_000
    )
    buys = EventType(
        "buys", "Bought", "small.buys.v1", "id", "at",
        (Field("id", "string"), Field("user", "string"), Field("at", "timestamp"), Field("back", "boolean")), 60_000, 1_000,
    )  # fmt: skip

    def made(name: str) -> tuple[EventType, Stream]:
        fields = (Field("user", "string"), Field("at", "timestamp"), Field("n", "long"))
        results = (
            OutputField("user", "key"), OutputField("at", "time"), OutputField("n", "aggregate", measure="m0", kind="count"),
        )  # fmt: skip
        event = EventType(name, name.title(), f"small.{name}.v1", "user", "at", fields, 60_000, 1_000)
        read = (StreamInput("clicks", ("user",)),)
        measures = (Measure("m0", "clicks", None, None, ("rows",)),)
        return event, Stream(name, name, read, results, Window("session", gap_ms=1_000), measures=measures)

    (visits, by_visit), (others, by_other) = made("visits"), made("others")
    load = FeatureSet(
        "load", ("user",), ("visits",), (Measure("m0", "visits", None, None, ("rows",)),),
        (ir.Feature("n_1h", (ir.Term("m0", "count", 3_600_000, 60_000),)),), DAY_MS, 60_000,
    )  # fmt: skip
    model = ir.Model(
        "buys", "buys", 10_000, "id", "id", None, ir.Label("buys", "back", "id", 1),
        (ir.Input("n_1h", "feature", "load", "n_1h"),),
        "gradient_boosting", (), "0.5", (), 50, "n_1h > 1", "n_1h", False, 0, ir.Rollout((100,), 1),
        ir.Watch(("n_1h",), DAY_MS, 200, 500), "ops",
    )  # fmt: skip
    return sealed(Plan("small", "ops", (clicks, buys, visits, others), (), (load,), (model,), streams=(by_visit, by_other)))
