"""In the place of views for an owned set: what the owner of the entity sent with the request."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.contracts.errors import Fatal
from headrace.contracts.records import Door, PassportCut, ScoringInput, SetRead
from headrace.plan.ir import FeatureSet, Model, Plan
from svc_serve.domain.request import Request

OWNED = "owned"


def owned_set(plan: Plan, model: Model) -> FeatureSet | None:
    """The set whose owner answers the model's requests; a plan allows one."""
    used = {item.feature_set for item in model.inputs}
    return next((s for s in plan.feature_sets if s.name in used and s.placement == OWNED), None)


class OwnedReads:
    """In the place of a reader of views: gives what the owner sent.

    Filled by the one thread of the scoring door; the REST door, which decides only what the scoring door does not, finds
    nothing here.
    """

    def __init__(self, feature_set: FeatureSet, followed: bool = True) -> None:
        """followed: whether the scoring door takes answers of this set; not those of another version's set."""
        self.feature_set, self.followed = feature_set, followed
        self._given: dict[str, SetRead] = {}  # by request id; of the batch under way

    def give(self, request_id: str, read: SetRead) -> None:
        """The first one given counts."""
        self._given.setdefault(request_id, read)

    def clear(self) -> None:
        self._given.clear()

    def read(self, requests: Sequence[Request]) -> list[SetRead | None]:
        """One SetRead per request, in order; None for a call whose owner did not answer within its deadline, and where
        the set is not followed.

        Raises: Fatal for an event no owner answered.
        """
        found = [self._given.get(request.request_id) for request in requests]
        for request, read in zip(requests, found, strict=True):
            if read is None and self.followed and request.door is not Door.REST:
                raise Fatal(f"request {request.request_id} of {self.feature_set.name} was not answered by its owner")
        return found


def read_of(found: ScoringInput) -> SetRead:
    """An owner's answer as the passport holds it."""
    return SetRead(
        set=found.set,
        hash=found.set_hash,
        entity=found.entity,
        placement=OWNED,
        partition=found.partition,
        commit_sequence=found.commit_sequence,
        cut=tuple(
            PassportCut(event=c.event, partition=c.partition, next_offset=c.next_offset, topic_id=c.topic_id) for c in found.cut
        ),
        base_floor_ms=found.base_floor_ms,
        statuses=found.statuses,
        values=found.values,
    )
