"""A view stands at a Progress, never between two, and answers only when it has reached the log end seen at its start."""

from __future__ import annotations

from pytest import MonkeyPatch

from headrace.chassis.bus import TopicPartition, TopicSpec
from headrace.chassis.bus_memory import MemoryBus
from headrace.chassis.clock import ManualClock
from headrace.chassis.memory_broker import MemoryBroker
from headrace.chassis.metrics import ChassisMetrics
from headrace.chassis.state import MemoryStore
from headrace.chassis.view import POSITION_KEY, PROGRESS_KEY, StateView, ViewFollower
from headrace.contracts.records import Progress

TOPIC = "flights.load-state.00000000"
PARTITION = TopicPartition(TOPIC, 0)


def progress(sequence: int) -> bytes:
    return str(sequence).encode()


def decode(raw: bytes) -> Progress:
    return Progress(
        set_hash="h", partition=0, cut=(), commit_sequence=int(raw), partials_offset=0, base_digest="empty",
        base_floor_ms=None, traceparents=(),
    )  # fmt: skip


def bus() -> MemoryBus:
    made = MemoryBus()
    made.broker.create(TopicSpec(TOPIC, 1, compacted=True))
    return made


def write(on: MemoryBus, *pairs: tuple[bytes, bytes | None]) -> None:
    producer = on.producer("stream", transactional_id="stream")
    producer.init_transactions()
    producer.begin()
    for key, value in pairs:
        producer.produce(TOPIC, value, key, 0)
    producer.commit()


def view(store: MemoryStore | None = None) -> StateView:
    return StateView(PARTITION, store or MemoryStore(), decode)


def live(made: StateView, on: MemoryBus) -> ViewFollower:
    follower = ViewFollower([made], on.consumer(None, "view"))
    while not follower.live:
        follower.step(0)
    return follower


def read(made: StateView, *keys: bytes) -> tuple[int | None, list[bytes | None]]:
    with made.reading() as reading:
        return (reading.progress.commit_sequence if reading.progress else None), reading.multi_get(keys)


def test_blocks_and_progress_of_several_commits_arrive_together() -> None:
    on = bus()
    write(on, (b"a", b"1"), (b"b", b"1"), (PROGRESS_KEY, progress(1)))
    write(on, (b"a", b"2"), (b"b", None), (PROGRESS_KEY, progress(2)))
    made = view()
    live(made, on)
    assert read(made, b"a", b"b") == (2, [b"2", None])


def test_blocks_behind_the_last_progress_wait_for_theirs() -> None:
    made = view()
    on = bus()
    write(on, (b"a", b"1"), (PROGRESS_KEY, progress(1)))
    write(on, (b"a", b"2"), (b"c", b"2"), (PROGRESS_KEY, progress(2)))
    records = on.broker.records(TOPIC)
    assert made.apply(records[:3], None) == 1
    assert read(made, b"a", b"c") == (1, [b"1", None])
    assert made.apply(records[3:], None) == 1
    assert read(made, b"a", b"c") == (2, [b"2", b"2"])


def test_an_empty_topic_is_live_at_once_and_knows_nothing() -> None:
    made = view()
    live(made, bus())
    assert read(made, b"a") == (None, [None])


def test_a_restarted_view_goes_on_behind_its_progress_but_answers_only_at_the_end_seen() -> None:
    on, store = bus(), MemoryStore()
    write(on, (b"a", b"1"), (PROGRESS_KEY, progress(1)))
    live(view(store), on)
    write(on, (b"a", b"2"), (PROGRESS_KEY, progress(2)))
    made = view(store)
    consumer = on.consumer(None, "view")
    follower = ViewFollower([made], consumer)
    assert not follower.live and read(made, b"a") == (1, [b"1"])
    assert made.position == 2, "the first transaction's records are not read again"
    follower.step(0)
    assert follower.live and read(made, b"a") == (2, [b"2"])


def test_a_log_that_no_longer_holds_the_position_makes_the_view_start_over() -> None:
    """A topic made anew is shorter than what is on disk."""
    on, store = bus(), MemoryStore()
    store.write({PROGRESS_KEY: progress(9), POSITION_KEY: (99).to_bytes(8, "big"), b"old": b"9"})
    write(on, (b"a", b"1"), (PROGRESS_KEY, progress(1)))
    made = view(store)
    live(made, on)
    assert read(made, b"a", b"old") == (1, [b"1", None])


def test_compaction_between_two_lives_changes_nothing() -> None:
    on, store = bus(), MemoryStore()
    write(on, (b"a", b"1"), (b"b", b"1"), (PROGRESS_KEY, progress(1)))
    live(view(store), on)
    write(on, (b"a", b"2"), (PROGRESS_KEY, progress(2)))
    write(on, (b"b", None), (PROGRESS_KEY, progress(3)))
    on.broker.compact(TOPIC)
    restarted, fresh = view(store), view()
    live(restarted, on)
    live(fresh, on)
    assert read(restarted, b"a", b"b") == read(fresh, b"a", b"b") == (3, [b"2", None])


class Overtaken:
    """A view whose clock is told, on a topic that compaction leaves alone for ten minutes."""

    def __init__(self) -> None:
        self.clock, self.metrics, self.store = ManualClock(1_000_000_000), ChassisMetrics(), MemoryStore()
        self.on = MemoryBus(MemoryBroker(self.clock))
        self.on.broker.create(TopicSpec(TOPIC, 1, compacted=True))

    def follow(self) -> tuple[StateView, ViewFollower]:
        made = view(self.store)
        return made, ViewFollower([made], self.on.consumer(None, "view"), self.clock, self.metrics)

    def commit(self, sequence: int, *pairs: tuple[bytes, bytes | None]) -> None:
        write(self.on, *pairs, (PROGRESS_KEY, progress(sequence)))

    def alarms(self) -> float:
        return self.metrics.views_overtaken.labels(TOPIC)._value.get()


def test_a_view_that_falls_behind_what_compaction_waits_answers_nothing_before_the_end(monkeypatch: MonkeyPatch) -> None:
    """Goal: block a of Progress 2 is gone when the view comes to 2. Method: it stands still while the log is compacted."""
    monkeypatch.setattr("headrace.chassis.view.CONSUME_RECORDS_MAX", 2)
    world = Overtaken()
    world.commit(1, (b"a", b"1"), (b"b", b"1"))
    made, follower = world.follow()
    while not made.live:
        follower.step(0)
    world.commit(2, (b"a", b"2"))
    world.clock.advance(60_000)
    world.commit(3, (b"a", b"3"), (b"b", b"3"))
    world.clock.advance(700_000)
    world.on.broker.compact(TOPIC)
    world.commit(4, (b"b", b"4"))
    seen = []
    while made.progress is None or made.progress.commit_sequence < 4:
        follower.step(0)
        seen += [read(made, b"a", b"b")] if made.live else []
    while not made.live:
        follower.step(0)
    assert set(map(str, seen)) <= {str((1, [b"1", b"1"])), str((4, [b"3", b"4"]))}
    assert read(made, b"a", b"b") == (4, [b"3", b"4"])
    assert world.alarms() == 1


def test_a_restore_slower_than_compaction_waits_goes_on_to_the_end_of_then(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.chassis.view.CONSUME_RECORDS_MAX", 2)
    world = Overtaken()
    world.commit(1, (b"a", b"1"))
    world.commit(2, (b"b", b"2"))
    made, follower = world.follow()
    world.commit(3, (b"a", b"3"))
    world.commit(4, (b"b", b"4"))
    world.clock.advance(400_000)
    answered = []
    while made.progress is None or made.progress.commit_sequence < 4:
        follower.step(0)
        answered += [read(made)[0]] if made.live else []
    while not made.live:
        follower.step(0)
    assert set(answered) <= {4}, "the end it saw at its start is not enough"
    assert read(made, b"a", b"b") == (4, [b"3", b"4"])
    assert world.alarms() == 1


def test_an_old_state_that_nobody_writes_is_answered_from_and_alarms_nobody() -> None:
    world = Overtaken()
    world.commit(1, (b"a", b"1"))
    world.clock.advance(86_400_000)
    made, follower = world.follow()
    while not made.live:
        follower.step(0)
    assert read(made, b"a") == (1, [b"1"])
    world.clock.advance(86_400_000)
    world.commit(2, (b"a", b"2"))
    follower.step(0)
    assert made.live and read(made, b"a") == (2, [b"2"])
    assert world.alarms() == 0
