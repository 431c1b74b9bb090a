"""A stream's worker dies, loses answers, is fenced, or loses partitions: committed results stay the same, each once."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest

from headrace.chassis.bus import Committed, TopicPartition
from headrace.chassis.errors import Fenced, OutcomeUnknown, PipelineFault, Retryable, TransactionAborted
from headrace.chassis.state import MemoryStore
from headrace.plan.ir import Stream
from headrace.plan.stream_costs import keyed_already
from headrace.plan.topics import rows_topic, segments_topic
from svc_stream.streams.task import OperatorTask
from unit.svc_stream.stream_rig import StreamRig
from unit.svc_stream.stream_worlds import PLAN, fill
from unit.svc_stream.test_crashes import FAULTS, Killed, killed_at
from unit.svc_stream.test_streams import ordered

RECORDS = 16
STREAMS = [s for s in PLAN.streams if s.name in ("order_shipped", "order_or_shipped", "order_minutes", "shop_sessions")]


WAYS = ("at once", "by the log", "now this, now that")
# Where nothing is rekeyed there is but one way.
CASES = [(s, way) for s in STREAMS for way in (WAYS if not keyed_already(PLAN, s) else WAYS[:1])]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0].name} {case[1]}")
def stream(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Stream:
    """A stream, and how rows get to a task that lives in the same worker: the answer may not depend on it."""
    found, way = request.param
    if way == "by the log":
        monkeypatch.setattr(OperatorTask, "continues", lambda *_: False)
    elif way == "now this, now that":
        rng, stands_there = random.Random(5), OperatorTask.continues
        monkeypatch.setattr(OperatorTask, "continues", lambda task, ranges: stands_there(task, ranges) and rng.random() < 0.5)
    return found


def prepared(seed: int = 3, records: int = RECORDS) -> StreamRig:
    rig = StreamRig(PLAN)
    fill(rig, random.Random(seed), records)
    return rig


def finals(rig: StreamRig, stream: Stream) -> list[str]:
    return ordered([r for r in rig.results(stream) if r.get("final", True)])


def calm(stream: Stream, seed: int = 3, records: int = RECORDS) -> tuple[list[str], Any]:
    rig = prepared(seed, records)
    rig.drain(rig.worker(stream))
    return finals(rig, stream), sorted(map(repr, rig.letters()))


def came_of(rig: StreamRig, stream: Stream) -> tuple[list[str], Any]:
    return finals(rig, stream), sorted(map(repr, rig.letters()))


@pytest.mark.parametrize("lose_disk", [False, True], ids=["disk kept", "disk lost"])
def test_a_kill_at_any_moment_leaves_no_trace(stream: Stream, lose_disk: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after single calls to the broker: begin, each produce, offsets, commit, and before the local write."""
    undisturbed, moment, lives = calm(stream), 0, 0
    while True:
        moment += 23 if moment > 60 else 7
        rig = prepared()
        first = rig.worker(stream)
        with killed_at(rig, monkeypatch, moment):  # type: ignore[arg-type]
            try:
                rig.drain(first, rng=random.Random(moment))
            except Killed:
                lives += 1
            else:
                break
        rig.drain(rig.worker(stream, lose_disk=lose_disk))
        assert came_of(rig, stream) == undisturbed, f"killed at moment {moment}"
    assert lives > 6


@pytest.mark.parametrize(("operation", "error", "after"), FAULTS, ids=[f"{o} {type(e).__name__} {a}" for o, e, a in FAULTS])
def test_a_failed_round_is_done_again_from_what_is_committed(
    stream: Stream, operation: str, error: Exception, after: bool
) -> None:
    rig = prepared()
    worker = rig.worker(stream)
    for _ in range(3):
        rig.round(worker, 3)
    rig.broker.fail(operation, error, after=after)
    if operation in ("committed", "watermarks", "init_transactions"):  # what only reading back asks
        rig.broker.fail("commit_transaction", OutcomeUnknown("timed out"))
    if isinstance(error, TransactionAborted):
        rig.broker.fail("abort_transaction", Retryable("no answer"))
    rig.drain(worker, rng=random.Random(1))
    assert worker.metrics.aborts >= 1
    assert came_of(rig, stream) == calm(stream)


def test_a_failed_local_write_is_given_back_by_the_changelog(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = prepared()
    worker = rig.worker(stream)
    rig.round(worker)
    write, failures = MemoryStore.write, [Retryable("no space")]

    def full_once(self: MemoryStore, *args: object, **kwargs: object) -> None:
        if failures:
            raise failures.pop()
        write(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(MemoryStore, "write", full_once)
    rig.drain(worker)
    assert bool(failures) == (stream.store == "memory"), "tables in memory have no disk to be full"
    assert came_of(rig, stream) == calm(stream)


def test_a_zombie_that_wakes_before_its_commit_is_fenced(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    from unit.svc_stream.test_crashes import each_operation

    rig = prepared()
    zombie, took_over = rig.worker(stream), []

    def take_over(name: str, after: bool) -> None:
        if name == "commit_transaction" and not after and not took_over:
            took_over.append(rig.worker(stream))
            rig.drain(took_over[0])

    with each_operation(rig.broker, monkeypatch, take_over), pytest.raises(Fenced):
        rig.drain(zombie)
    rig.drain(took_over[0])
    assert came_of(rig, stream) == calm(stream)


@pytest.mark.parametrize("seed", range(2))
def test_partitions_move_between_workers_without_a_trace(stream: Stream, seed: int) -> None:
    """A second worker joins, one of them falls silent and comes back, in random order of rounds."""
    rng, rig = random.Random(seed), StreamRig(PLAN)
    fill(rig, random.Random(seed), 40)
    workers = {"a": rig.worker(stream, "a")}
    for _ in range(30):
        rig.round(rng.choice(list(workers.values())), rng.choice((1, 2, 9, 100)))
        x = rng.random()
        if x < 0.3 and "b" not in workers:
            workers["b"] = rig.worker(stream, "b", lose_disk=rng.random() < 0.5)
        elif x < 0.5 and "b" in workers:
            gone = workers.pop("b")
            rig.broker.expire_session(gone._consumer)
            gone.close()
    rig.drain(*workers.values(), rng=rng)
    assert came_of(rig, stream) == calm(stream, seed, 40)


def test_a_state_above_what_is_committed_is_refused(stream: Stream) -> None:
    """The group's offsets were set back by hand: going on would count records twice."""
    rig = prepared()
    worker = rig.worker(stream)
    rig.drain(worker, rng=random.Random(2))
    worker.close()
    offsets = rig.broker.group(worker.group).offsets
    if worker.tasks.fused:
        tp = next(t for t in offsets if t.partition == 1)
        offsets[tp] = Committed(1, '{"format":1,"maximum_ms":null,"rewind":null,"sequence":1}')
    else:
        offsets[TopicPartition(rows_topic(PLAN, stream), 1)] = Committed(0, "1")
    with pytest.raises(PipelineFault, match=r"stands at|goes on to|is not the committed"):
        rig.drain(rig.worker(stream))


def test_segments_that_end_below_what_is_committed_are_refused(stream: Stream) -> None:
    rig = prepared()
    worker = rig.worker(stream)
    rig.drain(worker)
    worker.close()
    place = TopicPartition(segments_topic(PLAN, stream), 0)
    rig.broker.log(place).entries.clear()
    with pytest.raises(PipelineFault, match=r"records lost|stands at"):
        for _ in range(5):
            fresh = rig.worker(stream, lose_disk=True)
            fresh.tasks.reader = _impatient(fresh.tasks.reader)
            rig.drain(fresh)


def _impatient(reader: Any) -> Any:
    from dataclasses import replace

    return replace(reader, timeout_s=0.0, wait_s=0.0)


def test_at_least_once_loses_nothing_and_may_say_it_twice(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {_identity(row) for row in _calm_rows(stream)}
    for moment in range(5, 90, 14):
        rig = prepared()
        first = rig.worker(stream, exactly_once=False)
        with killed_at(rig, monkeypatch, moment), contextlib.suppress(Killed):  # type: ignore[arg-type]
            rig.drain(first, rng=random.Random(moment))
        rig.drain(rig.worker(stream, exactly_once=False))
        assert whole <= {_identity(row) for row in rig.results(stream)}, f"killed at moment {moment}"


def _identity(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in ("order_id", "shop", "window_start", "at") if name in row)


def _calm_rows(stream: Stream) -> list[dict[str, Any]]:
    rig = prepared()
    rig.drain(rig.worker(stream))
    return rig.results(stream)
