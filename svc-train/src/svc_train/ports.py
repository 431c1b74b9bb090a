"""What handlers and the runner need of the outside: the runs table, the plan in force, the champion served."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from headrace.contracts.errors import HeadraceError
from headrace.contracts.records import ArmServed
from headrace.plan.ir import Model, Plan

FindModel = Callable[[str, str, str], tuple[Plan, Model] | None]  # pipeline, plan hash, model
FindChampion = Callable[[str, str], ArmServed | None]  # pipeline, model


class LeaseLost(HeadraceError):
    """Another worker took the run over; what this one did does not count."""


@dataclass(frozen=True, slots=True)
class Run:
    """One leased run. request and dataset are the records' fields as JSON objects; fence counts the leases."""

    run_id: str
    state: str
    fence: int
    request: dict[str, object]
    dataset: dict[str, object] | None


@dataclass(frozen=True, slots=True)
class Message:
    """One record to publish with a change of state; `kind` makes it unique within the run."""

    kind: str
    topic: str
    key: str
    value: bytes


class Jobs(Protocol):
    """Runs, and the messages they leave to be published. Every method raises Retryable when the store does not answer."""

    async def accept(
        self, run_id: str, pipeline: str, model: str, request: dict[str, object], messages: Sequence[Message]
    ) -> bool:
        """Insert the run and its first messages; False if it exists: one trigger, one run."""
        ...

    async def lease(self, lease_s: float, dataset_timeout_s: float) -> Run | None:
        """Take the oldest open run nobody holds; its fence grows.

        A run that waits for its data set is taken when the data set is there, or has not come in time.
        """
        ...

    async def renew(self, run: Run, lease_s: float) -> None:
        """Raises LeaseLost if the run is another's now."""
        ...

    async def change(self, run: Run, state: str, detail: str, messages: Sequence[Message], *, keep_lease: bool = False) -> None:
        """Enter a state and leave messages, all or nothing, under the fence. Idempotent. Raises LeaseLost."""
        ...

    async def deliver_dataset(self, run_id: str, dataset: dict[str, object]) -> bool:
        """Note the data set of a run; the first answer stays. False if no such run waits."""
        ...

    async def unsent(self, limit: int = 100) -> list[tuple[int, Message]]:
        """Messages still to publish with their numbers, oldest first."""
        ...

    async def sent(self, numbers: Sequence[int]) -> None: ...

    async def listing(self, limit: int = 50) -> list[dict[str, object]]:
        """Newest runs, for the status page."""
        ...
