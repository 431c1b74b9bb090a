"""Plans, and rollouts where a service wants them, as a part of the service: read whole before ready, then followed.

One task acts on control records, in order; the reader never waits for it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Generic, Protocol, TypeVar

from headrace.chassis.app import Chassis
from headrace.chassis.bus import Record
from headrace.chassis.control import ControlReader, OnControl, Rank
from headrace.chassis.errors import Fatal, HeadraceError, PipelineFault, Poison
from headrace.chassis.health import Health
from headrace.chassis.kept import KeptRecords
from headrace.chassis.metrics import ChassisMetrics
from headrace.chassis.plan_ledger import P, evidence
from headrace.chassis.plans import Hooks, Member, PlanFollower, Sleep, publisher, retrying
from headrace.chassis.records import EncodeRejected, Rejected
from headrace.chassis.rollout_ledger import RolloutLedger
from headrace.chassis.settings import ServiceSettings
from headrace.contracts.catalogue import FINDINGS, PIPELINES, PLAN_ACKS, ROLLOUTS
from headrace.contracts.codec import Codec
from headrace.contracts.records import (
    AckStatus,
    FindingRaised,
    PlanAcknowledged,
    RecordRejected,
    RolloutChanged,
    Severity,
)
from headrace.contracts.signing import TrustedKeys

S = TypeVar("S", bound=ServiceSettings)
OnRollout = Callable[[RolloutChanged], Awaitable[None]]
"""A rollout that is verified, newer than all before it and kept on disk; after a restart the last one comes again."""


class ControlSource(Protocol):
    """What brings control records: a ControlReader."""

    async def start(self) -> None: ...
    async def wait(self) -> None: ...
    async def stop(self) -> None: ...


MakeReader = Callable[[str, Sequence[str], OnControl, Health, ChassisMetrics, Mapping[str, Rank]], ControlSource]


def rejected_encoder(codec: Codec) -> EncodeRejected:
    """Dead letters on the wire: the original bytes, origin and reason."""

    def encode(rejected: Rejected) -> bytes:
        record = rejected.record
        letter = RecordRejected(
            topic=record.topic, partition=record.partition, offset=record.offset, append_time_ms=record.append_time_ms,
            group=rejected.group, reason=rejected.reason.value, detail=rejected.detail, key=record.key, value=record.value,
            origin_id=f"{record.topic}-{record.partition}-{record.offset}",
        )  # fmt: skip
        return codec.encode(f"{record.topic}.{rejected.group}.dlq", letter)

    return encode


def trusted_keys(settings: ServiceSettings) -> TrustedKeys:
    """Raises: Fatal if no folder of public keys is set: without it every control record is unsigned."""
    if settings.trusted_keys is None:
        raise Fatal("HEADRACE_TRUSTED_KEYS is not set: control records cannot be verified; name the folder of public keys")
    return TrustedKeys(settings.trusted_keys)


class FollowPlans(Generic[P]):
    """Follows governance.pipelines.v1 and, where asked to, governance.rollouts.v1 after it."""

    name = "plans"

    def __init__(
        self,
        chassis: Chassis[S],
        codec: Codec,
        *,
        parse: Callable[[bytes], P],
        apply: Callable[[P, int], Awaitable[None]],
        retire: Callable[[str], Awaitable[None]],
        rollouts: OnRollout | None = None,
        foretold: Callable[[RolloutChanged], None] | None = None,
        reader: MakeReader | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """rollouts: told of each model's rollout at the start, once every plan is acted on, then of each new one.

        foretold: told of those of the start before any plan is acted on, for a service that must not act without them.
        """
        settings = chassis.settings
        self._member = Member(settings.service, settings.instance)
        self._on_rollout, self._foretold, self._sleep = rollouts, foretold, sleep
        self._clock, self._health, self._metrics = chassis.clock, chassis.health, chassis.metrics
        self._producer = chassis.bus.producer(f"{settings.service}.{settings.instance}.control")
        self.publish = publisher(self._producer, codec)
        trusted = trusted_keys(settings)
        self.follower: PlanFollower[P] = PlanFollower(
            self._member,
            Hooks(parse, self._told(apply), self._forgotten(retire)),
            codec=codec,
            trusted=trusted,
            publish=self.publish,
            clock=chassis.clock,
            state_dir=settings.state_dir,
            sleep=sleep,
        )
        self._records: asyncio.Queue[Record] = asyncio.Queue()  # bounded by what people and governance write
        self._rollouts = RolloutLedger(codec, trusted, KeptRecords(settings.state_dir / "rollouts", ROLLOUTS))
        ranks: dict[str, Rank] = {PIPELINES: self.follower.epoch_of}
        if rollouts is not None:
            ranks[ROLLOUTS] = self._rollouts.epoch_of
        make = reader or partial(ControlReader, access=settings)
        self._reader = make(settings.bootstrap, tuple(ranks), self._records.put_nowait, chassis.health, chassis.metrics, ranks)
        self._acting: asyncio.Task[None] | None = None

    def _told(self, apply: Callable[[P, int], Awaitable[None]]) -> Callable[[P, int], Awaitable[None]]:
        """The service's apply; health hears whether the pipeline is parked."""

        async def applied(plan: P, epoch: int) -> None:
            pipeline = str(getattr(plan, "pipeline", ""))
            try:
                await apply(plan, epoch)
            except PipelineFault as fault:
                self._health.park(fault.pipeline, fault.detail)
                raise
            self._health.unpark(pipeline)

        return applied

    def _forgotten(self, retire: Callable[[str], Awaitable[None]]) -> Callable[[str], Awaitable[None]]:
        """The service's retire; what is gone is no longer parked."""

        async def retired(pipeline: str) -> None:
            await retire(pipeline)
            self._health.unpark(pipeline)

        return retired

    async def start(self) -> None:
        """Ready when every plan and every rollout read so far is acted on."""
        await self._reader.start()
        found = [self._records.get_nowait() for _ in range(self._records.qsize())]
        rollouts = await self._known([r for r in found if r.topic == ROLLOUTS])
        await self.follower.load([r for r in found if r.topic == PIPELINES])
        for rollout in rollouts:
            if self._on_rollout is not None:
                await self._on_rollout(rollout)
        self._acting = asyncio.create_task(self._act(), name="plans")

    async def _act(self) -> None:
        while True:
            try:
                async with asyncio.timeout(1.0):
                    record = await self._records.get()
            except TimeoutError:
                self.follower.lived()
                continue
            if record.topic == PIPELINES:
                await self.follower.follow(record)
            elif self._on_rollout is not None:
                await self._roll_out(record, self._on_rollout)

    async def _known(self, records: Sequence[Record]) -> list[RolloutChanged]:
        """The rollouts that hold at the start, on disk, in the order of their records; kept ones last."""
        if self._on_rollout is None:
            return []
        await retrying(self._rollouts.restore, self._sleep)
        taken = [await self._taken(record) for record in records]
        found = [rollout for rollout in taken if rollout is not None] + self._rollouts.unheard()
        if self._foretold is not None:
            for rollout in found:
                self._foretold(rollout)
        return found

    async def _taken(self, record: Record) -> RolloutChanged | None:
        """None if it was refused."""
        try:
            return await retrying(lambda: self._rollouts.take(record), self._sleep)
        except Poison as poison:
            await self.refuse(record, poison)
            return None

    async def _roll_out(self, record: Record, on_rollout: OnRollout) -> None:
        rollout = await self._taken(record)
        if rollout is not None:
            await on_rollout(rollout)

    async def park(self, fault: PipelineFault) -> None:
        """A running pipeline failed: say so to everybody; the others go on."""
        pipeline, epoch = fault.pipeline, self.follower.epochs.get(fault.pipeline, 0)
        plan = self.follower.plans.get(pipeline)
        plan_hash, now = str(getattr(plan, "hash", "")), self._clock.now_ms()
        self._health.park(pipeline, fault.detail)
        self.follower.parked[pipeline] = fault.detail
        identity = "\x1f".join((self._member.service, pipeline, plan_hash, fault.detail))
        finding = FindingRaised(
            finding_id=hashlib.sha256(identity.encode()).hexdigest()[:32], pipeline=pipeline, kind="pipeline_parked",
            severity=Severity.CRITICAL, component=self._member.service, raised_ms=now,
            evidence=evidence(plan_hash=plan_hash, detail=fault.detail),
        )  # fmt: skip
        await self.publish(FINDINGS, pipeline, finding)
        ack = PlanAcknowledged(
            pipeline=pipeline, epoch=epoch, plan_hash=plan_hash, service=self._member.service, instance=self._member.instance,
            status=AckStatus.PARKED, detail=fault.detail, acknowledged_ms=now,
        )  # fmt: skip
        await self.publish(PLAN_ACKS, pipeline, ack)

    async def refuse(self, record: Record, poison: Poison) -> None:
        """A control record that must not act: counted, and a finding with the reason; nothing else changes."""
        self._metrics.control_records.labels(record.topic, "refused").inc()
        text = evidence(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            reason=poison.reason.value,
            detail=poison.detail,
        )
        pipeline = (record.key or b"").decode(errors="replace").partition("/")[0]
        identity = "\x1f".join((self._member.service, pipeline, text))
        finding = FindingRaised(
            finding_id=hashlib.sha256(identity.encode()).hexdigest()[:32], pipeline=pipeline, kind="control_refused",
            severity=Severity.WARNING, component=self._member.service, evidence=text, raised_ms=self._clock.now_ms(),
        )  # fmt: skip
        await retrying(lambda: self.publish(FINDINGS, pipeline, finding), self._sleep)

    async def wait(self) -> None:
        """Ends only with what ended the reader or the acting task."""
        assert self._acting is not None, "started"
        waits = {asyncio.ensure_future(self._reader.wait()), self._acting}
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def stop(self) -> None:
        await self._reader.stop()
        failure: BaseException | None = None
        if self._acting is not None:
            self._acting.cancel()
            failure = (await asyncio.gather(self._acting, return_exceptions=True))[0]
        if failure is None or isinstance(failure, asyncio.CancelledError | HeadraceError):
            await self.follower.stop()  # else the plans on probation are suspects
        self._producer.close()
