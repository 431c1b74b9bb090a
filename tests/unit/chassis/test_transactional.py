"""The exactly-once loop: outputs and offsets stand or fall together, whatever happens at whichever seam."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.chassis.bus import Committed, Record, TopicPartition
from headrace.chassis.errors import Fatal, OutcomeUnknown, Poison, Reason, Retryable, TransactionAborted
from headrace.chassis.records import Outgoing
from headrace.chassis.transactional import BatchResult, TransactionalLoop
from support.bus_loops import DLQ, IN, OUT, Bench


def echo(records: Sequence[Record]) -> BatchResult:
    metadata = {TopicPartition(r.topic, r.partition): f"last={r.offset}" for r in records}
    return BatchResult([Outgoing(OUT, r.value, r.key) for r in records], metadata)


def test_outputs_offsets_and_metadata_commit_together() -> None:
    """The offset's metadata is the handler's; local state hears of the commit after it."""
    bench, told = Bench(), []
    loop = bench.transactional(echo, lambda offsets: told.append((dict(offsets), bench.committed(0))))
    bench.send(b"1", b"2")
    assert bench.run(loop) == 2
    assert bench.outputs() == [b"1", b"2"]
    assert told == [({TopicPartition(IN, 0): Committed(2, "last=1")}, Committed(2, "last=1"))]


@pytest.mark.parametrize("operation", ["produce", "send_offsets", "commit_transaction"])
@pytest.mark.parametrize("error", [Retryable("away"), TransactionAborted("abortable")])
def test_a_failure_inside_aborts_and_the_batch_comes_again_once(operation: str, error: Exception) -> None:
    """Readers never see the aborted outputs."""
    bench = Bench()
    loop = bench.transactional(echo)
    bench.run(loop, 2)
    bench.send(b"1", b"2")
    bench.broker.fail(operation, error)
    assert bench.run(loop, 1) == 0
    assert (bench.outputs(), bench.committed(0)) == ([], None)
    bench.run(loop, 4, seconds=2)
    assert bench.outputs() == [b"1", b"2"]
    assert bench.committed(0) == Committed(2, "last=1")


def test_what_backing_off_paused_is_resumed_once_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the real client a resume voids what it has fetched ahead, also of a partition that was never paused."""
    bench, calls = Bench(), []
    loop = bench.transactional(echo)
    bench.run(loop, 2)
    consumer = loop._assigned.consumer
    for name in ("pause", "resume"):
        original = getattr(consumer, name)
        monkeypatch.setattr(consumer, name, lambda p, n=name, o=original: (calls.append((n, list(p))), o(p)))
    bench.send(b"1")
    bench.broker.fail("produce", Retryable("away"))
    bench.run(loop, 6, seconds=2)
    bench.send(b"2")
    bench.run(loop, 3)
    held = consumer.assignment()
    assert calls == [("pause", held), ("resume", held)]
    assert bench.outputs() == [b"1", b"2"]


@pytest.mark.parametrize("happened", [True, False])
def test_an_indefinite_answer_is_settled_by_the_committed_offsets(happened: bool) -> None:
    """A new incarnation asks what became of the transaction: neither lost nor doubled."""
    bench, told = Bench(), []
    loop = bench.transactional(echo, told.append)
    bench.run(loop, 2)
    bench.send(b"1", b"2")
    bench.broker.fail("commit_transaction", OutcomeUnknown("timed out"), after=happened)
    bench.run(loop, 5, seconds=2)
    assert bench.outputs() == [b"1", b"2"]
    assert len(told) == 1
    bench.send(b"3")
    bench.run(loop)
    assert bench.outputs() == [b"1", b"2", b"3"]


def test_an_unanswered_abort_is_settled_by_a_new_incarnation() -> None:
    """What the old one left open is aborted by the new one's init."""
    bench = Bench()
    loop = bench.transactional(echo)
    bench.send(b"1")
    bench.broker.fail("send_offsets", Retryable("away"))
    bench.broker.fail("abort_transaction", OutcomeUnknown("timed out"))
    bench.run(loop, 5, seconds=2)
    assert bench.outputs() == [b"1"]


def test_poison_in_a_batch_is_found_and_dead_lettered_in_its_own_transaction() -> None:
    """The good records of the batch come out once, in order."""
    bench = Bench()

    def handle(records: Sequence[Record]) -> BatchResult:
        if any(r.value == b"bad" for r in records):
            raise Poison(Reason.TRUNCATED, "three bytes short")
        return echo(records)

    bench.send(b"1", b"bad", b"2")
    bench.run(bench.transactional(handle))
    assert bench.outputs() == [b"1", b"2"]
    assert bench.outputs(DLQ) == [f"truncated|{IN}/0/1|bad".encode()]
    assert bench.committed(0) == Committed(3, "last=2")
    assert (bench.count("handled"), bench.count("poisoned")) == (2, 1)


def test_a_bug_aborts_and_ends_the_loop() -> None:
    """Readers behind the transaction are not left to its timeout."""
    bench = Bench()

    def handle(_records: Sequence[Record]) -> BatchResult:
        raise KeyError("bug")

    bench.send(b"1")
    with pytest.raises(Fatal, match="bug"):
        bench.run(bench.transactional(handle))
    bench.bus.producer("other").produce(OUT, b"visible")
    assert bench.outputs() == [b"visible"]
    assert bench.committed(0) is None


def test_a_ghost_is_fenced_by_its_successor() -> None:
    """Two processes with one identity: the older one ends, its work comes out once."""
    bench = Bench()
    ghost = bench.transactional(echo)
    bench.run(ghost, 2)
    heir = bench.transactional(echo)
    bench.send(b"1")
    bench.send(b"2", partition=1)
    with pytest.raises(Fatal, match="fenced"):
        for _ in range(10):
            heir.step()
            ghost.step()
    ghost.close()
    bench.run(heir, 6, seconds=5)
    assert sorted(bench.outputs()) == [b"1", b"2"]


class Killed(BaseException):
    """A kill -9 at this seam: nothing is cleaned up."""


SEAMS = ["produce", "send_offsets", "commit_transaction", "abort_transaction"]


def successor(bench: Bench, loop: TransactionalLoop) -> TransactionalLoop:
    """The next process, after the group has noticed that this one is gone."""
    bench.broker.expire_session(loop._assigned.consumer)
    return bench.transactional(echo)


@given(
    plan=st.lists(
        st.sampled_from(["send", "send", "step", "step", "restart", "lost", "unheard", "kill", "kill-after", *SEAMS]),
        max_size=40,
    )
)
def test_each_record_comes_out_exactly_once_whatever_fails_when(plan: list[str]) -> None:
    """Crashes, aborts, answers lost before and after the fact, in any order; local state that follows commits agrees."""
    bench, sent = Bench(partitions=1, budget_s=1e6), 0
    loop = bench.transactional(echo)
    for action in [*plan, "heal"]:
        if action == "send":
            sent += 1
            bench.send(b"%d" % sent)
        elif action in ("lost", "unheard"):
            bench.broker.fail("commit_transaction", OutcomeUnknown("timed out"), after=action == "unheard")
        elif action in ("kill", "kill-after"):
            bench.broker.fail("commit_transaction", Killed(), after=action == "kill-after")
        elif action in SEAMS:
            bench.broker.fail(action, OutcomeUnknown("t") if action == "abort_transaction" else Retryable("away"))
        rounds = {"step": 2, "restart": 1, "heal": 3 * len(plan) + 10}.get(action, 0)
        for _ in range(rounds):
            try:
                bench.run(loop, 1, seconds=10 if action == "heal" else 1)
            except Killed:
                loop = successor(bench, loop)
        if action == "restart":
            loop = successor(bench, loop)
        if rounds:
            committed = bench.committed(0)
            assert bench.outputs() == [b"%d" % (i + 1) for i in range(0 if committed is None else committed.offset)]
    assert bench.outputs() == [b"%d" % (i + 1) for i in range(sent)]


def test_offsets_of_a_batch_are_per_partition() -> None:
    """A batch over two partitions commits both, each with its own metadata."""
    bench = Bench()
    seen: list[Mapping[TopicPartition, Committed]] = []
    bench.send(b"1", b"2")
    bench.send(b"3", partition=1)
    bench.run(bench.transactional(echo, seen.append))
    assert (bench.committed(0), bench.committed(1)) == (Committed(2, "last=1"), Committed(1, "last=0"))
