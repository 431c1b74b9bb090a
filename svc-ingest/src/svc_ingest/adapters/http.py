"""The HTTP door: one batch of rows in, its receipt out when everything is durable.

    POST /v1/{pipeline}/{source}/records
      Content-Type      application/x-ndjson (JSON lines), or text/csv for a source of CSV files
      Content-Encoding  gzip, or none
      Idempotency-Key   names the batch; without it the digest of the body does
      traceparent       W3C trace context of the batch; one row may carry its own in the field `_traceparent`

Sending a batch again is always safe. Every error says what to do: 4xx means change the batch, 429 and 503 mean send the
same batch again after Retry-After.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from headrace.contracts.errors import Retryable
from svc_ingest.adapters.csv_rows import CsvRefused, csv_rows
from svc_ingest.adapters.json_lines import json_rows
from svc_ingest.desk import Desk, Full
from svc_ingest.domain.identity import digest
from svc_ingest.ports import Batch, OutsideRow, Route
from svc_ingest.routes import NoRoute, NotYet, Routes
from svc_ingest.telemetry import Telemetry

BODY_TIMEOUT_S = 30.0  # from the first byte of a body to its last
KEY_CHARACTERS_MAX = 200  # of an Idempotency-Key
RETRY_AFTER_S = 1
_JSON_LINES = {"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"}
_ACCEPTED = {"json": _JSON_LINES, "csv": {"text/csv"}}
_CODES = {
    400: "bad_request",
    404: "not_found",
    408: "timeout",
    413: "too_large",
    415: "unsupported",
    429: "busy",
    500: "internal",
    503: "unavailable",
}


@dataclass(frozen=True, slots=True)
class HttpBounds:
    body_bytes_max: int = 8 << 20  # unpacked
    body_rows_max: int = 20_000


class Refused(Exception):
    """The batch is not taken; status, what is wrong, what to do."""

    def __init__(self, status: int, detail: str, hint: str) -> None:
        super().__init__(detail)
        self.status, self.detail, self.hint = status, detail, hint


class HttpDoor:
    def __init__(self, routes: Routes, desk: Desk, telemetry: Telemetry, bounds: HttpBounds | None = None) -> None:
        self._routes = routes
        self._desk = desk
        self._telemetry = telemetry
        self._bounds = bounds or HttpBounds()

    def router(self) -> APIRouter:
        router = APIRouter()
        router.add_api_route("/v1/{pipeline}/{source}/records", self.take, methods=["POST"], response_model=None)
        return router

    async def take(self, pipeline: str, source: str, request: Request) -> JSONResponse:
        """One batch."""
        try:
            answer = JSONResponse(await self._take(pipeline, source, request))
        except Refused as refused:
            answer = _error(refused)
        self._telemetry.request_answered(answer.status_code)
        return answer

    async def _take(self, pipeline: str, source: str, request: Request) -> dict[str, Any]:
        route = self._find(pipeline, source)
        _check_type(request, route)
        origin = _idempotency_key(request)
        try:
            with self._desk.enter(self._announced(request)):
                body = await self._body(request)
                return await self._hand_in(route, body, origin, request.headers.get("traceparent"))
        except Full as full:
            raise Refused(429, str(full), "send the same batch again after Retry-After; fewer in parallel go faster") from None

    def _find(self, pipeline: str, source: str) -> Route:
        try:
            return self._routes.find(pipeline, source)
        except NotYet as fault:
            raise Refused(503, str(fault), "send the same batch again after Retry-After") from None
        except NoRoute as fault:
            raise Refused(
                404, str(fault), "`headrace apply` admits a pipeline; check the spelling of pipeline and source"
            ) from None

    def _announced(self, request: Request) -> int:
        """Bytes to hold a place for: what is announced, or the most allowed where the size is not known before."""
        length = request.headers.get("content-length", "")
        if not length.isdigit() or request.headers.get("content-encoding", "identity") != "identity":
            return self._bounds.body_bytes_max
        if int(length) > self._bounds.body_bytes_max:
            raise self._too_large()
        return int(length)

    def _too_large(self) -> Refused:
        return Refused(
            413, f"the body has more than {self._bounds.body_bytes_max} bytes unpacked", "send it in smaller batches"
        )

    async def _body(self, request: Request) -> bytes:
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", "gzip"):
            raise Refused(415, f"content-encoding {encoding!r} is not taken", "use gzip or none")
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                size = 0
                async for part in request.stream():
                    size += len(part)
                    if size > self._bounds.body_bytes_max:
                        raise self._too_large()
                    parts.append(part)
        except TimeoutError:
            raise Refused(
                408, f"the body did not arrive in {BODY_TIMEOUT_S:g} s", "send smaller batches, or check the network"
            ) from None
        body = b"".join(parts)
        return self._unpacked(body) if encoding == "gzip" else body

    def _unpacked(self, body: bytes) -> bytes:
        unpacker = zlib.decompressobj(wbits=31)
        try:
            unpacked = unpacker.decompress(body, self._bounds.body_bytes_max + 1)
        except zlib.error as error:
            raise Refused(400, f"the body is not gzip: {error}", "pack it whole, or drop the content-encoding header") from None
        if len(unpacked) > self._bounds.body_bytes_max:
            raise self._too_large()
        if not unpacker.eof or unpacker.unused_data:
            raise Refused(400, "the gzip body is cut short or goes on after its end", "pack it whole, as one member")
        return unpacked

    async def _hand_in(self, route: Route, body: bytes, key: str | None, traceparent: str | None) -> dict[str, Any]:
        started = perf_counter()
        batch = Batch(route, f"{route.source.name}:{key or digest(body)}", self._rows(route, body), traceparent, len(body))
        try:
            receipt = await asyncio.wrap_future(self._desk.hand_in(batch))
        except Retryable as fault:
            raise Refused(
                503, str(fault), "send the same batch again after Retry-After; what was written is not written twice"
            ) from None
        except Exception as fault:
            raise Refused(
                500, f"the batch met a fault of ours: {fault!r}", "nothing of it was written; the log of svc-ingest has more"
            ) from fault
        self._telemetry.batch_seconds(perf_counter() - started)
        return receipt.as_json()

    def _rows(self, route: Route, body: bytes) -> Iterator[OutsideRow]:
        if not body or body.isspace():
            raise Refused(
                400, "the body is empty", "send one JSON object per line" if route.form == "json" else "send a CSV file"
            )
        lines = body.count(b"\n") + (not body.endswith(b"\n"))
        if lines > self._bounds.body_rows_max + (route.form == "csv"):
            raise Refused(
                413, f"the body has {lines} lines, at most {self._bounds.body_rows_max} are taken", "send smaller batches"
            )
        if route.form == "json":
            return json_rows(body)
        try:
            return csv_rows(body.splitlines(keepends=True), route.rows)
        except CsvRefused as refused:
            raise Refused(
                400, str(refused), f"the columns of source {route.source.name} are {', '.join(route.rows.sources)}"
            ) from None


def _check_type(request: Request, route: Route) -> None:
    content_type = request.headers.get("content-type")
    if content_type is None:
        return
    kind, *parameters = (part.strip().lower() for part in content_type.split(";"))
    wanted = sorted(_ACCEPTED[route.form])
    if kind not in wanted:
        raise Refused(
            415, f"content-type {kind!r} is not taken", f"source {route.source.name} takes {wanted[-1]}: {_EXAMPLE[route.form]}"
        )
    charsets = [parameter for parameter in parameters if parameter.startswith("charset=")]
    if any(charset.removeprefix("charset=").strip('"') not in ("utf-8", "utf8", "us-ascii") for charset in charsets):
        raise Refused(415, f"{charsets[0]} is not taken", "send UTF-8")


_EXAMPLE = {"json": "one JSON object per line", "csv": "a header line, then one row per line"}


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not 0 < len(key) <= KEY_CHARACTERS_MAX or not (key.isascii() and key.isprintable()):
        raise Refused(400, "the idempotency key is not usable", f"use 1 to {KEY_CHARACTERS_MAX} printable ASCII characters")
    return key


def _error(refused: Refused) -> JSONResponse:
    body = {"error": _CODES[refused.status], "detail": refused.detail, "hint": refused.hint}
    headers = {"Retry-After": str(RETRY_AFTER_S)} if refused.status in (429, 503) else {}
    if refused.status in (408, 413, 429):  # an unread body must not be taken for the next request
        headers["Connection"] = "close"
    return JSONResponse(body, refused.status, headers)
