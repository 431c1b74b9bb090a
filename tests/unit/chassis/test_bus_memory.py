"""The in-memory bus passes the suite of the real one."""

from __future__ import annotations

import pytest

from headrace.chassis.bus import Bus, Committed, TopicPartition, TopicSpec
from headrace.chassis.bus_memory import MemoryBus, MemoryConsumer
from headrace.chassis.clock import ManualClock
from headrace.chassis.errors import Fenced, GenerationLost, Retryable, TransactionAborted
from headrace.chassis.memory_broker import MemoryBroker
from support.bus_conformance import BusConformance


class TestMemoryBus(BusConformance):
    @pytest.fixture
    def bus(self) -> Bus:
        return MemoryBus()


# -- what tests may do to the in-memory broker that nobody can do to a real one on demand --------------------------------


def two_records_and_a_reader(bus: MemoryBus) -> tuple[TopicPartition, MemoryConsumer]:
    bus.admin().ensure_topics([TopicSpec("t", 1)])
    producer = bus.producer("test")
    for key, value in ((b"a", b"1"), (b"b", b"1"), (b"a", b"2")):
        producer.produce("t", value, key)
    reader = bus.consumer("g", "test")
    reader.subscribe(["t"])
    return TopicPartition("t", 0), reader


def test_append_time_is_the_clocks() -> None:
    """LogAppendTime: what the broker's clock says, jumps included."""
    clock = ManualClock(5_000)
    bus = MemoryBus(MemoryBroker(clock))
    bus.admin().ensure_topics([TopicSpec("t", 1)])
    producer = bus.producer("test")
    producer.produce("t", b"1")
    clock.jump(-3_000)
    producer.produce("t", b"2")
    assert [r.append_time_ms for r in bus.broker.records("t")] == [5_000, 2_000]


def test_compaction_keeps_the_newest_of_each_key_at_its_offset() -> None:
    """Readers meet gaps; the end stays where it was."""
    bus = MemoryBus()
    where, reader = two_records_and_a_reader(bus)
    bus.broker.compact("t")
    assert [(r.offset, r.key, r.value) for r in reader.consume(10, 0)] == [(1, b"b", b"1"), (2, b"a", b"2")]
    assert reader.watermarks(where) == (0, 3)


def test_retention_moves_the_start_past_a_slow_reader() -> None:
    """What is gone is skipped; the log start tells."""
    bus = MemoryBus()
    where, reader = two_records_and_a_reader(bus)
    bus.broker.truncate_before(where, 2)
    assert [r.offset for r in reader.consume(10, 0)] == [2]
    assert reader.watermarks(where) == (2, 3)


def test_offsets_inside_an_open_transaction_are_unstable() -> None:
    """A successor must not start from them before the transaction is decided."""
    bus = MemoryBus()
    where, reader = two_records_and_a_reader(bus)
    reader.consume(10, 0)
    producer = bus.producer("test", transactional_id="x")
    producer.init_transactions()
    producer.begin()
    producer.send_offsets({where: Committed(2)}, reader)
    with pytest.raises(Retryable, match="unstable"):
        reader.committed([where])
    producer.commit()
    assert reader.committed([where]) == {where: Committed(2)}


def test_a_transaction_left_open_is_aborted_at_its_timeout_and_its_producer_fenced() -> None:
    """Readers behind a dead worker wait that long and no longer."""
    clock = ManualClock()
    bus = MemoryBus(MemoryBroker(clock))
    _, reader = two_records_and_a_reader(bus)
    dead = bus.producer("test", transactional_id="x", transaction_timeout_ms=10_000)
    dead.init_transactions()
    dead.begin()
    dead.produce("t", b"inside")
    bus.producer("other").produce("t", b"behind")
    clock.advance(9_999)
    assert [r.value for r in reader.consume(10, 0)] == [b"1", b"1", b"2"]
    clock.advance(1)
    assert [r.value for r in reader.consume(10, 0)] == [b"behind"]
    with pytest.raises(Fenced):
        dead.commit()


def test_a_member_the_group_gave_up_cannot_commit() -> None:
    """Neither plainly nor inside a transaction; it joins again with its next poll."""
    bus = MemoryBus()
    where, ghost = two_records_and_a_reader(bus)
    ghost.consume(10, 0)
    bus.broker.expire_session(ghost)
    with pytest.raises(GenerationLost):
        ghost.commit({where: Committed(3)})
    producer = bus.producer("test", transactional_id="x")
    producer.init_transactions()
    producer.begin()
    with pytest.raises(TransactionAborted):
        producer.send_offsets({where: Committed(3)}, ghost)
    assert [r.offset for r in ghost.consume(10, 0)] == [0, 1, 2]
