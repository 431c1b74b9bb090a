"""Following the plans in force: what is taken up, parked, refused, retired, and what a restart makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from headrace.chassis.bus import Record
from headrace.chassis.clock import ManualClock
from headrace.chassis.plans import RETRY_DELAYS_S, Hooks, Member, PlanFollower
from headrace.chassis.quarantine import PROBATION_S
from headrace.contracts import signing
from headrace.contracts.catalogue import FINDINGS, PIPELINES, PLAN_ACKS
from headrace.contracts.codec import AvroRecord, Codec, MemoryRegistry
from headrace.contracts.errors import Fatal, PipelineFault, Retryable
from headrace.contracts.records import FindingRaised, PipelineAdmitted, PipelineRetired, PlanAcknowledged
from headrace.contracts.signing import TrustedKeys


@dataclass(frozen=True)
class TinyPlan:
    pipeline: str
    hash: str


def parse(data: bytes) -> TinyPlan:
    return TinyPlan(**json.loads(data))


@dataclass
class World:
    """What outlives a process: keys, registry, topic, state folder; and what the last process did."""

    folder: Path
    clock: ManualClock = field(default_factory=lambda: ManualClock(1_000))
    log: list[Record] = field(default_factory=list)
    published: list[tuple[str, str, AvroRecord]] = field(default_factory=list)
    applied: list[tuple[str, str, int]] = field(default_factory=list)
    retired: list[str] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)
    trouble: dict[str, Callable[[], Any]] = field(default_factory=dict)  # plan hash -> what applying it does

    def __post_init__(self) -> None:
        (self.folder / "trusted").mkdir()
        signing.write_key_pair(self.folder / "key", self.folder / "trusted" / "svc-governance.pub")
        self.key = signing.load_private(self.folder / "key")
        self.codec = Codec(MemoryRegistry())

    def control(
        self, inner: PipelineAdmitted | PipelineRetired, *, key: Ed25519PrivateKey | None = None, at: str = ""
    ) -> Record:
        """A signed record, appended to the log of the topic."""
        payload = self.codec.encode(PIPELINES, inner)
        envelope = signing.sign_control(key or self.key, "svc-governance", PIPELINES, inner.pipeline, payload)
        value = self.codec.encode(PIPELINES, envelope)
        record = Record(PIPELINES, 0, len(self.log), 5, (at or inner.pipeline).encode(), value)
        self.log.append(record)
        return record

    def admit(self, pipeline: str, plan_hash: str, epoch: int, **kwargs: Any) -> Record:
        text = json.dumps({"pipeline": pipeline, "hash": kwargs.pop("content_hash", plan_hash)})
        text = kwargs.pop("text", text)
        return self.control(
            PipelineAdmitted(
                pipeline=pipeline, epoch=epoch, plan_hash=plan_hash, plan=text, admitted_by="ann", admitted_ms=1
            ),
            **kwargs,
        )  # fmt: skip

    def process(self) -> PlanFollower[TinyPlan]:
        """A new process of svc-serve on the same state folder."""

        async def publish(topic: str, key: str, record: AvroRecord) -> None:
            self.published.append((topic, key, record))

        async def sleep(seconds: float) -> None:
            self.slept.append(seconds)

        async def apply(plan: TinyPlan, epoch: int) -> None:
            if plan.hash in self.trouble:
                self.trouble[plan.hash]()
            self.applied.append((plan.pipeline, plan.hash, epoch))

        return PlanFollower(
            Member("svc-serve", "0"), Hooks(parse, apply, self.retired.append), codec=self.codec,
            trusted=TrustedKeys(self.folder / "trusted"), publish=publish, clock=self.clock, state_dir=self.folder / "state",
            sleep=sleep,
        )  # fmt: skip

    def acks(self) -> list[tuple[str, int, str]]:
        found = [r for topic, _, r in self.published if topic == PLAN_ACKS]
        return [(r.pipeline, r.epoch, r.status.value) for r in found if isinstance(r, PlanAcknowledged)]

    def findings(self) -> list[tuple[str, str]]:
        found = [r for topic, _, r in self.published if topic == FINDINGS]
        return [(r.pipeline, r.kind) for r in found if isinstance(r, FindingRaised)]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def _raise(error: BaseException) -> Callable[[], None]:
    def trip() -> None:
        raise error

    return trip


async def test_the_newest_plan_of_each_pipeline_is_taken_up_once_and_acknowledged(world: World) -> None:
    world.admit("flights", "f1", 1)
    world.admit("cards", "c1", 1)
    world.admit("flights", "f2", 2)
    follower = world.process()
    await follower.load(world.log)
    assert sorted(world.applied) == [("cards", "c1", 1), ("flights", "f2", 2)]
    assert sorted(world.acks()) == [("cards", 1, "APPLIED"), ("flights", 2, "APPLIED")]
    await follower.follow(world.admit("flights", "f3", 3))
    assert follower.plans == {"flights": TinyPlan("flights", "f3"), "cards": TinyPlan("cards", "c1")}
    await follower.follow(world.admit("flights", "f3", 3))
    assert len(world.applied) == 3, "the same epoch and hash again is nothing new"


async def test_a_lower_or_reused_epoch_is_refused_also_after_a_restart(world: World) -> None:
    follower = world.process()
    await follower.follow(world.admit("flights", "f5", 5))
    await follower.follow(world.admit("flights", "f4", 4))
    await follower.follow(world.admit("flights", "x5", 5))
    assert world.applied == [("flights", "f5", 5)]
    assert world.findings() == [("flights", "control_refused")] * 2
    later = world.process()
    await later.load([world.log[1]])  # a log whose end was taken away
    assert world.findings() == [("flights", "control_refused")] * 3
    assert later.plans == {"flights": TinyPlan("flights", "f5")}, "the last-known-good runs instead"


async def test_what_governance_did_not_sign_for_this_key_changes_nothing(world: World) -> None:
    follower = world.process()
    await follower.follow(world.admit("flights", "f1", 1))
    await follower.follow(world.admit("flights", "f2", 2, key=Ed25519PrivateKey.generate()))
    await follower.follow(world.admit("flights", "f2", 2, at="cards"))
    await follower.follow(Record(PIPELINES, 0, 9, 5, b"flights", b"\x00\x00\x00\x00\x09junk"))
    await follower.follow(Record(PIPELINES, 0, 10, 5, b"flights", None))
    await follower.follow(Record(PIPELINES, 0, 11, 5, b"\xff", None))
    assert world.applied == [("flights", "f1", 1)]
    assert len(world.findings()) == 5
    await follower.follow(world.admit("flights", "f2", 2))
    assert world.applied[-1] == ("flights", "f2", 2), "a refused record does not use up its epoch"


@pytest.mark.parametrize("error", [PipelineFault("faulty", "no such column"), KeyError("bug"), AssertionError()])
async def test_a_failure_inside_one_pipeline_parks_it_and_leaves_the_others(world: World, error: Exception) -> None:
    world.trouble["bad"] = _raise(error)
    follower = world.process()
    world.admit("faulty", "bad", 1)
    world.admit("flights", "f1", 1)
    await follower.load(world.log)
    assert world.applied == [("flights", "f1", 1)]
    assert set(follower.parked) == {"faulty"}
    assert world.acks() == [("faulty", 1, "PARKED"), ("flights", 1, "APPLIED")]
    assert world.findings() == [("faulty", "pipeline_parked")]


async def test_a_parked_pipeline_stays_on_its_last_known_good_also_after_a_restart(world: World) -> None:
    world.trouble["f2"] = _raise(PipelineFault("flights", "no such column"))
    follower = world.process()
    await follower.follow(world.admit("flights", "f1", 1))
    await follower.follow(world.admit("flights", "f2", 2))
    assert follower.plans["flights"].hash == "f1"
    assert world.applied == [("flights", "f1", 1)], "what runs is not touched"
    await follower.stop()
    later = world.process()
    await later.load([world.log[-1]])  # compaction removed the first
    assert (later.plans["flights"].hash, later.epochs["flights"]) == ("f1", 1)
    assert "no such column" in later.parked["flights"]
    del world.trouble["f2"]
    await later.follow(world.admit("flights", "f3", 3))
    assert later.plans["flights"].hash == "f3"
    assert later.parked == {}


@pytest.mark.parametrize("fields", [{"text": "{"}, {"text": "{}"}, {"content_hash": "other"}])
async def test_a_plan_that_cannot_be_read_or_is_not_what_was_admitted_is_parked(world: World, fields: dict[str, str]) -> None:
    follower = world.process()
    await follower.load([world.admit("flights", "f1", 1, **fields)])
    assert world.acks() == [("flights", 1, "PARKED")]
    assert world.applied == []


async def test_a_plan_that_kills_the_process_twice_is_quarantined_and_a_good_one_beside_it_runs(world: World) -> None:
    class Killed(BaseException):
        """Stands for kill -9: nothing after it runs in this process."""

    follower = world.process()
    await follower.load([world.admit("flights", "f1", 1)])
    world.clock.advance(int(PROBATION_S * 1000))
    await follower.follow(world.log[0])
    await follower.stop()
    world.admit("faulty", "bad", 1)
    for _ in range(2):
        dying = world.process()
        world.trouble["bad"] = _raise(Killed())
        dying._quarantine.not_running = lambda pipeline: None  # a dead process writes nothing
        with pytest.raises(Killed):
            await dying.load(world.log)
    later = world.process()
    world.applied.clear()
    await later.load(world.log)
    assert world.applied == [("flights", "f1", 1)]
    assert "quarantined" in later.parked["faulty"]
    del world.trouble["bad"]
    await later.follow(world.admit("faulty", "bad", 2))
    assert world.applied[-1] == ("faulty", "bad", 2), "a new epoch is a new chance"


async def test_retiring_takes_a_pipeline_down_for_good(world: World) -> None:
    follower = world.process()
    await follower.follow(world.admit("flights", "f1", 1))
    await follower.follow(world.control(PipelineRetired(pipeline="flights", epoch=2, retired_by="ann", retired_ms=1)))
    assert world.retired == ["flights"]
    assert world.acks()[-1] == ("flights", 2, "RETIRED")
    later = world.process()
    await later.load([world.log[-1]])
    assert later.plans == {}


async def test_trouble_of_the_world_is_waited_out_within_a_budget(world: World) -> None:
    failures = iter([Retryable("registry away"), Retryable("registry away")])

    def flaky() -> None:
        for failure in failures:
            raise failure

    world.trouble["f1"] = flaky
    follower = world.process()
    await follower.follow(world.admit("flights", "f1", 1))
    assert world.applied == [("flights", "f1", 1)]
    assert world.slept == list(RETRY_DELAYS_S[:2])
    world.trouble["f2"] = _raise(Retryable("registry away"))
    with pytest.raises(Fatal, match="gave up"):
        await follower.follow(world.admit("flights", "f2", 2))


async def test_infrastructure_failing_under_a_plan_ends_the_process_and_does_not_suspect_the_plan(world: World) -> None:
    world.trouble["f1"] = _raise(Fatal("fenced"))
    world.admit("flights", "f1", 1)
    for _ in range(4):
        with pytest.raises(Fatal, match="fenced"):
            await world.process().load(world.log)
    del world.trouble["f1"]
    await world.process().load(world.log)
    assert world.applied == [("flights", "f1", 1)]


async def test_the_same_finding_has_the_same_id_after_a_restart(world: World) -> None:
    world.trouble["f1"] = _raise(PipelineFault("flights", "no"))
    world.admit("flights", "f1", 1)
    for _ in range(2):
        await world.process().load(world.log)
    ids = {r.finding_id for topic, _, r in world.published if topic == FINDINGS and isinstance(r, FindingRaised)}
    assert len(ids) == 1


async def test_a_retired_pipeline_stays_retired_when_its_admission_is_sent_again_after_a_restart(world: World) -> None:
    """The old admission is signed; only the memory of the retirement's epoch gives it away."""
    follower = world.process()
    await follower.follow(world.admit("flights", "f1", 1))
    await follower.follow(world.control(PipelineRetired(pipeline="flights", epoch=2, retired_by="ann", retired_ms=1)))
    await follower.stop()
    later = world.process()
    await later.load([world.log[0]])
    assert (later.plans, world.findings()) == ({}, [("flights", "control_refused")])
    await later.follow(world.admit("flights", "f3", 3))
    assert later.plans["flights"].hash == "f3"


async def test_the_epoch_of_a_record_is_known_only_if_it_verifies(world: World) -> None:
    follower = world.process()
    good, retired = world.admit("flights", "f1", 7), PipelineRetired(pipeline="cards", epoch=8, retired_by="ann", retired_ms=1)
    forged = world.admit("flights", "f2", 9, key=Ed25519PrivateKey.generate())
    assert [follower.epoch_of(r) for r in (good, world.control(retired), forged)] == [7, 8, None]
    assert follower.epoch_of(Record(PIPELINES, 0, 9, 5, b"flights", None)) is None
    await follower.follow(good)
    assert world.applied == [("flights", "f1", 7)], "asking for an epoch uses it up for nobody"
