"""Taking up a rollout: verify and load beside what serves, then swap the table by epoch. A failure changes nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass

from headrace.chassis.logs import logger
from headrace.chassis.objects import ObjectStore
from headrace.contracts.errors import HeadraceError, Retryable
from headrace.contracts.records import RolloutAckStatus, RolloutApplied, RolloutChanged
from headrace.contracts.signing import TrustedKeys
from svc_serve.adapters.artefacts import Loaded, load
from svc_serve.deciding import Decider, Serving
from svc_serve.domain.table import RULES, Table

DETAIL_CHARS_MAX = 2000
_log = logger(__name__)


@dataclass(slots=True)
class RolloutLoader:
    """Loads rollouts for one model's decider. Called from one thread at a time."""

    decider: Decider
    objects: ObjectStore
    trusted: TrustedKeys
    instance: str
    loaded: dict[str, Loaded]  # by manifest digest; old ones stay for the hold

    def take_up(self, rollout: RolloutChanged, now_ms: int) -> RolloutApplied:
        """Apply, or say why not. Raises Retryable if the object store does not answer."""
        started = time.monotonic()
        serving = self.decider.serving.table
        if rollout.epoch == serving.epoch and (rollout.salt, set(rollout.arms)) == (serving.salt, set(serving.arms)):
            return self._ack(rollout, RolloutAckStatus.APPLIED, "", 0, now_ms)  # again: a refusal would end the canary
        if rollout.epoch <= serving.epoch:
            return self._ack(
                rollout, RolloutAckStatus.REFUSED, f"epoch {rollout.epoch} is not above {serving.epoch}", 0, now_ms
            )
        if rollout.plan_hash != self.decider.plan.hash:
            return self._ack(rollout, RolloutAckStatus.PENDING, f"plan {rollout.plan_hash[:8]} is not in force here", 0, now_ms)
        try:
            table = Table.of(rollout)
            models = {arm.name: self._model(rollout, arm.name) for arm in rollout.arms if arm.name != RULES and arm.weight}
        except Retryable:
            raise
        except Exception as error:  # whatever a signed but broken artefact makes the runtimes raise
            return self.refuse(rollout, error, now_ms)
        before = self.decider.serving
        champion = next((arm for arm in before.table.arms if arm.name in before.models and arm.name == "champion"), None)
        previous, home = before.previous, before.previous_home
        if champion is not None:
            previous, home = before.models[champion.name], self.decider.of(champion.plan_hash).plan.hash
        self.decider.serving = Serving(table, models, previous, home)
        load_ms = int((time.monotonic() - started) * 1000)
        _log.info("rollout_applied", model=rollout.model, epoch=rollout.epoch, step=rollout.step, load_ms=load_ms)
        return self._ack(rollout, RolloutAckStatus.APPLIED, "", load_ms, now_ms)

    def refuse(self, rollout: RolloutChanged, error: Exception, now_ms: int) -> RolloutApplied:
        """The table stays; say why."""
        detail = str(error) if isinstance(error, HeadraceError | ValueError) else f"{type(error).__name__}: {error}"
        _log.warning("rollout_refused", model=rollout.model, epoch=rollout.epoch, reason=detail)
        return self._ack(rollout, RolloutAckStatus.REFUSED, detail[:DETAIL_CHARS_MAX], 0, now_ms)

    def _model(self, rollout: RolloutChanged, name: str) -> Loaded:
        arm = next(a for a in rollout.arms if a.name == name)
        if arm.manifest_digest not in self.loaded:
            home = self.decider.of(arm.plan_hash)
            self.loaded[arm.manifest_digest] = load(arm, home.plan, home.model, self.objects, self.trusted)
        return self.loaded[arm.manifest_digest]

    def pending(self, rollout: RolloutChanged, detail: str, now_ms: int) -> RolloutApplied:
        """The answer while something it needs is not there."""
        return self._ack(rollout, RolloutAckStatus.PENDING, detail, 0, now_ms)

    def _ack(self, rollout: RolloutChanged, status: RolloutAckStatus, detail: str, load_ms: int, now_ms: int) -> RolloutApplied:
        return RolloutApplied(
            pipeline=rollout.pipeline, model=rollout.model, epoch=rollout.epoch, instance=self.instance,
            status=status, detail=detail, load_ms=load_ms, applied_ms=now_ms,
        )  # fmt: skip
