"""Requests become runs: once per trigger, with everything said through the outbox."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headrace.chassis.bus import Record
from headrace.chassis.clock import ManualClock
from headrace.contracts.catalogue import DATASET_REQUESTS, DATASETS, TRAINING_REQUESTS, TRAINING_RUNS
from headrace.contracts.codec import Codec
from headrace.contracts.errors import Poison, Retryable
from headrace.contracts.records import DatasetBuilt, DatasetRequested, RunState, TrainingRequested, TrainingRunChanged
from headrace.contracts.registry import MemoryRegistry
from svc_train.handlers import PLAN_WAIT_MS, Requests
from unit.svc_train.worlds import MODEL, MemoryJobs, a_plan, a_request

PLAN = a_plan()


class Desk:
    def __init__(self) -> None:
        self.jobs, self.codec, self.clock = MemoryJobs(), Codec(MemoryRegistry()), ManualClock(1_000_000)
        found = {(PLAN.pipeline, PLAN.hash, MODEL): (PLAN, PLAN.models[0])}
        self.requests = Requests(self.jobs, self.codec, lambda *key: found.get(key), "code", self.clock)

    def record(self, topic: str, value: TrainingRequested | DatasetBuilt) -> Record:
        return Record(topic, 0, 0, self.clock.now_ms(), b"k", self.codec.encode(topic, value), ())

    async def ask(self, request: TrainingRequested) -> list[TrainingRunChanged]:
        out = await self.requests.requested(self.record(TRAINING_REQUESTS, request))
        return [self.codec.decode(o.value, TrainingRunChanged) for o in out or ()]


async def test_a_request_becomes_one_run_that_asks_for_its_data_set() -> None:
    desk = Desk()
    assert await desk.ask(a_request(PLAN)) == []
    (run,) = desk.jobs.runs
    accepted, asked = desk.jobs.outbox
    assert (accepted.topic, asked.topic) == (TRAINING_RUNS, DATASET_REQUESTS)
    assert desk.codec.decode(accepted.value, TrainingRunChanged).state is RunState.ACCEPTED
    request = desk.codec.decode(asked.value, DatasetRequested)
    assert (request.request_id, request.plan_hash, request.until_ms) == (run, PLAN.hash, a_request(PLAN).until_ms)


async def test_the_same_trigger_again_is_a_duplicate_and_another_trigger_a_run() -> None:
    desk = Desk()
    await desk.ask(a_request(PLAN))
    (again,) = await desk.ask(replace(a_request(PLAN), requested_ms=99))
    assert again.state is RunState.DUPLICATE
    assert len(desk.jobs.outbox) == 2
    await desk.ask(a_request(PLAN, "person-2"))
    assert len(desk.jobs.runs) == 2


async def test_an_empty_window_is_poison() -> None:
    with pytest.raises(Poison, match="window is empty"):
        await Desk().ask(replace(a_request(PLAN), from_ms=5, until_ms=5))


async def test_a_plan_that_is_not_here_is_waited_for_then_told_to_be_gone() -> None:
    """Neither does the service end over it, nor does whoever asked wait for ever."""
    desk = Desk()
    stale = replace(a_request(PLAN), plan_hash="gone")
    record = desk.record(TRAINING_REQUESTS, stale)
    with pytest.raises(Retryable, match="not in force"):
        await desk.requests.requested(record)
    desk.clock.advance(PLAN_WAIT_MS)
    (out,) = list(await desk.requests.requested(record) or ())
    told = desk.codec.decode(out.value, TrainingRunChanged)
    assert (told.state, told.trigger_id) == (RunState.FAILED, stale.trigger_id)
    assert desk.jobs.runs == {}


async def test_a_data_set_finds_its_run_and_the_first_one_stays() -> None:
    desk = Desk()
    await desk.ask(a_request(PLAN))
    (run,) = desk.jobs.runs
    built = DatasetBuilt(request_id=run, pipeline=PLAN.pipeline, model=MODEL, plan_hash=PLAN.hash, ok=True, rows=3)
    for answer in (replace(built, request_id="other"), built, replace(built, rows=4)):
        assert await desk.requests.dataset_built(desk.record(DATASETS, answer)) is None
    assert desk.jobs.runs[run].dataset == built.to_avro()
