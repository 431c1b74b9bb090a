"""Records and arrays in a declaration: what they compile to, what is refused and at which line, and what a driver says."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.declare import DeclarationError, Pipeline, compile, load
from headrace.plan import lineage
from headrace.plan.avro import event_avro_schema
from headrace.plan.hashes import from_json, sealed, to_json
from headrace.plan.validate import PlanError, validate
from headrace.testing import Driver

ORDERS = Path(__file__).parents[3] / "schemas" / "pipelines" / "orders"
SOUND = '''
from headrace.declare import *

Cents = Annotated[Decimal, Scale(2), Range(0, 1000)]

class Geo(Record):
    lat: Long

class Address(Record):
    """Where it goes."""
    city: Text
    zip: Nullable[Text]
    geo: Nullable[Geo]

class Ordered(Event, topic="orders", key="id", time="at", lateness="1h"):
    id: Text
    at: Timestamp
    address: Address
    billing: Nullable[Address]
    items: Items[Text]
    amounts: Nullable[Annotated[Items[Cents], AtMost(9)]]
    weights: list[float]

@feature_set(entity=("address.city", "id"), ttl="3h")
class Load:
    kinds = Ordered.items.each().distinct().over("1h", hop="5m")
    total = Ordered.amounts.total().sum(where=Ordered.billing.city == "Ulm").over("1h", hop="5m")

pipeline = Pipeline("shop", owner="ops", events=[Ordered], feature_sets=[Load])
'''


def written(folder: Path, text: str) -> Path:
    file = folder / "pipeline.py"
    file.write_text(text)
    return file


@pytest.fixture(scope="module")
def orders() -> Pipeline:
    return load(ORDERS)


def test_records_become_paths_and_arrays_name_their_items(tmp_path: Path) -> None:
    plan = compile(load(written(tmp_path, SOUND)))
    fields = {field.name: field for field in plan.events[0].fields}
    assert list(fields) == [
        "id", "at", "address.city", "address.zip", "address.geo.lat", "billing.city", "billing.zip", "billing.geo.lat", "items",
        "amounts", "weights",
    ]  # fmt: skip
    assert (fields["address.city"].nullable, fields["billing.city"].nullable) == (False, True)
    assert (fields["amounts"].type, fields["amounts"].item, fields["amounts"].items_max) == ("array", "decimal", 9)
    assert (fields["amounts"].scale, fields["amounts"].maximum, fields["weights"].item) == (2, 100_000, "double")
    records = {record.path: (record.nullable, record.required) for record in plan.events[0].records}
    assert records == {
        "address": (False, ()),
        "address.geo": (True, ("address.geo.lat",)),
        "billing": (True, ("billing.city",)),
        "billing.geo": (True, ("billing.geo.lat",)),
    }
    values = [(measure.value, measure.where) for measure in plan.feature_sets[0].measures]
    assert sorted(map(str, values)) == ["('ARRAY_SUM(amounts)', \"billing.city = 'Ulm'\")", "('EACH(items)', None)"]
    assert from_json(to_json(plan)) == plan
    validate(plan)


def test_the_avro_schema_nests_what_the_plan_holds_flat(tmp_path: Path) -> None:
    plan = compile(load(written(tmp_path, SOUND)))
    parts = {part["name"]: part for part in event_avro_schema(plan.events[0], "shop")["fields"]}
    assert list(parts) == ["id", "at", "address", "billing", "items", "amounts", "weights"]
    billing = parts["billing"]
    assert (billing["default"], billing["doc"], billing["type"][1]["name"]) == (None, "Where it goes.", "OrderedBilling")
    assert [part["type"] for part in billing["type"][1]["fields"]][:2] == ["string", ["null", "string"]]
    assert parts["address"]["type"]["fields"][2]["type"][1]["name"] == "OrderedAddressGeo"
    assert parts["items"]["type"] == {"type": "array", "items": "string"}
    assert (parts["items"]["default"], parts["amounts"]["default"]) == ([], None)
    assert (parts["amounts"]["scale"], parts["amounts"]["type"][1]["items"]) == (2, "long")


FAULTS = [
    ("city: Text", "city: Text | Long", "city: Text | Long", "is not a field type", "a class of Record"),
    ("    lat: Long", "    pass", "class Geo(Record)", "record Geo has no fields", "such as"),
    ("items: Items[Text]", "items: Items[Nullable[Text]]", "items: Items", "may be null", "leave null items out"),
    ("items: Items[Text]", "items: list[Address]", "items: list", "array 'items' of records", "one array for each part"),
    ("items: Items[Text]", "items: list[list[str]]", "items: list", "array 'items' of arrays", "plain values"),
    ("AtMost(9)", "AtMost(9000)", "amounts: ", "at most 9000 items", "AtMost(1) to AtMost(2048)"),
    ('("address.city", "id")', '("address.town", "id")', "feature_set(", "unknown entity field 'address.town'", "address.city"),
    ('("address.city", "id")', '"address"', "feature_set(", "unknown entity field 'address'", ""),
    ('("address.city", "id")', '"items"', "feature_set(", "entity field 'items' is a array", "strings and integers"),
    ('key="id"', 'key="billing.city"', "city: Text", "key 'billing.city' is not a plain string", "never null"),
    ('time="at"', 'time="address.geo.lat"', "lat: Long", "is not a plain timestamp", ""),
    ("Ordered.items.each().dis", "Ordered.items.eech().dis", "kinds =", "no attribute 'eech'", ""),
    ("Ordered.billing.city ==", "Ordered.billing.town ==", "total =", "unknown field 'town' of Address", "city"),
    ('Ordered.billing.city == "Ulm"', '"billing.town = 1"', "total =", "unknown column 'billing.town'", "billing.city"),
    ('Ordered.billing.city == "Ulm"', '"billing is null"', "total =", "'billing' is a record", "billing.city, billing.geo.lat"),
    ("amounts.total().sum", "weights.each().sum", "total =", "items of 'weights' are doubles", "Decimal"),
    ("amounts.total().sum", "items.total().sum", "total =", "items are string", "array of numbers"),
    ("Ordered.amounts.total().sum(", 'Ordered.expr("amounts").sum(', "total =", "array of decimal(2)", "accumulators hold"),
    ('Ordered.billing.city == "Ulm"', '"each(amounts) > each(items)"', "total =", "do not go together", ""),
    ("Ordered.amounts.total().sum(where=Ordered.billing.city ==", "Ordered.amounts.each().sum(where=Ordered.items.each() ==",
     "total =", "items of amounts and of items at once", "one array"),
    ("    lat: Long", "    lat: Long\n    off: Address2", "off: Address2", "Address2", ""),
    ("Range(0, 1000)", "Range(0, 9_000_000_000_000_000)", "amounts: ", "beyond 2**53", "leave it out"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "marker", "detail", "hint"), FAULTS)
def test_a_mistake_is_told_at_its_line(tmp_path: Path, old: str, new: str, marker: str, detail: str, hint: str) -> None:
    text = SOUND.replace(old, new)
    assert text != SOUND
    file = written(tmp_path, text)
    with pytest.raises(DeclarationError) as caught:
        compile(load(file))
    found = [item for item in caught.value.complaints if detail in item.detail]
    assert found, str(caught.value)
    assert any(hint in item.hint or hint in item.detail for item in found), str(caught.value)
    shown = [text.splitlines()[item.where.line - 1] for item in found]
    assert any(marker in line for line in shown), str(caught.value)


def test_four_records_in_each_other_are_refused_at_the_record(tmp_path: Path) -> None:
    deeper = (
        "class D(Record):\n    x: Long\nclass C(Record):\n    d: D\nclass B(Record):\n    c: C\nclass Geo(Record):\n    b: B\n"
    )
    text = SOUND.replace("class Geo(Record):\n", deeper)
    with pytest.raises(DeclarationError, match="is 4 deep") as caught:
        compile(load(written(tmp_path, text)))
    assert "3 records in each other at most" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"records": ()}, "'address' is no record of Ordered"),
        ({"fields": lambda f: replace(f, item=None) if f.name == "items" else f}, "names its items"),
        ({"fields": lambda f: replace(f, items_max=0) if f.name == "items" else f}, "at most 0 items"),
        ({"fields": lambda f: replace(f, nullable=False) if f.name == "billing.city" else f}, "are not null where it is"),
        ({"fields": lambda f: replace(f, name="billing.town") if f.name == "billing.city" else f}, "requires fields"),
    ],
)
def test_a_plan_that_does_not_hold_together_is_refused(tmp_path: Path, change: dict[str, Any], detail: str) -> None:
    plan = compile(load(written(tmp_path, SOUND)))
    event = plan.events[0]
    if callable(change.get("fields")):
        change = {"fields": tuple(change["fields"](field) for field in event.fields)}
    with pytest.raises(PlanError, match=detail):
        validate(replace(plan, events=(replace(event, **change),)), check_hashes=False)


def test_a_models_rows_take_no_items_one_at_a_time(tmp_path: Path) -> None:
    model = """
asked = Model(name="asked", request=Ordered, label=Label(Ordered, "each(items) = 'x'", join="id", mature="1d"),
    inputs=[Load, on_demand("each(amounts) > 1", name="dear")], trainer=GradientBoosting(), gate=Gate(parity="exact"),
    serve=Serve(deadline="50ms", fallback=Rules("kinds > 1", score="kinds"), rollout=Canary([100])),
    watch=Watch(drift="features"))
pipeline = Pipeline("shop", owner="ops", events=[Ordered], feature_sets=[Load], models=[asked])
"""
    text = SOUND.partition("pipeline =")[0] + model
    with pytest.raises(DeclarationError) as caught:
        compile(load(written(tmp_path, text)))
    assert str(caught.value).count("has a value for each item") == 2, str(caught.value)


def test_lineage_reaches_into_records_and_arrays(orders: Pipeline) -> None:
    graph = lineage.lineage(compile(orders))
    assert graph.node["field:orders.address.place.latitude"].detail == "decimal in degrees north"
    assert graph.node["field:orders.prices"].detail == "array of decimal in EUR"
    reads = {link.source for link in graph.into["measure:buyer_city.m0"]} | {
        link.source for name in graph.into if name.startswith("measure:buyer_city") for link in graph.into[name]
    }
    assert {"field:orders.prices", "field:orders.kinds", "field:orders.address.place.latitude"} <= reads
    assert "orders.buyer.id" in graph.fields("feature:buyer_service.delay_mean_6h")


def test_only_what_can_change_a_value_moves_a_set(orders: Pipeline) -> None:
    """A longer array accepts more records, a required field fewer; the name of a record's class is for readers."""
    plan = compile(orders)

    def hashes(**change: Any) -> dict[str, str]:
        events = tuple(replace(e, **{k: tuple(map(v, getattr(e, k))) for k, v in change.items()}) for e in plan.events)
        return {item.name: item.hash for item in sealed(replace(plan, events=events)).feature_sets}

    before = {item.name: item.hash for item in plan.feature_sets}
    assert hashes(records=lambda r: replace(r, record="Renamed", doc="other")) == before
    longer = hashes(fields=lambda f: replace(f, items_max=65) if f.name == "coupons" else f)
    assert {name for name in before if before[name] != longer[name]} == set(before)
    freer = hashes(records=lambda r: replace(r, required=()) if r.path == "address" else r)
    assert {name for name in before if before[name] != freer[name]} == set(before)  # its latitude has a range: all read it


def row(rng: random.Random, number: int, start: int) -> dict[str, Any]:
    kinds = rng.choices(("book", "toy", "shoe", "food", "other"), k=rng.choice((0, 1, 2, 5)))
    place = rng.choice((None, {"latitude": "48.39841", "longitude": "9.99155"}))
    address = rng.choice((None, {"city": rng.choice(("Ulm", "Köln")), "zip": rng.choice((None, "89073")), "place": place}))
    return {
        "order_id": f"o{rng.randrange(number + 1)}", "ordered_at": start + number * 60_000 + rng.randrange(600_000),
        "buyer": {"id": rng.choice(("ann", "bo", "staff")), "tags": rng.choice(([], ["vip"], ["vip", "new"]))},
        "address": address, "kinds": kinds, "prices": [f"{rng.randrange(30_000) / 100:.2f}" for _ in kinds],
        "coupons": rng.choice((None, [], ["SPRING"], ["SPRING", "TEN"])),
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_a_driver_answers_as_the_oracle_over_records_arrays_and_entities_of_several_fields(orders: Pipeline, seed: int) -> None:
    driver, rng = Driver(orders), random.Random(seed)
    for number in range(120):
        driver.feed("Ordered", row(rng, number, 1_370_077_200_000))
        if number % 10 == 0:
            driver.features("buyer_city", (rng.choice(("ann", "bo")), "Ulm"))
            driver.features("city", "Ulm")
            driver.features("buyer_service", {"buyer.id": "ann"})
    assert driver.check().fresh > 200
    latest = driver.features("buyer_city", ("ann", "Ulm"))
    assert latest.entity == "ann\x1fUlm"
    assert latest["items_1h"] is not None


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"buyer": {"id": None, "tags": []}}, "wrong_type: buyer.id is null"),
        ({"kinds": ["x"] * 65}, "out_of_range: kinds has 65 items, at most 64"),
        ({"prices": ["500000.00"]}, "out_of_range: prices[0] is 50000000, declared 0 to 5000000"),
        ({"address": {"zip": "1"}}, "wrong_type: address.city is null, and address is not"),
        ({"address": {"city": "Ulm", "place": {"latitude": "91", "longitude": "0"}}}, "out_of_range: address.place.latitude"),
    ],
)
def test_a_driver_refuses_what_the_schema_does(orders: Pipeline, changed: dict[str, Any], reason: str) -> None:
    driver = Driver(orders)
    fed = driver.feed("Ordered", row(random.Random(1), 1, 1_370_077_200_000) | changed)
    assert fed.verdict.name == "UNDECODABLE"
    assert fed.reason.startswith(reason)
