"""The runner on a runs table in memory: what becomes of a run, with the training process doubled."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from prometheus_client import CollectorRegistry

from headrace.chassis.bus import TopicSpec
from headrace.chassis.bus_memory import MemoryBus
from headrace.chassis.clock import ManualClock
from headrace.chassis.objects import FolderObjectStore
from headrace.contracts.catalogue import MODEL_CANDIDATES, TRAINING_RUNS
from headrace.contracts.codec import Codec
from headrace.contracts.records import DatasetBuilt, ModelTrained, RunState, TrainingRunChanged
from headrace.contracts.registry import MemoryRegistry
from headrace.contracts.signing import verify_with
from headrace.plan.ir import Model, Plan
from svc_train import runner
from svc_train.adapters.process import JobFailed
from svc_train.ports import Message
from svc_train.runner import ATTEMPTS_MAX, Outbox, Runner
from svc_train.settings import TrainSettings
from svc_train.telemetry import TrainMetrics
from svc_train.workshop import Workshop
from unit.svc_train.worlds import MODEL, MemoryJobs, a_dataset, a_frame, a_plan, a_request

RUN = "f" * 64
PLAN = a_plan()


class Floor:
    """A shop floor: a runner, its store, and a job that does as told."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.jobs, self.codec, self.key = MemoryJobs(), Codec(MemoryRegistry()), Ed25519PrivateKey.generate()
        self.objects = FolderObjectStore(folder / "objects")
        self.settings = TrainSettings(state_dir=folder / "state", lease_s=0.03, zipkin_url="")
        self.plans: dict[tuple[str, str, str], tuple[Plan, Model]] = {(PLAN.pipeline, PLAN.hash, MODEL): (PLAN, PLAN.models[0])}
        self.parity_ok = True
        self.job: Callable[[Path], Awaitable[None]] = self.train
        monkeypatch.setattr(runner, "run_job", lambda at, _: self.job(at))

    async def train(self, folder: Path) -> None:
        """A job well done."""
        assert (folder / "data.parquet").exists()
        for name in ("model.onnx", "model.ubj"):
            (folder / name).write_bytes(name.encode())
        known = {"rows": [], "scores": []}
        result = {"parity_ok": self.parity_ok, "metrics": {"auc": 0.8}, "known_answer": known, "tracking_id": "t", "rows": 3}
        (folder / "result.json").write_text(json.dumps(result))

    async def accept(self, dataset: DatasetBuilt | None) -> None:
        await self.jobs.accept(RUN, PLAN.pipeline, MODEL, a_request(PLAN).to_avro(), [])
        if dataset is not None:
            await self.jobs.deliver_dataset(RUN, dataset.to_avro())

    def built(self) -> DatasetBuilt:
        return a_dataset(self.objects, a_frame(60), RUN, PLAN)

    def runner(self) -> Runner:
        shop = Workshop(self.objects, self.key, "code", "sqlite:///unused.db", 1)
        return Runner(
            self.jobs, shop, self.codec, self.settings, ManualClock(5), lambda *k: self.plans.get(k), lambda *_: None,
            TrainMetrics(CollectorRegistry()),
        )  # fmt: skip

    async def work(self, until: Callable[[], bool]) -> None:
        """Run until something holds."""
        going = self.runner()
        await going.start()
        async with asyncio.timeout(20):
            while not until():  # noqa: ASYNC110 - what holds is seen in the table, as the runner sees it
                await asyncio.sleep(0.005)
        await going.stop()

    def state(self) -> str:
        return self.jobs.runs[RUN].state

    async def end(self) -> list[TrainingRunChanged]:
        """Work until the run is over; the states it told."""
        await self.work(lambda: self.state() in ("DONE", "FAILED"))
        return [self.codec.decode(m.value, TrainingRunChanged) for m in self.jobs.outbox if m.topic == TRAINING_RUNS]

    def candidates(self) -> list[ModelTrained]:
        return [self.codec.decode(m.value, ModelTrained) for m in self.jobs.outbox if m.topic == MODEL_CANDIDATES]


@pytest.fixture
def floor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Floor:
    return Floor(tmp_path, monkeypatch)


async def test_a_run_ends_with_a_signed_candidate(floor: Floor) -> None:
    await floor.accept(floor.built())
    told = await floor.end()
    assert [t.state for t in told] == [RunState.TRAINING, RunState.DONE]
    (candidate,) = floor.candidates()
    manifest = floor.objects.get(candidate.manifest_reference, candidate.manifest_digest)
    verify_with(floor.key.public_key(), manifest, candidate.signature)
    named = json.loads(manifest)
    assert (candidate.candidate_id, candidate.model_digest) == (RUN, named["onnx"]["digest"])
    assert named["facts"]["profile"] == {"reference": candidate.profile_reference, "digest": candidate.profile_digest}
    assert not list((floor.settings.state_dir / "training").iterdir()), "nothing is left behind"


async def test_a_run_waits_for_its_data_set(floor: Floor) -> None:
    await floor.accept(None)
    await floor.work(lambda: floor.state() == "DATASET")
    assert floor.candidates() == []


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        ("failed", "data set: no rows"),
        ("other bytes", "bad_digest"),
        ("plan gone", "no longer in force"),
        ("wrong export", "export differs"),
        ("job", "ended with 1: boom"),
        ("attempts", "given up"),
        ("never", "no data set within"),
    ],
)
async def test_a_run_that_cannot_give_a_candidate_fails_with_its_reason(floor: Floor, spoilt: str, reason: str) -> None:
    """None of these ends the service or leaves a candidate."""
    built = floor.built()
    if spoilt == "failed":
        built = replace(built, ok=False, error="no rows")
    if spoilt == "other bytes":
        built = replace(built, digest="0" * 64)
    if spoilt == "plan gone":
        floor.plans.clear()
    if spoilt == "wrong export":
        floor.parity_ok = False
    if spoilt == "job":

        async def fails(_: Path) -> None:
            raise JobFailed("training process ended with 1: boom")

        floor.job = fails
    if spoilt == "never":
        floor.settings = floor.settings.model_copy(update={"dataset_timeout_s": 0.0})
    await floor.accept(None if spoilt == "never" else built)
    if spoilt == "attempts":
        floor.jobs.runs[RUN] = replace(floor.jobs.runs[RUN], fence=ATTEMPTS_MAX)
    told = await floor.end()
    assert told[-1].state is RunState.FAILED
    assert reason in told[-1].detail
    assert floor.candidates() == []


async def test_a_lost_lease_ends_the_work_and_changes_nothing(floor: Floor) -> None:
    """Another worker took the run over while this one trained: its job is cancelled at the next renewal."""
    ended = asyncio.Event()

    async def slow(_: Path) -> None:
        run = floor.jobs.runs[RUN]
        floor.jobs.runs[RUN] = replace(run, fence=run.fence + 1)
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    floor.job = slow
    await floor.accept(floor.built())
    await floor.work(ended.is_set)
    assert floor.state() == "TRAINING", "left to the other"
    assert floor.candidates() == []


async def test_a_stopped_worker_leaves_the_run_to_the_next_lease(floor: Floor) -> None:
    """Stopped in the middle, begun again from its data set under a higher fence, one candidate."""
    begun = asyncio.Event()

    async def slow(_: Path) -> None:
        begun.set()
        await asyncio.sleep(60)

    floor.job = slow
    await floor.accept(floor.built())
    await floor.work(begun.is_set)
    assert floor.candidates() == []
    floor.jobs.leased.clear()  # the lease runs out
    floor.job = floor.train
    told = await floor.end()
    assert [(t.state, t.fence) for t in told] == [(RunState.TRAINING, 1), (RunState.TRAINING, 2), (RunState.DONE, 2)]
    assert len(floor.candidates()) == 1


async def test_the_outbox_publishes_in_order_and_again_after_a_crash_in_between(floor: Floor) -> None:
    """Killed after the broker had the records and before the table knew: the same records once more, none lost."""
    bus = MemoryBus()
    bus.admin().ensure_topics([TopicSpec(TRAINING_RUNS, 1)])
    floor.jobs.outbox = [Message(str(n), TRAINING_RUNS, "k", b"%d" % n) for n in range(3)]
    real, floor.jobs.sent = floor.jobs.sent, _crash  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="killed"):
        await Outbox(floor.jobs, bus.producer("o"), ManualClock()).publish()
    floor.jobs.sent = real  # type: ignore[method-assign]
    after = Outbox(floor.jobs, bus.producer("o"), ManualClock())
    assert (await after.publish(), await after.publish()) == (3, 0)
    assert [r.value for r in bus.broker.records(TRAINING_RUNS)] == [b"0", b"1", b"2"] * 2


async def _crash(numbers: object) -> None:
    raise RuntimeError("killed")
