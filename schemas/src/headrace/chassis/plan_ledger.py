"""Which plan holds for which pipeline: decisions on control records, without any I/O.

record -- unsigned, bad signature, wrong key, undecodable, lower epoch --> Refused (a finding, nothing changes)
       -- epoch and hash already taken up -------------------------------> None
       -- admitted, plan unreadable or quarantined ----------------------> Park
       -- admitted -------------------------------------------------------> Apply
       -- retired --------------------------------------------------------> Retire
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from headrace.chassis.bus import Record
from headrace.contracts.catalogue import PIPELINES
from headrace.contracts.codec import Codec
from headrace.contracts.errors import Poison, Reason
from headrace.contracts.records import PipelineAdmitted, PipelineRetired, SignedControl
from headrace.contracts.signing import TrustedKeys, open_control

_PIPELINE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")  # names folders and topics


class Hashed(Protocol):
    """What the follower needs of a plan."""

    @property
    def pipeline(self) -> str: ...
    @property
    def hash(self) -> str: ...


P = TypeVar("P", bound=Hashed)


@dataclass(frozen=True, slots=True)
class Apply(Generic[P]):
    """Take this plan up."""

    plan: P
    admitted: PipelineAdmitted


@dataclass(frozen=True, slots=True)
class Park:
    """Stay on what runs; say why."""

    admitted: PipelineAdmitted
    detail: str


@dataclass(frozen=True, slots=True)
class Retire:
    """Take the pipeline down."""

    retired: PipelineRetired


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that changes nothing and should not be there."""

    pipeline: str
    reason: Reason
    detail: str


Decision = Apply[P] | Park | Retire | Refused


@dataclass(slots=True)
class PlanLedger(Generic[P]):
    """Epochs seen by pipeline, and what a new control record means.

    Attributes:
        parse: reads the plan's canonical JSON; raises anything if it is no plan we can run.
        floor: epochs below which a record is refused whatever the topic says, by pipeline: what was
            taken up before the last restart.
        quarantined: (pipeline, plan hash, epoch) -> has it killed this process too often.
    """

    codec: Codec
    trusted: TrustedKeys
    parse: Callable[[bytes], P]
    quarantined: Callable[[str, str, int], bool]
    floor: Mapping[str, int] = field(default_factory=dict)
    _seen: dict[str, tuple[int, str]] = field(default_factory=dict)  # pipeline -> epoch, plan hash ("" = retired)

    def open(self, record: Record) -> PipelineAdmitted | PipelineRetired | Refused:
        """Signature, types and key checked; nothing remembered."""
        try:
            key = (record.key or b"").decode()
        except UnicodeDecodeError:
            return Refused("", Reason.WRONG_TYPE, f"key of offset {record.offset} is no text")
        try:
            envelope = self.codec.decode(record.value, SignedControl)
            payload = open_control(self.trusted, PIPELINES, key, envelope)
            inner = self.codec.decode(payload, PipelineAdmitted, PipelineRetired)
        except Poison as e:
            return Refused(key, e.reason, e.detail)
        if inner.pipeline != key or not _PIPELINE.fullmatch(key):
            return Refused(key, Reason.WRONG_TYPE, f"a record of {inner.pipeline!r} under the key {key!r}")
        return inner

    def decide(self, record: Record) -> Decision[P] | None:
        """The next decision; remembers the epoch of what is not refused. Retryable if the registry is away."""
        inner = self.open(record)
        if isinstance(inner, Refused):
            return inner
        plan_hash = inner.plan_hash if isinstance(inner, PipelineAdmitted) else ""
        epoch, known = self._seen.get(inner.pipeline, (self.floor.get(inner.pipeline, -1), None))
        if inner.epoch == epoch and known == plan_hash:
            return None
        if inner.epoch < epoch or (inner.epoch == epoch and known is not None):
            return Refused(inner.pipeline, Reason.LOWER_EPOCH, f"epoch {inner.epoch} after {epoch}")
        self._seen[inner.pipeline] = (inner.epoch, plan_hash)
        if isinstance(inner, PipelineRetired):
            return Retire(inner)
        if self.quarantined(inner.pipeline, inner.plan_hash, inner.epoch):
            return Park(inner, "quarantined: this plan has killed the process twice; apply a changed plan or admit it again")
        return self.read(inner)

    def read(self, admitted: PipelineAdmitted) -> Apply[P] | Park:
        """The plan in an admission, or why it cannot be run."""
        try:
            plan = self.parse(admitted.plan.encode())
        except Exception as e:  # a plan of a later version trips the parser in its own way
            return Park(admitted, f"plan unreadable: {type(e).__name__}: {e}")
        if (plan.pipeline, plan.hash) != (admitted.pipeline, admitted.plan_hash):
            return Park(admitted, f"plan says it is {plan.pipeline} {plan.hash[:12]}, admitted was {admitted.plan_hash[:12]}")
        return Apply(plan, admitted)


def evidence(**facts: object) -> str:
    """Evidence of a finding: canonical enough to read, keys sorted."""
    return json.dumps(facts, sort_keys=True, ensure_ascii=False)
