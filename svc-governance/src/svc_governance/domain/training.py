"""What starts a training run: a person, or a drift finding on a model that is in use and at rest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from headrace.contracts.records import FindingRaised, RunState, TrainingRequested, TrainingRunChanged
from svc_governance.domain.facts import Decision, Fact, body_of, refused
from svc_governance.domain.people import Action, Caller
from svc_governance.domain.state import CandidateState, ModelKey, State


@dataclass(frozen=True, slots=True)
class TrainingOrder:
    """What a person asks for; the window is [from_ms, until_ms) of request time. Same request_id, same run."""

    pipeline: str
    model: str
    from_ms: int
    until_ms: int
    request_id: str = ""

    def trigger_id(self, plan_hash: str) -> str:
        named = self.request_id or f"{plan_hash}/{self.from_ms}/{self.until_ms}"
        return "person-" + hashlib.sha256(f"{self.pipeline}/{self.model}/{named}".encode()).hexdigest()[:24]


def request_training(state: State, by: Caller, order: TrainingOrder) -> Decision:
    """Ask for one run; the same order again leads to nothing, a different one under its request_id is refused."""
    subject = f"{order.pipeline}/{order.model}"
    if forbidden := by.forbid(Action.TRAIN, subject):
        return forbidden
    pipeline = state.live(order.pipeline)
    if pipeline is None or pipeline.model(order.model) is None:
        return refused(404, f"no model {order.model} in force in pipeline {order.pipeline}")
    if order.from_ms >= order.until_ms:
        return refused(422, f"empty training window: from {order.from_ms} until {order.until_ms}")
    request = TrainingRequested(
        trigger_id=order.trigger_id(pipeline.plan.hash),
        trigger_kind="person",
        pipeline=order.pipeline,
        model=order.model,
        plan_hash=pipeline.plan.hash,
        requested_by=by.actor,
        finding_id=None,
        from_ms=order.from_ms,
        until_ms=order.until_ms,
        requested_ms=by.now_ms,
    )
    known = state.trainings.get(request.trigger_id)
    if known is None:
        return Decision((Fact(by.actor, "training.requested", subject, body_of(request)),))
    if replace(known.request, requested_ms=by.now_ms) != request:
        return refused(409, f"request id {order.request_id} was used for another training request")
    return Decision()


def on_finding(state: State, finding: FindingRaised, now_ms: int) -> Decision:
    """Record a finding once; answer drift with exactly one training request.

    Drift on a model that is not at rest (a rollout, a run or a candidate is under way) stays open: `due_answers` comes
    back to it. One that was about nothing in use may be raised again under its id.
    """
    known = state.findings.get(finding.finding_id)
    if known is not None and (known.answered or known.about):
        return Decision()
    about = _in_use(state, (finding.pipeline, finding.model)) if finding.kind == "drift" else ""
    obstacle = _obstacle(state, finding, about)
    if known is not None and not about:
        return Decision()
    return Decision(_recorded(state, finding, about, obstacle, now_ms))


def due_answers(state: State, now_ms: int) -> tuple[Fact, ...]:
    """Facts for the first open finding whose model has come to rest as champion; one at a time, then a run is under way."""
    for finding in state.findings.values():
        if finding.open and _obstacle(state, finding.raised, finding.about) is None:
            return _recorded(state, finding.raised, finding.about, None, now_ms)
    return ()


def _recorded(state: State, finding: FindingRaised, about: str, obstacle: str | None, now_ms: int) -> tuple[Fact, ...]:
    subject = f"{finding.pipeline}/{finding.model}" if finding.model else finding.pipeline
    request = None if obstacle is not None else _answer(state, finding, now_ms)
    answer = obstacle if request is None else request.trigger_id
    body = {"finding": body_of(finding), "answer": answer, "answered": request is not None, "about": about}
    recorded = Fact(finding.component, "finding.recorded", subject, body)
    if request is None:
        return (recorded,)
    return recorded, Fact("svc-governance", "training.requested", subject, body_of(request))


def _in_use(state: State, key: ModelKey) -> str:
    """The candidate a finding raised now is about, empty if rules answer for everyone."""
    rollout = state.rollouts.get(key)
    if rollout is None:
        return ""
    arm = rollout.arm("champion") or rollout.arm("challenger")
    return "" if arm is None else arm.candidate_id


def _obstacle(state: State, finding: FindingRaised, about: str) -> str | None:
    """Why this finding starts no training now, None if it does."""
    key = (finding.pipeline, finding.model)
    pipeline, rollout = state.live(finding.pipeline), state.rollouts.get(key)
    model = None if pipeline is None else pipeline.model(finding.model)
    if finding.kind != "drift":
        return "recorded only: not a drift finding"
    if model is None:
        return "recorded only: the model is not in force"
    if not model.watch.retrain:
        return "recorded only: the model's watch does not retrain"
    if rollout is None or not about:
        return "recorded only: no model in use"
    if rollout.in_flight:
        return "waits: a rollout is under way"
    champion = rollout.arm("champion")
    if champion is None or champion.candidate_id != about:
        return "recorded only: the model it is about is not the champion"
    if any(training.in_flight for training in state.trainings_of(key)):
        return "waits: a training run is under way"
    if any(candidate.state is CandidateState.GATED for candidate in state.candidates_of(key)):
        return "waits: a candidate waits for approval"
    return None


def _answer(state: State, finding: FindingRaised, now_ms: int) -> TrainingRequested:
    """The champion's window, grown to the finding; asked for in the name of the model's owner, who may not approve it."""
    pipeline = state.pipelines[finding.pipeline]
    champion = state.rollouts[finding.pipeline, finding.model].arm("champion")
    model = pipeline.model(finding.model)
    assert champion is not None
    assert model is not None  # _obstacle saw both
    return TrainingRequested(
        trigger_id=f"finding-{finding.finding_id}",
        trigger_kind="finding",
        pipeline=finding.pipeline,
        model=finding.model,
        plan_hash=pipeline.plan.hash,
        requested_by=model.owner,
        finding_id=finding.finding_id,
        from_ms=state.candidates[champion.candidate_id].trained.from_ms,
        until_ms=finding.raised_ms if finding.event_time_ms is None else finding.event_time_ms,
        requested_ms=now_ms,
    )


def on_run(state: State, record: TrainingRunChanged) -> Decision:
    """Note how a run goes. DUPLICATE says nothing about the run that already exists; unknown triggers are not ours."""
    training = state.trainings.get(record.trigger_id)
    if training is None or record.state is RunState.DUPLICATE:
        return Decision()
    if (training.run_state, training.detail) == (record.state.value, record.detail):
        return Decision()
    return Decision((Fact("svc-train", "run.changed", f"{record.pipeline}/{record.model}", body_of(record)),))
