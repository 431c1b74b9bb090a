"""Feature values over HTTP, for people and foreign programs. Never between services."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import jwt
import orjson
from fastapi import FastAPI, Request, Response

from headrace.chassis.clock import Clock
from headrace.contracts.signing import NotAuthenticated, TrustedKeys, authenticate
from headrace.plan.ir import Plan
from svc_features.domain.answers import as_arrow, as_json, describe
from svc_features.domain.asking import NEWEST, NOW, Asked, Unanswerable, asked_of
from svc_features.reading import NotLive, SetReader, SetRows
from svc_features.settings import FeaturesSettings
from svc_features.telemetry import FeaturesMetrics
from svc_features.viewing import Viewing

AUDIENCE = "svc-features"
ARROW = "application/vnd.apache.arrow.stream"
INLINE_VALUES_MAX = 20_000  # larger answers are read in a thread: the event loop stays free for the others
TOKENS_MAX = 1_000
_JSON = "application/json"
_BEARER = {"WWW-Authenticate": "Bearer"}
_AGAIN = {"Retry-After": "1"}  # seconds

_BODY_SCHEMA = {
    "type": "object",
    "required": ["keys"],
    "properties": {
        "keys": {
            "type": "array", "items": {"type": "object"}, "description": "one object of entity fields per key",
            "example": [{"origin": "EWR"}],
        },
        "sets": {
            "description": "names, or per name a list of features; left out: every set whose entity the keys name",
            "oneOf": [
                {"type": "array", "items": {"type": "string"}},
                {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}}},
            ],
        },
        "t_ms": {
            "description": "request time, ms UTC event time; a list of one per key; `newest` (default) or `now`",
            "oneOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}, {"enum": [NEWEST, NOW]}],
        },
    },
}  # fmt: skip
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "values, statuses and cut", "content": {_JSON: {}, ARROW: {}}},
    401: {"description": "no valid token"},
    404: {"description": "no such pipeline, set or feature"},
    413: {"description": "too many keys or bytes"},
    422: {"description": "not what the declaration says"},
    503: {"description": "the view is being restored"},
}


class Bearers:
    """Who a token proves, remembered until it expires or its key is changed: a signature check costs more than a read."""

    def __init__(self, trusted: TrustedKeys) -> None:
        self._trusted = trusted
        self._known: dict[str, tuple[str, object, float]] = {}  # token -> principal, public key, expiry in s UTC

    def principal(self, header: str) -> str:
        """Raises: Unanswerable 401."""
        known = self._known.get(header)
        if known is not None and time.time() < known[2] and self._trusted.public(known[0]) is known[1]:
            return known[0]
        try:
            principal = authenticate(self._trusted, header, AUDIENCE)
        except NotAuthenticated:
            detail = "no valid token: sign one with your private key (headrace.read does), naming a user is not enough"
            raise Unanswerable(401, detail, f"Authorization: Bearer TOKEN, audience {AUDIENCE}") from None
        text = header[7:] if header[:7].lower() == "bearer " else header
        expiry = jwt.decode(text, options={"verify_signature": False})["exp"]  # just verified
        if len(self._known) >= TOKENS_MAX:
            self._known.clear()
        self._known[header] = (principal, self._trusted.public(principal), float(expiry))
        return principal


class ReadDoor:
    """Answers reads from the views of every plan in force."""

    def __init__(
        self, viewings: Mapping[str, Viewing], bearers: Bearers, settings: FeaturesSettings, clock: Clock,
        metrics: FeaturesMetrics,
    ) -> None:  # fmt: skip
        self._viewings, self._bearers, self._settings = viewings, bearers, settings
        self._clock, self._metrics = clock, metrics
        self._bulk = asyncio.Semaphore(1)  # one large answer at a time: the rest of the machine has other work

    def viewing(self, pipeline: str) -> Viewing:
        """Raises: Unanswerable 404."""
        found = self._viewings.get(pipeline)
        if found is None:
            raise Unanswerable(404, f"no plan of {pipeline} in force here", f"in force: {sorted(self._viewings)}")
        return found

    def identify(self, request: Request) -> str:
        return self._bearers.principal(request.headers.get("authorization", ""))

    async def answer(self, pipeline: str, body: object, accept: str) -> Response:
        """Read and write down. Raises: Unanswerable."""
        viewing = self.viewing(pipeline)
        asked = asked_of(viewing.plan, body, self._settings.read_keys_max)
        readers = [self._reader(viewing, name) for name in asked.entities]
        size = len(asked.keys) * sum(len(r.feature_set.features) for r in readers)
        arrow = ARROW in accept
        try:
            if size <= INLINE_VALUES_MAX:
                out = self._read(viewing.plan, asked, readers, arrow)
            else:
                async with self._bulk:
                    out = await asyncio.to_thread(self._read, viewing.plan, asked, readers, arrow)
        except NotLive as error:
            raise Unanswerable(503, str(error), "ask again in a moment") from None
        self._metrics.read_values.labels(pipeline).inc(size)
        return Response(out, media_type=ARROW if arrow else _JSON)

    def _reader(self, viewing: Viewing, name: str) -> SetReader:
        reader = viewing.readers.get(name)
        if reader is None or not reader.live:
            detail = viewing.trouble or f"{name} is being restored from its topic"
            raise Unanswerable(503, detail, "ask again in a moment; GET /v1/PIPELINE/features says how far it is")
        return reader

    def _read(self, plan: Plan, asked: Asked, readers: list[SetReader], arrow: bool) -> bytes:
        times = self._times(asked, readers)
        answers: list[SetRows] = [r.read(asked.entities[r.feature_set.name], times) for r in readers]
        return (as_arrow if arrow else as_json)(plan, asked, times, answers)

    def _times(self, asked: Asked, readers: list[SetReader]) -> list[int]:
        count = len(asked.keys)
        if isinstance(asked.t_ms, int):
            return [asked.t_ms] * count
        if not isinstance(asked.t_ms, str):
            return list(asked.t_ms)
        now = self._clock.now_ms()
        if asked.t_ms == NOW:
            return [now] * count
        return [max((top for r in readers if (top := r.newest_ms()) is not None), default=now)] * count

    def facts(self, viewing: Viewing) -> dict[str, dict[str, Any]]:
        """How far the views are, by set."""
        return {
            name: {"live": reader.live, "newest_ms": reader.newest_ms(), "position": [v.position for v in reader.views]}
            for name, reader in viewing.readers.items()
        }


def add_read_routes(http: FastAPI, door: ReadDoor, body_bytes_max: int) -> None:
    """Mount the routes."""

    @http.post(
        "/v1/{pipeline}/features", response_class=Response, responses=_ANSWERS,
        openapi_extra={"requestBody": {"required": True, "content": {_JSON: {"schema": _BODY_SCHEMA}}}},
    )  # fmt: skip
    async def read(pipeline: str, request: Request) -> Response:
        """Feature values of many keys of many sets at a time: JSON, or an Arrow stream if `Accept` names it."""

        async def answer() -> Response:
            door.identify(request)
            body = parse(await limited(request, body_bytes_max))
            return await door.answer(pipeline, body, request.headers.get("accept", ""))

        return await told(answer)

    @http.get("/v1/{pipeline}/features/{feature_set}", response_class=Response, responses=_ANSWERS)
    async def read_one(pipeline: str, feature_set: str, request: Request) -> Response:
        """Feature values of one key: its entity's fields as query parameters, `at` for the time (ms, newest, now)."""

        async def answer() -> Response:
            door.identify(request)
            key = dict(request.query_params)
            at = key.pop("at", NEWEST)
            time_or_name = int(at) if at.lstrip("-").isdigit() else at
            body = {"keys": [key], "sets": [feature_set], "t_ms": time_or_name}
            return await door.answer(pipeline, body, request.headers.get("accept", ""))

        return await told(answer)

    @http.get("/v1/{pipeline}/features", response_class=Response, responses=_ANSWERS)
    async def sets(pipeline: str, request: Request) -> Response:
        """What can be read: sets, entities, features, and how far each view is."""

        async def answer() -> Response:
            door.identify(request)
            viewing = door.viewing(pipeline)
            return Response(orjson.dumps(describe(viewing.plan, door.facts(viewing))), media_type=_JSON)

        return await told(answer)


async def told(answer: Callable[[], Awaitable[Response]]) -> Response:
    """The answer, or why there is none and what to do."""
    try:
        return await answer()
    except Unanswerable as no:
        headers = _BEARER if no.status == 401 else _AGAIN if no.status == 503 else None
        return Response(orjson.dumps({"error": no.detail, "hint": no.hint}), no.status, headers, _JSON)


async def limited(request: Request, bytes_max: int) -> bytes:
    """The body, read no further than the bound whatever the caller says of its length. Raises: Unanswerable 413."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > bytes_max:
            raise Unanswerable(413, f"the body is longer than {bytes_max} bytes", "split the keys over several calls")
    return bytes(body)


def parse(body: bytes) -> object:
    """Raises: Unanswerable 400."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Unanswerable(400, f"the body is not JSON: {error}", 'send {"keys": [{"origin": "EWR"}]}') from None
