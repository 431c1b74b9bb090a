"""What governance needs from outside, as protocols its adapters satisfy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from headrace.chassis.bus import Committed, Consumer, Record, TopicPartition
from headrace.contracts.errors import Poison
from headrace.contracts.records import AuditEntryAppended, ModelTrained
from headrace.plan.ir import FeatureSet, Plan
from svc_governance.domain.facts import Announced
from svc_governance.domain.gate import ManifestEvidence


class Manifests(Protocol):
    def evidence(self, trained: ModelTrained) -> ManifestEvidence:
        """Fetch and check a candidate's manifest. Raises Retryable if the store cannot be reached."""
        ...


class Resources(Protocol):
    def prepare_platform(self) -> None:
        """The platform's own topics; idempotent. Raises Fatal if what exists differs, Retryable."""
        ...

    def prepare(self, plan: Plan) -> None:
        """Topics and event schemas a plan needs; idempotent. Raises Fatal if what exists differs, Retryable."""
        ...

    def remove(self, plan: Plan, sets: Sequence[FeatureSet]) -> None:
        """Groups and topics of sets nobody keeps up any more; idempotent. Raises Retryable, also while a group is in use."""
        ...


@dataclass(frozen=True, slots=True)
class Rejected:
    """A consumed record that cannot be understood."""

    record: Record
    fault: Poison


@dataclass(frozen=True, slots=True)
class Commit:
    """One transaction: entries of the chain, what they announce, dead letters, and the inputs all that came from."""

    entries: Sequence[AuditEntryAppended] = ()
    announced: Sequence[Announced] = ()
    rejected: Sequence[Rejected] = ()
    offsets: Mapping[TopicPartition, Committed] | None = None
    consumer: Consumer | None = None


class Journal(Protocol):
    def open(self) -> list[AuditEntryAppended]:
        """Fence every earlier writer, then read the chain whole. Raises Retryable."""
        ...

    def write(self, commit: Commit) -> None:
        """All of it or nothing. Raises Retryable when the outcome is not known or nothing was written: open again."""
        ...

    def close(self) -> None: ...
