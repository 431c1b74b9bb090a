"""Events on the wire: the batch path must say exactly what the row path says."""

from __future__ import annotations

from typing import Any

import fastavro
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.contracts import events
from headrace.contracts.codec import Codec, EventSchema, MemoryRegistry
from headrace.contracts.errors import Poison, Reason
from headrace.contracts.event_shapes import encoded_lengths
from headrace.contracts.wire import frame, write_body


def _record(*fields: dict[str, Any], name: str = "Departed") -> dict[str, Any]:
    return {"type": "record", "name": name, "namespace": "headrace.pipelines.flights", "fields": list(fields)}


TIME = {"name": "departed_at", "type": {"type": "long", "logicalType": "timestamp-millis"}}
OLD_FIELDS = (
    {"name": "flight_id", "type": "string"},
    TIME,
    {"name": "delay", "type": ["null", "int"], "default": None},
    {"name": "gate", "type": "int"},
)
FIELDS = (
    {"name": "flight_id", "type": "string"},
    TIME,
    {"name": "delay", "type": ["null", "long"], "default": None},
    {"name": "gate", "type": "double"},
    {"name": "tail", "type": ["null", "string"], "default": None},
    {"name": "wind", "type": ["null", "double"], "default": None},
    {"name": "gust", "type": ["null", "float"], "default": None},
    {"name": "terminal", "type": "int", "default": 7},
    {"name": "cancelled", "type": "boolean", "default": False},
)
NEW_FIELDS = (  # a later producer: another order, null second, a field we do not know, one nullable that is not here
    {"name": "remark", "type": ["null", "string"], "default": None},
    {"name": "crew", "type": {"type": "array", "items": "string"}, "default": []},
    {"name": "cancelled", "type": ["boolean", "null"]},
    *(f for f in FIELDS if f["name"] != "cancelled"),
)
RANGES = {"delay": (-100, 3000), "wind": (0, None)}


def _event() -> EventSchema:
    return EventSchema("flights.departures.v1", _record(*FIELDS), "departed_at", RANGES)


class Door:
    """A codec and writers of three generations."""

    def __init__(self) -> None:
        self.registry = MemoryRegistry()
        self.codec = Codec(self.registry)
        self.event = _event()
        self.now = self.codec.register_event(self.event)
        self.old = self._writer(_record(*OLD_FIELDS))
        self.new = self._writer(_record(*NEW_FIELDS))
        self.foreign = self._writer(_record({"name": "x", "type": "long"}, name="Other"))
        self.lacking = self._writer(_record({"name": "flight_id", "type": "string"}))
        self.unreadable = self._writer(_record(*FIELDS[1:], {"name": "flight_id", "type": "long"}))

    def _writer(self, schema: dict[str, Any]) -> int:
        return self.registry.register(f"{self.event.topic}-value", schema)

    def write(self, schema_id: int, row: dict[str, Any]) -> bytes:
        return frame(schema_id, write_body(fastavro.parse_schema(self.registry.schema(schema_id)), row))


DOOR = Door()

longs = st.integers(-(2**63), 2**63 - 1)
text = st.text(st.characters(codec="utf-8"), max_size=40)
rows = st.fixed_dictionaries(
    {"flight_id": text, "departed_at": longs | st.integers(10**12, 2 * 10**12), "gate": st.floats(allow_nan=False, width=64)},
    optional={
        "delay": st.none() | st.integers(-100, 3000) | st.integers(-200, 4000),
        "tail": st.none() | text,
        "wind": st.none() | st.floats(),
        "gust": st.none() | st.floats(width=32),
        "terminal": st.integers(-(2**31), 2**31 - 1) | st.integers(-(2**40), 2**40),
        "cancelled": st.booleans(),
    },
)
old_rows = st.fixed_dictionaries(
    {
        "flight_id": text,
        "departed_at": longs,
        "delay": st.none() | st.integers(-(2**31), 2**31 - 1),
        "gate": st.integers(-(2**31), 2**31 - 1),
    }
)


@st.composite
def values(draw: st.DrawFn) -> bytes | None:
    """A value of some writer, whole or damaged."""
    kind = draw(
        st.sampled_from(["now"] * 6 + ["old", "old", "new", "none", "noise", "foreign", "lacking", "unreadable", "unknown"])
    )
    row = draw(rows)
    match kind:
        case "none":
            return None
        case "noise":
            return draw(st.binary(max_size=30))
        case "foreign":
            return DOOR.write(DOOR.foreign, {"x": 1})
        case "lacking":
            return DOOR.write(DOOR.lacking, {"flight_id": "a"})
        case "unreadable":
            return DOOR.write(DOOR.unreadable, {**row, "flight_id": 4, "terminal": 1})
        case "unknown":
            return frame(999_999, b"abc")
        case "old":
            value = DOOR.write(DOOR.old, draw(old_rows))
        case "new":
            value = DOOR.write(
                DOOR.new, {**row, "cancelled": draw(st.none() | st.booleans()), "crew": ["x"] * draw(st.integers(0, 3))}
            )
        case _:
            value = DOOR.write(DOOR.now, row)
    match draw(st.sampled_from(["whole"] * 4 + ["cut", "longer", "flipped"])):
        case "cut":
            return value[: draw(st.integers(0, len(value)))]
        case "longer":
            return value + draw(st.binary(min_size=1, max_size=3))
        case "flipped":
            at = draw(st.integers(5, len(value) - 1))
            return value[:at] + bytes([draw(st.integers(0, 255))]) + value[at + 1 :]
    return value


def _naive(batch: list[bytes | None]) -> tuple[list[dict[str, Any] | None], dict[int, Reason]]:
    found: list[dict[str, Any] | None] = []
    errors: dict[int, Reason] = {}
    for i, value in enumerate(batch):
        try:
            found.append(DOOR.codec.decode_event(DOOR.event, value))
        except Poison as e:
            found.append(None)
            errors[i] = e.reason
    return found, errors


@pytest.fixture
def always_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches take the batch path too, and bisect down to single rows."""
    monkeypatch.setattr(events, "BATCH_ROWS_MIN", 1)
    monkeypatch.setattr(events, "BISECT_ROWS_MIN", 2)


@settings(max_examples=400, deadline=None)
@given(st.lists(values(), max_size=24))
def test_a_batch_decodes_to_what_its_rows_decode_to(batch: list[bytes | None]) -> None:
    """Oracle: decode_event on every value. Goal: same rows, same refusals, same reasons, order kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events, "BATCH_ROWS_MIN", 1)
        patch.setattr(events, "BISECT_ROWS_MIN", 2)
        decoded = DOOR.codec.decode_events(DOOR.event, batch)
    expected, errors = _naive(batch)
    assert {i: e.reason for i, e in decoded.errors.items()} == errors
    assert decoded.decodable.tolist() == [row is not None for row in expected]
    assert decoded.frame.height == len(batch)
    empty = dict.fromkeys(f["name"] for f in FIELDS)
    assert decoded.frame.to_dicts() == [row if row is not None else empty for row in expected]


@settings(max_examples=200, deadline=None)
@given(rows)
def test_a_row_that_may_be_written_reads_back_as_itself(row: dict[str, Any]) -> None:
    try:
        value = DOOR.codec.encode_event(DOOR.event, row)
    except Poison as e:
        assert e.reason in {Reason.OUT_OF_RANGE, Reason.NOT_FINITE}
        return
    defaults = {f["name"]: f.get("default") for f in FIELDS}
    assert DOOR.codec.decode_event(DOOR.event, value) == {**defaults, **row}


def test_columns_have_one_type_each_whoever_wrote_the_rows(always_batches: None) -> None:
    """Times and decimals are Int64, also where every row is refused."""
    good = DOOR.write(DOOR.old, {"flight_id": "a", "departed_at": 5, "delay": 1, "gate": 3})
    for batch in ([], [None], [good], [good, None, good], [good] * 3):
        frame_ = DOOR.codec.decode_events(DOOR.event, batch).frame
        assert frame_.schema == pl.Schema({
            "flight_id": pl.String(), "departed_at": pl.Int64(), "delay": pl.Int64(), "gate": pl.Float64(), "tail": pl.String(),
            "wind": pl.Float64(), "gust": pl.Float32(), "terminal": pl.Int32(), "cancelled": pl.Boolean(),
        })  # fmt: skip


def test_one_bad_record_in_a_large_batch_is_found_and_the_rest_decodes() -> None:
    good = [DOOR.write(DOOR.now, {"flight_id": f"f{i}", "departed_at": i, "gate": 1.0}) for i in range(1000)]
    batch: list[bytes | None] = [*good]
    batch[613] = good[613][:-2]
    decoded = DOOR.codec.decode_events(DOOR.event, batch)
    assert list(decoded.errors) == [613]
    assert decoded.errors[613].reason is Reason.TRUNCATED
    kept = [i for i in range(1000) if i != 613]
    assert decoded.frame["flight_id"].to_list() == [f"f{i}" if i != 613 else None for i in range(1000)]
    assert np.flatnonzero(decoded.decodable).tolist() == kept


def test_an_int_beyond_32_bits_is_refused_not_truncated(always_batches: None) -> None:
    """pyruhvro alone gives 0 here, in silence."""
    value = DOOR.write(DOOR.now, {"flight_id": "a", "departed_at": 1, "gate": 1.0, "terminal": 2**32})
    decoded = DOOR.codec.decode_events(DOOR.event, [value] * 4)
    assert {e.reason for e in decoded.errors.values()} == {Reason.OUT_OF_RANGE}
    assert len(decoded.errors) == 4


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"flight_id": 5, "departed_at": 1, "gate": 1.0}, Reason.WRONG_TYPE),
        ({"flight_id": "a", "departed_at": "now", "gate": 1.0}, Reason.WRONG_TYPE),
        ({"flight_id": "a", "departed_at": True, "gate": 1.0}, Reason.WRONG_TYPE),
        ({"flight_id": "a", "departed_at": 2**63, "gate": 1.0}, Reason.WRONG_TYPE),
        ({"flight_id": None, "departed_at": 1, "gate": 1.0}, Reason.WRONG_TYPE),
        ({"departed_at": 1, "gate": 1.0}, Reason.MISSING_FIELD),
        ({"flight_id": "a", "departed_at": 1, "gate": 1.0, "hat": 1}, Reason.UNKNOWN_FIELD),
        ({"flight_id": "a", "departed_at": 1, "gate": 1.0, "delay": 3001}, Reason.OUT_OF_RANGE),
        ({"flight_id": "a", "departed_at": 1, "gate": float("nan")}, Reason.NOT_FINITE),
        ({"flight_id": "\ud800", "departed_at": 1, "gate": 1.0}, Reason.WRONG_TYPE),
    ],
)
def test_what_no_reader_could_take_is_not_written(row: dict[str, Any], reason: Reason) -> None:
    with pytest.raises(Poison) as caught:
        DOOR.codec.encode_event(DOOR.event, row)
    assert caught.value.reason is reason


def test_an_event_of_a_type_the_codec_does_not_know_is_refused_when_declared() -> None:
    event = EventSchema("flights.bags.v1", _record({"name": "photo", "type": "bytes"}), "photo")
    with pytest.raises(ValueError, match="photo"):
        DOOR.codec.register_event(event)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(longs, st.none() | text, st.booleans(), st.none() | st.floats(width=32)), min_size=1, max_size=20))
def test_encoded_lengths_are_never_longer_than_what_the_encoder_wrote(
    items: list[tuple[int, str | None, bool, float | None]],
) -> None:
    """Below 2**53 they are equal; above, one byte more may be claimed, which only costs a second look."""
    written = _record(
        {"name": "a", "type": "long"},
        {"name": "b", "type": ["null", "string"]},
        {"name": "c", "type": "boolean"},
        {"name": "d", "type": ["null", "float"]},
    )
    schema = fastavro.parse_schema(written)
    rows_ = [dict(zip("abcd", item, strict=True)) for item in items]
    wrote = [len(write_body(schema, row)) for row in rows_]
    fields = [
        pa.field("a", pa.int64(), False),
        pa.field("b", pa.string()),
        pa.field("c", pa.bool_(), False),
        pa.field("d", pa.float32()),
    ]
    claimed = encoded_lengths(pa.RecordBatch.from_pylist(rows_, pa.schema(fields)), written)
    for row, real, claim in zip(rows_, wrote, claimed.tolist(), strict=True):
        assert claim == real if abs(int(row["a"] or 0)) < 2**52 else claim in (real, real + 1)
