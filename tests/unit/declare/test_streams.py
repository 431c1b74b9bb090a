"""Streams as users write them: what they become in the plan, and mistakes told at their line."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from headrace.declare import DeclarationError, compile, load
from headrace.plan import ir
from headrace.plan.hashes import from_json, to_json
from headrace.plan.validate import validate

CLICKS = Path(__file__).parents[3] / "schemas" / "pipelines" / "clicks"

SOUND = """
from __future__ import annotations
from headrace.declare import *

class Ordered(Event, topic="orders", key="order_id", time="ordered_at", lateness="2h", dedup=("order_id", "6h")):
    order_id: Text
    ordered_at: Timestamp
    customer: Nullable[Text]
    shop: Long
    kinds: Items[Text]
    total: Annotated[Decimal, Scale(2), Range(0, 50_000), Unit("EUR")]
    weight: Double
    gift: Flag

class Shipped(Event, topic="shipments", key="shipment_id", time="shipped_at", lateness="1h", poison_bound="2m"):
    shipment_id: Text
    of_order: Text
    shop: Long
    shipped_at: Timestamp
    cost: Annotated[Long, Range(0, 1000)]

class Customer(Event, topic="customers", key="id", time="changed_at", lateness="1h"):
    id: Text
    changed_at: Timestamp
    tier: Text

@stream(Ordered, by="customer", where="not gift", window=Tumbling("10s"), emit="both", owner="sales")
class CustomerTen:
    orders = Ordered.count()
    total = described(Ordered.total.sum(), Range(0, 1_000_000), Doc("spent"))
    dear = Ordered.total.max(where="total > 100")
    newest = Ordered.total.last()
    spread = Ordered.total.stddev()
    recent = Ordered.total.last_values(2)

@stream(IntervalJoin(Ordered, Shipped, by={Ordered: "order_id", Shipped: "of_order"}, before="5m", after="1d", how="left"),
        where={Shipped: "cost > 0"}, topic="deliveries", partitions=4)
class OrderShipped:
    total = Ordered.total
    weight = Ordered.weight
    shipped_at = Shipped.shipped_at
    cost = Shipped.cost + 1

@stream(TableJoin(Ordered, Customer, by="customer", how="left"), where=Ordered.total > 1, tick="5s")
class OrderCustomer:
    tier = Customer.tier
    total = Ordered.total

@stream(Ordered, each="kinds", where="each(kinds) <> 'toy'")
class OrderKind:
    kind = Ordered.kinds.each()

@stream(OrderKind, by="kind", window=Hopping("60s", hop="5s"), store="memory")
class KindMinute:
    orders = OrderKind.count()

@stream(Shipped, by=("of_order", "shop"), distinct="6h")
class FirstShipped:
    pass

@stream(Shipped, by=(), window=Count(100), time="told_at")
class Hundred:
    cost = Shipped.cost.sum()

@feature_set(entity="customer", ttl="3d")
class CustomerLoad:
    total_mean_1h = CustomerTen.total.mean().over("1h", hop="5m")
    orders_1h = CustomerTen.orders.sum().over("1h", hop="5m")

shop = Pipeline("shop", owner="ops", events=[Ordered, Shipped, Customer], feature_sets=[CustomerLoad],
                streams=[KindMinute, CustomerTen, OrderShipped, OrderCustomer, OrderKind, FirstShipped, Hundred])
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "pipeline.py"
    file.write_text(textwrap.dedent(text))
    return file


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> ir.Plan:
    return compile(load(written(tmp_path_factory.mktemp("streams"), SOUND)))


def stream_of(plan: ir.Plan, name: str) -> ir.Stream:
    return next(item for item in plan.streams if item.name == name)


def output_of(plan: ir.Plan, name: str) -> ir.EventType:
    return next(event for event in plan.events if event.name == stream_of(plan, name).output)


def shown(event: ir.EventType) -> list[tuple[str, str, bool]]:
    return [(field.name, field.type, field.nullable) for field in event.fields]


def test_the_plan_is_sound_and_survives_its_json(sound: ir.Plan) -> None:
    validate(sound)
    assert from_json(to_json(sound)) == sound
    assert all(len(item.hash) == 64 for item in sound.streams)


def test_a_stream_stands_after_those_it_reads_and_else_as_declared(sound: ir.Plan) -> None:
    assert [item.name for item in sound.streams] == [
        "order_kind", "kind_minute", "customer_ten", "order_shipped", "order_customer", "first_shipped", "hundred",
    ]  # fmt: skip


def test_a_window_says_its_key_its_bounds_and_whether_it_is_final(sound: ir.Plan) -> None:
    event, stream = output_of(sound, "customer_ten"), stream_of(sound, "customer_ten")
    assert shown(event) == [
        ("customer", "string", False),  # rows without a customer have no place
        ("at", "timestamp", False),
        ("window_start", "timestamp", False),
        ("window_end", "timestamp", False),
        ("final", "boolean", False),
        ("orders", "long", False),
        ("total", "decimal", False),
        ("dear", "decimal", True),  # no dear order, no maximum
        ("newest", "decimal", False),
        ("spread", "double", False),
        ("recent_1", "decimal", False),
        ("recent_2", "decimal", True),
    ]
    assert (event.key, event.time, event.topic, event.record) == ("customer", "at", "shop.customer-ten.v1", "CustomerTen")
    assert (stream.window, stream.owner) == (ir.Window("tumbling", size_ms=10_000, emit="both"), "sales")
    assert stream.inputs == (ir.StreamInput("orders", ("customer",), "NOT gift"),)


def test_what_is_described_has_the_range_given_and_what_is_proven_the_range_proven(sound: ir.Plan) -> None:
    fields = {field.name: field for field in output_of(sound, "customer_ten").fields}
    assert (fields["total"].minimum, fields["total"].maximum, fields["total"].scale) == (0, 100_000_000, 2)
    assert (fields["total"].unit, fields["total"].doc) == ("EUR", "spent")
    assert (fields["newest"].minimum, fields["newest"].maximum) == (0, 5_000_000)
    cost = {field.name: field for field in output_of(sound, "order_shipped").fields}["cost"]
    assert (cost.minimum, cost.maximum, cost.nullable) == (1, 1001, True)
    hundred = {field.name: field for field in output_of(sound, "hundred").fields}["cost"]
    assert (hundred.minimum, hundred.maximum) == (0, 100_000)  # of a hundred rows


def test_aggregates_share_measures_as_in_a_feature_set(sound: ir.Plan) -> None:
    measures = stream_of(sound, "customer_ten").measures
    assert [measure.id for measure in measures] == [f"m{number}" for number in range(len(measures))]
    slots = {(measure.value, measure.where): measure.slots for measure in measures if len(measure.slots) > 1}
    assert slots == {
        ("total", None): ("nonnull", "sum", "square_lo", "square_hi"),  # the sum and the deviation
        ("total", "total > 100"): ("nonnull", "max"),
    }
    terms = {item.name: (item.kind, item.argument) for item in stream_of(sound, "customer_ten").fields if item.measure}
    assert (terms["recent_1"], terms["recent_2"]) == (("recent", 0), ("recent", 1))


def test_a_join_carries_each_value_from_its_side_and_its_own_key_names(sound: ir.Plan) -> None:
    stream = stream_of(sound, "order_shipped")
    assert stream.join == ir.Join("interval", "left", before_ms=300_000, after_ms=86_400_000)
    assert [read.key for read in stream.inputs] == [("order_id",), ("of_order",)]
    assert [read.where for read in stream.inputs] == [None, "cost > 0"]
    assert [column.name for read in stream.inputs for column in read.columns] == ["total", "weight", "shipped_at", "cost"]
    assert [item.index for item in stream.fields if item.source == "column"] == [0, 0, 1, 1]
    assert shown(output_of(sound, "order_shipped")) == [
        ("order_id", "string", False), ("at", "timestamp", False), ("total", "decimal", False), ("weight", "double", False),
        ("shipped_at", "timestamp", True), ("cost", "long", True),
    ]  # fmt: skip


def test_the_right_side_of_a_table_join_is_read_by_its_message_key(sound: ir.Plan) -> None:
    stream = stream_of(sound, "order_customer")
    assert [(read.event, read.key, read.table) for read in stream.inputs] == [
        ("orders", ("customer",), False), ("customers", ("id",), True),
    ]  # fmt: skip
    assert (stream.tick_ms, stream.inputs[0].where) == (5_000, "total > 1")


def test_a_key_of_several_fields_is_carried_in_parts_and_as_text(sound: ir.Plan) -> None:
    """A class without fields carries all there are."""
    event = output_of(sound, "first_shipped")
    assert shown(event) == [
        ("of_order", "string", False), ("shop", "long", False), ("key", "string", False), ("shipped_at", "timestamp", False),
        ("shipment_id", "string", False), ("cost", "long", False),
    ]  # fmt: skip
    assert (event.key, event.time) == ("key", "shipped_at")
    assert [(item.source, item.index) for item in stream_of(sound, "first_shipped").fields[:3]] == [
        ("key", 0), ("key", 1), ("key", -1),
    ]  # fmt: skip


def test_a_stream_of_all_rows_has_one_key(sound: ir.Plan) -> None:
    assert stream_of(sound, "hundred").inputs[0].key == ()
    assert (output_of(sound, "hundred").key, output_of(sound, "hundred").time) == ("key", "told_at")


def test_a_flat_map_has_one_row_for_each_item(sound: ir.Plan) -> None:
    (read,) = stream_of(sound, "order_kind").inputs
    assert (read.each, read.where, read.columns) == ("kinds", "EACH(kinds) <> 'toy'", (ir.Carried("kind", "EACH(kinds)"),))
    assert shown(output_of(sound, "order_kind"))[-1] == ("kind", "string", False)


@pytest.mark.parametrize(
    ("name", "lateness_ms", "poison_ms"),
    [
        ("customer_ten", 7_210_000, 300_000),  # an update may carry a time up to a window before its end
        ("order_shipped", 7_200_000 + 86_400_000, 300_000),  # told to be alone a day later
        ("order_customer", 7_200_000, 300_000),
        ("kind_minute", 7_200_000, 300_000),
        ("first_shipped", 3_600_000, 120_000),
    ],
)
def test_results_may_be_as_late_as_what_makes_them_causes(sound: ir.Plan, name: str, lateness_ms: int, poison_ms: int) -> None:
    event = output_of(sound, name)
    assert (event.lateness_ms, event.poison_bound_ms) == (lateness_ms, poison_ms)
    assert event.partitions == stream_of(sound, name).partitions


def test_loaded_history_makes_results_known_when_their_rows_are(tmp_path: Path) -> None:
    """All inputs of a result must be history for it to be: one live input, and its own append time counts."""
    some = SOUND.replace('lateness="1h", poison_bound="2m"', 'lateness="1h", poison_bound="2m", available_after="10m"')
    plan = compile(load(written(tmp_path, some)))
    assert output_of(plan, "first_shipped").available_after_ms == 600_000 + 3_600_000
    assert output_of(plan, "order_shipped").available_after_ms is None


def test_the_clicks_pipeline_shows_every_operator_and_is_sound() -> None:
    plan = compile(load(CLICKS))
    validate(plan)
    assert from_json(to_json(plan)) == plan
    assert {item.window.kind for item in plan.streams if item.window} == {"tumbling", "hopping", "sliding", "session", "count"}
    assert {item.join.kind for item in plan.streams if item.join} == {"interval", "as_of", "table"}
    assert any(item.distinct for item in plan.streams)
    assert any(read.each for item in plan.streams for read in item.inputs)
    assert compile(load(CLICKS)).hash == plan.hash


WINDOW = 'where="not gift", window=Tumbling("10s"), emit="both"'
JOIN = 'IntervalJoin(Ordered, Shipped, by={Ordered: "order_id", Shipped: "of_order"}, before="5m", after="1d", how="left")'


BOTH_KEYS = '{Ordered: "order_id", Shipped: "of_order"}'
TABLE = 'TableJoin(Ordered, Customer, by="customer"'
FIRST = '@stream(Shipped, by=("of_order", "shop"), distinct="6h")'
EVENTS = "events=[Ordered, Shipped, Customer]"


@pytest.mark.parametrize(
    ("old", "new", "marker", "detail", "hint"),
    [
        ("Ordered.total.sum()", "Ordered.totl.sum()", "total = described", "unknown field 'totl' of Ordered", "'total'"),
        ("orders = Ordered.count()", "orders = Ordered.total", "orders =", "has many values in a window", ".last()"),
        ("orders = Ordered.count()", "orders = Ordered.count().over('1h', hop='5m')", "orders =", "is a feature", ".over"),
        ("Ordered.total.last()", "Ordered.total.last(max_age='1h')", "newest =", "is a feature", "max_age"),
        ("orders = Ordered.count()", "orders = Shipped.count()", "orders =", "is of Shipped", "it reads Ordered"),
        ("orders = Ordered.count()", "orders: Long = Ordered.count()", "orders: Long", "is annotated", "described("),
        ("orders = Ordered.count()", "final = Ordered.count()", "final =", "has 'final' already", "another name"),
        ("orders = Ordered.count()", "customer = Ordered.count()", "customer =", "has 'customer' already", ""),
        ("orders = Ordered.count()", "count = Ordered.count()", "count =", "field name 'count' is taken", ""),
        ("spread = Ordered", "off = Ordered", "off =", "a column of the archive", "another name"),
        ("orders = Ordered.count()", "orders = 3", "orders = 3", "is no field", "Payment.amount"),
        ("orders = Ordered.count()", "orders = Ordered.weight.sum()", "orders =", "is a double", "Decimal"),
        ("orders = Ordered.count()", "orders = Ordered.shop.sum()", "orders =", "may overflow when summed", "Range("),
        ("orders = Ordered.count()", "orders = Ordered.customer.max()", "orders =", "is a string", "accumulators"),
        ("orders = Ordered.count()", "orders = Ordered.count(where='gft')", "orders =", "unknown column 'gft'", "'gift'"),
        ("Ordered.total.stddev()", "Ordered.kinds.each().count()", "spread =", "a value for each item", 'each="kinds"'),
        ("stddev()", "quantile('0.5', buckets=['0.001'])", "spread =", "lies between two values", "2 digits"),
        ("Range(0, 1_000_000), Doc", "Range(9, 1), Doc", "total = ", "range 900 to 100 is empty", ""),
        ("Ordered.total.stddev()", "described(Ordered.total.stddev(), Range(0, 1))", "spread =", "a range on spread", ""),
        (WINDOW, 'where="not gift"', "orders = ", "has no window", "window=Tumbling"),
        (WINDOW, 'emit="update"', "@stream(Ordered, by=", 'emit="update" without a window', "window="),
        (WINDOW, 'window=Tumbling("10s"), emit="late"', "@stream(Ordered, by=", 'emit="late"', "close, update, both"),
        (WINDOW, 'window=Tumbling("10s"), distinct="1h"', "@stream(Ordered, by=", "distinct beside a window", "two streams"),
        (WINDOW, 'window=Tumbling("0s")', "@stream(Ordered, by=", "size of a tumbling window is not positive", '"1m"'),
        (WINDOW, 'window=Tumbling("12w 4000d")', "@stream(Ordered, by=", "state without an end", "at most 3660d"),
        (WINDOW, 'window=Tumbling("10 sec")', "@stream(Ordered, by=", "'10 sec' is not a duration", "30s"),
        (WINDOW, 'window=Hopping("10s", hop="20s")', "@stream(Ordered, by=", "hop 20s of a window of 10s", "lost"),
        (WINDOW, 'window=Hopping("1d", hop="1s1ms")', "@stream(Ordered, by=", "panes of 1ms", "at most 10,000"),
        (WINDOW, 'window=Sliding("0s")', "@stream(Ordered, by=", "size of a sliding window", ""),
        (WINDOW, 'window=Session(gap="0s")', "@stream(Ordered, by=", "gap of a session is not positive", "30s"),
        (WINDOW, "window=Count(0)", "@stream(Ordered, by=", "a window of 0 rows", "100,000"),
        (WINDOW, "window=Count(1.5)", "@stream(Ordered, by=", "Count(1.5)", "Count(100)"),
        (WINDOW, WINDOW + ', tick="0s"', "@stream(Ordered, by=", "tick is not positive", '"5s"'),
        (WINDOW, WINDOW + ", partitions=0", "@stream(Ordered, by=", "0 partitions", "1 to 1024"),
        (WINDOW, WINDOW + ', store="disk"', "@stream(Ordered, by=", 'store="disk"', "rocksdb, memory"),
        (WINDOW, WINDOW + ', topic="Bad Topic"', "@stream(Ordered, by=", "topic 'shop.Bad Topic.v1'", ""),
        (WINDOW, WINDOW + ', topic="orders"', "", "'orders' is declared twice", ""),
        (WINDOW, WINDOW + ', time="window_end"', "@stream(Ordered, by=", "two fields of results", "time="),
        (WINDOW, 'where="gift + 1", window=Tumbling("1s")', "@stream(Ordered, by=", "'+' over boolean", ""),
        (WINDOW, 'where="shop", window=Tumbling("1s")', "@stream(Ordered, by=", "where `shop` is a integer", "condition"),
        (WINDOW, 'where=Shipped.cost > 1, window=Tumbling("1s")', "@stream(Ordered, by=", "which is not read", "Ordered"),
        (WINDOW, 'where="each(kinds) = \'a\'", window=Tumbling("1s")', "@stream(Ordered, by=", "for each item", "each="),
        ('by="customer", where', 'by="custmer", where', "@stream(Ordered, by=", "unknown key field 'custmer'", "'customer'"),
        ('by="customer", where', 'by="weight", where', "@stream(Ordered, by=", "key field 'weight' is a double", "make keys"),
        ('each="kinds", where', 'by="total", each="kinds", where', "@stream(Ordered, by=", "'total' is a decimal", "make keys"),
        ('by="customer", where', 'by=("shop", "shop"), where', "@stream(Ordered, by=", "two fields of results", ""),
        ('each="kinds", where', 'each="kind", where', "@stream(Ordered, each", "'kind' is no array of Ordered", "kinds"),
        ("kind = Ordered.kinds.each()", "kind = Ordered.kinds", "kind =", "is an array", ".length()"),
        ("kind = Ordered.kinds.each()", "kind = Ordered.ordered_at.at_zone('Europe/Berlin')", "kind =", "is a local", ""),
        ("kind = Ordered.kinds.each()", "pass", "@stream(Ordered, each", "OrderKind has no fields", ""),
        ("orders = OrderKind.count()", "pass", "@stream(OrderKind", "KindMinute has no fields", "count()"),
        (JOIN, "IntervalJoin(Ordered, Ordered, after='1h')", "@stream(Int", "joined with itself", "another name"),
        (JOIN, "IntervalJoin(Ordered, 3, after='1h')", "@stream(Int", "a join of 3", "two events"),
        (JOIN, JOIN.replace('before="5m", after="1d", ', ""), "@stream(Int", "the interval is not positive", 'after="1h"'),
        (JOIN, JOIN.replace('"left"', '"right"'), "@stream(Int", 'how="right"', "inner, left, outer"),
        (JOIN, JOIN.replace(BOTH_KEYS, '"order_id"'), "@stream(Int", "'order_id'", ""),
        (JOIN, JOIN.replace('Shipped: "of_order"', 'Shipped: "shop"'), "@stream(Int", "keys differ: orders.order_id", ""),
        (JOIN, JOIN.replace(', Shipped: "of_order"', ""), "@stream(Int", "by says nothing of Shipped", ""),
        (JOIN, JOIN.replace("Shipped: ", "Customer: "), "@stream(Int", "by names Customer", "of Ordered and Shipped"),
        (JOIN, JOIN.replace(BOTH_KEYS, "()"), "@stream(Int", "a join without a key", "by="),
        (JOIN, 'AsOfJoin(Ordered, Shipped, by="shop", max_age="0s")', "@stream(As", "max_age is not positive", ""),
        (JOIN, 'AsOfJoin(Ordered, Shipped, by="shop", max_age="1h", how="outer")', "@stream(As", "inner or left", ""),
        ('where={Shipped: "cost > 0"}', 'where="cost > 0"', "@stream(Int", "of which side?", "where={Ordered"),
        ('where={Shipped: "cost > 0"}', 'where={Customer: "1 = 1"}', "@stream(Int", "Customer, which is not read", ""),
        ('where={Shipped: "cost > 0"}', 'by="order_id"', "@stream(Int", "by or each beside a join", "IntervalJoin("),
        ('where={Shipped: "cost > 0"}', 'window=Count(3)', "@stream(Int", "a window beside a join", "two streams"),
        ("cost = Shipped.cost + 1", "cost = Shipped.cost.sum()", "cost =", "has no window", ""),
        ("cost = Shipped.cost + 1", "cost = Customer.tier", "cost =", "of Customer, which the stream does not read", ""),
        (TABLE, TABLE.replace('customer"', 'shop"'), "@stream(Table", "keys differ", ""),
        ("where=Ordered.total > 1", "where=Customer.tier == 'a'", "@stream(Table", "where on a table", "filter the results"),
        (FIRST, '@stream(Shipped, distinct="0s")', "@stream(Sh", "distinct is not", ""),
        (FIRST, '@stream("Shipped")', "@stream(", "a stream of 'Shipped'", ""),
        (FIRST, "@stream(Ordered)", "@stream(Ordered)", "array 'kinds'", "name the"),
        (EVENTS, EVENTS.replace("]", ", Hundred]"), "", "Hundred is a stream", "streams="),
        ("streams=[", "streams=[Ordered, ", "", "Ordered is no stream", "events="),
        ("OrderCustomer, OrderKind, ", "OrderCustomer, ", "@stream(OrderKind", "stream OrderKind is not in", "streams="),
        (EVENTS, "events=[Ordered, Shipped]", "@stream(Table", "event Customer is not", ""),
        ("CustomerTen, OrderShipped, ", "OrderShipped, ", "", "event CustomerTen is not in the pipeline", ""),
        ("streams=[", "sources=[Source('x', Hundred, 'http_json_lines')], streams=[", "", "is what stream hundred makes", ""),
    ],
)  # fmt: skip
def test_a_mistake_is_told_at_its_line_with_what_to_write(
    tmp_path: Path, old: str, new: str, marker: str, detail: str, hint: str
) -> None:
    """Goal: errors point at the user's file. Method: one edit of a sound declaration at a time."""
    text = SOUND.replace(old, new, 1)
    assert text != SOUND
    file = written(tmp_path, text)
    with pytest.raises(DeclarationError) as caught:
        compile(load(file))
    found = [item for item in caught.value.complaints if detail in item.detail]
    assert found, str(caught.value)
    assert any(hint in item.hint or hint in item.detail for item in found), str(caught.value)
    lines = text.splitlines()
    assert all(item.where.file == str(file) for item in found)
    assert any(marker in lines[item.where.line - 1] for item in found), str(caught.value)


def test_in_a_feature_set_the_newest_value_still_needs_an_age(tmp_path: Path) -> None:
    text = SOUND.replace('CustomerTen.orders.sum().over("1h", hop="5m")', "CustomerTen.orders.last()")
    with pytest.raises(DeclarationError) as caught:
        compile(load(written(tmp_path, text)))
    assert "max_age" in caught.value.complaints[0].hint
    with pytest.raises(DeclarationError, match="have no hop"):
        compile(load(written(tmp_path, text.replace(".last()", '.last().over("1h", hop="5m")'))))
