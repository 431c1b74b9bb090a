"""Placement `owned`: each request is answered from the log prefix at its own row."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from headrace.chassis.bus import Committed
from headrace.chassis.errors import PipelineFault, Retryable
from headrace.contracts.partition import partition_for
from headrace.contracts.records import Progress
from headrace.plan.oracle import RawRecord
from svc_stream.owned import OwnedWorker
from unit.svc_stream.owned_world import OWNED, OWNED_PLAN, PARTITIONS, answers, check_answers, cut_of, keyed
from unit.svc_stream.rig import Rig, progress_records
from unit.svc_stream.test_crashes import Killed, killed_at
from unit.svc_stream.test_handlers import NOW

# When a commit ends: at once, or at some later look.
BESIDE: tuple[Callable[[int], random.Random | None], ...] = (lambda _: None, random.Random)


def prepared(seed: int, records: int, beside: random.Random | None = None) -> Rig:
    rig = Rig(plan=OWNED_PLAN, beside=beside)
    rig.send(keyed(seed, records))
    return rig


@pytest.mark.parametrize("seed", range(6))
def test_every_decodable_request_is_answered_as_the_oracle_says_at_its_row(seed: int) -> None:
    """Late, duplicate, poison, tied and ahead of time: whatever the verdict; in batches of any size, by row or by frame,
    commits ending at once or some rounds later."""
    rig, rng = Rig(plan=OWNED_PLAN, beside=BESIDE[seed % 2](seed)), random.Random(seed)
    worker, waiting = rig.worker(OWNED), keyed(seed, 60)
    assert isinstance(worker, OwnedWorker)
    worker.rows_path_max = (0, 3, 1_000)[seed % 3]
    while waiting:
        size = rng.choice((1, 5, 30))
        batch, waiting = waiting[:size], waiting[size:]
        rig.send(batch)
        if rng.random() < 0.2:
            rig.hole("departures", rng.randrange(PARTITIONS), rng.randint(0, 3))
        for _ in range(rng.choice((0, 1, 3))):
            rig.round(worker, rng.choice((1, 4, 1_000)))
        rig.compare(OWNED, rng, questions=2)
    rig.drain(worker, rng=rng)
    check_answers(rig, answers(rig))
    rig.compare(OWNED, rng, questions=20)
    assert set(rig.letters()) == set(rig.expected_letters())


def burst(n: int) -> list[RawRecord]:
    """n departures of one origin in one second."""
    home = partition_for("EWR", PARTITIONS)
    rows = [{"flight_id": f"F{i}", "origin": "EWR", "gate": 1, "departed_at": NOW + i, "delay": i, "fare": 1} for i in range(n)]
    return [RawRecord("departures", home, 0, NOW + i, row) for i, row in enumerate(rows)]


def test_twenty_transactions_of_one_second_in_one_batch_count_from_nought_to_nineteen() -> None:
    rig = Rig(plan=OWNED_PLAN)
    rig.send(burst(20))
    rig.drain(rig.worker(OWNED))
    found = sorted(answers(rig), key=lambda a: a.offset)
    at = [f.name for f in OWNED.features].index("departures_1h")
    assert [a.values[at] for a in found] == [float(n) for n in range(20)]
    assert len(progress_records(rig, OWNED)) == 1, "one batch, one commit"


@pytest.mark.parametrize("beside", BESIDE, ids=["commits at once", "commits beside"])
@pytest.mark.parametrize("lose_disk", [False, True], ids=["disk kept", "disk lost"])
def test_a_kill_at_any_moment_answers_again_but_never_wrongly(
    lose_disk: bool, beside: Callable[[int], random.Random | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second answer may have another cut; with the same cut it has the same bits, and the state is as if nothing was."""
    calm = prepared(3, 10)
    calm.drain(calm.worker(OWNED))
    moment = lives = twice = otherwise = 0
    while True:
        moment += 1 if moment < 10 else 15
        rig = prepared(3, 10, beside(moment))
        with killed_at(rig, monkeypatch, moment):
            try:
                rig.drain(rig.worker(OWNED), rng=random.Random(moment))
            except Killed:
                lives += 1
            else:
                break
        rig.drain(rig.worker(OWNED, lose_disk=lose_disk), rng=random.Random(-moment))
        found = answers(rig)
        check_answers(rig, found)
        rows = defaultdict(list)
        for answer in found:
            rows[answer.partition, answer.offset].append(answer)
        twice += sum(len(same) > 1 for same in rows.values())
        otherwise += sum(len({str(cut_of(a)) for a in same}) > 1 for same in rows.values())
        assert rig.state(OWNED) == calm.state(OWNED) and rig.letters() == calm.letters(), f"killed at moment {moment}"
    assert lives > 10 and twice and otherwise


def test_answers_that_do_not_arrive_hold_the_commit_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker refuses the answers for a while: nothing is committed until they are there."""
    rig = prepared(5, 20)
    worker = rig.worker(OWNED)
    assert isinstance(worker, OwnedWorker)
    produce, refused = worker._answers.produce, 0

    def refusing(topic: str, value: bytes, key: bytes, partition: None, headers: Any, told: Any) -> None:
        nonlocal refused
        refused += 1
        if refused < 4:
            told(Retryable("answer not acknowledged"), None)
        else:
            produce(topic, value, key, partition, headers, told)

    monkeypatch.setattr(worker._answers, "produce", refusing)
    for _ in range(3):
        rig.round(worker)
    assert refused and not progress_records(rig, OWNED)
    rig.drain(worker)
    check_answers(rig, answers(rig))


@pytest.mark.parametrize("seed", range(6))
def test_partitions_that_move_take_state_and_offsets_along(seed: int) -> None:
    """A second worker joins, the first one dies without a word and comes back."""
    rig, rng = Rig(plan=OWNED_PLAN, beside=BESIDE[seed % 2](seed)), random.Random(seed)
    log = keyed(seed, 40)
    first = rig.worker(OWNED, "a")
    rig.send(log[:20])
    rig.drain(first, rng=rng)
    second = rig.worker(OWNED, "b")
    rig.send(log[20:50])
    rig.drain(first, second, rng=rng)
    rig.broker.expire_session(first._consumer)
    rig.send(log[50:])
    rig.drain(second, rig.worker(OWNED, "a", lose_disk=True), rng=rng)
    check_answers(rig, answers(rig))
    rig.compare(OWNED, rng, questions=20)
    sequences = defaultdict(list)
    for record in progress_records(rig, OWNED):
        sequences[record.partition].append(rig.codec.decode(record.value, Progress).commit_sequence)
    assert all(s == list(range(1, len(s) + 1)) for s in sequences.values())


def test_answers_go_out_before_their_rows_are_committed_and_several_rounds_share_a_commit() -> None:
    rig = Rig(plan=OWNED_PLAN, owned_commit_interval_ms=5_000)
    worker = rig.worker(OWNED)
    rig.drain(worker)
    rig.send(burst(20))
    for _ in range(4):
        rig.round(worker, rows_max=5)
    assert len(answers(rig)) == 20 and not progress_records(rig, OWNED)
    rig.clock.advance(5_000)
    rig.round(worker)
    (progress,) = progress_records(rig, OWNED)
    assert rig.codec.decode(progress.value, Progress).cut[0].next_offset == 20


def test_a_rebalance_before_the_commit_gives_the_rows_up_and_the_new_owner_answers_them_again() -> None:
    rig = Rig(plan=OWNED_PLAN, owned_commit_interval_ms=5_000)
    first = rig.worker(OWNED, "a")
    rig.drain(first)
    rig.send(burst(9))
    rig.round(first)
    second = rig.worker(OWNED, "b")
    for _ in range(1_200):
        rig.round(first)
        rig.round(second)
    found = answers(rig)
    check_answers(rig, found)
    assert len(found) == 18, "every row twice, with the same cut"
    rig.compare(OWNED, random.Random(1))


def test_offsets_set_back_by_hand_are_refused() -> None:
    rig = prepared(4, 20)
    worker = rig.worker(OWNED)
    rig.drain(worker)
    worker.close()
    offsets = rig.broker.group(worker.group).offsets
    tp = next(iter(sorted(offsets)))
    offsets[tp] = Committed(0, "")
    with pytest.raises(PipelineFault, match="holds"):
        rig.drain(rig.worker(OWNED))


def test_no_answer_goes_out_where_no_model_asks() -> None:
    """The set still keeps its state; records of an event nobody requests are not answered."""
    rig = prepared(4, 20)
    rig.drain(rig.worker(OWNED))
    assert {a.topic for a in answers(rig)} == {"flights.departures.v1"}
