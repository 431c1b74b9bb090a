"""Arrays and nested records on the wire: flat rows, the same by the batch and one by one, from writers old and new."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import fastavro
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.contracts import events
from headrace.contracts.codec import Codec, EventSchema, MemoryRegistry
from headrace.contracts.errors import Poison, Reason
from headrace.contracts.wire import frame, write_body


def _record(name: str, *fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": list(fields)}


def _array(items: str) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _field(name: str, kind: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, **more}


AT = _field("at", {"type": "long", "logicalType": "timestamp-millis"})
GEO = _record("Geo", _field("lat", "double"), _field("lon", ["null", "double"], default=None))
ADDRESS = _record(
    "Address",
    _field("city", "string"),
    _field("zip", ["null", "string"], default=None),
    _field("geo", ["null", GEO], default=None),
)
BUYER = _record("Buyer", _field("name", "string"), _field("tags", _array("string"), default=[]))
FIELDS = (
    _field("order_id", "string"), AT, _field("address", ADDRESS), _field("buyer", ["null", BUYER], default=None),
    _field("items", _array("string"), default=[]), _field("amounts", ["null", _array("long")], default=None),
    _field("weights", _array("double"), default=[]), _field("seats", _array("int"), default=[]),
)  # fmt: skip
OLD = (  # before the buyer, the geo and the seats; amounts were ints
    _field("order_id", "string"), AT, _field("address", _record("Address", _field("city", "string"))),
    _field("items", _array("string")), _field("amounts", _array("int")),
)  # fmt: skip
TAGLESS = (*FIELDS[:3], _field("buyer", ["null", _record("Buyer", _field("name", "string"))]), *FIELDS[4:])
NEW = (  # another order, another record, a field more in the address, and a record named again
    _field("amounts", [_array("long"), "null"]), _field("extra", ["null", _record("Extra", _field("x", "long"))]),
    _field("address", _record("Address", _field("country", "string"), *ADDRESS["fields"])),
    _field("twin", ["null", "Address"]), *(f for f in FIELDS if f["name"] not in ("amounts", "address")),
)  # fmt: skip
EVENT = EventSchema(
    "shop.orders.v1", _record("Ordered", *FIELDS), "at", {"amounts": (0, 1000), "address.geo.lat": (-90, 90)}, {"items": 4}
)


class Door:
    def __init__(self) -> None:
        self.registry = MemoryRegistry()
        self.codec = Codec(self.registry)
        self.codec.register_event(EVENT)
        self.schemas = {name: _record("Ordered", *fields) for name, fields in WRITERS.items()}
        self.ids = {name: self.registry.register("shop.orders.v1-value", schema) for name, schema in self.schemas.items()}

    def write(self, writer: str, row: dict[str, Any]) -> bytes:
        return frame(self.ids[writer], write_body(fastavro.parse_schema(self.schemas[writer]), row))


WRITERS = {"now": FIELDS, "old": OLD, "tagless": TAGLESS, "new": NEW}
DOOR = Door()
texts = st.text(max_size=3)
numbers = st.integers(-3, 1003)
doubles = st.floats(-100, 100) | st.sampled_from([float("nan"), float("inf")])
geos = st.none() | st.fixed_dictionaries({"lat": doubles, "lon": st.none() | doubles})
addresses = st.fixed_dictionaries({"city": texts, "zip": st.none() | texts, "geo": geos, "country": texts})
buyers = st.none() | st.fixed_dictionaries({"name": texts, "tags": st.lists(texts, max_size=3)})
rows = st.fixed_dictionaries(
    {
        "order_id": texts,
        "at": st.integers(0, 10**12),
        "address": addresses,
        "buyer": buyers,
        "items": st.lists(texts, max_size=5),
        "amounts": st.none() | st.lists(numbers, max_size=3),
        "weights": st.lists(doubles, max_size=2),
        "seats": st.lists(st.integers(-(2**31), 2**31 - 1), max_size=2),
        "extra": st.none() | st.fixed_dictionaries({"x": numbers}),
        "twin": st.none() | addresses,
    }
)


def _told(codec: Codec, value: bytes) -> dict[str, Any] | str:
    try:
        return codec.decode_event(EVENT, value)
    except Poison as poison:
        return str(poison)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(WRITERS)), rows), min_size=1, max_size=40))
def test_a_batch_says_what_its_rows_say_one_by_one(written: list[tuple[str, dict[str, Any]]]) -> None:
    """Also where bytes are cut off or left over."""
    values = []
    for number, (writer, row) in enumerate(written):
        row = row if writer != "old" or row["amounts"] is not None else row | {"amounts": []}
        value = DOOR.write(writer, row)
        values.append(value if number % 7 else value + b"\x00" if number % 2 else value[:-1])
    least, events.BATCH_ROWS_MIN = events.BATCH_ROWS_MIN, 1
    span, events.BISECT_ROWS_MIN = events.BISECT_ROWS_MIN, 2
    try:
        decoded = DOOR.codec.decode_events(EVENT, values)
    finally:
        events.BATCH_ROWS_MIN, events.BISECT_ROWS_MIN = least, span
    for number, (value, row) in enumerate(zip(values, decoded.frame.rows(named=True), strict=True)):
        alone = _told(DOOR.codec, value)
        if isinstance(alone, str):
            assert str(decoded.errors[number]) == alone
            assert not decoded.decodable[number]
        else:
            assert row == alone


@settings(max_examples=100, deadline=None)
@given(rows)
def test_what_is_encoded_is_decoded_whether_given_as_records_or_as_paths(row: dict[str, Any]) -> None:
    full = {k: v for k, v in row.items() if k not in ("extra", "twin")}
    full["address"] = {k: v for k, v in row["address"].items() if k != "country"}
    try:
        first = DOOR.codec.encode_event(EVENT, full)
    except Poison:
        return
    flat = DOOR.codec.decode_event(EVENT, first)
    assert flat["address.city"] == row["address"]["city"]
    assert flat["buyer.tags"] == (None if row["buyer"] is None else row["buyer"]["tags"])
    assert DOOR.codec.encode_event(EVENT, flat) == first


def _good() -> dict[str, Any]:
    return {"order_id": "a", "at": 1, "address": {"city": "Ulm"}, "items": ["x"]}


def test_what_is_left_out_is_its_default_or_null_with_its_record() -> None:
    flat = DOOR.codec.decode_event(EVENT, DOOR.codec.encode_event(EVENT, _good()))
    assert flat["amounts"] is None
    assert flat["weights"] == []
    assert flat["buyer.tags"] is None
    present = DOOR.codec.decode_event(EVENT, DOOR.codec.encode_event(EVENT, _good() | {"buyer": {"name": "A"}}))
    assert present["buyer.tags"] == []


@pytest.mark.parametrize(
    ("changed", "reason", "said"),
    [
        ({"address": {}}, Reason.MISSING_FIELD, "address.city is missing"),
        ({"address": {"city": None}}, Reason.WRONG_TYPE, "address.city is null"),
        ({"address": None}, Reason.UNKNOWN_FIELD, "address not declared"),
        ({"address": "Ulm"}, Reason.UNKNOWN_FIELD, "address not declared"),
        ({"address": {"city": "Ulm", "town": "x"}}, Reason.UNKNOWN_FIELD, "address.town not declared"),
        ({"address": {"city": "Ulm", "geo": {"lon": 1.0}}}, Reason.MISSING_FIELD, "address.geo.lat is missing"),
        (
            {"address": {"city": "Ulm", "geo": {"lat": 91.0}}},
            Reason.OUT_OF_RANGE,
            "address.geo.lat is 91.0, declared -90 to 90",
        ),
        ({"buyer": {"tags": []}}, Reason.MISSING_FIELD, "buyer.name is missing"),
        ({"buyer": {"name": None, "tags": []}}, Reason.WRONG_TYPE, "buyer.name is null, and buyer is not"),
        ({"items": "x"}, Reason.WRONG_TYPE, "items is str, declared array of string"),
        ({"items": ["x", None]}, Reason.WRONG_TYPE, "items is list, declared array of string"),
        ({"items": ["x"] * 5}, Reason.OUT_OF_RANGE, "items has 5 items, at most 4"),
        ({"items": None}, Reason.WRONG_TYPE, "items is null"),
        ({"amounts": [1, 1001]}, Reason.OUT_OF_RANGE, "amounts[1] is 1001, declared 0 to 1000"),
        ({"amounts": [True]}, Reason.WRONG_TYPE, "amounts is list, declared array of long"),
        ({"weights": [0.5, float("nan")]}, Reason.NOT_FINITE, "weights[1] is nan"),
        ({"seats": [2**31]}, Reason.OUT_OF_RANGE, "seats[0] is 2147483648"),
    ],
)
def test_a_bad_item_or_nested_field_is_named(changed: dict[str, Any], reason: Reason, said: str) -> None:
    with pytest.raises(Poison) as caught:
        DOOR.codec.encode_event(EVENT, _good() | changed)
    assert caught.value.reason == reason
    assert said in caught.value.detail


def test_a_foreign_array_in_counted_blocks_is_read_too() -> None:
    """Avro allows blocks with a negative count and their size: lawful bytes of another length than ours."""
    schema = fastavro.parse_schema(_record("Ordered", *OLD))
    plain = write_body(schema, {"order_id": "a", "at": 1, "address": {"city": "U"}, "items": ["x", "y"], "amounts": []})
    one_block = b"\x04\x02x\x02y\x00"
    assert one_block in plain
    blocks = plain.replace(one_block, b"\x01\x04\x02x\x02\x02y\x00")  # -1 of 2 bytes, then 1
    assert fastavro.schemaless_reader(BytesIO(blocks), schema, None)["items"] == ["x", "y"]  # type: ignore[index]
    values = [frame(DOOR.ids["old"], blocks), *[frame(DOOR.ids["old"], plain)] * 200]
    decoded = DOOR.codec.decode_events(EVENT, values)
    assert decoded.decodable.all()
    assert decoded.frame["items"].to_list() == [["x", "y"]] * 201
    assert decoded.frame.schema["items"] == pl.List(pl.String)


@pytest.mark.parametrize(
    ("writer", "said"),
    [
        ([_field("order_id", "string"), AT], "lacks address, which has no default"),
        ([*OLD[:2], _field("address", _record("A", _field("zip", "string")))], "lacks address.city, which has no default"),
        ([*OLD[:2], _field("address", "string")], "lacks address, which has no default"),
        ([*OLD[:3], _field("items", "string")], "items of schema"),
        ([*OLD[:3], _field("items", _array("long"))], "cannot be read as array of string"),
    ],
)
def test_a_writer_that_cannot_be_read_says_why(writer: list[dict[str, Any]], said: str) -> None:
    schema_id = DOOR.registry.register("shop.orders.v1-value", _record("Ordered", *writer))
    with pytest.raises(Poison, match=said):
        DOOR.codec.decode_event(EVENT, frame(schema_id, b"\x00" * 40))
