"""One dead letter opened: found by position or name, read as far as it goes, and told what to do."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.chassis.bus import TopicSpec
from headrace.chassis.bus_memory import MemoryBus
from headrace.client.letters import OUTSIDE, Letter
from headrace.client.opened import ADVICE, advice, dump, letter_at, letters_of, never_again, opened, place_of
from headrace.contracts.codec import Codec, MemoryRegistry
from headrace.contracts.errors import HeadraceError, Poison, Reason
from headrace.contracts.records import RecordRejected
from headrace.contracts.wire import frame

TOPIC = "shop.orders.v1.svc-stream.dlq"
ORDER = {
    "type": "record", "name": "Ordered", "fields": [
        {"name": "id", "type": "string"}, {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "cents", "type": ["null", "long"], "default": None},
    ],
}  # fmt: skip
BODY = b"\x04o1" + b"\x02" + b"\x02\x0e"  # id o1, at 1, cents 7


def letter(
    offset: int = 4, value: bytes | None = b"v", partition: int = 0, detail: str = "", key: bytes = b"k"
) -> RecordRejected:
    return RecordRejected(
        topic="shop.orders.v1", partition=partition, offset=offset, append_time_ms=1, group="svc-stream", reason="truncated",
        detail=detail, key=key, value=value, origin_id=f"o-{offset}",
    )  # fmt: skip


def of(record: RecordRejected) -> Letter:
    return Letter(TOPIC, 0, 0, record)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a.b.v1.svc-x.dlq/2/17", ("a.b.v1.svc-x.dlq", 2, 17)), ("a.late.v1/5", ("a.late.v1", 0, 5)), ("a.b.dlq", None),
        ("a.b.dlq/x", None), ("2013-06-01.UA.1545.EWR", None), ("", None),
    ],
)  # fmt: skip
def test_a_position_is_topic_partition_offset(text: str, place: tuple[str, int, int] | None) -> None:
    assert place_of(text) == place


def test_a_letter_is_found_at_its_place_and_by_its_names() -> None:
    bus, codec = MemoryBus(), Codec(MemoryRegistry())
    bus.admin().ensure_topics([TopicSpec(TOPIC, 2)])
    producer = bus.producer("test")
    for number in range(3):
        producer.produce(TOPIC, codec.encode(TOPIC, letter(number, key=f"k{number}".encode())), b"k", 1)
    producer.produce(TOPIC, b"junk", b"k", 1)
    found = letter_at(bus, codec, TOPIC, 1, 2)
    assert found is not None
    assert (found.partition, found.offset, found.record.origin_id) == (1, 2, "o-2")
    assert letter_at(bus, codec, TOPIC, 1, 9) is None
    assert letter_at(bus, codec, TOPIC, 0, 0) is None
    with pytest.raises(Poison):
        letter_at(bus, codec, TOPIC, 1, 3)
    with pytest.raises(HeadraceError, match="there is no"):
        letter_at(bus, codec, TOPIC, 2, 0)
    assert [one.offset for one in letters_of(bus, codec, [TOPIC, "shop.nothing.dlq"], "o-1")] == [1]
    assert [one.offset for one in letters_of(bus, codec, [TOPIC], "k2")] == [2]
    assert list(letters_of(bus, codec, [TOPIC], "o")) == []


def test_a_record_is_read_by_the_schema_it_was_written_with() -> None:
    registry = MemoryRegistry()
    schema_id = registry.register("shop.orders.v1-value", ORDER)
    read = opened(of(letter(value=frame(schema_id, BODY))), registry)
    assert list(read.fields) == [("id", '"o1"'), ("at", "1 (1970-01-01 00:00:00 UTC)"), ("cents", "7")]
    assert read.schema_id == schema_id


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (None, "no value was kept"), (b"plain", "not a framed"), (frame(77, BODY), "no schema with id 77"),
        (frame(1, BODY[:3]), "end|early|expected"), (frame(1, BODY + b"x"), "1 bytes after"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_says_why(value: bytes | None, complaint: str) -> None:
    registry = MemoryRegistry()
    registry.register("shop.orders.v1-value", ORDER)
    read = opened(of(letter(value=value)), registry)
    assert list(read.fields) == []
    assert read.complaint
    assert any(part in read.complaint.lower() for part in complaint.split("|")), read.complaint


@pytest.mark.parametrize(
    ("value", "fields"),
    [
        (b'{"id": "o1", "n": null}', [("id", '"o1"'), ("n", "null")]),
        (b'id,note\no1,"a, b"', [("id", "o1"), ("note", "a, b")]),
        (b"{broken", []), (b"[1]", []), (b"\xff\xfe", []), (b"a,b\n1,2\n3,4", []),
    ],
)  # fmt: skip
def test_a_row_of_a_source_is_json_or_a_csv_header_with_a_line(value: bytes, fields: list[tuple[str, str]]) -> None:
    read = opened(of(letter(value=value, partition=OUTSIDE)), MemoryRegistry())
    assert list(read.fields) == fields
    assert bool(read.complaint) is not bool(fields)


@given(st.binary(max_size=200))
def test_any_bytes_are_opened_without_an_error(value: bytes) -> None:
    registry = MemoryRegistry()
    registry.register("shop.orders.v1-value", ORDER)
    for partition in (0, OUTSIDE):
        for bytes_of in (value, frame(1, value)):
            read = opened(of(letter(value=bytes_of, partition=partition)), registry)
            assert read.fields or read.complaint or bytes_of == b"{}"


@given(st.binary(max_size=100), st.integers(1, 64))
def test_a_dump_holds_the_bytes_it_says(value: bytes, limit: int) -> None:
    lines = dump(value, limit)
    shown = bytes.fromhex("".join(line[8:55] for line in lines if not line.startswith("...")))
    assert shown == value[:limit]
    assert lines[-1:] == [f"... {len(value) - limit} bytes more: --raw FILE writes all of them"] or len(value) <= limit


def test_every_reason_has_its_advice_and_an_unknown_one_is_no_error() -> None:
    assert set(ADVICE) == set(Reason)
    assert advice(letter()) == ADVICE[Reason.TRUNCATED]
    assert "does not know" in advice(replace(letter(), reason="of_a_later_version"))


def test_only_what_was_kept_whole_and_is_not_late_can_be_sent_again() -> None:
    assert never_again(letter()) == ""
    assert "part of its bytes" in never_again(letter(value=None))
    assert "part of its bytes" in never_again(letter(detail="too long (kept: the first 10 of 99 bytes)"))
    assert "later still" in never_again(replace(letter(), reason="late"))
