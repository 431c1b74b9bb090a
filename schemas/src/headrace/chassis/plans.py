"""Every service follows governance.pipelines.v1: plans are taken up, parked or retired while it runs.

Steps of one control record:
    1. Verify: signature, key, growing epoch (plan_ledger). What is refused becomes a finding, nothing else.
    2. Quarantine counts the start of the plan, durably.
    3. The service's `apply(plan, epoch)` takes it up, whole or not at all.
    4. The record is kept as last-known-good, PlanAcknowledged APPLIED is published.
    Where 1 cannot read the plan, 2 knows it as a killer or 3 fails: PARKED with the reason and a finding.
    What ran before goes on; after a restart the last-known-good is taken up instead.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from headrace.chassis.bus import Producer, Record
from headrace.chassis.clock import Clock
from headrace.chassis.kept import KeptRecords
from headrace.chassis.logs import logger
from headrace.chassis.plan_ledger import Apply, Decision, P, Park, PlanLedger, Refused, Retire, evidence
from headrace.chassis.quarantine import Quarantine
from headrace.contracts.catalogue import FINDINGS, PIPELINES, PLAN_ACKS
from headrace.contracts.codec import AvroRecord, Codec
from headrace.contracts.errors import Fatal, PipelineFault, Retryable
from headrace.contracts.records import AckStatus, FindingRaised, PipelineAdmitted, PlanAcknowledged, Severity
from headrace.contracts.signing import TrustedKeys

RETRY_DELAYS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # half a minute for a registry or broker that restarts
FLUSH_S = 10.0
DETAIL_CHARS_MAX = 2000

Sleep = Callable[[float], Awaitable[None]]
Publish = Callable[[str, str, AvroRecord], Awaitable[None]]  # topic, key, record; durable when it returns
_log = logger("headrace.plans")


@dataclass(frozen=True, slots=True)
class Member:
    """Who follows."""

    service: str
    instance: str


@dataclass(frozen=True, slots=True)
class Hooks(Generic[P]):
    """What a service does with plans. Both may be async.

    Attributes:
        parse: plan from its canonical JSON; raises if it cannot be read or its hash is not its content's.
        apply: take up a plan, in place of an older one of the same pipeline if there is one, whole or
            not at all. Raises PipelineFault (or anything unclassified) to park it, Retryable to be asked
            again, any other Fatal to end the process.
        retire: take a pipeline down; called for unknown ones too.
    """

    parse: Callable[[bytes], P]
    apply: Callable[[P, int], Any]
    retire: Callable[[str], Any]


class PlanFollower(Generic[P]):
    """What to do with each record of the topic; `following.FollowPlans` brings them. Lives on the event loop."""

    def __init__(
        self,
        member: Member,
        hooks: Hooks[P],
        *,
        codec: Codec,
        trusted: TrustedKeys,
        publish: Publish,
        clock: Clock,
        state_dir: Path,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """Reads what the last life left in state_dir. Fatal if that cannot be used."""
        self._member, self._hooks, self._publish, self._clock, self._sleep = member, hooks, publish, clock, sleep
        self._quarantine = Quarantine(state_dir / "plan-starts.json")
        self._kept = KeptRecords(state_dir / "plans", PIPELINES)
        self._codec = codec
        self._ledger: PlanLedger[P] = PlanLedger(codec, trusted, hooks.parse, self._quarantine.refuses, self._floor())
        self.plans: dict[str, P] = {}  # running, by pipeline
        self.epochs: dict[str, int] = {}  # of what runs
        self.parked: dict[str, str] = {}  # why the newest plan of a pipeline does not run

    def _floor(self) -> dict[str, int]:
        return {kept.key: kept.epoch for kept in self._kept.read()}

    def epoch_of(self, record: Record) -> int | None:
        """Epoch of a plan's record that verifies, None for others: which of a key's records counts. Raises: Retryable."""
        inner = self._ledger.open(record)
        return None if isinstance(inner, Refused) else inner.epoch

    async def load(self, records: list[Record]) -> None:
        """The whole topic, before the service is ready: only the newest valid record of each pipeline is acted on."""
        newest: dict[str, tuple[Decision[P], Record]] = {}
        refused: set[str] = set()
        for record in records:
            decision = await self._retrying(lambda record=record: self._ledger.decide(record))
            if isinstance(decision, Refused):
                await self._refuse(decision, record)
                refused.add(decision.pipeline)
            elif decision is not None:
                newest[_pipeline(decision)] = (decision, record)
        for decision, record in newest.values():
            await self._act(decision, record)
        for pipeline in sorted(refused - newest.keys()):  # compaction left only the bad record
            await self._fall_back(pipeline)

    async def follow(self, record: Record) -> None:
        """One record that came later."""
        decision = await self._retrying(lambda: self._ledger.decide(record))
        if isinstance(decision, Refused):
            await self._refuse(decision, record)
        elif decision is not None:
            await self._act(decision, record)
        self._quarantine.lived(self._clock.monotonic_s())

    def lived(self) -> None:
        """Call now and then: ends the probation of plans that have lived long enough."""
        self._quarantine.lived(self._clock.monotonic_s())

    async def stop(self) -> None:
        """An end in order: no plan is suspected."""
        self._quarantine.ended_in_order()

    async def _act(self, decision: Decision[P], record: Record) -> None:
        match decision:
            case Apply():
                if not await self._apply(decision):
                    return
                self._kept.keep(decision.admitted.pipeline, decision.admitted.epoch, record)
                await self._acknowledge(decision.admitted, AckStatus.APPLIED, "")
            case Park():
                await self._park(decision)
            case Retire():
                retired = decision.retired
                await self._retrying(lambda: self._hooks.retire(retired.pipeline))
                self.plans.pop(retired.pipeline, None)
                self.epochs.pop(retired.pipeline, None)
                self.parked.pop(retired.pipeline, None)
                self._quarantine.not_running(retired.pipeline)
                self._kept.keep(retired.pipeline, retired.epoch, record)  # its epoch stays the floor
                await self._publish_ack(retired.pipeline, retired.epoch, "", AckStatus.RETIRED, "")

    async def _apply(self, decision: Apply[P]) -> bool:
        """True if the plan runs now; parks it otherwise."""
        admitted, plan = decision.admitted, decision.plan
        self._quarantine.starting(admitted.pipeline, admitted.plan_hash, admitted.epoch)
        try:
            await self._retrying(lambda: self._hooks.apply(plan, admitted.epoch))
        except Exception as e:
            self._quarantine.not_running(admitted.pipeline)  # we live: it did not kill
            if isinstance(e, Fatal | Retryable) and not isinstance(e, PipelineFault):
                raise
            _log.error("plan_failed", pipeline=admitted.pipeline, plan_hash=admitted.plan_hash, exc_info=True)
            await self._park(Park(admitted, f"{type(e).__name__}: {e}" if not isinstance(e, PipelineFault) else e.detail))
            return False
        except BaseException:
            self._quarantine.not_running(admitted.pipeline)
            raise
        self._quarantine.applied(admitted.pipeline, self._clock.monotonic_s())
        self.plans[admitted.pipeline] = plan
        self.epochs[admitted.pipeline] = admitted.epoch
        self.parked.pop(admitted.pipeline, None)
        _log.info("plan_applied", pipeline=admitted.pipeline, plan_hash=admitted.plan_hash, epoch=admitted.epoch)
        return True

    async def _park(self, decision: Park) -> None:
        admitted = decision.admitted
        detail = decision.detail[:DETAIL_CHARS_MAX]
        self.parked[admitted.pipeline] = detail
        _log.warning("plan_parked", pipeline=admitted.pipeline, plan_hash=admitted.plan_hash, detail=detail)
        await self._acknowledge(admitted, AckStatus.PARKED, detail)
        await self._find(
            admitted.pipeline, "pipeline_parked", Severity.CRITICAL,
            plan_hash=admitted.plan_hash, epoch=admitted.epoch, detail=detail,
        )  # fmt: skip
        if admitted.pipeline not in self.plans:
            await self._fall_back(admitted.pipeline)

    async def _fall_back(self, pipeline: str) -> None:
        """After a restart: run what ran last, if it is kept, still verifies and is not the parked plan itself."""
        kept = next((kept.record for kept in self._kept.read() if kept.key == pipeline), None)
        if kept is None:
            return
        admitted = await self._retrying(lambda: self._ledger.open(kept))
        if not isinstance(admitted, PipelineAdmitted):
            return
        if self._quarantine.refuses(pipeline, admitted.plan_hash, admitted.epoch):
            return
        decision = self._ledger.read(admitted)
        if not isinstance(decision, Apply):
            return
        why = self.parked.get(pipeline)
        try:
            await self._retrying(lambda: self._hooks.apply(decision.plan, admitted.epoch))
        except PipelineFault as e:
            _log.error("last_known_good_failed", pipeline=pipeline, detail=e.detail)
            return
        self.plans[pipeline], self.epochs[pipeline] = decision.plan, admitted.epoch
        _log.warning("last_known_good_applied", pipeline=pipeline, plan_hash=admitted.plan_hash, instead_of=why)

    async def _refuse(self, refused: Refused, record: Record) -> None:
        _log.warning("control_refused", pipeline=refused.pipeline, reason=refused.reason.value, offset=record.offset)
        await self._find(
            refused.pipeline, "control_refused", Severity.WARNING,
            topic=record.topic, partition=record.partition, offset=record.offset, reason=refused.reason.value,
            detail=refused.detail[:DETAIL_CHARS_MAX],
        )  # fmt: skip

    async def _acknowledge(self, admitted: PipelineAdmitted, status: AckStatus, detail: str) -> None:
        await self._publish_ack(admitted.pipeline, admitted.epoch, admitted.plan_hash, status, detail)

    async def _publish_ack(self, pipeline: str, epoch: int, plan_hash: str, status: AckStatus, detail: str) -> None:
        ack = PlanAcknowledged(
            pipeline=pipeline, epoch=epoch, plan_hash=plan_hash, service=self._member.service, instance=self._member.instance,
            status=status, detail=detail, acknowledged_ms=self._clock.now_ms(),
        )  # fmt: skip
        await self._retrying(lambda: self._publish(PLAN_ACKS, pipeline, ack))

    async def _find(self, pipeline: str, kind: str, severity: Severity, **facts: object) -> None:
        """Raise a finding; the same facts have the same id, so that a restart raises nothing new."""
        text = evidence(**facts)
        identity = "\x1f".join((self._member.service, pipeline, kind, text))
        finding = FindingRaised(
            finding_id=hashlib.sha256(identity.encode()).hexdigest()[:32], pipeline=pipeline, kind=kind, severity=severity,
            component=self._member.service, evidence=text, raised_ms=self._clock.now_ms(),
        )  # fmt: skip
        await self._retrying(lambda: self._publish(FINDINGS, pipeline, finding))

    async def _retrying(self, call: Callable[[], Any]) -> Any:
        return await retrying(call, self._sleep)


async def retrying(call: Callable[[], Any], sleep: Sleep = asyncio.sleep) -> Any:
    """Call, await if need be; a Retryable is tried again within the budget, then Fatal."""
    for delay in (*RETRY_DELAYS_S, None):
        try:
            result = call()
            return await result if inspect.isawaitable(result) else result
        except Retryable as e:
            if delay is None:
                raise Fatal(f"control loop gave up after {sum(RETRY_DELAYS_S):.0f} s: {e}") from e
            _log.warning("control_retry", detail=str(e), delay_s=delay)
            await sleep(delay)
    raise AssertionError("unreachable")


def _pipeline(decision: Decision[Any]) -> str:
    match decision:
        case Apply(admitted=admitted) | Park(admitted=admitted):
            return admitted.pipeline
        case Retire(retired=retired):
            return retired.pipeline
        case Refused(pipeline=pipeline):
            return pipeline


def publisher(producer: Producer, codec: Codec) -> Publish:
    """Publishes through a producer of its own (no transactions); the event loop goes on while it flushes."""

    async def publish(topic: str, key: str, record: AvroRecord) -> None:
        value = codec.encode(topic, record)
        failures: list[Exception] = []

        def send() -> None:
            producer.produce(topic, value, key.encode(), on_delivery=lambda error, _: failures.append(error) if error else None)
            producer.flush(FLUSH_S)

        await asyncio.to_thread(send)
        if failures:
            raise Retryable(f"could not publish to {topic}: {failures[0]}")

    return publish
