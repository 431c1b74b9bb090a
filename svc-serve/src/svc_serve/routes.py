"""The outer edge of svc-serve: decisions over REST, and what is served."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from headrace.contracts.errors import Poison
from svc_serve.rest_door import NotDurable, Overloaded

if TYPE_CHECKING:
    from svc_serve.app import Models, Served

BODY_BYTES_MAX = 64 * 1024
RETRY = {"Retry-After": "1"}  # seconds
REPEATED = {"Repeated": "true"}


def add_routes(http: FastAPI, models: Models) -> None:
    """Mount the routes."""

    @http.post("/v1/{pipeline}/{model}/decisions")
    async def decide(pipeline: str, model: str, call: Request) -> Response:
        """One decision. Body: the request event's fields as JSON, times in ms UTC. The reply comes once it is durable.

        An id that was answered before gets the answer it had, marked `Repeated: true`, whatever this body says.
        """
        served = models.served.get((pipeline, model))
        if served is None and pipeline in models.parked:
            return _problem(503, f"pipeline {pipeline} is parked", models.parked[pipeline], RETRY)
        if served is None:
            there = sorted("/".join(key) for key in models.served)
            return _problem(404, f"model {pipeline}/{model} is not served here", f"served: {there}")
        fields = await _object_in(call)
        if isinstance(fields, Response):
            return fields
        event = served.reader.event
        unknown = served.reader.unknown(fields)
        if unknown:
            return _problem(422, f"unknown fields {unknown}", f"{event.record} has {[f.name for f in event.fields]}")
        try:
            request = served.reader.of_call(fields, call.headers.get("traceparent"))
        except Poison as poison:
            return _problem(422, f"{poison.reason.value}: {poison.detail}", f"{event.record} as its schema says")
        if request is None:
            return _problem(422, f"{served.model.name} does not decide such requests", f"only where {served.model.when}")
        repeated = served.answered.reply(request.request_id) is not None
        try:
            with models.metrics.rest_seconds.time():  # as the caller waits: in the queue too, and for an owner's answer
                reply = await served.queue.decide(request)
            return Response(reply, media_type="application/json", headers=REPEATED if repeated else None)
        except Overloaded as error:
            return _problem(429, str(error), "retry with the same request id", RETRY)
        except NotDurable as error:
            return _problem(503, str(error), "retry with the same request id", RETRY)

    @http.get("/v1/{pipeline}/{model}/decisions/{request_id}")
    async def reply(pipeline: str, model: str, request_id: str) -> Response:
        """The reply a request id got."""
        served = models.served.get((pipeline, model))
        known = served.answered.reply(request_id) if served else None
        if known is None:
            return _problem(404, f"no recent decision {request_id}", "older ones are in the archive: headrace why")
        return Response(known, media_type="application/json")

    @http.get("/v1/status")
    async def status() -> dict[str, object]:
        """What is served, by which epoch, and how far the views are."""
        return {
            "models": {"/".join(key): _describe(s.decider.serving.table.epoch, s) for key, s in models.served.items()},
            "parked": dict(models.parked),
            "decisions": dict(models.metrics.by_source),
            "views": {pipeline: viewing.maxima() for pipeline, viewing in models.views().items()},
        }


async def _object_in(call: Request) -> dict[str, Any] | Response:
    """The JSON object of a call's body, or the refusal."""
    body = bytearray()
    async for piece in call.stream():  # stops reading at the bound, whatever the caller says of its length
        body += piece
        if len(body) > BODY_BYTES_MAX:
            return _problem(413, f"body is longer than {BODY_BYTES_MAX} bytes", "send one request's fields")
    try:
        fields = orjson.loads(bytes(body))
    except orjson.JSONDecodeError as error:
        return _problem(400, f"body is not JSON: {error}", "send one JSON object with the request's fields")
    if not isinstance(fields, dict):
        return _problem(400, f"body is {type(fields).__name__}", "send one JSON object with the request's fields")
    return fields


def _describe(epoch: int, served: Served) -> dict[str, object]:
    arms = [{"name": a.name, "weight": a.weight, "model_digest": a.model_digest} for a in served.decider.serving.table.arms]
    return {"epoch": epoch, "arms": arms, "answered": len(served.answered)}


def _problem(status: int, detail: str, hint: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": detail, "hint": hint}, status, headers)
