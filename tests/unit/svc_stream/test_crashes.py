"""Whatever dies, and wherever: the next life ends in the same state, and nothing is written twice."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from headrace.chassis.bus import Committed, TopicPartition
from headrace.chassis.errors import Fatal, Fenced, OutcomeUnknown, PipelineFault, Retryable, TransactionAborted
from headrace.chassis.memory_broker import MemoryBroker
from headrace.chassis.state import MemoryStore
from headrace.chassis.view import StateView
from headrace.contracts.records import PartialTiles, Progress
from headrace.plan.ir import FeatureSet
from headrace.plan.topics import partials_topic, state_topic
from svc_stream.domain.entity import EntityState
from svc_stream.recovery import Reader, restore_entity
from unit.svc_stream.rig import GATE, ORIGIN, Rig, by_append, progress_records, world

RECORDS = 14


class Killed(BaseException):
    """The process is gone: nothing of it runs any more, not even what tidies up."""


@contextmanager
def each_operation(broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch, act: Callable[[str, bool], None]) -> Iterator[None]:
    """Call act(name, after) around every operation any client asks of the broker."""
    original = broker.operation

    @contextmanager
    def watched(name: str) -> Iterator[None]:
        act(name, False)
        with original(name):
            yield
        act(name, True)

    with monkeypatch.context() as patch:
        patch.setattr(broker, "operation", watched)
        yield


def killed_at(rig: Rig, monkeypatch: pytest.MonkeyPatch, moment: int) -> AbstractContextManager[None]:
    seen = 0

    def count(_: str, __: bool) -> None:
        nonlocal seen
        seen += 1
        if seen == moment:
            raise Killed

    return each_operation(rig.broker, monkeypatch, count)


def prepared(seed: int = 3, records: int = RECORDS) -> Rig:
    rig = Rig()
    rig.send(by_append(world(seed, records)))
    return rig


def finished(rig: Rig, feature_set: FeatureSet) -> tuple[object, object]:
    """Final state and letters, after the chains of ranges and of commits were seen to be whole.

    The log between source and entity shows only the ranges that had to travel; what a state merged at once shows in its cut.
    """
    for topic_partition in range(feature_set.partitions):
        at: dict[tuple[str, int], int] = {}
        for record in rig.broker.records(partials_topic(rig.plan, feature_set)):
            if record.partition == topic_partition:
                for r in rig.codec.decode(record.value, PartialTiles).ranges:
                    assert r.from_offset >= at.get((r.event, r.partition), 0), "ranges follow each other, nothing comes twice"
                    at[r.event, r.partition] = r.to_offset
    sequences: dict[int, list[int]] = {}
    reached: dict[tuple[int, str, int], int] = {}
    for record in progress_records(rig, feature_set):
        progress = rig.codec.decode(record.value, Progress)
        sequences.setdefault(record.partition, []).append(progress.commit_sequence)
        for cut in progress.cut:
            place = (record.partition, cut.event, cut.partition)
            assert cut.next_offset >= reached.get(place, 0), "a cut only grows"
            reached[place] = cut.next_offset
    assert all(s == list(range(1, len(s) + 1)) for s in sequences.values())
    rig.compare(feature_set, random.Random(1), questions=6)
    return rig.state(feature_set), rig.letters()


@pytest.fixture(params=["at once", "by the log", "now this, now that"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How tiles get from a source to a state that lives in the same worker: the answer may not depend on it."""
    if request.param == "by the log":
        monkeypatch.setattr(EntityState, "continues", lambda *_: False)
    elif request.param == "now this, now that":
        rng, stands_there = random.Random(5), EntityState.continues
        monkeypatch.setattr(EntityState, "continues", lambda state, ranges: stands_there(state, ranges) and rng.random() < 0.5)


@pytest.fixture(scope="module")
def undisturbed() -> tuple[object, object]:
    rig = prepared()
    rig.drain(rig.worker(GATE))
    return finished(rig, GATE)


@pytest.mark.parametrize("lose_disk", [False, True], ids=["disk kept", "disk lost"])
def test_a_kill_at_any_moment_leaves_no_trace(
    lose_disk: bool, undisturbed: tuple[object, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after every single call to the broker: begin, each produce, offsets, commit, and before the local write."""
    moment, lives = 0, 0
    while True:
        moment += 4 if moment > 50 else 1
        rig = prepared()
        first = rig.worker(GATE)
        with killed_at(rig, monkeypatch, moment):
            try:
                rig.drain(first, rng=random.Random(moment))
            except Killed:
                lives += 1
            else:
                break
        rig.drain(rig.worker(GATE, lose_disk=lose_disk))
        assert finished(rig, GATE) == undisturbed, f"killed at moment {moment}"
    assert lives > 50


FAULTS = [
    ("consume", Retryable("down"), False),
    ("committed", Retryable("unstable"), False),
    ("watermarks", Retryable("down"), False),
    ("begin", Retryable("down"), False),
    ("produce", Retryable("down"), False),
    ("deliver", Retryable("lost"), False),
    ("send_offsets", TransactionAborted("generation"), False),
    ("commit_transaction", TransactionAborted("aborted"), False),
    ("commit_transaction", OutcomeUnknown("timed out"), False),
    ("commit_transaction", OutcomeUnknown("timed out"), True),
    ("init_transactions", Retryable("down"), False),
]


@pytest.mark.parametrize(("operation", "error", "after"), FAULTS, ids=[f"{o} {type(e).__name__} {a}" for o, e, a in FAULTS])
@pytest.mark.parametrize("rounds", [1, 2, 4])
def test_a_failed_round_is_done_again_from_what_is_committed(
    operation: str, error: Exception, after: bool, rounds: int, undisturbed: tuple[object, object]
) -> None:
    rig = prepared()
    worker = rig.worker(GATE)
    for _ in range(rounds):
        rig.round(worker, 3)
    rig.broker.fail(operation, error, after=after)
    if operation in ("committed", "watermarks", "init_transactions"):  # what only reading back asks
        rig.broker.fail("commit_transaction", OutcomeUnknown("timed out"))
    if isinstance(error, TransactionAborted):
        rig.broker.fail("abort_transaction", Retryable("no answer"))
    rig.drain(worker, rng=random.Random(rounds))
    assert worker.metrics.aborts >= 1
    assert finished(rig, GATE) == undisturbed


def test_a_failed_local_write_is_given_back_by_the_changelog(
    undisturbed: tuple[object, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full once, after the transaction held."""
    rig = prepared()
    worker = rig.worker(GATE)
    rig.round(worker)
    write, failures = MemoryStore.write, [Retryable("no space")]

    def full_once(self: MemoryStore, *args: object, **kwargs: object) -> None:
        if failures:
            raise failures.pop()
        write(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(MemoryStore, "write", full_once)
    rig.drain(worker)
    assert not failures
    assert finished(rig, GATE) == undisturbed


def test_a_zombie_that_wakes_before_its_commit_is_fenced(
    undisturbed: tuple[object, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process of the same instance takes over and does all the work while the first one is about to commit."""
    rig = prepared()
    zombie, took_over = rig.worker(GATE), []

    def take_over(name: str, after: bool) -> None:
        if name == "commit_transaction" and not after and not took_over:
            took_over.append(rig.worker(GATE))
            rig.drain(took_over[0])

    with each_operation(rig.broker, monkeypatch, take_over), pytest.raises(Fenced):
        rig.drain(zombie)
    rig.drain(took_over[0])
    assert finished(rig, GATE) == undisturbed


@pytest.mark.parametrize("seed", range(4))
def test_partitions_move_between_workers_without_a_trace(seed: int) -> None:
    """A second worker joins, one of them falls silent and comes back, in random order of rounds."""
    rng, rig = random.Random(seed), Rig()
    waiting = by_append(world(seed, 50))
    workers = {"a": rig.worker(ORIGIN, "a")}
    while waiting:
        batch, waiting = waiting[:10], waiting[10:]
        rig.send(batch)
        for _ in range(rng.randint(1, 4)):
            rig.round(rng.choice(list(workers.values())), rng.choice((2, 9, 100)))
        x = rng.random()
        if x < 0.3 and "b" not in workers:
            workers["b"] = rig.worker(ORIGIN, "b", lose_disk=rng.random() < 0.5)
        elif x < 0.5 and "b" in workers:
            gone = workers.pop("b")
            rig.broker.expire_session(gone._consumer)
            gone.close()
    rig.drain(*workers.values(), rng=rng)
    state, letters = finished(rig, ORIGIN)
    calm = Rig()
    calm.send(by_append(world(seed, 50)))
    calm.drain(calm.worker(ORIGIN))
    assert (state, letters) == finished(calm, ORIGIN)


def test_a_state_above_what_is_committed_is_refused() -> None:
    """The group's offsets were set back by hand: going on would count records twice."""
    rig = prepared()
    worker = rig.worker(GATE)
    rig.drain(worker, rng=random.Random(2))
    worker.close()
    offsets = rig.broker.group(worker.group).offsets
    tp = next(t for t in offsets if t.topic == partials_topic(rig.plan, GATE))
    offsets[tp] = Committed(1, "1")
    with pytest.raises(PipelineFault, match="stands at"):
        rig.drain(rig.worker(GATE))


def test_a_changelog_that_ends_below_what_is_committed_is_refused() -> None:
    rig = prepared()
    rig.drain(rig.worker(GATE))
    view = StateView(TopicPartition(state_topic(rig.plan, GATE), 0), MemoryStore(), lambda r: rig.codec.decode(r, Progress))
    reader = Reader(rig.bus, rig.codec, "test", rig.clock, lambda: None, wait_s=0, timeout_s=0)
    with pytest.raises(Fatal, match="records lost"):
        restore_entity(view, Committed(10_000, "9999"), reader)


def test_a_source_that_lost_what_is_needed_parks_the_pipeline() -> None:
    """Retention went past the ids of the duplicate rule: judging on would let duplicates in."""
    rig = prepared()
    worker = rig.worker(GATE)
    rig.drain(worker)
    worker.close()
    for partition in range(3):
        tp = TopicPartition("flights.departures.v1", partition)
        rig.broker.truncate_before(tp, rig.broker.log(tp).next_offset)
    with pytest.raises(PipelineFault, match="retention"):
        rig.drain(rig.worker(GATE))


def test_a_log_without_its_beginning_parks_a_new_set() -> None:
    rig = prepared()
    rig.broker.truncate_before(TopicPartition("flights.departures.v1", 1), 2)
    with pytest.raises(PipelineFault, match="history is gone"):
        rig.drain(rig.worker(GATE))


def test_a_topic_made_anew_parks_the_pipeline() -> None:
    """Same name, other records: the offsets in the state mean nothing any more."""
    rig = prepared()
    worker = rig.worker(GATE)
    rig.drain(worker)
    worker.close()
    topic = rig.broker.topic("flights.departures.v1")
    topic.id = "made-anew"
    with pytest.raises(PipelineFault, match="offsets mean other records"):
        rig.drain(rig.worker(GATE))
