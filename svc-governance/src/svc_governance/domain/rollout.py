"""The rollout controller: from an approved candidate to promotion, by verdicts on the concurrent control.

        approve                PASS                       PASS
    o ----------> CANARY s1 ----------> CANARY s2 ... -----------> PROMOTED (100)
                   |    |                |
                   |    +-- FAIL, or ----+----------> ROLLED_BACK (0): champion, or rules where there was none
                   |        a replica refuses
    any state -----+------------ kill --------------> KILLED (0): rules, at once, whatever else is going on

INCONCLUSIVE waits. Every arrow is one record with the next epoch; the salt is fixed from approval on, so nobody
routed to the challenger is moved back by a growing step. A rollout starts again only by approving a candidate.

One replica that refuses is enough: routing is the same on all replicas, so a challenger only some of them can serve would
never get the decisions a verdict needs. A refusal out of a canary has nothing to go back to: a finding tells people.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from headrace.contracts.audit import canonical_json
from headrace.contracts.records import (
    ArmServed,
    FindingRaised,
    ModelTrained,
    RolloutAckStatus,
    RolloutApplied,
    RolloutChanged,
    RolloutJudged,
    RolloutState,
    Severity,
    Verdict,
)
from headrace.plan.difference import row_of
from headrace.plan.ir import Model, Plan
from headrace.plan.retained import home_of, version_of
from svc_governance.domain.facts import Decision, Fact, body_of, refused
from svc_governance.domain.people import Action, Caller
from svc_governance.domain.state import State, verdict_mark

FULL_WEIGHT = 10_000
REASON_CHARS_MAX = 300  # of a replica's own words; the finding holds all of them
RULES = ArmServed(name="rules", weight=FULL_WEIGHT)


def start(before: RolloutChanged | None, trained: ModelTrained, plan: Plan, by: Caller, hold_ms: int) -> RolloutChanged:
    """The first canary step of an approved candidate, against the champion or, where there is none, the rules."""
    epoch = _next_epoch(before)
    salt = hashlib.sha256(f"{trained.pipeline}/{trained.model}/{trained.candidate_id}/{epoch}".encode()).hexdigest()[:16]
    challenger = ArmServed(
        name="challenger",
        weight=0,
        manifest_reference=trained.manifest_reference,
        manifest_digest=trained.manifest_digest,
        model_digest=trained.model_digest,
        signature=trained.signature,
        signature_key_id=trained.key_id,
        candidate_id=trained.candidate_id,
    )
    model = next(m for m in plan.models if m.name == trained.model)
    opened = RolloutChanged(
        pipeline=trained.pipeline,
        model=trained.model,
        epoch=epoch - 1,  # _at counts it up
        plan_hash=plan.hash,
        salt=salt,
        arms=(_control(before), challenger),
        step=0,
        state=RolloutState.CANARY,
        hold_ms=hold_ms,
        reason="",
        approved_by=by.actor,
        changed_ms=by.now_ms,
    )
    return _at(opened, model.rollout.steps[0], f"candidate {trained.candidate_id} approved by {by.actor}", by.now_ms)


def advance(record: RolloutChanged, model: Model, reason: str, now_ms: int) -> RolloutChanged:
    """The next declared step after a passed one."""
    following = next((step for step in model.rollout.steps if step > record.step), 100)
    return _at(record, following, reason, now_ms)


def roll_back(record: RolloutChanged, reason: str, now_ms: int) -> RolloutChanged:
    """All traffic back to the control."""
    return replace(
        record,
        epoch=record.epoch + 1,
        arms=(_control(record),),
        step=0,
        state=RolloutState.ROLLED_BACK,
        reason=reason,
        changed_ms=now_ms,
    )


def carry(record: RolloutChanged, before: Plan, after: Plan, now_ms: int) -> RolloutChanged:
    """The same rollout under a new plan: each arm keeps the rows it was trained for, from the version that has them.

    Rules, where the new plan retains no such version: its requests are other ones.
    """
    moved = replace(record, epoch=record.epoch + 1, plan_hash=after.hash, reason="plan admitted", changed_ms=now_ms)
    homes = [_home(arm, record.model, before, after) for arm in record.arms]
    if row_of(after, record.model) is not None and None not in homes:
        return replace(moved, arms=tuple(replace(a, plan_hash=h or "") for a, h in zip(record.arms, homes, strict=True)))
    state = RolloutState.KILLED if record.state is RolloutState.KILLED else RolloutState.ROLLED_BACK
    return replace(moved, arms=(RULES,), step=0, state=state, reason="plan admitted, the model's row changed")


def _home(arm: ArmServed, model: str, before: Plan, after: Plan) -> str | None:
    """Where the arm's row is found under the new plan; None if nowhere."""
    if not arm.candidate_id:
        return ""
    version = version_of(before, arm.plan_hash)
    return None if version is None else home_of(after, model, row_of(version, model))


def kill(state: State, by: Caller, pipeline: str, model: str, hold_ms: int) -> Decision:
    """The kill switch: rules answer at once. It asks neither state nor verdict nor a second person."""
    if forbidden := by.forbid(Action.KILL, f"{pipeline}/{model}"):
        return forbidden
    rollout, admitted = state.rollouts.get((pipeline, model)), state.pipelines.get(pipeline)
    if rollout is None and (admitted is None or admitted.model(model) is None):
        return refused(404, f"no model {model} in pipeline {pipeline}")
    before = None if rollout is None else rollout.record
    if before is not None and before.state is RolloutState.KILLED:
        return Decision()
    plan_hash = before.plan_hash if before is not None else admitted.plan.hash if admitted is not None else ""
    record = RolloutChanged(
        pipeline=pipeline,
        model=model,
        epoch=_next_epoch(before),
        plan_hash=plan_hash,
        salt="" if before is None else before.salt,
        arms=(RULES,),
        step=0,
        state=RolloutState.KILLED,
        hold_ms=hold_ms,
        reason=f"killed by {by.actor}",
        approved_by=by.actor,
        changed_ms=by.now_ms,
    )
    return Decision((Fact(by.actor, "rollout.changed", f"{pipeline}/{model}", body_of(record)),))


def on_verdict(state: State, verdict: RolloutJudged, now_ms: int) -> Decision:
    """Advance, roll back or wait. Verdicts on another epoch than the one in force lead to nothing."""
    rollout = state.rollouts.get((verdict.pipeline, verdict.model))
    pipeline = state.live(verdict.pipeline)
    if rollout is None or pipeline is None or not rollout.in_flight or verdict.epoch != rollout.record.epoch:
        return Decision()
    model = pipeline.model(verdict.model)
    if model is None or verdict_mark(verdict) in rollout.verdicts:
        return Decision()
    after = _after_verdict(rollout.record, model, verdict, now_ms)
    outcome = "waits" if after is None else f"{after.state.value} {after.step}"
    subject = f"{verdict.pipeline}/{verdict.model}"
    facts = [Fact("svc-monitor", "verdict.received", subject, {"verdict": body_of(verdict), "outcome": outcome})]
    if after is not None:
        facts.append(Fact("svc-governance", "rollout.changed", subject, body_of(after)))
    return Decision(tuple(facts))


def _after_verdict(record: RolloutChanged, model: Model, verdict: RolloutJudged, now_ms: int) -> RolloutChanged | None:
    reason = f"verdict {verdict.verdict_id}: {verdict.verdict.value} at {record.step} %"
    if verdict.verdict is Verdict.PASS:
        return advance(record, model, reason, now_ms)
    if verdict.verdict is Verdict.FAIL:
        return roll_back(record, reason, now_ms)
    return None


def on_rollout_ack(state: State, record: RolloutApplied, now_ms: int) -> Decision:
    """Note a replica's answer to the epoch in force; repeated and outdated ones lead to nothing.

    A refusal raises a finding, and ends a canary.
    """
    rollout = state.rollouts.get((record.pipeline, record.model))
    if rollout is None or record.epoch != rollout.record.epoch:
        return Decision()
    known, subject = rollout.acks.get(record.instance), f"{record.pipeline}/{record.model}"
    facts: list[Fact] = []
    if known is None or (known.status, known.detail) != (record.status, record.detail):
        facts.append(Fact("svc-serve", "rollout.applied", subject, body_of(record)))
    if record.status is RolloutAckStatus.REFUSED:
        finding = _refusal(rollout.record, record, now_ms)
        if finding.finding_id not in state.findings:
            facts.append(Fact("svc-governance", "finding.raised", subject, body_of(finding)))
        if rollout.in_flight:
            reason = f"replica {record.instance} refused step {rollout.record.step} %: {record.detail[:REASON_CHARS_MAX]}"
            facts.append(Fact("svc-governance", "rollout.changed", subject, body_of(roll_back(rollout.record, reason, now_ms))))
    return Decision(tuple(facts))


def _refusal(rollout: RolloutChanged, answer: RolloutApplied, now_ms: int) -> FindingRaised:
    """The same replica refusing the same epoch is the same finding."""
    identity = f"rollout_refused/{rollout.pipeline}/{rollout.model}/{rollout.epoch}/{answer.instance}"
    canary = rollout.state is RolloutState.CANARY
    facts = {
        "epoch": rollout.epoch,
        "state": rollout.state.value,
        "step": rollout.step,
        "candidates": [arm.candidate_id for arm in rollout.arms if arm.candidate_id],
        "instance": answer.instance,
        "detail": answer.detail,
        "outcome": "rolled back" if canary else "left to people: no control to go back to",
    }
    return FindingRaised(
        finding_id=hashlib.sha256(identity.encode()).hexdigest()[:32],
        pipeline=rollout.pipeline,
        model=rollout.model,
        kind="rollout_refused",
        severity=Severity.WARNING if canary else Severity.CRITICAL,
        component="svc-governance",
        evidence=canonical_json(facts),
        raised_ms=now_ms,
    )


def _next_epoch(before: RolloutChanged | None) -> int:
    return 1 if before is None else before.epoch + 1


def _control(before: RolloutChanged | None) -> ArmServed:
    """The arm that answers for everyone but the challenger's share: the champion, else the rules."""
    champion = next((arm for arm in before.arms if arm.name == "champion"), None) if before is not None else None
    return RULES if champion is None else replace(champion, weight=FULL_WEIGHT)


def _at(record: RolloutChanged, step: int, reason: str, now_ms: int) -> RolloutChanged:
    """The record at one step: weights split, or at 100 the challenger alone, as champion."""
    challenger = next(arm for arm in record.arms if arm.name == "challenger")
    weight = step * FULL_WEIGHT // 100
    if step >= 100:
        arms: tuple[ArmServed, ...] = (replace(challenger, name="champion", weight=FULL_WEIGHT),)
    else:
        arms = (replace(_control(record), weight=FULL_WEIGHT - weight), replace(challenger, weight=weight))
    return replace(
        record,
        epoch=record.epoch + 1,
        arms=arms,
        step=step,
        state=RolloutState.PROMOTED if step >= 100 else RolloutState.CANARY,
        reason=reason,
        changed_ms=now_ms,
    )
