"""Candidates: through the gate, then to a second person."""

from __future__ import annotations

from dataclasses import asdict

from headrace.contracts.records import ModelTrained
from svc_governance.domain.facts import Decision, Fact, body_of, refused
from svc_governance.domain.gate import ManifestEvidence, judge
from svc_governance.domain.people import Action, Caller, needed
from svc_governance.domain.rollout import start
from svc_governance.domain.state import Candidate, CandidateState, State


def on_candidate(state: State, trained: ModelTrained, evidence: ManifestEvidence) -> Decision:
    """Judge a candidate once; the same one again leads to nothing."""
    if trained.candidate_id in state.candidates:
        return Decision()
    terms = judge(trained, state.pipelines.get(trained.pipeline), evidence)
    body = {"candidate": body_of(trained), "terms": [asdict(term) for term in terms]}
    return Decision((Fact("svc-governance", "candidate.gated", trained.candidate_id, body),))


def approve(state: State, by: Caller, candidate_id: str, reason: str, hold_ms: int) -> Decision:
    """Start the rollout of a gated candidate. Whoever proposed it may not; a refused attempt stays in the audit."""
    candidate = state.candidates.get(candidate_id)
    if candidate is None:
        return refused(404, f"no candidate {candidate_id}")
    if by.actor in proposers(state, candidate):
        return _refused_approval(by.actor, candidate, "four eyes: whoever proposed a candidate may not approve it")
    if not by.may(Action.APPROVE):
        return _refused_approval(by.actor, candidate, f"needs the role {needed(Action.APPROVE)}")
    if candidate.state is not CandidateState.GATED:
        return refused(409, f"candidate {candidate_id} is {candidate.state.value}, only a GATED one can be approved")
    trained = candidate.trained
    pipeline, rollout = state.live(trained.pipeline), state.rollouts.get((trained.pipeline, trained.model))
    model = None if pipeline is None else pipeline.model(trained.model)
    if pipeline is None or model is None or model.hash != trained.model_hash:
        return refused(409, f"model {trained.model} was declared anew since candidate {candidate_id} was trained: train again")
    if rollout is not None and rollout.in_flight:
        return refused(409, f"a rollout of {trained.model} is under way at {rollout.record.step} %: wait for it or kill it")
    before = None if rollout is None else rollout.record
    record = start(before, trained, pipeline.plan, by, hold_ms)
    given = {"candidate_id": candidate_id, "reason": reason, "proposers": sorted(proposers(state, candidate))}
    return Decision(
        (
            Fact(by.actor, "approval.given", candidate_id, given),
            Fact("svc-governance", "rollout.changed", f"{trained.pipeline}/{trained.model}", body_of(record)),
        )
    )


def reject(state: State, by: Caller, candidate_id: str, reason: str) -> Decision:
    """Turn a gated candidate down; its proposer may withdraw it this way."""
    candidate = state.candidates.get(candidate_id)
    if candidate is None:
        return refused(404, f"no candidate {candidate_id}")
    if forbidden := by.forbid(Action.REJECT, candidate_id):
        return forbidden
    if candidate.state is not CandidateState.GATED:
        return refused(409, f"candidate {candidate_id} is {candidate.state.value}, only a GATED one can be rejected")
    body = {"candidate_id": candidate_id, "reason": reason}
    return Decision((Fact(by.actor, "candidate.rejected", candidate_id, body),))


def proposers(state: State, candidate: Candidate) -> frozenset[str]:
    """Whom the record names and whom governance itself recorded as asking: a forged record cannot shrink the set."""
    recorded = state.trainings.get(candidate.trained.trigger_id)
    return frozenset({candidate.trained.requested_by} | ({recorded.request.requested_by} if recorded else set()))


def _refused_approval(actor: str, candidate: Candidate, detail: str) -> Decision:
    candidate_id = candidate.trained.candidate_id
    body = {"candidate_id": candidate_id, "reason": detail}
    return refused(
        403, f"{actor} may not approve {candidate_id}: {detail}", Fact(actor, "approval.refused", candidate_id, body)
    )
