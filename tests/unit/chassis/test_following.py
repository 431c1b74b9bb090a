"""Rollouts through restarts and attacks on their topic and on the folder that remembers them."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from headrace.chassis.app import Chassis
from headrace.chassis.bus import TopicPartition, TopicSpec
from headrace.chassis.bus_memory import MemoryBus
from headrace.chassis.clock import ManualClock
from headrace.chassis.errors import Fatal, Retryable
from headrace.chassis.following import FollowPlans
from headrace.chassis.health import Health
from headrace.chassis.http import create_app
from headrace.chassis.metrics import ChassisMetrics
from headrace.chassis.settings import ServiceSettings
from headrace.chassis.tracing import Tracing
from headrace.contracts import signing
from headrace.contracts.catalogue import FINDINGS, PIPELINES, PLAN_ACKS, ROLLOUTS
from headrace.contracts.codec import Codec, MemoryRegistry
from headrace.contracts.records import ArmServed, FindingRaised, PipelineAdmitted, RolloutChanged, RolloutState
from support.control_topics import ControlLog

PATIENCE_S = 10.0
MODEL = "flights/late"


class Settings(ServiceSettings):
    service = "svc-test"


@dataclass(frozen=True)
class TinyPlan:
    pipeline: str
    hash: str


def rollout(epoch: int, model: str = "late", reason: str = "") -> RolloutChanged:
    return RolloutChanged(
        pipeline="flights", model=model, epoch=epoch, plan_hash="p", salt="s", arms=(ArmServed(name="rules", weight=10_000),),
        step=0, state=RolloutState.ROLLED_BACK, hold_ms=0, reason=reason, approved_by="ann", changed_ms=1,
    )  # fmt: skip


@dataclass
class World:
    """Keys, registry, topics and state folder: what outlives a process."""

    folder: Path
    log: ControlLog = field(default_factory=ControlLog)
    bus: MemoryBus = field(default_factory=MemoryBus)
    told: list[tuple[str, int]] = field(default_factory=list)  # rollouts the service was told of: model, epoch
    applied: list[str] = field(default_factory=list)  # plan hashes

    slept: list[float] = field(default_factory=list)
    foretold: list[tuple[str, int, int]] = field(default_factory=list)  # model, epoch, plans applied by then

    def foretell(self, found: RolloutChanged) -> None:
        self.foretold.append((found.model, found.epoch, len(self.applied)))

    def __post_init__(self) -> None:
        (self.folder / "trusted").mkdir()
        signing.write_key_pair(self.folder / "key", self.folder / "trusted" / "svc-governance.pub")
        self.key = signing.load_private(self.folder / "key")
        self.codec = Codec(MemoryRegistry())
        self.bus.admin().ensure_topics([TopicSpec(FINDINGS, 1), TopicSpec(PLAN_ACKS, 1)])
        self.metrics = ChassisMetrics()

    @property
    def kept(self) -> Path:
        return self.folder / "state" / "rollouts"

    def signed(self, record: RolloutChanged, key: Ed25519PrivateKey | None = None) -> bytes:
        name = f"{record.pipeline}/{record.model}"
        payload = self.codec.encode(ROLLOUTS, record)
        envelope = signing.sign_control(key or self.key, "svc-governance", ROLLOUTS, name, payload)
        return self.codec.encode(ROLLOUTS, envelope)

    def roll_out(self, epoch: int, model: str = "late", **kwargs: Any) -> bytes:
        """Signed by governance, appended to the topic; its bytes."""
        value = self.signed(rollout(epoch, model), **kwargs)
        self.log.append(ROLLOUTS, f"flights/{model}".encode(), value)
        return value

    def admit(self, plan_hash: str, epoch: int) -> None:
        text = json.dumps({"pipeline": "flights", "hash": plan_hash})
        admitted = PipelineAdmitted(
            pipeline="flights", epoch=epoch, plan_hash=plan_hash, plan=text, admitted_by="ann", admitted_ms=1
        )
        payload = self.codec.encode(PIPELINES, admitted)
        envelope = signing.sign_control(self.key, "svc-governance", PIPELINES, "flights", payload)
        self.log.append(PIPELINES, b"flights", self.codec.encode(PIPELINES, envelope))

    def forged(self, epoch: int) -> bytes:
        return self.signed(rollout(epoch), Ed25519PrivateKey.generate())

    def life(self, rollouts: bool = True) -> FollowPlans[TinyPlan]:
        """A process on the same state folder."""
        settings = Settings(state_dir=self.folder / "state", trusted_keys=self.folder / "trusted", http_port=0)
        health = Health()
        chassis = Chassis(
            settings, ManualClock(1_000), self.bus, health, self.metrics, Tracing("svc-test", "0", None),
            create_app("svc-test", health, self.metrics),
        )  # fmt: skip

        async def apply(plan: TinyPlan, epoch: int) -> None:
            self.applied.append(plan.hash)

        async def retire(pipeline: str) -> None: ...

        async def on_rollout(found: RolloutChanged) -> None:
            self.told.append((found.model, found.epoch))

        return FollowPlans(
            chassis, self.codec, parse=lambda data: TinyPlan(**json.loads(data)), apply=apply, retire=retire,
            rollouts=on_rollout if rollouts else None, foretold=self.foretell, reader=self.log.reader, sleep=self.sleep,
        )  # fmt: skip

    async def lived(self) -> list[tuple[str, int]]:
        """A whole life: started and stopped; what the service was told of in it."""
        self.told.clear()
        part = self.life()
        await part.start()
        await part.stop()
        return list(self.told)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def refusals(self) -> list[str]:
        """Reasons of the findings about refused records, in order."""
        consumer = self.bus.consumer(None, "test")
        consumer.assign({TopicPartition(FINDINGS, 0): -2})
        found = [self.codec.decode(r.value, FindingRaised) for r in consumer.consume(1_000, 0)]
        return [json.loads(f.evidence)["reason"] for f in found if f.kind == "control_refused"]

    def counted(self) -> float:
        labels = {"topic": ROLLOUTS, "outcome": "refused"}
        return self.metrics.registry.get_sample_value("control_records_total", labels) or 0.0


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  another task decides
            await asyncio.sleep(0)


async def test_plans_come_first_then_rollouts_then_what_is_appended_later(world: World) -> None:
    world.roll_out(1)
    world.admit("f1", 1)
    part = world.life()
    await part.start()
    assert (world.applied, world.told) == (["f1"], [("late", 1)])
    world.admit("f2", 2)
    world.roll_out(2)
    await until(lambda: world.told[-1] == ("late", 2) and world.applied[-1] == "f2")
    await part.stop()


async def test_rollouts_of_the_start_are_foretold_before_any_plan_and_later_ones_are_not(world: World) -> None:
    """Those of the topic and those only the disk still knows; a forged one is not among them."""
    world.roll_out(3)
    world.roll_out(5, "kept")
    await world.lived()
    world.log.records.clear()
    world.foretold.clear()
    world.log.append(ROLLOUTS, MODEL.encode(), world.forged(9))
    world.roll_out(4)
    world.admit("f1", 1)
    part = world.life()
    await part.start()
    assert world.foretold == [("late", 4, 0), ("kept", 5, 0)]
    assert world.applied == ["f1"]
    world.roll_out(6)
    await until(lambda: world.told[-1] == ("late", 6))
    await part.stop()
    assert len(world.foretold) == 2


async def test_an_old_rollout_sent_again_while_running_or_before_a_restart_changes_nothing(world: World) -> None:
    """The replayed record is signed by governance: only the epoch gives it away."""
    old = world.roll_out(4)
    part = world.life()
    await part.start()
    world.roll_out(5)
    world.log.append(ROLLOUTS, MODEL.encode(), old)
    await until(lambda: len(world.refusals()) == 1)
    await part.stop()
    assert (world.told, world.refusals()) == ([("late", 4), ("late", 5)], ["lower_epoch"])
    assert await world.lived() == [("late", 5)], "the log still holds the good one behind the old one"
    world.log.compact()
    assert [r.value for r in world.log.records] == [old], "now the topic holds the old one only"
    assert await world.lived() == [("late", 5)]
    assert world.refusals() == ["lower_epoch"] * 3
    assert world.counted() == 3


async def test_a_forged_newest_record_leaves_the_good_one_in_force_after_a_restart(world: World) -> None:
    """Once compacted, the topic has lost the good one; the replica has not."""
    world.roll_out(5)
    assert await world.lived() == [("late", 5)]
    world.log.append(ROLLOUTS, MODEL.encode(), world.forged(6))
    assert await world.lived() == [("late", 5)]
    world.log.compact()
    assert await world.lived() == [("late", 5)]
    assert world.refusals() == ["bad_signature"] * 2
    world.roll_out(6)
    assert await world.lived() == [("late", 6)], "a forged record uses up no epoch"


@pytest.mark.parametrize("epochs", [(5, None), (5, 3), (5, 3, None), (None, 5, 3)])
async def test_a_replica_without_any_memory_finds_the_good_record_as_long_as_the_log_has_it(
    world: World, epochs: tuple[int | None, ...]
) -> None:
    """Read before compaction: what comes later under the key, forged (None) or sent again, hides nothing."""
    for epoch in epochs:
        value = world.forged(9) if epoch is None else world.signed(rollout(epoch))
        world.log.append(ROLLOUTS, MODEL.encode(), value)
    assert await world.lived() == [("late", 5)]
    assert len(world.refusals()) == 1, "the newest one is refused aloud, as compaction would leave it"


@pytest.mark.parametrize("value", [None, b"", b"\x00\x00\x00\x00\x09junk"])
async def test_a_deleted_or_damaged_record_leaves_the_good_one_in_force(world: World, value: bytes | None) -> None:
    world.roll_out(5)
    await world.lived()
    world.log.append(ROLLOUTS, MODEL.encode(), value)
    world.log.compact()
    assert await world.lived() == [("late", 5)]
    world.log.records.clear()
    assert await world.lived() == [("late", 5)], "also when the tombstone has been compacted away"


async def test_another_rollout_of_the_same_epoch_is_refused_also_after_a_restart(world: World) -> None:
    world.roll_out(5)
    await world.lived()
    world.log.records.clear()
    world.log.append(ROLLOUTS, MODEL.encode(), world.signed(rollout(5, reason="another")))
    assert await world.lived() == [("late", 5)]
    assert world.refusals() == ["lower_epoch"]


@pytest.mark.parametrize("left", [0, 1, 40, -3])
async def test_a_truncated_memory_counts_as_none_and_the_topic_decides(world: World, left: int) -> None:
    world.roll_out(5)
    await world.lived()
    (file,) = world.kept.glob("*.json")
    file.write_bytes(file.read_bytes()[:left])
    world.log.records.clear()
    world.roll_out(6)
    assert await world.lived() == [("late", 6)]
    assert json.loads(file.read_text())["epoch"] == 6, "kept whole again"


async def test_a_memory_of_another_model_is_not_this_models(world: World) -> None:
    """Neither copied over as it is, nor with its label changed: the signature is for the key."""
    world.roll_out(5)
    world.roll_out(9, "early")
    await world.lived()
    late, early = world.kept / "flights%2Flate.json", world.kept / "flights%2Fearly.json"
    for text in (early.read_text(), json.dumps(json.loads(early.read_text()) | {"key": MODEL})):
        late.write_text(text)
        world.log.records.clear()
        assert await world.lived() == [("early", 9)]


async def test_an_older_memory_under_another_name_lowers_no_floor(world: World) -> None:
    """A copy somebody put aside: signed, of this key, but not this key's file."""
    old = world.roll_out(4)
    await world.lived()
    (file,) = world.kept.glob("*.json")
    (world.kept / "zzz.json").write_bytes(file.read_bytes())
    world.roll_out(5)
    assert await world.lived() == [("late", 5)]
    world.log.records.clear()
    world.log.append(ROLLOUTS, MODEL.encode(), old)
    assert await world.lived() == [("late", 5)]


async def test_a_rollout_signed_for_a_key_that_is_not_its_models_is_refused(world: World) -> None:
    payload = world.codec.encode(ROLLOUTS, rollout(5, "early"))
    envelope = signing.sign_control(world.key, "svc-governance", ROLLOUTS, MODEL, payload)
    world.log.append(ROLLOUTS, MODEL.encode(), world.codec.encode(ROLLOUTS, envelope))
    world.log.append(ROLLOUTS, b"\xff\xfe", world.signed(rollout(5)))
    assert await world.lived() == []
    assert world.refusals() == ["wrong_type"] * 2


@pytest.mark.parametrize("exchange", ["signature", "epoch", "value"])
async def test_a_memory_that_governance_did_not_sign_is_not_believed(world: World, exchange: str) -> None:
    """A file with another key's signature, a raised epoch beside the signed one, or other bytes."""
    world.roll_out(5)
    await world.lived()
    (file,) = world.kept.glob("*.json")
    if exchange == "signature":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(world, "key", Ed25519PrivateKey.generate())
            world.roll_out(7)  # kept by nobody, but of a form a file could have
        fields = {"value": b64encode(world.log.records.pop().value or b"").decode()}
    else:
        fields = {"epoch": 99} if exchange == "epoch" else {"value": b64encode(b"\x00\x00\x00\x00\x01junk").decode()}
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    world.log.records.clear()
    world.roll_out(6)
    assert await world.lived() == [("late", 6)]


async def test_a_rollout_is_on_disk_before_the_service_hears_of_it(world: World) -> None:
    """A process that dies of taking it up finds it again."""
    world.roll_out(5)
    part = world.life()

    async def dies(found: RolloutChanged) -> None:
        assert [json.loads(f.read_text())["epoch"] for f in world.kept.glob("*.json")] == [found.epoch]
        raise KeyError("killed")

    part._on_rollout = dies
    with pytest.raises(KeyError):
        await part.start()
    await part.stop()
    world.log.records.clear()
    assert await world.lived() == [("late", 5)]


async def test_a_state_folder_that_cannot_be_written_ends_the_service(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("headrace.chassis.kept.write_whole", full)
    world.roll_out(5)
    with pytest.raises(Fatal, match="free space"):
        await world.lived()
    assert world.told == []


async def test_a_registry_that_is_away_at_the_start_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.roll_out(5)
    await world.lived()
    part, failures = world.life(), [Retryable("registry away")] * 2
    real = part._rollouts.open

    def flaky(record: Any) -> RolloutChanged:
        if failures:
            raise failures.pop()
        return real(record)

    world.log.records.clear()
    monkeypatch.setattr(part._rollouts, "open", flaky)
    world.told.clear()
    await part.start()
    await part.stop()
    assert (world.told, len(world.slept)) == ([("late", 5)], 2)


async def test_a_service_that_wants_no_rollouts_reads_only_plans(world: World) -> None:
    world.roll_out(5)
    world.admit("f1", 1)
    part = world.life(rollouts=False)
    await part.start()
    await part.stop()
    assert (world.applied, world.told, list(world.kept.glob("*"))) == (["f1"], [], [])
