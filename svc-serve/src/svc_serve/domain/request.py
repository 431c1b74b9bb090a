"""A request for one decision, whatever door it came through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.contracts.records import Door


@dataclass(frozen=True, slots=True)
class Request:
    """fields: the request event's fields, times in ms UTC. received_ms and append_ms are wall clock."""

    request_id: str
    t_ms: int
    routing_key: str
    fields: Mapping[str, object]
    door: Door
    received_ms: int
    event_id: str | None = None
    append_ms: int | None = None
    traceparent: str | None = None
    deadline_s: float = field(default=float("inf"))  # monotonic
