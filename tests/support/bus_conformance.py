"""What a bus must do, as one suite: the in-memory broker and Apache Kafka both pass it, so the fake cannot lie."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Callable

import pytest

from headrace.chassis.bus import Bus, Committed, Consumer, Delivered, Record, TopicPartition, TopicSpec
from headrace.chassis.errors import Fatal, Fenced, Retryable
from headrace.contracts.partition import partition_of

FLUSH_S = 10.0


class BusConformance:
    """Subclasses give `bus`, and `patience_s`: how long to wait for what must come; a quarter of it for what must not."""

    patience_s = 0.0

    @pytest.fixture
    def bus(self) -> Bus:
        raise NotImplementedError

    @pytest.fixture
    def name(self) -> Callable[[], str]:
        """Fresh names for topics, groups and producers, so that tests share one broker."""
        run, numbers = uuid.uuid4().hex[:8], itertools.count()
        return lambda: f"conformance-{run}-{next(numbers)}"

    def topic(self, bus: Bus, name: str, partitions: int = 1) -> str:
        bus.admin().ensure_topics([TopicSpec(name, partitions)])
        return name

    def take(self, consumer: Consumer, count: int) -> list[Record]:
        """The next count records; fewer only when patience ran out."""
        found: list[Record] = []
        deadline = time.monotonic() + self.patience_s
        while len(found) < count:
            batch = consumer.consume(count - len(found), min(self.patience_s, 0.2))
            found += batch
            if not batch and time.monotonic() >= deadline:
                break
        return found

    def nothing(self, *consumers: Consumer) -> bool:
        """True if no record comes for a while."""
        deadline = time.monotonic() + self.patience_s / 10
        while True:
            if any(c.consume(10, min(self.patience_s, 0.1)) for c in consumers):
                return False
            if time.monotonic() >= deadline:
                return True

    def settle(self, done: Callable[[], bool], *consumers: Consumer) -> list[Record]:
        """Poll consumers in turn until the group stands as wanted; returns what they read meanwhile."""
        found: list[Record] = []
        for round_ in itertools.count():
            if done():
                return found
            assert round_ < 10 or time.monotonic() < self._until(round_), "the group did not settle"
            for consumer in consumers:
                found += consumer.consume(100, min(self.patience_s, 0.05))
        return found

    def _until(self, round_: int) -> float:
        if round_ == 10:
            self._deadline = time.monotonic() + self.patience_s
        return self._deadline

    # -- records ------------------------------------------------------------------------------------------------------

    def test_a_record_comes_out_as_it_went_in(self, bus: Bus, name: Callable[[], str]) -> None:
        """Key, value, headers and tombstones survive byte for byte; offsets count up; the broker stamps the time."""
        topic, landed = self.topic(bus, name()), []
        producer = bus.producer("test")
        headers = [("event-id", b"\x00\xff"), ("event-id", b"again"), ("traceparent", b"")]
        producer.produce(topic, b"value\x00", b"key", headers=headers, on_delivery=lambda e, d: landed.append((e, d)))
        producer.produce(topic, None, b"key", partition=0)
        producer.produce(topic, b"", None, partition=0)
        producer.flush(FLUSH_S)
        reader = bus.consumer(None, "test")
        reader.assign({TopicPartition(topic, 0): -2})
        first, tombstone, keyless = self.take(reader, 3)
        assert landed == [(None, Delivered(topic, 0, 0))]
        assert (first.key, first.value, first.headers) == (b"key", b"value\x00", tuple(headers))
        assert (tombstone.key, tombstone.value, tombstone.headers) == (b"key", None, ())
        assert (keyless.key, keyless.value) == (None, b"")
        assert [r.offset for r in (first, tombstone, keyless)] == [0, 1, 2]
        assert 0 < first.append_time_ms <= tombstone.append_time_ms <= keyless.append_time_ms
        reader.close()

    def test_a_key_lands_where_java_clients_put_it(self, bus: Bus, name: Callable[[], str]) -> None:
        """Without a partition given, murmur2 of the key decides."""
        topic, keys = self.topic(bus, name(), 5), [f"entity-{i}".encode() for i in range(40)]
        producer = bus.producer("test")
        for key in keys:
            producer.produce(topic, key, key)
        producer.flush(FLUSH_S)
        reader = bus.consumer(None, "test")
        reader.assign({TopicPartition(topic, p): -2 for p in range(5)})
        assert {r.key: r.partition for r in self.take(reader, 40)} == {k: partition_of(k, 5) for k in keys}
        reader.close()

    # -- positions ----------------------------------------------------------------------------------------------------

    def test_a_manual_assignment_starts_where_it_says(self, bus: Bus, name: Callable[[], str]) -> None:
        """Earliest, latest and an exact offset; without a group nothing can be committed."""
        topic = self.topic(bus, name())
        where, producer = TopicPartition(topic, 0), bus.producer("test")
        for i in range(5):
            producer.produce(topic, b"%d" % i)
        producer.flush(FLUSH_S)
        reader = bus.consumer(None, "test")
        for start, expected in ((-2, [0, 1, 2, 3, 4]), (3, [3, 4])):
            reader.assign({where: start})
            assert [r.offset for r in self.take(reader, len(expected))] == expected
        reader.assign({where: -1})
        assert self.nothing(reader)
        producer.produce(topic, b"5")
        producer.flush(FLUSH_S)
        assert [r.offset for r in self.take(reader, 1)] == [5]
        assert reader.assignment() == [where]
        assert reader.committed([where]) == {where: None}
        with pytest.raises(Fatal):
            reader.commit({where: Committed(1)})
        reader.close()

    def test_the_position_reaches_the_end_whatever_lies_there(self, bus: Bus, name: Callable[[], str]) -> None:
        """An empty partition, one that ends in a marker, one that holds only an aborted transaction: a restore ends."""
        topic = self.topic(bus, name(), 3)
        partitions = [TopicPartition(topic, p) for p in range(3)]
        producer = bus.producer("test", transactional_id=name())
        producer.init_transactions()
        producer.begin()
        producer.produce(topic, b"kept", partition=1)
        producer.commit()
        producer.begin()
        producer.produce(topic, b"dropped", partition=2)
        producer.flush(FLUSH_S)
        producer.abort()
        reader = bus.consumer(None, "test")
        reader.assign(dict.fromkeys(partitions, -2))
        assert [reader.position(p) for p in partitions] == [None, None, None]
        ends, wanted = {}, {partitions[0]: (0, 0), partitions[1]: (0, 2), partitions[2]: (0, 2)}
        found: list[Record] = []
        deadline = time.monotonic() + self.patience_s
        while ends != wanted:  # a transaction ends before its markers lie in every partition
            ends = {p: reader.watermarks(p) for p in partitions}
            assert ends == wanted or time.monotonic() <= deadline
        while any((reader.position(p) or 0) < ends[p][1] or reader.position(p) is None for p in partitions):
            found += reader.consume(10, min(self.patience_s, 0.1))
            assert time.monotonic() <= deadline or self.patience_s == 0, "positions did not reach the end"
        assert [r.value for r in found] == [b"kept"]
        reader.close()

    def test_columns_are_the_records_by_partition(self, bus: Bus, name: Callable[[], str]) -> None:
        topic = self.topic(bus, name(), 2)
        producer = bus.producer(name())
        for i in range(40):
            headers = [("event-id", b"e%d" % i)] if i % 7 == 0 else []
            producer.produce(topic, None if i == 9 else b"v%d" % i, b"k%d" % i, i % 3 % 2, headers)
        producer.flush(FLUSH_S)
        places = {TopicPartition(topic, p): 0 for p in range(2)}
        plain, columns = bus.consumer(None, name()), bus.consumer(None, name())
        plain.assign(places)
        columns.assign(places)
        found: dict[TopicPartition, list[Record]] = {place: [] for place in places}
        deadline = time.monotonic() + self.patience_s
        while sum(map(len, found.values())) < 40 and time.monotonic() <= deadline + 1:
            for batch in columns.consume_batches(7, min(self.patience_s, 0.2)):
                rows = [batch.record(i) for i in range(len(batch.offsets))]
                assert [r.offset for r in rows] == batch.offsets
                assert [r.append_time_ms for r in rows] == batch.append_times_ms
                assert [r.value for r in rows] == batch.values
                assert [i for i, r in enumerate(rows) if r.headers] == list(batch.traced)
                found[batch.place] += rows
        taken = self.take(plain, 40)
        assert found == {place: [r for r in taken if r.partition == place.partition] for place in places}
        plain.close()
        columns.close()

    def test_a_log_begins_where_its_records_were_deleted_before(self, bus: Bus, name: Callable[[], str]) -> None:
        topic = self.topic(bus, name())
        producer = bus.producer(name())
        for i in range(10):
            producer.produce(topic, b"v%d" % i)
        producer.flush(FLUSH_S)
        bus.admin().delete_records({TopicPartition(topic, 0): 4})
        consumer = bus.consumer(None, name())
        assert consumer.watermarks(TopicPartition(topic, 0)) == (4, 10)
        consumer.assign({TopicPartition(topic, 0): 4})
        assert [r.offset for r in self.take(consumer, 6)] == [4, 5, 6, 7, 8, 9]
        consumer.close()

    def test_seek_delivers_again_from_there(self, bus: Bus, name: Callable[[], str]) -> None:
        """What a worker does after an aborted transaction."""
        topic = self.topic(bus, name())
        producer, reader = bus.producer("test"), bus.consumer(None, "test")
        for i in range(6):
            producer.produce(topic, b"%d" % i)
        producer.flush(FLUSH_S)
        reader.assign({TopicPartition(topic, 0): -2})
        assert [r.offset for r in self.take(reader, 4)] == [0, 1, 2, 3]
        reader.seek(TopicPartition(topic, 0), 1)
        assert [r.offset for r in self.take(reader, 5)] == [1, 2, 3, 4, 5]
        reader.close()

    def test_a_paused_partition_waits_and_loses_nothing(self, bus: Bus, name: Callable[[], str]) -> None:
        """Others go on meanwhile; after resume the next record follows the last one read."""
        topic = self.topic(bus, name(), 2)
        still, moving = TopicPartition(topic, 0), TopicPartition(topic, 1)
        producer, reader = bus.producer("test"), bus.consumer(None, "test")
        for i in range(4):
            producer.produce(topic, b"%d" % i, partition=0)
        producer.flush(FLUSH_S)
        reader.assign({still: -2, moving: -2})
        assert [r.offset for r in self.take(reader, 2)] == [0, 1]
        reader.pause([still])
        producer.produce(topic, b"x", partition=1)
        producer.flush(FLUSH_S)
        assert [(r.partition, r.offset) for r in self.take(reader, 1)] == [(1, 0)]
        assert self.nothing(reader)
        reader.resume([still])
        assert [r.offset for r in self.take(reader, 2)] == [2, 3]
        reader.close()

    # -- groups -------------------------------------------------------------------------------------------------------

    def test_a_group_resumes_from_its_commit_with_its_metadata(self, bus: Bus, name: Callable[[], str]) -> None:
        """Uncommitted records come again; a group that never committed has no position."""
        topic, group = self.topic(bus, name()), name()
        where, producer = TopicPartition(topic, 0), bus.producer("test")
        for i in range(5):
            producer.produce(topic, b"%d" % i)
        producer.flush(FLUSH_S)
        first = bus.consumer(group, "first")
        first.subscribe([topic])
        assert first.committed([where]) == {where: None}
        assert len(self.take(first, 5)) == 5
        first.commit({where: Committed(2, "maximum=17")})
        first.close()
        second = bus.consumer(group, "second")
        second.subscribe([topic])
        assert second.committed([where]) == {where: Committed(2, "maximum=17")}
        assert [r.offset for r in self.take(second, 3)] == [2, 3, 4]
        second.close()

    def test_a_deleted_group_has_forgotten_and_one_in_use_is_not_deleted(self, bus: Bus, name: Callable[[], str]) -> None:
        """An unknown group is fine; while a member is there the world says: later."""
        topic, group = self.topic(bus, name()), name()
        where = TopicPartition(topic, 0)
        member = bus.consumer(group, "member")
        member.subscribe([topic])
        self.settle(lambda: member.assignment() != [], member)
        member.commit({where: Committed(7, "seven")})
        with pytest.raises(Retryable):
            bus.admin().delete_groups([group])
        assert member.committed([where]) == {where: Committed(7, "seven")}
        member.close()
        bus.admin().delete_groups([group, name()])
        reader = bus.consumer(group, "reader")
        assert reader.committed([where]) == {where: None}
        reader.close()

    def test_a_new_group_may_start_at_the_end(self, bus: Bus, name: Callable[[], str]) -> None:
        """from_latest: only what comes after the assignment."""
        topic = self.topic(bus, name())
        producer = bus.producer("test")
        producer.produce(topic, b"before")
        producer.flush(FLUSH_S)
        reader = bus.consumer(name(), "test", from_latest=True)
        reader.subscribe([topic])
        self.settle(lambda: reader.position(TopicPartition(topic, 0)) == 1, reader)
        producer.produce(topic, b"after")
        producer.flush(FLUSH_S)
        assert [r.value for r in self.take(reader, 1)] == [b"after"]
        reader.close()

    def test_two_members_share_and_the_one_left_takes_over(self, bus: Bus, name: Callable[[], str]) -> None:
        """Every partition has one owner at a time; revocation comes before the next assignment and may commit."""
        topic, group = self.topic(bus, name(), 4), name()
        told: list[tuple[str, int]] = []
        first, second = bus.consumer(group, "first"), bus.consumer(group, "second")

        def revoked(partitions: object) -> None:
            told.append(("revoked", len(list(partitions))))  # type: ignore[call-overload]
            first.commit({TopicPartition(topic, 0): Committed(0, "left in order")})

        first.subscribe([topic], on_assign=lambda p: told.append(("assigned", len(p))), on_revoke=revoked)
        self.settle(lambda: len(first.assignment()) == 4, first)
        second.subscribe([topic])
        self.settle(lambda: len(second.assignment()) == 2, first, second)
        assert not set(first.assignment()) & set(second.assignment())
        second.close()
        self.settle(lambda: len(first.assignment()) == 4, first)
        assert told[:4] == [("assigned", 4), ("revoked", 4), ("assigned", 2), ("revoked", 2)]
        assert first.committed([TopicPartition(topic, 0)]) == {TopicPartition(topic, 0): Committed(0, "left in order")}
        first.close()

    def test_a_static_member_comes_back_without_a_rebalance(self, bus: Bus, name: Callable[[], str]) -> None:
        """A restart within the session timeout moves nobody's partitions."""
        topic, group = self.topic(bus, name(), 2), name()
        moves: list[str] = []
        stays, goes = bus.consumer(group, "a", instance_id="a"), bus.consumer(group, "b", instance_id="b")
        stays.subscribe([topic], on_revoke=lambda _: moves.append("revoked"))
        goes.subscribe([topic])
        self.settle(lambda: len(stays.assignment()) == len(goes.assignment()) == 1, stays, goes)
        before, own = stays.assignment(), goes.assignment()
        moves.clear()
        goes.close()
        back = bus.consumer(group, "b", instance_id="b")
        back.subscribe([topic])
        self.settle(lambda: back.assignment() == own, stays, back)
        assert stays.assignment() == before
        assert moves == []
        back.close()
        stays.close()

    def test_the_older_of_two_equal_instances_is_fenced(self, bus: Bus, name: Callable[[], str]) -> None:
        """A ghost must end, not compete."""
        topic, group = self.topic(bus, name()), name()
        ghost = bus.consumer(group, "ghost", instance_id="one")
        ghost.subscribe([topic])
        self.settle(lambda: len(ghost.assignment()) == 1, ghost)
        heir = bus.consumer(group, "heir", instance_id="one")
        heir.subscribe([topic])
        self.settle(lambda: len(heir.assignment()) == 1, heir)
        with pytest.raises(Fenced):
            ghost.commit({TopicPartition(topic, 0): Committed(1)})
        heir.close()

    # -- transactions -------------------------------------------------------------------------------------------------

    def test_an_open_transaction_stalls_readers_behind_it(self, bus: Bus, name: Callable[[], str]) -> None:
        """Also for the records of others, until it is decided; markers leave gaps in the offsets."""
        topic = self.topic(bus, name())
        slow, plain = bus.producer("slow", transactional_id=name()), bus.producer("plain")
        slow.init_transactions()
        plain.produce(topic, b"before")
        plain.flush(FLUSH_S)
        slow.begin()
        slow.produce(topic, b"inside")
        slow.flush(FLUSH_S)
        plain.produce(topic, b"behind")
        plain.flush(FLUSH_S)
        reader = bus.consumer(None, "test")
        reader.assign({TopicPartition(topic, 0): -2})
        assert [r.value for r in self.take(reader, 1)] == [b"before"]
        assert self.nothing(reader)
        assert reader.watermarks(TopicPartition(topic, 0)) == (0, 1)
        slow.commit()
        assert [(r.offset, r.value) for r in self.take(reader, 2)] == [(1, b"inside"), (2, b"behind")]
        plain.produce(topic, b"last")  # only now: the broker answers a commit before its marker is in the log
        plain.flush(FLUSH_S)
        assert [(r.offset, r.value) for r in self.take(reader, 1)] == [(4, b"last")]
        reader.close()

    def test_an_aborted_transaction_leaves_no_trace(self, bus: Bus, name: Callable[[], str]) -> None:
        """Neither its records nor its offsets are ever seen; the producer goes on."""
        source, sink, group = self.topic(bus, name()), self.topic(bus, name()), name()
        where, reader = TopicPartition(source, 0), bus.consumer(group, "test")
        feed = bus.producer("feed")
        feed.produce(source, b"in")
        feed.flush(FLUSH_S)
        reader.subscribe([source])
        assert len(self.take(reader, 1)) == 1
        producer = bus.producer("test", transactional_id=name())
        producer.init_transactions()
        producer.begin()
        producer.produce(sink, b"aborted")
        producer.send_offsets({where: Committed(1, "aborted")}, reader)
        producer.flush(FLUSH_S)
        producer.abort()
        assert reader.committed([where]) == {where: None}
        producer.begin()
        producer.produce(sink, b"committed")
        producer.send_offsets({where: Committed(1, "sequence=1")}, reader)
        producer.commit()
        assert reader.committed([where]) == {where: Committed(1, "sequence=1")}
        after = bus.consumer(None, "after")
        after.assign({TopicPartition(sink, 0): -2})
        assert [r.value for r in self.take(after, 1)] == [b"committed"]
        assert self.nothing(after)
        reader.close()
        after.close()

    def test_a_new_incarnation_fences_the_old_one_and_aborts_its_work(self, bus: Bus, name: Callable[[], str]) -> None:
        """The same transactional id: the ghost's open transaction never commits."""
        topic, shared = self.topic(bus, name()), name()
        ghost, heir = bus.producer("ghost", transactional_id=shared), bus.producer("heir", transactional_id=shared)
        ghost.init_transactions()
        ghost.begin()
        ghost.produce(topic, b"ghost")
        ghost.flush(FLUSH_S)
        heir.init_transactions()
        with pytest.raises(Fenced):
            ghost.commit()
        heir.begin()
        heir.produce(topic, b"heir")
        heir.commit()
        reader = bus.consumer(None, "test")
        reader.assign({TopicPartition(topic, 0): -2})
        assert [r.value for r in self.take(reader, 1)] == [b"heir"]
        reader.close()

    def test_a_transactional_producer_works_inside_transactions_only(self, bus: Bus, name: Callable[[], str]) -> None:
        """A record outside would be visible at once."""
        topic = self.topic(bus, name())
        producer = bus.producer("test", transactional_id=name())
        producer.init_transactions()
        with pytest.raises(Fatal):
            producer.produce(topic, b"outside")
        producer.close()

    # -- topics -------------------------------------------------------------------------------------------------------

    def test_topics_are_created_once_and_checked_after(self, bus: Bus, name: Callable[[], str]) -> None:
        """Another partition count or cleanup policy is refused, never changed; a topic made again has another id."""
        admin, topic = bus.admin(), name()
        assert admin.partitions(topic) is None
        admin.ensure_topics([TopicSpec(topic, 3, compacted=True)])
        admin.ensure_topics([TopicSpec(topic, 3, compacted=True)])
        assert admin.partitions(topic) == 3
        with pytest.raises(Fatal, match="partitions"):
            admin.ensure_topics([TopicSpec(topic, 4, compacted=True)])
        with pytest.raises(Fatal, match=r"cleanup\.policy"):
            admin.ensure_topics([TopicSpec(topic, 3)])
        first = admin.topic_id(topic)
        assert first == admin.topic_id(topic)
        assert admin.topic_ids([topic, name()]) == {topic: first}
        assert admin.topic_ids([]) == {}
        kept, forever = name(), name()
        admin.ensure_topics([TopicSpec(kept, 1, retention_ms=3_600_000), TopicSpec(forever, 1)])
        asked = admin.retention_ms([kept, forever, topic, name()])
        assert asked == {kept: 3_600_000, forever: None, topic: None}
        assert admin.retention_ms([]) == {}
        admin.delete_topics([topic, name()])
        assert admin.partitions(topic) is None
        admin.ensure_topics([TopicSpec(topic, 1)])
        assert admin.topic_id(topic) != first
