"""Whatever stream can be written compiles to a sound plan that survives its JSON, and the same again to the same hash."""

from __future__ import annotations

from typing import Any, Literal

from hypothesis import given
from hypothesis import strategies as st

from headrace.declare import (
    AsOfJoin,
    Count,
    Decimal,
    Event,
    Hopping,
    IntervalJoin,
    Items,
    Long,
    Nullable,
    Pipeline,
    Range,
    Scale,
    Session,
    Sliding,
    TableJoin,
    Text,
    Timestamp,
    Tumbling,
    compile,
    stream,
)
from headrace.declare.fields import Annotated
from headrace.plan.hashes import from_json, to_json
from headrace.plan.ir import JoinHow, Plan
from headrace.plan.report import text
from headrace.plan.validate import validate


class Left(Event, topic="lefts", key="id", time="at_left", lateness="1m"):
    id: Text
    user: Nullable[Text]
    shop: Long
    amount: Annotated[Decimal, Scale(2), Range(0, 1_000)]
    tags: Items[Text]
    at_left: Timestamp


class Right(Event, topic="rights", key="user", time="at_right", lateness="5m", poison_bound="1m"):
    user: Text
    shop: Long
    price: Nullable[Annotated[Decimal, Scale(2), Range(0, 1_000)]]
    at_right: Timestamp


DURATIONS = st.sampled_from(["1s", "90s", "1h", "7d"])
KEYS = st.sampled_from([None, (), "user", "shop", ("user", "shop"), ("shop", "id")])
WINDOWS = st.one_of(
    DURATIONS.map(Tumbling),
    DURATIONS.map(lambda hop: Hopping("7d", hop=hop) if hop in ("1h", "7d") else Hopping("90s", hop="60s")),
    DURATIONS.map(Sliding),
    DURATIONS.map(Session),
    st.integers(1, 100_000).map(Count),
)
AGGREGATES: dict[str, Any] = {
    "rows": Left.count(),
    "dear": Left.count(where="amount > 1.5"),
    "total": Left.amount.sum(),
    "least": Left.amount.min(where=Left.shop == 1),
    "newest": Left.amount.last(),
    "oldest": Left.shop.first(),
    "spread": Left.amount.stddev(),
    "users": Left.user.distinct(),
    "estimate": Left.user.distinct_estimate(),
    "median": Left.amount.quantile("0.5", buckets=[1, 10, "99.5"]),
    "ago": Left.since(unit="1s"),
    "recent": Left.amount.last_values(3),
    "kinds": Left.user.word_counts(["a", "b"]),
    "top": Left.user.top(2, ["a", "b", "c"]),
}
COLUMNS: dict[str, Any] = {
    "amount": Left.amount,
    "double": Left.amount * 2,
    "who": Left.user.if_null("nobody"),
    "known": Left.user.is_not_null(),
    "hour": Left.at_left.hour("Europe/Berlin"),
}
RIGHTS: dict[str, Any] = {"price": Right.price, "seen": Right.at_right, "cheap": Right.price < 1}


def chosen(known: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.lists(st.sampled_from(sorted(known)), min_size=1, unique=True).map(lambda names: {n: known[n] for n in names})


@st.composite
def streams(draw: st.DrawFn) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """(what is read, keyword arguments, attributes)."""
    options: dict[str, Any] = {
        "partitions": draw(st.integers(1, 64)),
        "store": draw(st.sampled_from(["rocksdb", "memory"])),
        "tick": draw(st.sampled_from([None, "5s"])),
    }
    kind = draw(st.sampled_from(["window", "distinct", "map", "each", "interval", "as_of", "table"]))
    if kind == "window":
        window, emit = draw(WINDOWS), draw(st.sampled_from(["close", "update", "both"]))
        return (
            Left,
            options | {"by": draw(KEYS), "window": window, "emit": emit, "where": "amount > 0"},
            draw(chosen(AGGREGATES)),
        )
    if kind in ("distinct", "map"):
        return (
            Left,
            options | {"by": draw(KEYS), "distinct": draw(DURATIONS) if kind == "distinct" else None},
            draw(chosen(COLUMNS)),
        )
    if kind == "each":
        return Left, options | {"each": "tags", "by": draw(KEYS)}, draw(chosen({**COLUMNS, "tag": Left.tags.each()}))
    how: Literal["inner", "left"] = draw(st.sampled_from(["inner", "left"]))
    interval: JoinHow = draw(st.sampled_from([how, "outer"]))
    by: Any = draw(st.sampled_from(["user", "shop", ("shop", "user")]))
    joins: dict[str, Any] = {
        "interval": IntervalJoin(Left, Right, by=by, before=draw(DURATIONS), how=interval),
        "as_of": AsOfJoin(Left, Right, by=by, max_age=draw(DURATIONS), how=how),
        "table": TableJoin(Left, Right, by="user", how=how),
    }
    return joins[kind], options, {**draw(chosen(COLUMNS)), **draw(chosen(RIGHTS))}


def plan_of(source: Any, options: dict[str, Any], attributes: dict[str, Any]) -> Plan:
    made = stream(source, **options)(type("Made", (), dict(attributes)))
    again = stream(made, by=(), window=Count(5))(type("Again", (), {"rows_seen": made.count()}))
    return compile(Pipeline("random", owner="ops", events=[Left, Right], streams=[again, made]))


@given(streams())
def test_what_can_be_written_is_sound_and_keeps_its_hash(drawn: tuple[Any, dict[str, Any], dict[str, Any]]) -> None:
    plan = plan_of(*drawn)
    validate(plan)
    assert from_json(to_json(plan)) == plan
    assert plan_of(*drawn).hash == plan.hash
    assert [item.name for item in plan.streams] == ["made", "again"]
    assert text(plan).count("made") > 3


@given(streams(), st.sampled_from(["partitions", "tick", "store"]))
def test_of_what_surrounds_the_operator_only_the_store_moves_no_hash(
    drawn: tuple[Any, dict[str, Any], dict[str, Any]], name: str
) -> None:
    source, options, attributes = drawn
    other = {"partitions": 65, "tick": "9s", "store": "memory" if options["store"] == "rocksdb" else "rocksdb"}
    before, after = plan_of(*drawn), plan_of(source, options | {name: other[name]}, attributes)
    moved = [a.hash != b.hash for a, b in zip(before.streams, after.streams, strict=True)]
    assert moved == ([False, False] if name == "store" else [True, True])
