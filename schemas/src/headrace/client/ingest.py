"""Sending rows to svc-ingest, blocking or async.

    with IngestClient() as ingest:
        receipt = ingest.send("flights", "departures", [{"flight_id": "UA-1", "departed_at": "2013-01-01T05:17:00-05:00"}])
        print(receipt.accepted, receipt.duplicates, receipt.rejected)

A batch is repeated, the very same bytes, until it is answered or the budget is spent: svc-ingest writes it once however
often it comes, so a lost answer costs nothing. A batch that is refused is never repeated.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx
import orjson

from headrace.client.local_stack import INGEST_URL, address

JSON_LINES = "application/x-ndjson"
TIMEOUT_S = 60.0  # of one try: longer than the service takes to give up on its broker
BUDGET_S = 120.0  # of all tries of one batch: a service that restarts, a broker that comes back
WAIT_S = (0.1, 2.0)  # between two tries: the first, the longest
AGAIN = frozenset({408, 425, 429, 502, 503, 504})

Rows = Iterable[Mapping[str, Any]] | bytes
"""Rows as dictionaries, or as JSON lines already."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row that became a dead letter. `line` counts from 1 in the batch."""

    line: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """Everything accepted and rejected is durable. `rejected` shows the first hundred of `rejected_total`."""

    accepted: int
    duplicates: int
    rejected_total: int
    rejected: tuple[Rejection, ...] = ()
    offsets: Mapping[int, int] = field(default_factory=dict)  # partition -> next offset after the batch
    tries: int = 1


class Refused(Exception):
    """The batch cannot be taken as it is; sending it again does not help."""

    def __init__(self, status: int, detail: str, hint: str) -> None:
        super().__init__(f"{status}: {detail}: {hint}" if hint else f"{status}: {detail}")
        self.status, self.detail, self.hint = status, detail, hint


class Unanswered(Exception):
    """The budget is spent. The batch may be written or not: sending the same batch later is safe."""


class Unreachable(Unanswered):
    """Nobody listens at the address, and nobody did before: nothing was sent."""


class _Way:
    """To one address. Who once answered there restarts, and is waited for; who never did is not there."""

    def __init__(self, url: str, patient: bool) -> None:
        self.url = address(INGEST_URL, url)
        self.answered = patient

    def failed(self, error: httpx.TransportError) -> str:
        """What is said of it. Raises Unreachable for a connection refused before the first answer."""
        if not self.answered and _refused(error):
            raise Unreachable(
                f"nobody listens at {self.url}: is svc-ingest up? `make status` shows, `make up` starts it; "
                f"{INGEST_URL} says where it is"
            ) from None
        return f"{type(error).__name__}: {error}"


def _refused(error: BaseException | None) -> bool:
    """Whether a refused connection lies behind an error."""
    while error is not None and not isinstance(error, ConnectionRefusedError):
        error = error.__cause__ or error.__context__
    return error is not None


class _Tries:
    """The tries of one batch: what an answer means, how long to wait, when to stop."""

    def __init__(self, budget_s: float, rng: random.Random) -> None:
        self._deadline_s = time.monotonic() + budget_s
        self._rng = rng
        self.count = 0

    def pause(self, why: str, retry_after: str | None = None) -> float:
        """Seconds until the next try. Raises Unanswered when the budget is spent."""
        first, longest = WAIT_S
        wait = min(longest, first * 2 ** min(self.count, 20)) * self._rng.uniform(0.5, 1.0)
        if retry_after is not None and retry_after.isdigit():
            wait = max(wait, min(float(retry_after), longest))
        if time.monotonic() + wait > self._deadline_s:
            raise Unanswered(f"no receipt after {self.count} tries: {why}")
        return wait

    def read(self, response: httpx.Response) -> Receipt | float:
        """The receipt, or seconds to wait before trying again. Raises Refused or Unanswered."""
        if response.status_code == 200:
            body = orjson.loads(response.content)
            rejected = tuple(Rejection(row["line"], row["reason"], row["detail"]) for row in body["rejected"])
            offsets = {int(partition): offset for partition, offset in body["offsets"].items()}
            return Receipt(body["accepted"], body["duplicates"], body["rejected_total"], rejected, offsets, self.count)
        detail, hint = _complaint(response)
        if response.status_code in AGAIN:
            return self.pause(f"{response.status_code}: {detail}", response.headers.get("retry-after"))
        raise Refused(response.status_code, detail, hint)


def _complaint(response: httpx.Response) -> tuple[str, str]:
    try:
        body = orjson.loads(response.content)
        return str(body["detail"]), str(body.get("hint", ""))
    except (ValueError, KeyError, TypeError):
        return response.text[:200], ""


def _request(pipeline: str, source: str, rows: Rows, headers: dict[str, str]) -> dict[str, Any]:
    body = rows if isinstance(rows, bytes) else b"".join(_lines(rows))
    return {"url": f"/v1/{pipeline}/{source}/records", "content": body, "headers": headers}


def _headers(media_type: str, traceparent: str | None, key: str | None) -> dict[str, str]:
    headers = {"content-type": media_type}
    if traceparent is not None:
        headers["traceparent"] = traceparent
    if key is not None:
        headers["idempotency-key"] = key
    return headers


def _lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    for row in rows:
        yield orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


class IngestClient:
    """Blocking. Batches go out in the order of the calls; keep one in flight per source to keep its order in the log."""

    def __init__(
        self, url: str = "", *, budget_s: float = BUDGET_S, transport: httpx.BaseTransport | None = None, patient: bool = False
    ) -> None:
        """Without an url, where `local_stack` finds svc-ingest. patient: wait for it also before its first answer."""
        self._way = _Way(url, patient)
        self._http = httpx.Client(base_url=self._way.url, timeout=TIMEOUT_S, transport=transport, trust_env=False)
        self._budget_s = budget_s
        self._rng = random.Random()

    def send(
        self,
        pipeline: str,
        source: str,
        rows: Rows,
        *,
        traceparent: str | None = None,
        key: str | None = None,
        media_type: str = JSON_LINES,
    ) -> Receipt:
        """Send one batch until it is answered.

        Args:
            traceparent: W3C trace context of the whole batch; a row may carry its own in the field `_traceparent`.
            key: name of the batch, for events without a declared id; by default the digest of its bytes.
            media_type: of rows given as bytes; text/csv for a source of CSV files.
        Raises: Refused; Unanswered when the budget is spent, or at once (Unreachable) if nobody ever listened there.
        """
        request, tries = (
            _request(pipeline, source, rows, _headers(media_type, traceparent, key)),
            _Tries(self._budget_s, self._rng),
        )
        while True:
            tries.count += 1
            try:
                response = self._http.post(**request)
                self._way.answered = True
                outcome = tries.read(response)
            except httpx.TransportError as error:
                outcome = tries.pause(self._way.failed(error))
            if isinstance(outcome, Receipt):
                return outcome
            time.sleep(outcome)

    def status(self) -> dict[str, Any]:
        """Open sources and what became of their rows in this process. Raises Unanswered or httpx.HTTPStatusError."""
        try:
            return self._http.get("/v1/status").raise_for_status().json()["sources"]
        except httpx.TransportError as error:
            raise Unanswered(f"svc-ingest at {self._way.url} does not tell its sources: {self._way.failed(error)}") from None

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class AsyncIngestClient:
    """The same on an event loop."""

    def __init__(
        self,
        url: str = "",
        *,
        budget_s: float = BUDGET_S,
        transport: httpx.AsyncBaseTransport | None = None,
        patient: bool = False,
    ) -> None:
        self._way = _Way(url, patient)
        self._http = httpx.AsyncClient(base_url=self._way.url, timeout=TIMEOUT_S, transport=transport, trust_env=False)
        self._budget_s = budget_s
        self._rng = random.Random()

    async def send(
        self,
        pipeline: str,
        source: str,
        rows: Rows,
        *,
        traceparent: str | None = None,
        key: str | None = None,
        media_type: str = JSON_LINES,
    ) -> Receipt:
        """As IngestClient.send."""
        request, tries = (
            _request(pipeline, source, rows, _headers(media_type, traceparent, key)),
            _Tries(self._budget_s, self._rng),
        )
        while True:
            tries.count += 1
            try:
                response = await self._http.post(**request)
                self._way.answered = True
                outcome = tries.read(response)
            except httpx.TransportError as error:
                outcome = tries.pause(self._way.failed(error))
            if isinstance(outcome, Receipt):
                return outcome
            await asyncio.sleep(outcome)

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
