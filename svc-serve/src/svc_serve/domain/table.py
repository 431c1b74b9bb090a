"""The routing table of one model: which arm answers a key. Swapped whole, by epoch."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.contracts.records import ArmServed, RolloutChanged
from headrace.plan.routing import BUCKETS, bucket

RULES = "rules"


@dataclass(frozen=True, slots=True)
class Table:
    """Arms by weight. Buckets fill from the challenger's end: a growing canary moves nobody back."""

    epoch: int
    salt: str
    arms: tuple[ArmServed, ...]  # the challenger, if any, first

    @classmethod
    def empty(cls) -> Table:
        """Before any rollout: rules answer, at epoch 0."""
        return cls(0, "", (ArmServed(name=RULES, weight=BUCKETS),))

    @classmethod
    def of(cls, rollout: RolloutChanged) -> Table:
        """Raises: ValueError if the weights do not add up, one is negative, or an arm comes twice."""
        total = sum(arm.weight for arm in rollout.arms)
        if total != BUCKETS:
            raise ValueError(f"weights of epoch {rollout.epoch} add up to {total}, not {BUCKETS}")
        if any(arm.weight < 0 for arm in rollout.arms):
            raise ValueError(f"a weight of epoch {rollout.epoch} is negative")
        if len({arm.name for arm in rollout.arms}) != len(rollout.arms):
            raise ValueError(f"an arm of epoch {rollout.epoch} comes twice")
        ordered = sorted(rollout.arms, key=lambda arm: arm.name != "challenger")
        return cls(rollout.epoch, rollout.salt, tuple(ordered))

    def route(self, routing_key: str) -> ArmServed:
        """The arm of this key: the same on every replica that holds this epoch."""
        place = bucket(self.salt, routing_key)
        for arm in self.arms:
            place -= arm.weight
            if place < 0:
                return arm
        raise AssertionError("weights add up to every bucket")
