"""What a driver answers with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from headrace.plan.lower import Status
from headrace.plan.verdicts import Verdict


class Mismatch(AssertionError):
    """The engine and the oracle disagree, or one batching and another. `lines` says where."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


@dataclass(frozen=True, slots=True)
class Fed:
    """One record in the log. `reason` says why an undecodable one is a dead letter."""

    event: str
    partition: int
    offset: int
    append_ms: int
    fields: Mapping[str, Any] | None
    _judged: Callable[[Fed], Verdict] = field(repr=False, compare=False)
    _reason: Callable[[Fed], str] = field(repr=False, compare=False)

    @property
    def verdict(self) -> Verdict:
        """OK, UNDECODABLE, POISON, LATE or DUPLICATE."""
        return self._judged(self)

    @property
    def reason(self) -> str:
        """Why it cannot be decoded; empty otherwise."""
        return self._reason(self)


@dataclass(frozen=True, slots=True)
class Features(Mapping[str, "float | None"]):
    """Values of one entity at t by feature name, as served; None where there is none."""

    feature_set: str
    entity: str | None
    t_ms: int
    cut: Mapping[tuple[str, int], int]  # (event, partition) -> next offset not included
    numbers: Mapping[str, float | None]
    statuses: Mapping[str, Status]

    def __getitem__(self, name: str) -> float | None:
        return self.numbers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True, slots=True)
class Decision:
    """One answer of a model. `score` is what decided: a scorer's, or nothing where the rules did."""

    model: str
    decision: bool
    source: Literal["model", "rules", "default"]
    score: float | None
    inputs: Mapping[str, float | None]
    features: Mapping[str, Features]
    rule_score: float | None


@dataclass(frozen=True, slots=True)
class Checked:
    """How much `Driver.check` compared."""

    verdicts: int
    reads: int
    values: int
    fresh: int
