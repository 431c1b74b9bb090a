"""The at-least-once loop: nothing is committed before it is done, nothing done is left uncommitted in good order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.chassis.bus import Committed, Record
from headrace.chassis.errors import Fatal, PipelineFault, Poison, Reason, Retryable
from headrace.chassis.records import Outgoing
from support.bus_loops import DLQ, IN, OUT, Bench, failing_once


def echo(record: Record) -> list[Outgoing]:
    return [Outgoing(OUT, record.value, record.key)]


def test_what_is_handled_is_produced_then_committed() -> None:
    """One output per record, in order per partition, offsets past the last one."""
    bench = Bench()
    bench.send(b"1", b"2")
    bench.send(b"3", partition=1)
    assert bench.run(bench.loop(echo)) == 3
    assert sorted(bench.outputs()) == [b"1", b"2", b"3"]
    assert (bench.committed(0), bench.committed(1)) == (Committed(2), Committed(1))
    assert bench.count("handled") == 3


def test_a_retryable_record_waits_while_other_partitions_go_on() -> None:
    """The partition is paused, polled past, and tried again only when its backoff is over; order is kept."""
    bench, away = Bench(), [True]

    def handle(record: Record) -> list[Outgoing]:
        if record.value == b"1" and away[0]:
            raise Retryable("database away")
        return echo(record)

    loop = bench.loop(handle)
    bench.send(b"1", b"2")
    bench.send(b"other", partition=1)
    bench.run(loop, 5)
    assert bench.outputs() == [b"other"]
    assert (bench.committed(0), bench.committed(1)) == (None, Committed(1))
    assert bench.count("retried") == 1, "tried again before its time"
    away[0] = False
    bench.run(loop, 2, seconds=1.0)
    assert bench.outputs() == [b"other", b"1", b"2"]
    bench.send(b"3")
    bench.run(loop, 2)
    assert bench.outputs()[-1:] == [b"3"]
    assert bench.committed(0) == Committed(3)


def test_a_spent_retry_budget_is_fatal_and_never_a_dead_letter() -> None:
    """Else one dead database would empty the topic into the dead letters."""
    bench = Bench()

    def handle(_record: Record) -> None:
        raise Retryable("database away")

    loop = bench.loop(handle)
    bench.send(b"1")
    with pytest.raises(Fatal, match="gave up"):
        bench.run(loop, 100, seconds=5)
    loop.close()
    assert bench.clock.now_ms() - 1_000_000 >= 60_000
    assert bench.outputs(DLQ) == []
    assert bench.committed(0) is None


def test_poison_goes_to_the_dead_letters_and_the_rest_goes_on() -> None:
    """Original key, headers, bytes, origin and reason; the offset moves on."""
    bench = Bench()

    def handle(record: Record) -> list[Outgoing]:
        if record.value == b"bad":
            raise Poison(Reason.WRONG_TYPE, "not a flight")
        return echo(record)

    bench.send(b"1", b"bad", b"2")
    bench.run(bench.loop(handle))
    (letter,) = bench.broker.records(DLQ)
    assert (letter.key, letter.headers) == (b"key", (("event-id", b"bad"),))
    assert letter.value == f"wrong_type|{IN}/0/1|bad".encode()
    assert bench.outputs() == [b"1", b"2"]
    assert bench.committed(0) == Committed(3)
    assert bench.count("poisoned") == 1


def test_more_poison_than_declared_is_fatal() -> None:
    """A producer gone wrong must not drain a topic into the dead letters unseen."""
    bench = Bench()

    def handle(_record: Record) -> None:
        raise Poison(Reason.WRONG_TYPE, "bad")

    bench.send(b"1", b"2", b"3")
    with pytest.raises(Fatal, match="more than 2 records rejected"):
        bench.run(bench.loop(handle, poison_max=2))


@pytest.mark.parametrize("error", [KeyError("bug"), Fatal("wrong setting"), PipelineFault("flights", "nobody parks it")])
def test_anything_else_ends_the_loop_and_commits_nothing(error: Exception) -> None:
    """Also not on the way out, and the next process gets the record again."""
    bench = Bench()

    def handle(record: Record) -> list[Outgoing]:
        if record.value == b"2":
            raise error
        return echo(record)

    loop = bench.loop(handle)
    bench.send(b"1", b"2")
    with pytest.raises(Fatal):
        bench.run(loop)
    loop.close()
    assert bench.committed(0) is None
    bench.run(bench.loop(echo))
    assert bench.outputs() == [b"1", b"1", b"2"]


def test_a_pipeline_fault_parks_its_topic_until_it_is_unparked() -> None:
    """Other partitions run on, the failing record is not committed and comes first afterwards."""
    bench, told, healed = Bench(), [], [False]

    def handle(record: Record) -> list[Outgoing]:
        if record.value == b"2" and not healed[0]:
            raise PipelineFault("flights", "expression fails")
        return echo(record)

    loop = bench.loop(handle, on_parked=lambda fault, record: told.append((fault.pipeline, record.offset)))
    bench.send(b"1", b"2", b"3")
    bench.run(loop)
    bench.send(b"other", partition=1)
    bench.run(loop, seconds=10)
    assert told == [("flights", 1)]
    assert bench.outputs() == [b"1", b"other"]
    assert bench.committed(0) == Committed(1)
    healed[0] = True
    loop.unpark(IN)
    bench.run(loop)
    assert bench.outputs() == [b"1", b"other", b"2", b"3"]
    assert bench.committed(0) == Committed(3)


@pytest.mark.parametrize("operation", ["deliver", "flush", "commit"])
def test_what_could_not_be_made_durable_is_done_again(operation: str) -> None:
    """At least once: the offset is committed only over a round whose outputs are all acknowledged."""
    bench = Bench()
    loop = bench.loop(echo)
    bench.run(loop, 2)
    bench.send(b"1", b"2")
    bench.broker.fail(operation, Retryable("broker away"))
    bench.run(loop, 1)
    assert bench.committed(0) is None
    bench.run(loop, 4, seconds=2)
    assert set(bench.outputs()) == {b"1", b"2"}
    assert bench.outputs()[-2:] == [b"1", b"2"]
    assert bench.committed(0) == Committed(2)


def test_a_broker_that_stays_away_ends_the_loop_in_time() -> None:
    """The budget bounds the outage of the sink too."""
    bench = Bench()
    loop = bench.loop(echo)
    bench.send(b"1")
    bench.broker.fail("flush", Retryable("broker away"), times=1000)
    with pytest.raises(Fatal, match="gave up"):
        bench.run(loop, 200, seconds=2)


def test_an_orderly_stop_leaves_nothing_to_repeat() -> None:
    """The next process starts where this one ended."""
    bench = Bench()
    first = bench.loop(echo)
    bench.send(b"1", b"2")
    bench.run(first)
    first.close()
    bench.send(b"3")
    bench.run(bench.loop(echo))
    assert bench.outputs() == [b"1", b"2", b"3"]


def test_a_second_member_takes_over_without_loss_or_repetition_in_good_order() -> None:
    """What is handled is committed inside the revocation."""
    bench = Bench()
    first = bench.loop(echo)
    bench.send(b"1", b"2")
    bench.send(b"a", partition=1)
    bench.run(first)
    second = bench.loop(echo)
    bench.send(b"3")
    bench.send(b"b", partition=1)
    for _ in range(6):
        first.step()
        second.step()
    assert sorted(bench.outputs()) == [b"1", b"2", b"3", b"a", b"b"]


@given(
    plan=st.lists(
        st.sampled_from(["send", "step", "step", "crash", "fail-record", "flush", "deliver", "commit", "consume"]), max_size=40
    )
)
def test_no_record_is_lost_whatever_fails_when(plan: list[str]) -> None:
    """Crashes and failures at every seam, in any order: in the end each record was produced at least once, and the commit
    never went past a record whose output is not there (checked after every action)."""
    bench, sent = Bench(partitions=1, budget_s=1e6), 0

    def handle(record: Record) -> list[Outgoing]:
        check(record)
        return echo(record)

    check, loop = failing_once(set(), Exception), bench.loop(handle)
    for action in [*plan, "heal"]:
        if action == "send":
            sent += 1
            bench.send(b"%d" % sent)
        elif action == "crash":
            bench.broker.expire_session(loop._assigned.consumer)
            loop = bench.loop(handle)
        elif action == "fail-record":
            check = failing_once({b"%d" % i for i in range(sent + 1)}, lambda: Retryable("database away"))
        elif action in ("step", "heal"):
            bench.run(loop, 3 if action == "step" else 4 * len(plan) + 10, seconds=10 if action == "heal" else 1)
        else:
            bench.broker.fail(action, Retryable("broker away"))
        committed = bench.committed(0)
        through = 0 if committed is None else committed.offset
        assert {b"%d" % (i + 1) for i in range(through)} <= set(bench.outputs())
    assert bench.committed(0) == (Committed(sent) if sent else None)
    assert set(bench.outputs()) == {b"%d" % (i + 1) for i in range(sent)}
