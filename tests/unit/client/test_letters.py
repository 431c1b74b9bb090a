"""Dead letters and passports, read out of topics on the in-memory bus."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from headrace.chassis.bus import TopicSpec
from headrace.chassis.bus_memory import MemoryBus
from headrace.cli import dlq
from headrace.client.ingest import IngestClient, Unanswered
from headrace.client.letters import OUTSIDE, Letter, keeps_late, read_letters, replay
from headrace.client.passports import from_topic
from headrace.contracts.catalogue import dlq_topic, late_topic, predictions_topic
from headrace.contracts.codec import Codec, MemoryRegistry
from headrace.contracts.errors import HeadraceError
from headrace.contracts.records import RecordRejected

TOPIC = dlq_topic("shop.orders.v1", "svc-stream")


def letter(offset: int) -> RecordRejected:
    return RecordRejected(
        topic="shop.orders.v1", partition=0, offset=offset, append_time_ms=1, group="svc-stream", reason="truncated", detail="",
        key=b"k", value=b"v", origin_id=f"o-{offset}",
    )  # fmt: skip


def test_letters_come_by_partition_and_offset_without_what_is_no_letter() -> None:
    bus, codec = MemoryBus(), Codec(MemoryRegistry())
    bus.admin().ensure_topics([TopicSpec(TOPIC, 2)])
    producer = bus.producer("test")
    for number, partition in enumerate([1, 0, 1, 0]):
        producer.produce(TOPIC, codec.encode(TOPIC, letter(number)), b"k", partition)
        producer.produce(TOPIC, b"junk" if number else None, b"k", partition)
    found = [(read.partition, read.offset, read.record.origin_id) for read in read_letters(bus, codec, TOPIC)]
    assert found == [(0, 0, "o-1"), (0, 2, "o-3"), (1, 0, "o-0"), (1, 2, "o-2")]
    assert list(read_letters(bus, codec, "shop.nothing.v1.svc-stream.dlq")) == []


def test_a_record_with_several_letters_is_sent_once_and_to_the_partition_it_came_from() -> None:
    """Goal: replay counts a record once. Method: two services and a set that judged its history anew wrote of one record."""
    bus = MemoryBus()
    bus.admin().ensure_topics([TopicSpec("shop.orders.v1", 3)])
    of = [letter(4), replace(letter(4), group="svc-monitor"), letter(4), replace(letter(5), partition=2), letter(6)]
    of.append(replace(letter(7), value=None))
    with IngestClient("http://127.0.0.1:1") as nobody:  # no row among them: it is not asked
        done = replay([Letter(TOPIC, 0, n, record) for n, record in enumerate(of)], bus, nobody)
    assert (done.produced, done.repeated, done.skipped) == (3, 2, 1)
    assert [(r.partition, r.key, r.value) for r in bus.broker.records("shop.orders.v1")] == [
        (0, b"k", b"v"), (0, b"k", b"v"), (2, b"k", b"v"),
    ]  # fmt: skip


def test_rows_are_not_sent_where_nobody_listens() -> None:
    row = Letter(TOPIC, 0, 0, replace(letter(4), partition=OUTSIDE))
    with IngestClient("http://127.0.0.1:1") as nobody, pytest.raises(Unanswered, match="nobody listens at http"):
        replay([row], MemoryBus(), nobody)


def test_late_records_are_read_and_not_sent_again() -> None:
    """Goal: nobody mistakes a late record for a dead one. Method: one of each; the dead one alone arrives."""
    bus, codec = MemoryBus(), Codec(MemoryRegistry())
    late = late_topic("shop")
    bus.admin().ensure_topics([TopicSpec("shop.orders.v1", 1), TopicSpec(late, 1)])
    producer = bus.producer("test")
    producer.produce(late, codec.encode(late, replace(letter(3), reason="late", lateness_ms=5_000)), b"k", 0)
    (read,) = read_letters(bus, codec, late)
    assert (read.late, read.pipeline, read.record.lateness_ms) == (True, "shop", 5_000)
    with IngestClient("http://127.0.0.1:1") as nobody:
        done = replay([read, Letter(TOPIC, 0, 0, letter(3))], bus, nobody)
    assert (done.late, done.produced, done.repeated) == (1, 1, 0)
    assert len(bus.broker.records("shop.orders.v1")) == 1
    assert [keeps_late(t) for t in (late, TOPIC, "shop.too.late.v1", "shop.late.v2")] == [True, False, False, False]


def test_the_listing_says_what_is_late_and_that_it_cannot_be_replayed() -> None:
    shown = Console(record=True, width=200, file=io.StringIO())
    late, dead = late_topic("shop"), TOPIC
    of = [(dead, iter([Letter(dead, 0, 0, letter(0))])), (late, iter([Letter(late, 0, 0, replace(letter(1), reason="late"))]))]
    assert dlq.listing(shown, of)
    rows = [line.split() for line in shown.export_text().splitlines()]
    assert any(row[:3] == [dead, "truncated", "yes"] and row[-1] == "0/0" for row in rows)
    assert any(row[:4] == [late, "late", "no:", "late"] for row in rows)
    assert not dlq.listing(Console(file=io.StringIO()), [(late, iter([])), (dead, iter([]))])
    refused = CliRunner().invoke(dlq.app, ["replay", late])
    assert refused.exit_code == 1
    assert "nothing of shop.late.v1 is sent again" in refused.output and "lateness" in refused.output


def test_a_passport_is_looked_for_under_its_key_and_a_topic_that_is_not_there_is_told() -> None:
    bus, codec = MemoryBus(), Codec(MemoryRegistry())
    with pytest.raises(HeadraceError, match="there is no topic"):
        from_topic(bus, codec, "shop", "r1")
    bus.admin().ensure_topics([TopicSpec(predictions_topic("shop"), 2)])
    bus.producer("test").produce(predictions_topic("shop"), b"no passport", b"r1")
    assert from_topic(bus, codec, "shop", "r1") is None
