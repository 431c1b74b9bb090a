"""State as JSON for people and their tools. Read only; built from the immutable snapshot."""

from __future__ import annotations

from typing import Any

from headrace.contracts.records import AckStatus
from headrace.plan.ir import Plan
from svc_governance.domain.facts import body_of
from svc_governance.domain.pipelines import ANSWERING_SERVICES
from svc_governance.domain.state import Candidate, ModelRollout, Pipeline, State

Json = dict[str, Any]


def pipeline_view(name: str, pipeline: Pipeline) -> Json:
    """What is in force and who answered: `waiting` lists services without an answer to this epoch."""
    acks = sorted(pipeline.acks.values(), key=lambda ack: (ack.service, ack.instance))
    answered = {ack.service for ack in acks}
    return {
        "pipeline": name,
        "state": "RETIRED" if pipeline.retired else "ADMITTED",
        "epoch": pipeline.epoch,
        "plan_hash": pipeline.plan.hash,
        "owner": pipeline.plan.owner,
        "models": [model.name for model in pipeline.plan.models],
        "retained": [_retained(version, pipeline.plan) for version in pipeline.plan.retained],
        "admitted_by": pipeline.admitted_by,
        "admitted_ms": pipeline.admitted_ms,
        "acks": [body_of(ack) for ack in acks],
        "waiting": [service for service in ANSWERING_SERVICES if service not in answered],
        "parked": sorted({ack.service for ack in acks if ack.status is AckStatus.PARKED}),
    }


def _retained(version: Plan, plan: Plan) -> Json:
    """An older version in use: for which models, and which sets are kept up for it alone."""
    own = {item.hash for item in plan.feature_sets}
    return {
        "plan_hash": version.hash,
        "models": [model.name for model in version.models],
        "sets": [f"{item.name} {item.hash[:8]}" for item in version.feature_sets if item.hash not in own],
    }


def candidate_view(candidate: Candidate) -> Json:
    trained = candidate.trained
    return {
        "candidate_id": trained.candidate_id,
        "pipeline": trained.pipeline,
        "model": trained.model,
        "state": candidate.state.value,
        "requested_by": trained.requested_by,
        "trigger_id": trained.trigger_id,
        "plan_hash": trained.plan_hash,
        "model_digest": trained.model_digest,
        "manifest_digest": trained.manifest_digest,
        "dataset_digest": trained.dataset_digest,
        "tracking_id": trained.tracking_id,
        "rows": trained.rows,
        "from_ms": trained.from_ms,
        "until_ms": trained.until_ms,
        "metrics": body_of(trained)["metrics"],
        "gate": [{"name": term.name, "passed": term.passed, "detail": term.detail} for term in candidate.terms],
        "decided_by": candidate.decided_by,
        "reason": candidate.reason,
    }


def rollout_view(rollout: ModelRollout) -> Json:
    record = rollout.record
    acks = sorted(rollout.acks.values(), key=lambda ack: ack.instance)
    return {
        "pipeline": record.pipeline,
        "model": record.model,
        "state": record.state.value,
        "step": record.step,
        "epoch": record.epoch,
        "plan_hash": record.plan_hash,
        "salt": record.salt,
        "arms": [
            {"name": arm.name, "weight": arm.weight, "candidate_id": arm.candidate_id, "model_digest": arm.model_digest}
            for arm in record.arms
        ],
        "reason": record.reason,
        "approved_by": record.approved_by,
        "changed_ms": record.changed_ms,
        "acks": [body_of(ack) for ack in acks],
    }


def pipelines_view(state: State) -> list[Json]:
    return [pipeline_view(name, pipeline) for name, pipeline in sorted(state.pipelines.items())]


def candidates_view(state: State) -> list[Json]:
    """In the order they arrived."""
    return [candidate_view(candidate) for candidate in state.candidates.values()]


def rollouts_view(state: State) -> list[Json]:
    return [rollout_view(rollout) for _, rollout in sorted(state.rollouts.items())]


def trainings_view(state: State) -> list[Json]:
    """In the order they were requested."""
    return [
        {
            **body_of(training.request),
            "run_state": training.run_state,
            "in_flight": training.in_flight,
            "detail": training.detail,
        }
        for training in state.trainings.values()
    ]


def findings_view(state: State) -> list[Json]:
    """In the order they were raised."""
    return [{**body_of(f.raised), "answer": f.answer, "answered": f.answered} for f in state.findings.values()]
