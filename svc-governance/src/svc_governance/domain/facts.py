"""Facts: what governance decided or took note of, each one entry of the audit chain.

State is the fold over facts and control records are derived from them, so the chain is the only thing written down.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from headrace.contracts.records import FindingRaised, PipelineAdmitted, PipelineRetired, RolloutChanged, TrainingRequested

Body = Mapping[str, Any]
Announced = PipelineAdmitted | PipelineRetired | RolloutChanged | TrainingRequested | FindingRaised

# facts whose body is a record other services must see; it goes out in the transaction of its audit entry
ANNOUNCED: dict[str, type[Announced]] = {
    "pipeline.admitted": PipelineAdmitted,
    "pipeline.retired": PipelineRetired,
    "rollout.changed": RolloutChanged,
    "training.requested": TrainingRequested,
    "finding.raised": FindingRaised,
}


class AvroRecord(Protocol):
    """What every generated record can do."""

    def to_avro(self) -> dict[str, Any]: ...


R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that happened: who, what, about what, and everything needed to rebuild state from it."""

    actor: str
    action: str
    subject: str
    body: Body

    def announced(self) -> Announced | None:
        """The record to publish with this fact, None for a fact that concerns governance alone."""
        cls = ANNOUNCED.get(self.action)
        return None if cls is None else record_of(cls, self.body)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a command was not carried out, with the HTTP status that says whose fault it is."""

    status: int
    detail: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What a command or record leads to; a refusal may carry facts too (a refused approval is evidence)."""

    facts: tuple[Fact, ...] = ()
    refusal: Refusal | None = None


def refused(status: int, detail: str, *facts: Fact) -> Decision:
    return Decision(facts, Refusal(status, detail))


def body_of(record: AvroRecord) -> dict[str, Any]:
    """A record as JSON can hold it: bytes become {"base64": text}, a number that is not finite {"float": text}."""
    return {name: _plain(value) for name, value in record.to_avro().items()}


def record_of(cls: type[R], body: Body) -> R:
    """The record `body_of` was given; equal to it, NaN apart."""
    return cls.from_avro({name: _rich(value) for name, value in body.items()})  # type: ignore[attr-defined]


def parse_body(text: str) -> Body:
    return json.loads(text)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, str) else value


def _rich(value: Any) -> Any:
    if isinstance(value, Mapping):
        if set(value) == {"base64"} and isinstance(value["base64"], str):
            return base64.b64decode(value["base64"])
        if set(value) == {"float"} and isinstance(value["float"], str):
            return float(value["float"])
        return {key: _rich(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rich(item) for item in value]
    return value
