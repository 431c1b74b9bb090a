"""One decision's way through the platform with what each part of it took: from its passport, and from its trace if it has one.

A hop is either work (a span, without what its children did inside it) or a wait (from the end of one span to the beginning
of its child in another service: the time in a topic and in the reader's hands).

    svc-ingest |--send--|                                   work
                         ........                           wait: in the topic
    svc-serve                    |--process--|              work
                                             ........       decided -> durable, from the passport

Spans are the trace store's JSON (Zipkin v2): id, parentId, timestamp and duration in microseconds, localEndpoint. Clocks of
several machines differ by more than some hops take: a wait below nothing is told as nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

TIMEOUT_S = 5.0
SERVING = "svc-serve"
REQUEST_TAG = "headrace.request_id"

Span = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Hop:
    """at_ms: since the first span, or since the request. after: past the decision, as the label's join is."""

    what: str
    took_ms: float
    at_ms: float
    after: bool = False


class Untold(Exception):
    """The trace store did not tell: it does not answer, or does not know the trace."""


def fetch(store: str, trace_id: str, transport: httpx.BaseTransport | None = None) -> list[dict[str, Any]]:
    """Spans of a trace by start. Raises: Untold."""
    url = f"{store.rstrip('/')}/api/v2/trace/{trace_id}"
    try:
        with httpx.Client(timeout=TIMEOUT_S, trust_env=False, transport=transport) as client:
            answer = client.get(url)
        if answer.status_code == 404:
            raise Untold(f"the trace store at {store} does not know it: it keeps the newest only, in memory")
        found: list[dict[str, Any]] = answer.raise_for_status().json()
    except (httpx.HTTPError, ValueError) as error:
        raise Untold(f"no trace store answers at {store}: {error}") from error
    return sorted(found, key=lambda span: span.get("timestamp", 0))


def of_passport(passport: Mapping[str, Any], append_ms: int) -> list[Hop]:
    """What every passport tells, sampled or not. append_ms: when the passport became durable."""
    asked, taken, decided = passport["request_append_ms"], passport["received_ms"], passport["decided_ms"]
    begin = taken if asked is None else asked
    hops = [] if asked is None else [Hop(f"request in its topic, until {SERVING} took it", max(0, taken - asked), 0)]
    hops.append(Hop(f"{SERVING} read features and decided", max(0, decided - taken), taken - begin))
    hops.append(Hop("decided, until the passport was durable", max(0, append_ms - decided), decided - begin))
    return [Hop(hop.what, float(hop.took_ms), float(max(0, hop.at_ms))) for hop in hops]


def of_trace(spans: Sequence[Span], request_id: str) -> list[Hop]:
    """Work and waits by start. What is not on the way from the source to the decision is `after`."""
    known = {span["id"]: span for span in spans}
    first = min((_start(span) for span in spans), default=0)
    way = _ancestors(known, _decided(spans, request_id))
    children: dict[str, list[Span]] = {}
    for span in spans:
        children.setdefault(span.get("parentId", ""), []).append(span)
    hops: list[Hop] = []
    for span in sorted(spans, key=_start):
        parent, after = known.get(span.get("parentId", "")), bool(way) and span["id"] not in way
        if parent is not None and _start(span) > _end(parent):
            what = f"{_service(parent)} to {_service(span)}, waiting for {span.get('name', '?')}"
            hops.append(_hop(what, _end(parent), _start(span) - _end(parent), first, after))
        own = max(0, _end(span) - _start(span) - _covered(span, children.get(span["id"], ())))
        hops.append(_hop(f"{_service(span)}: {span.get('name', '?')}", _start(span), own, first, after))
    return sorted(hops, key=lambda hop: hop.at_ms)


def slowest(hops: Sequence[Hop]) -> Hop | None:
    """The hop that took longest before the decision was durable; of equals the first."""
    return max((hop for hop in hops if not hop.after), key=lambda hop: hop.took_ms, default=None)


def _decided(spans: Sequence[Span], request_id: str) -> str | None:
    """Id of the span that decided: others, such as the monitor's, name the request too."""
    naming = [span for span in spans if span.get("tags", {}).get(REQUEST_TAG) == request_id]
    return next((str(span["id"]) for span in sorted(naming, key=lambda span: _service(span) != SERVING)), None)


def _ancestors(known: Mapping[str, Span], last: str | None) -> set[str]:
    """Ids from a span up to its root; each once, whatever the store says of parents."""
    found: set[str] = set()
    while last is not None and last in known and last not in found:
        found.add(last)
        last = known[last].get("parentId")
    return found


def _covered(span: Span, children: Sequence[Span]) -> int:
    """Microseconds of a span that lie inside its children, overlaps once."""
    covered, reached = 0, _start(span)
    for begin, end in sorted((_start(child), _end(child)) for child in children):
        begin, end = max(begin, reached), min(end, _end(span))
        if end > begin:
            covered, reached = covered + end - begin, end
    return covered


def _hop(what: str, at_us: int, took_us: int, first_us: int, after: bool) -> Hop:
    return Hop(what, took_us / 1000, (at_us - first_us) / 1000, after)


def _start(span: Span) -> int:
    return int(span.get("timestamp", 0))


def _end(span: Span) -> int:
    return _start(span) + int(span.get("duration", 0))


def _service(span: Span) -> str:
    return str((span.get("localEndpoint") or {}).get("serviceName", "?"))
