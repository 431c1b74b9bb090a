"""Admission of plans, their retirement, and what the services answer to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from headrace.contracts.catalogue import PLATFORM_DOMAINS
from headrace.contracts.records import AckStatus, ArmServed, PipelineAdmitted, PipelineRetired, PlanAcknowledged
from headrace.plan.difference import row_of
from headrace.plan.hashes import to_json
from headrace.plan.ir import SEMANTICS_VERSION, FeatureSet, Plan
from headrace.plan.retained import can_follow, cut_down, declared, home_of, version_of, versions, with_retained
from headrace.plan.validate import validate
from svc_governance.domain.facts import Decision, Fact, body_of, refused
from svc_governance.domain.gate import parse_condition
from svc_governance.domain.people import Action, Caller
from svc_governance.domain.rollout import carry
from svc_governance.domain.state import Pipeline, State

# every service that follows governance.pipelines.v1 answers a plan
ANSWERING_SERVICES = ("svc-ingest", "svc-stream", "svc-features", "svc-train", "svc-serve", "svc-monitor")


def admit(state: State, by: Caller, plan: Plan) -> Decision:
    """Put a plan in force under the next epoch; the plan already in force is left alone (no facts).

    Models whose rows stay the same keep their rollout under the new plan. Where rows change, the plan admitted retains what
    the models in use were trained for, and they go on; where requests change, rules answer.
    """
    if forbidden := by.forbid(Action.APPLY, plan.pipeline):
        return forbidden
    if fault := fault_of(plan):
        return refused(422, fault)
    plan = declared(plan)  # what to retain is decided here, whatever an exported plan says
    before = state.pipelines.get(plan.pipeline)
    if before is not None and not before.retired and declared(before.plan).hash == plan.hash:
        return Decision()
    if before is not None and (mixed := _mixed(before.plan, plan)):
        return refused(409, mixed)
    if before is not None:
        plan = with_retained(plan, _needed(state, before.plan, plan))
    return Decision(_admission(state, before, plan, by.actor, by.now_ms))


def _mixed(before: Plan, after: Plan) -> str:
    """Streams whose results change and would lie in one topic with the older ones; "" for none. Readers could not tell."""

    def written(plan: Plan) -> dict[str, str]:
        topics = {event.name: event.topic for event in plan.events}
        return {topics[stream.output]: stream.hash for stream in plan.streams}

    old, names = written(before), {event.name: event.topic for event in after.events}
    changed = [s for s in after.streams if old.get(names[s.output], s.hash) != s.hash]
    return "; ".join(
        f"results of stream {s.name} change, but {names[s.output]} holds those of its older version: give it a new topic, "
        f'such as topic="{names[s.output].rpartition(".v")[0]}.v{_next_major(names[s.output])}"'
        for s in changed
    )


def _next_major(topic: str) -> int:
    major = topic.rpartition(".v")[2]
    return int(major) + 1 if major.isdigit() else 2


def _admission(state: State, before: Pipeline | None, plan: Plan, actor: str, now_ms: int) -> tuple[Fact, ...]:
    record = PipelineAdmitted(
        pipeline=plan.pipeline,
        epoch=1 if before is None else before.epoch + 1,
        plan_hash=plan.hash,
        plan=to_json(plan).decode(),
        admitted_by=actor,
        admitted_ms=now_ms,
    )
    return (Fact(actor, "pipeline.admitted", plan.pipeline, body_of(record)), *_carried(state, before, plan, now_ms))


def _needed(state: State, before: Plan, after: Plan) -> list[Plan]:
    """Versions to retain: of each older row a model in use takes, cut down to the models that take it."""
    models: dict[str, set[str]] = {}
    for name, arm in _arms(state, after.pipeline):
        home = version_of(before, arm.plan_hash)
        if home is None or home_of(after, name, row_of(home, name)) == "" or not can_follow(home, after, name):
            continue
        models.setdefault(home.hash, set()).add(name)
    return [cut_down(home, models[home.hash]) for home in versions(before) if home.hash in models]


def _arms(state: State, pipeline: str) -> Iterator[tuple[str, ArmServed]]:
    """(model, arm) of every model in use."""
    for (owner, name), rollout in state.rollouts.items():
        if owner == pipeline:
            yield from ((name, arm) for arm in rollout.record.arms if arm.candidate_id)


def released(state: State, now_ms: int) -> tuple[Fact, ...]:
    """Facts that put a plan in force again without the versions no model in use takes rows of any more."""
    for pipeline in state.pipelines.values():
        used = {arm.plan_hash for _, arm in _arms(state, pipeline.plan.pipeline)}
        kept = [version for version in pipeline.plan.retained if version.hash in used]
        if not pipeline.retired and len(kept) < len(pipeline.plan.retained):
            plan = with_retained(pipeline.plan, kept)
            return _admission(state, pipeline, plan, "svc-governance", now_ms)
    return ()


def removable(pipeline: Pipeline) -> tuple[FeatureSet, ...]:
    """Sets whose topics may go: no version holds them, and all who ever answered have taken up the epoch that says so.

    A replica that never comes back keeps them: better a topic too many than a reader without one.
    """
    applied = {who for who, ack in pipeline.acks.items() if ack.status is AckStatus.APPLIED}
    everyone = pipeline.awaited <= applied and {service for service, _ in applied} >= set(ANSWERING_SERVICES)
    return tuple(pipeline.unused.values()) if everyone and not pipeline.retired else ()


def removed(pipeline: str, sets: Sequence[FeatureSet]) -> Fact:
    """Their topics and groups are gone."""
    body = {"hashes": [item.hash for item in sets], "sets": [item.name for item in sets]}
    return Fact("svc-governance", "sets.removed", pipeline, body)


def _carried(state: State, before: Pipeline | None, plan: Plan, now_ms: int) -> list[Fact]:
    facts = []
    for (pipeline, name), rollout in state.rollouts.items():
        model = next((m for m in plan.models if m.name == name), None)
        if pipeline == plan.pipeline and before is not None and model is not None and rollout.record.plan_hash != plan.hash:
            record = carry(rollout.record, before.plan, plan, now_ms)
            facts.append(Fact("svc-governance", "rollout.changed", f"{pipeline}/{name}", body_of(record)))
    return facts


def fault_of(plan: Plan) -> str | None:
    """Why a plan may not enter, None if it may. Faults only a service can see park the pipeline there."""
    if plan.pipeline in PLATFORM_DOMAINS:
        return f"pipeline name {plan.pipeline} is a domain of the platform"
    if plan.semantics_version != SEMANTICS_VERSION:
        return f"plan has engine semantics {plan.semantics_version}, this platform {SEMANTICS_VERSION}: compile it again"
    try:
        validate(plan)
        for model in plan.models:
            for name, text in model.gate:
                parse_condition(name, text)
    except ValueError as error:  # PlanError included
        return str(error)
    return None


def retire(state: State, by: Caller, pipeline: str) -> Decision:
    """Take a pipeline down; its epoch lives on, so a later admission still grows."""
    if forbidden := by.forbid(Action.RETIRE, pipeline):
        return forbidden
    before = state.live(pipeline)
    if before is None:
        return refused(404, f"no pipeline {pipeline} in force")
    record = PipelineRetired(pipeline=pipeline, epoch=before.epoch + 1, retired_by=by.actor, retired_ms=by.now_ms)
    return Decision((Fact(by.actor, "pipeline.retired", pipeline, body_of(record)),))


def on_plan_ack(state: State, record: PlanAcknowledged) -> Decision:
    """Note an answer to the epoch in force; repeated and outdated ones lead to nothing."""
    pipeline = state.pipelines.get(record.pipeline)
    if pipeline is None or record.epoch != pipeline.epoch:
        return Decision()
    known = pipeline.acks.get((record.service, record.instance))
    if known is not None and replace(known, acknowledged_ms=record.acknowledged_ms) == record:
        return Decision()
    return Decision((Fact(record.service, "plan.acknowledged", record.pipeline, body_of(record)),))
