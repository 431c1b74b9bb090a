"""Data sets over HTTP, for people: built now from the archive, sent as Parquet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import uuid4

import orjson
from fastapi import FastAPI, Request, Response

from headrace.chassis.objects import ObjectStore
from headrace.contracts.errors import Retryable
from headrace.contracts.records import DatasetBuilt, DatasetRequested
from headrace.plan.ir import Plan
from svc_features.domain.asking import Unanswerable
from svc_features.read_door import ReadDoor, limited, parse, told

PARQUET = "application/vnd.apache.parquet"
ABOUT = "headrace-dataset"  # header: rows, checksum, cut and what was left out, as JSON
BODY_BYTES_MAX = 4_096
_TIMES = frozenset({"from_ms", "until_ms", "mature_until_ms"})
_HINT = 'send {"from_ms": 1357016400000, "until_ms": 1370059200000}: requests with t in [from, until), ms UTC'
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Parquet; header headrace-dataset says what is in it", "content": {PARQUET: {}}},
    401: {"description": "no valid token"},
    404: {"description": "no such pipeline or model"},
    422: {"description": "no such data set can be built: the reason is told"},
    503: {"description": "the archive is behind, or another data set is being built"},
}


class DatasetDesk:
    """Turns a person's question into a build; one at a time, as they take the machine's memory."""

    def __init__(
        self, plans: Mapping[str, Plan], build: Callable[[DatasetRequested], Awaitable[DatasetBuilt]], objects: ObjectStore
    ) -> None:
        self._plans, self._build, self._objects = plans, build, objects
        self._building = asyncio.Lock()

    async def answer(self, pipeline: str, model: str, body: object) -> Response:
        """Raises: Unanswerable."""
        request = self._request(pipeline, model, body)
        if self._building.locked():
            raise Unanswerable(503, "another data set is being built", "ask again when it is done")
        async with self._building:
            try:
                built = await self._build(request)
            except Retryable as error:
                raise Unanswerable(503, str(error), "GET /v1/status says how far the archive is") from None
        if not built.ok:
            raise Unanswerable(422, built.error, "widen the window, or wait until outcomes have arrived")
        content = await asyncio.to_thread(self._objects.get, built.reference, built.digest)
        about = {
            name: value
            for name, value in built.to_avro().items()
            if name not in ("ok", "error", "reference", "profile_reference", "columns")
        }
        return Response(content, media_type=PARQUET, headers={ABOUT: orjson.dumps(about).decode("ascii")})

    def _request(self, pipeline: str, model: str, body: object) -> DatasetRequested:
        plan = self._plans.get(pipeline)
        if plan is None:
            raise Unanswerable(404, f"no plan of {pipeline} in force here", f"in force: {sorted(self._plans)}")
        found = next((m for m in plan.models if m.name == model), None)
        if found is None:
            raise Unanswerable(404, f"{pipeline} has no model {model}", f"models: {[m.name for m in plan.models]}")
        times = body if isinstance(body, dict) else {}
        wrong = set(times) - _TIMES or any(not isinstance(t, int) or isinstance(t, bool) for t in times.values())
        if wrong or not {"from_ms", "until_ms"} <= set(times):
            raise Unanswerable(422, "the window is not given as it must be", _HINT)
        if times["from_ms"] >= times["until_ms"]:
            raise Unanswerable(422, f"the window is empty: {times['from_ms']} .. {times['until_ms']}", _HINT)
        return DatasetRequested(
            request_id=f"person-{uuid4().hex}", pipeline=pipeline, model=model, plan_hash=plan.hash,
            from_ms=times["from_ms"], until_ms=times["until_ms"],
            mature_until_ms=times.get("mature_until_ms", times["until_ms"] + found.label.mature_ms),
        )  # fmt: skip


def add_dataset_route(http: FastAPI, door: ReadDoor, desk: DatasetDesk) -> None:
    """Mount it."""

    @http.post("/v1/{pipeline}/models/{model}/datasets", response_class=Response, responses=_ANSWERS)
    async def build(pipeline: str, model: str, request: Request) -> Response:
        """Labelled rows of a model, joined point in time; body: from_ms, until_ms and, if wanted, mature_until_ms."""

        async def answer() -> Response:
            door.identify(request)
            return await desk.answer(pipeline, model, parse(await limited(request, BODY_BYTES_MAX)))

        return await told(answer)
