"""What governance knows: an immutable snapshot, and the fold that rebuilds it from the audit chain.

A candidate's life:

      ModelTrained
           |
           +-- gate fails --> GATE_FAILED
           |
         GATED --- reject --> REJECTED
           |
        approve (four eyes)                          kill
           |                                          |
        CANARY --- PASS at the last step --> PROMOTED -+-> KILLED
           |  |                                 |
           |  +---- kill --> KILLED             +-- the next one promoted --> SUPERSEDED
           +-- FAIL, or a replica refuses it --> ROLLED_BACK
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from headrace.contracts.audit import GENESIS
from headrace.contracts.errors import Fatal
from headrace.contracts.records import (
    ArmServed,
    AuditEntryAppended,
    FindingRaised,
    ModelTrained,
    PipelineAdmitted,
    PipelineRetired,
    PlanAcknowledged,
    RolloutApplied,
    RolloutChanged,
    RolloutJudged,
    RolloutState,
    RunState,
    TrainingRequested,
    TrainingRunChanged,
)
from headrace.plan.hashes import from_json
from headrace.plan.ir import FeatureSet, Model, Plan
from headrace.plan.retained import sets_in_play
from svc_governance.domain.facts import Body, parse_body, record_of

ModelKey = tuple[str, str]  # (pipeline, model)


class CandidateState(StrEnum):
    GATED = "GATED"
    GATE_FAILED = "GATE_FAILED"
    REJECTED = "REJECTED"
    CANARY = "CANARY"
    PROMOTED = "PROMOTED"
    SUPERSEDED = "SUPERSEDED"
    ROLLED_BACK = "ROLLED_BACK"
    KILLED = "KILLED"


@dataclass(frozen=True, slots=True)
class GateTerm:
    """One condition of the gate and how the candidate stood to it."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The plan in force, and per (service, instance) the last answer to it. `plan` stays after retirement."""

    epoch: int
    plan: Plan
    admitted_by: str
    admitted_ms: int
    retired: bool = False
    acks: Mapping[tuple[str, str], PlanAcknowledged] = field(default_factory=dict)
    awaited: frozenset[tuple[str, str]] = frozenset()  # who answered to earlier epochs
    unused: Mapping[str, FeatureSet] = field(default_factory=dict)  # by hash: of earlier epochs, held by no version now

    def model(self, name: str) -> Model | None:
        return next((model for model in self.plan.models if model.name == name), None)


@dataclass(frozen=True, slots=True)
class Candidate:
    trained: ModelTrained
    state: CandidateState
    terms: tuple[GateTerm, ...]
    decided_by: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ModelRollout:
    """The last rollout record of a model, the verdicts on its epoch, and per instance the last answer to it."""

    record: RolloutChanged
    verdicts: tuple[str, ...] = ()  # "verdict_id:verdict" already taken note of
    acks: Mapping[str, RolloutApplied] = field(default_factory=dict)

    def arm(self, name: str) -> ArmServed | None:
        return next((arm for arm in self.record.arms if arm.name == name), None)

    @property
    def in_flight(self) -> bool:
        return self.record.state is RolloutState.CANARY


@dataclass(frozen=True, slots=True)
class Training:
    """A request and how its run goes; it is in flight until a candidate came of it or it failed."""

    request: TrainingRequested
    run_state: str = ""
    detail: str = ""
    in_flight: bool = True


@dataclass(frozen=True, slots=True)
class Finding:
    raised: FindingRaised
    answer: str  # trigger id of the training it led to, else why nothing was done
    answered: bool
    about: str = ""  # candidate in use when it was raised: the champion, in the first rollout the challenger

    @property
    def open(self) -> bool:
        """Whether it waits for the model it is about to come to rest."""
        return bool(self.about) and not self.answered


@dataclass(frozen=True, slots=True)
class State:
    """All of it. `entries` counts the chain, `head` is the hash of its last entry."""

    entries: int = 0
    head: str = GENESIS
    pipelines: Mapping[str, Pipeline] = field(default_factory=dict)
    candidates: Mapping[str, Candidate] = field(default_factory=dict)
    rollouts: Mapping[ModelKey, ModelRollout] = field(default_factory=dict)
    trainings: Mapping[str, Training] = field(default_factory=dict)
    findings: Mapping[str, Finding] = field(default_factory=dict)

    def live(self, pipeline: str) -> Pipeline | None:
        """The pipeline if it is admitted and not retired."""
        found = self.pipelines.get(pipeline)
        return None if found is None or found.retired else found

    def trainings_of(self, key: ModelKey) -> list[Training]:
        """In the order they were requested."""
        return [t for t in self.trainings.values() if (t.request.pipeline, t.request.model) == key]

    def candidates_of(self, key: ModelKey) -> list[Candidate]:
        """In the order they arrived."""
        return [c for c in self.candidates.values() if (c.trained.pipeline, c.trained.model) == key]


def fold(state: State, entry: AuditEntryAppended) -> State:
    """State after one more entry; the chain's hashes are checked elsewhere.

    Raises: Fatal for an action this version does not know: state built around a gap would be a lie.
    """
    step = STEPS.get(entry.action)
    if step is None:
        raise Fatal(f"audit entry {entry.sequence} has the unknown action {entry.action}: written by a newer version")
    after = step(state, entry, parse_body(entry.body))
    return replace(after, entries=entry.sequence + 1, head=entry.hash)


def _admitted(state: State, entry: AuditEntryAppended, body: Body) -> State:
    record = record_of(PipelineAdmitted, body)
    plan, before = from_json(record.plan.encode()), state.pipelines.get(record.pipeline)
    pipeline = Pipeline(record.epoch, plan, record.admitted_by, record.admitted_ms)
    if before is not None:
        held = sets_in_play(plan)
        known = {**before.unused, **{digest: item for digest, (_, item) in sets_in_play(before.plan).items()}}
        unused = {digest: item for digest, item in known.items() if digest not in held}
        pipeline = replace(pipeline, unused=unused, awaited=before.awaited | frozenset(before.acks))
    return replace(state, pipelines={**state.pipelines, record.pipeline: pipeline})


def _retired(state: State, entry: AuditEntryAppended, body: Body) -> State:
    record = record_of(PipelineRetired, body)
    pipeline = replace(state.pipelines[record.pipeline], epoch=record.epoch, retired=True, acks={})
    return replace(state, pipelines={**state.pipelines, record.pipeline: pipeline})


def _sets_removed(state: State, entry: AuditEntryAppended, body: Body) -> State:
    pipeline = state.pipelines[entry.subject]
    unused = {digest: item for digest, item in pipeline.unused.items() if digest not in body["hashes"]}
    return replace(state, pipelines={**state.pipelines, entry.subject: replace(pipeline, unused=unused)})


def _plan_acknowledged(state: State, entry: AuditEntryAppended, body: Body) -> State:
    record = record_of(PlanAcknowledged, body)
    pipeline = state.pipelines[record.pipeline]
    acks = {**pipeline.acks, (record.service, record.instance): record}
    return replace(state, pipelines={**state.pipelines, record.pipeline: replace(pipeline, acks=acks)})


def _training_requested(state: State, entry: AuditEntryAppended, body: Body) -> State:
    request = record_of(TrainingRequested, body)
    return replace(state, trainings={**state.trainings, request.trigger_id: Training(request)})


def _run_changed(state: State, entry: AuditEntryAppended, body: Body) -> State:
    record = record_of(TrainingRunChanged, body)
    training = state.trainings[record.trigger_id]
    running = training.in_flight and record.state is not RunState.FAILED
    after = replace(training, run_state=record.state.value, detail=record.detail, in_flight=running)
    return replace(state, trainings={**state.trainings, record.trigger_id: after})


def _gated(state: State, entry: AuditEntryAppended, body: Body) -> State:
    trained = record_of(ModelTrained, body["candidate"])
    terms = tuple(GateTerm(**term) for term in body["terms"])
    passed = all(term.passed for term in terms)
    candidate = Candidate(trained, CandidateState.GATED if passed else CandidateState.GATE_FAILED, terms)
    state = replace(state, candidates={**state.candidates, trained.candidate_id: candidate})
    training = state.trainings.get(trained.trigger_id)
    if training is None:
        return state
    return replace(state, trainings={**state.trainings, trained.trigger_id: replace(training, in_flight=False)})


def _approved(state: State, entry: AuditEntryAppended, body: Body) -> State:
    return _with_candidate(state, body["candidate_id"], decided_by=entry.actor, reason=body["reason"])


def _rejected(state: State, entry: AuditEntryAppended, body: Body) -> State:
    return _with_candidate(
        state, body["candidate_id"], state=CandidateState.REJECTED, decided_by=entry.actor, reason=body["reason"]
    )


def _rollout_changed(state: State, entry: AuditEntryAppended, body: Body) -> State:
    arms = [{"plan_hash": "", **arm} for arm in body["arms"]]  # entries from before arms had a version of their own
    record = record_of(RolloutChanged, {**body, "arms": arms})
    key = (record.pipeline, record.model)
    before = state.rollouts.get(key)
    for candidate_id, became in _fates(before, record).items():
        state = _with_candidate(state, candidate_id, state=became)
    return replace(state, rollouts={**state.rollouts, key: ModelRollout(record)})


def _fates(before: ModelRollout | None, after: RolloutChanged) -> dict[str, CandidateState]:
    """What a rollout record means for the candidates in it, and for those no longer in it."""
    gone = RolloutState.KILLED if after.state is RolloutState.KILLED else RolloutState.ROLLED_BACK
    fates: dict[str, CandidateState] = {}
    for arm in () if before is None else before.record.arms:
        if arm.candidate_id:
            replaced = arm.name == "champion" and after.state is RolloutState.PROMOTED
            fates[arm.candidate_id] = CandidateState.SUPERSEDED if replaced else CandidateState(gone.value)
    for arm in after.arms:
        if arm.candidate_id:
            fates[arm.candidate_id] = CandidateState.PROMOTED if arm.name == "champion" else CandidateState.CANARY
    return fates


def _rollout_applied(state: State, entry: AuditEntryAppended, body: Body) -> State:
    record = record_of(RolloutApplied, body)
    key = (record.pipeline, record.model)
    rollout = state.rollouts[key]
    return replace(state, rollouts={**state.rollouts, key: replace(rollout, acks={**rollout.acks, record.instance: record})})


def _verdict(state: State, entry: AuditEntryAppended, body: Body) -> State:
    record = record_of(RolloutJudged, body["verdict"])
    key = (record.pipeline, record.model)
    rollout = state.rollouts.get(key)
    if rollout is None:
        return state
    verdicts = (*rollout.verdicts, verdict_mark(record))
    return replace(state, rollouts={**state.rollouts, key: replace(rollout, verdicts=verdicts)})


def _finding(state: State, entry: AuditEntryAppended, body: Body) -> State:
    finding = Finding(record_of(FindingRaised, body["finding"]), body["answer"], body["answered"], body["about"])
    return replace(state, findings={**state.findings, finding.raised.finding_id: finding})


def _finding_raised(state: State, entry: AuditEntryAppended, body: Body) -> State:
    """Our own: when it comes back from its topic it is known."""
    finding = Finding(record_of(FindingRaised, body), "recorded only: raised by svc-governance", answered=False)
    return replace(state, findings={**state.findings, finding.raised.finding_id: finding})


def _noted(state: State, entry: AuditEntryAppended, body: Body) -> State:
    """An entry that is evidence only."""
    return state


def _with_candidate(known: State, candidate_id: str, **changes: Any) -> State:
    candidate = replace(known.candidates[candidate_id], **changes)
    return replace(known, candidates={**known.candidates, candidate_id: candidate})


def verdict_mark(record: RolloutJudged) -> str:
    """What makes a verdict the same one again: a waiting one may be followed by a final one under the same id."""
    return f"{record.verdict_id}:{record.epoch}:{record.verdict.value}"


STEPS: dict[str, Callable[[State, AuditEntryAppended, Body], State]] = {
    "pipeline.admitted": _admitted,
    "pipeline.retired": _retired,
    "plan.acknowledged": _plan_acknowledged,
    "sets.removed": _sets_removed,
    "training.requested": _training_requested,
    "run.changed": _run_changed,
    "candidate.gated": _gated,
    "approval.given": _approved,
    "approval.refused": _noted,
    "command.refused": _noted,
    "candidate.rejected": _rejected,
    "rollout.changed": _rollout_changed,
    "rollout.applied": _rollout_applied,
    "verdict.received": _verdict,
    "finding.recorded": _finding,
    "finding.raised": _finding_raised,
}
