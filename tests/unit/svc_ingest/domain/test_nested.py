"""Records and arrays at the door: JSON objects and lists, CSV cells with paths for names; what is refused, and where."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.contracts.codec import Codec, MemoryRegistry
from headrace.contracts.errors import Poison
from headrace.declare import compile, load
from svc_ingest.adapters.avro import event_encoder
from svc_ingest.adapters.csv_rows import CsvRefused, csv_rows
from svc_ingest.domain.normalise import compile_source
from svc_ingest.routes import compile_routes
from unit.svc_ingest.rig import NOW_MS, Rig
from unit.svc_ingest.test_http_door import post

PLAN = compile(load(Path(__file__).parents[4] / "schemas" / "pipelines" / "orders"))
ORDERS = next(event for event in PLAN.events if event.name == "orders")
SOURCES = {source.name: source for source in PLAN.sources}
JSON = compile_source("orders", ORDERS, SOURCES["orders"], "json")


def good(**changed: Any) -> dict[str, Any]:
    row = {
        "order_id": "o1", "ordered_at": NOW_MS - 1000, "buyer": {"id": "ann", "tags": ["vip"]},
        "address": {"city": "Ulm", "zip": None, "place": {"latitude": "48.39841", "longitude": 9.99155}},
        "kinds": ["book", "toy"], "prices": [12.5, "3.99"], "coupons": None,
    }  # fmt: skip
    return row | changed


def test_a_row_becomes_flat_and_typed() -> None:
    assert JSON.normalise(good(), NOW_MS).row == {
        "order_id": "o1", "ordered_at": NOW_MS - 1000, "buyer.id": "ann", "buyer.tags": ["vip"], "address.city": "Ulm",
        "address.zip": None, "address.place.latitude": 4_839_841, "address.place.longitude": 999_155, "kinds": ["book", "toy"],
        "prices": [1250, 399], "coupons": None,
    }  # fmt: skip


@pytest.mark.parametrize("absent", [{"address": None}, {"address": {}}, {"address": {"city": None, "place": None}}])
def test_a_record_that_is_null_is_one_whose_fields_are(absent: dict[str, Any]) -> None:
    row = JSON.normalise(good(**absent), NOW_MS).row
    assert {name: value for name, value in row.items() if name.startswith("address")} == dict.fromkeys(
        ["address.city", "address.zip", "address.place.latitude", "address.place.longitude"]
    )


BAD = [
    ({"buyer": None}, "missing_field", "buyer is null, and is not nullable"),
    ({"buyer": "ann"}, "wrong_type", "buyer is 'ann', expected an object"),
    ({"buyer": ["ann"]}, "wrong_type", "buyer is ['ann'], expected an object"),
    ({"buyer": {"tags": []}}, "missing_field", "buyer.id is missing"),
    ({"buyer": {"id": 7, "tags": []}}, "wrong_type", "buyer.id is 7, expected a string"),
    ({"buyer": {"id": "a", "tags": [], "name": "A"}}, "unknown_field", "'buyer.name' not declared"),
    ({"address": {"zip": "89073"}}, "missing_field", "address.city is null or missing, and address is not"),
    ({"address": {"city": "Ulm", "place": {"latitude": 1}}}, "missing_field", "address.place.longitude is null or missing"),
    ({"address": {"city": "Ulm", "place": 7}}, "wrong_type", "address.place is 7, expected an object"),
    (
        {"address": {"city": "Ulm", "place": {"latitude": 90.1, "longitude": 0}}},
        "out_of_range",
        "address.place.latitude is 90.1",
    ),
    ({"kinds": "book"}, "wrong_type", "kinds is 'book', expected a list"),
    ({"kinds": {"0": "book"}}, "wrong_type", "expected a list"),
    ({"kinds": ["book", 7]}, "wrong_type", "kinds[1] is 7, expected a string"),
    ({"kinds": ["book", None]}, "wrong_type", "kinds[1] is null; leave it out of the list"),
    ({"kinds": [["book"]]}, "wrong_type", "kinds[0] is ['book'], expected a string"),
    ({"kinds": ["x"] * 65}, "out_of_range", "kinds has 65 items, at most 64"),
    ({"kinds": None}, "missing_field", "kinds is null, and is not nullable"),
    ({"prices": [1, 50_001]}, "out_of_range", "prices[1] is 50001, outside 0 to 5000000"),
    ({"prices": [0.001]}, "wrong_type", "prices[0] is '0.001', expected at most 2 decimals"),
    ({"prices": [float("nan")]}, "not_finite", "prices[0] is nan"),
    ({"prices": [True]}, "wrong_type", "prices[0] is True, expected a decimal"),
]


@pytest.mark.parametrize(("changed", "reason", "said"), BAD)
def test_a_bad_item_or_nested_field_is_refused_by_its_path(changed: dict[str, Any], reason: str, said: str) -> None:
    with pytest.raises(Poison) as caught:
        JSON.normalise(good(**changed), NOW_MS)
    assert (caught.value.reason.value, said in caught.value.detail) == (reason, True), caught.value.detail


def test_the_quick_encoder_writes_the_bytes_of_the_checking_one() -> None:
    codec = Codec(MemoryRegistry())
    route = compile_routes(PLAN, lambda schema: event_encoder(codec, schema))["orders"]
    for changed in ({}, {"address": None}, {"coupons": ["A"]}, {"kinds": [], "prices": []}, {"address": {"city": "U"}}):
        row = route.rows.normalise(good(**changed), NOW_MS).row
        assert route.encode(row) == codec.encode_event(route.schema, row)
        assert codec.decode_event(route.schema, route.encode(row)) == row


async def test_the_http_door_names_the_line_the_path_and_the_item() -> None:
    rig = Rig(plan=PLAN)
    body = b"\n".join(
        json.dumps(good(order_id=f"o{i}", **changed)).encode() for i, (changed, *_) in enumerate([({},), *BAD[:8]])
    )
    answer = await post(rig, body, "/v1/orders/orders/records")
    told = answer.json()
    assert told["accepted"] == 1, told
    letters = {(letter.offset, letter.reason) for letter in rig.letters("orders")}
    assert letters == {(i + 1, reason) for i, (_, reason, _) in enumerate(BAD[:8])}
    assert [event["address.city"] for event in rig.events("orders")] == ["Ulm"]


HEADER = (
    b"order_id,ordered_at,buyer.id,buyer.tags,City,address.zip,address.place.latitude,address.place.longitude,kinds,prices,"
    b"coupons\n"
)


def cells(line: bytes) -> dict[str, Any]:
    rows = compile_source("orders", ORDERS, SOURCES["order-files"], "text")
    (read,) = csv_rows([HEADER, line], rows)
    assert not isinstance(read.values, Poison)
    return rows.normalise(read.values, NOW_MS).row


def test_a_csv_cell_holds_a_list_as_json_and_a_column_a_path() -> None:
    line = b'o1,2013-01-01T05:17:00Z,ann,"[""vip""]",Ulm,,48.4,9.99,"[""book""]","[12.5, ""3.99""]",\n'
    row = cells(line)
    assert (row["buyer.tags"], row["address.city"], row["address.place.latitude"]) == (["vip"], "Ulm", 4_840_000)
    assert (row["kinds"], row["prices"], row["coupons"]) == (["book"], [1250, 399], None)


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (b"book", "kinds is 'book', expected a list in JSON"),
        (b'"{""a"": 1}"', "expected a list"),
        (b'"[""a"", NaN]"', "kinds[1] is nan, expected a string"),
        (b"[1]", "kinds[0] is 1, expected a string"),
        (b"[" * 3000, "expected a list in JSON"),
    ],
)
def test_a_csv_cell_that_is_no_list_is_refused(cell: bytes, said: str) -> None:
    with pytest.raises(Poison) as caught:
        cells(b"o1,2013-01-01T05:17:00Z,ann,[],Ulm,,,," + cell + b",[],\n")
    assert said in caught.value.detail


def test_a_file_without_a_column_of_a_record_is_refused_whole() -> None:
    rows = compile_source("orders", ORDERS, replace(SOURCES["order-files"], columns=()), "text")
    with pytest.raises(CsvRefused, match=r"lacks 'address.city'"):
        list(csv_rows([HEADER], rows))
