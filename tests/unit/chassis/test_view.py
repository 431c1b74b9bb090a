"""A view stands at a Progress, never between two, and answers only when it has reached the log end seen at its start."""

from __future__ import annotations

from headrace.chassis.bus import TopicPartition, TopicSpec
from headrace.chassis.bus_memory import MemoryBus
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
