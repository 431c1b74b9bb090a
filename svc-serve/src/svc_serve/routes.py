"""The outer edge of svc-serve: decisions over REST, and what is served."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from headrace.chassis.app import Chassis
from headrace.contracts.errors import Poison
from headrace.contracts.records import Door
from headrace.plan.avro import event_schema
from svc_serve.event_door import request_of
from svc_serve.rest_door import NotDurable, Overloaded
from svc_serve.settings import ServeSettings

if TYPE_CHECKING:
    from svc_serve.app import Models

BODY_BYTES_MAX = 64 * 1024
RETRY_AFTER_S = "1"


def add_routes(http: FastAPI, models: Models, chassis: Chassis[ServeSettings]) -> None:
    """Mount the routes."""

    @http.post("/v1/{pipeline}/{model}/decisions")
    async def decide(pipeline: str, model: str, call: Request) -> Response:
        """One decision; body: the request event's fields as JSON, times in ms UTC. The reply comes once the passport is durable."""
        served = models.served.get((pipeline, model))
        if served is None:
            return _problem(
                404, f"model {pipeline}/{model} is not served here", f"served: {sorted('/'.join(k) for k in models.served)}"
            )
        body = await _limited(call)
        if body is None:
            return _problem(413, f"body has more than {BODY_BYTES_MAX} bytes", "send one request at a time", {"Connection": "close"})
        try:
            fields = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            return _problem(400, f"body is not JSON: {error}", "send one JSON object with the request's fields")
        if not isinstance(fields, dict):
            return _problem(400, f"body is {type(fields).__name__}", "send one JSON object with the request's fields")
        event = next(e for e in served.plan.events if e.name == served.model.request)
        schema = event_schema(served.plan, event)
        unknown = sorted(fields.keys() - {f.name for f in event.fields})
        if unknown:
            return _problem(422, f"unknown fields {unknown}", f"{event.record} has {[f.name for f in event.fields]}")
        try:  # the same bytes an event would have had: one meaning for both doors
            known: dict[str, Any] = models.codec.decode_event(schema, models.codec.encode_event(schema, fields))
        except Poison as poison:
            return _problem(422, f"{poison.reason.value}: {poison.detail}", f"{event.record} as its schema says")
        request = request_of(
            served.plan, served.decider, known, Door.REST, chassis.clock, traceparent=call.headers.get("traceparent")
        )
        assert request is not None, "without a predicate every request is decided"
        try:
            return Response(await served.queue.decide(request), media_type="application/json")
        except Overloaded as error:
            return _problem(429, str(error), "retry with the same request id", {"Retry-After": RETRY_AFTER_S})
        except NotDurable as error:
            return _problem(503, str(error), "retry with the same request id", {"Retry-After": RETRY_AFTER_S})

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
            "decisions": dict(models.metrics.by_source),
            "views": {pipeline: viewing.maxima() for pipeline, viewing in models.views().items()},
        }


async def _limited(call: Request) -> bytes | None:
    """The body, read no further than its bound; None if it is longer."""
    body = bytearray()
    async for part in call.stream():
        body += part
        if len(body) > BODY_BYTES_MAX:
            return None
    return bytes(body)


def _describe(epoch: int, served: Any) -> dict[str, object]:
    arms = [{"name": a.name, "weight": a.weight, "model_digest": a.model_digest} for a in served.decider.serving.table.arms]
    return {"epoch": epoch, "arms": arms, "answered": len(served.answered)}


def _problem(status: int, detail: str, hint: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": detail, "hint": hint}, status, headers)
