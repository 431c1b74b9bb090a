"""One handler per consumed record: state and record in, decision out."""

from __future__ import annotations

from collections.abc import Callable

from headrace.chassis.bus import Record
from headrace.contracts.catalogue import (
    FINDINGS,
    MODEL_CANDIDATES,
    PLAN_ACKS,
    ROLLOUT_ACKS,
    ROLLOUT_VERDICTS,
    TRAINING_RUNS,
)
from headrace.contracts.codec import Codec
from headrace.contracts.records import (
    FindingRaised,
    ModelTrained,
    PlanAcknowledged,
    RolloutApplied,
    RolloutJudged,
    TrainingRunChanged,
)
from svc_governance.domain.candidates import on_candidate
from svc_governance.domain.facts import Decision
from svc_governance.domain.pipelines import on_plan_ack
from svc_governance.domain.rollout import on_rollout_ack, on_verdict
from svc_governance.domain.state import State
from svc_governance.domain.training import on_finding, on_run
from svc_governance.ports import Manifests

CONSUMED = (PLAN_ACKS, ROLLOUT_ACKS, FINDINGS, MODEL_CANDIDATES, TRAINING_RUNS, ROLLOUT_VERDICTS)


class Handlers:
    """Dispatch by topic. Each handler is idempotent: the same record again changes nothing."""

    def __init__(self, codec: Codec, manifests: Manifests) -> None:
        self._codec, self._manifests = codec, manifests
        self._by_topic: dict[str, Callable[[State, Record, int], Decision]] = {
            PLAN_ACKS: self._plan_acknowledged,
            ROLLOUT_ACKS: self._rollout_applied,
            FINDINGS: self._finding_raised,
            MODEL_CANDIDATES: self._model_trained,
            TRAINING_RUNS: self._training_run_changed,
            ROLLOUT_VERDICTS: self._rollout_judged,
        }

    def handle(self, state: State, record: Record, now_ms: int) -> Decision:
        """Raises: Poison if the record cannot be read, Retryable if something it needs cannot be reached."""
        return self._by_topic[record.topic](state, record, now_ms)

    def _plan_acknowledged(self, state: State, record: Record, now_ms: int) -> Decision:
        return on_plan_ack(state, self._codec.decode(record.value, PlanAcknowledged))

    def _rollout_applied(self, state: State, record: Record, now_ms: int) -> Decision:
        return on_rollout_ack(state, self._codec.decode(record.value, RolloutApplied), now_ms)

    def _finding_raised(self, state: State, record: Record, now_ms: int) -> Decision:
        return on_finding(state, self._codec.decode(record.value, FindingRaised), now_ms)

    def _model_trained(self, state: State, record: Record, now_ms: int) -> Decision:
        trained = self._codec.decode(record.value, ModelTrained)
        return on_candidate(state, trained, self._manifests.evidence(trained))

    def _training_run_changed(self, state: State, record: Record, now_ms: int) -> Decision:
        return on_run(state, self._codec.decode(record.value, TrainingRunChanged))

    def _rollout_judged(self, state: State, record: Record, now_ms: int) -> Decision:
        return on_verdict(state, self._codec.decode(record.value, RolloutJudged), now_ms)
