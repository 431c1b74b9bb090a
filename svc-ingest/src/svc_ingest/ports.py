"""What the handlers need of the world, and the shapes that cross those doors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from headrace.contracts.errors import Poison, Reason
from headrace.contracts.events import EventSchema
from headrace.plan.ir import EventType, Source
from svc_ingest.domain.normalise import Normaliser

LINE_BYTES_MAX = 900_000  # one event and its headers fit a broker's default message.max.bytes (1,048,588)
REJECTIONS_SHOWN_MAX = 100  # of a reply; all of them are in the dead-letter topic


class OutsideRow(NamedTuple):
    """One row as it came: its original bytes, and what the parser made of them."""

    line: int  # from 0
    raw: bytes
    values: Mapping[str, Any] | Poison


@dataclass(frozen=True, slots=True)
class Route:
    """One admitted source, compiled: how its rows are read and where they go."""

    pipeline: str
    source: Source
    event: EventType
    schema: EventSchema
    rows: Normaliser
    encode: Callable[[dict[str, Any]], bytes]  # typed row to wire bytes
    dead_letters: str  # topic

    @property
    def form(self) -> Literal["csv", "json"]:
        return "csv" if self.source.kind == "csv_folder" else "json"


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one source that are answered together."""

    route: Route
    origin: str  # stable name of the batch: its idempotency key, or the digest of its body or file
    rows: Iterable[OutsideRow]  # gone through once
    traceparent: str | None = None
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Rejected:
    line: int
    reason: Reason
    detail: str


@dataclass(slots=True)
class Receipt:
    """What became of a batch. It is handed out only when every accepted event and every dead letter is durable."""

    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    shown: list[Rejected] = field(default_factory=list)  # the first REJECTIONS_SHOWN_MAX
    reasons: dict[Reason, int] = field(default_factory=dict)
    offsets: dict[int, int] = field(default_factory=dict)  # partition -> next offset after this batch

    def reject(self, line: int, fault: Poison) -> None:
        self.rejected += 1
        self.reasons[fault.reason] = self.reasons.get(fault.reason, 0) + 1
        if len(self.shown) < REJECTIONS_SHOWN_MAX:
            self.shown.append(Rejected(line, fault.reason, fault.detail))

    def add(self, other: Receipt) -> None:
        """Count another part of the same file in."""
        self.accepted += other.accepted
        self.duplicates += other.duplicates
        self.rejected += other.rejected
        self.shown += other.shown[: REJECTIONS_SHOWN_MAX - len(self.shown)]
        for reason, count in other.reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + count
        self.offsets.update(other.offsets)

    def as_json(self) -> dict[str, Any]:
        return {
            "accepted": self.accepted,
            "duplicates": self.duplicates,
            "rejected": [{"line": one.line + 1, "reason": one.reason.value, "detail": one.detail} for one in self.shown],
            "rejected_total": self.rejected,
            "offsets": {str(partition): offset for partition, offset in sorted(self.offsets.items())},
        }


class Store(Protocol):
    """Local state, ordered bytes to bytes (chassis.state)."""

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]: ...
    def range(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]: ...
    def scan(self, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]: ...
    def get(self, key: bytes) -> bytes | None: ...
    def write(self, puts: Mapping[bytes, bytes], deletes: Sequence[bytes] = ()) -> None: ...
