"""Replays on demand: a person asks what a change would have decided; one after the other, in processes of their own.

    POST /v1/replays --> waiting --its turn--> running --> done | failed
    DELETE, or nobody kept it: forgotten, its process killed

Nothing is produced and nothing is kept over a restart: whoever asked asks again.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from headrace.chassis.errors import Fatal
from headrace.chassis.logs import logger
from headrace.contracts.errors import Retryable
from headrace.plan.hashes import PlanFormatError, from_json, sealed, to_json
from headrace.plan.ir import Plan
from svc_features import replay_job
from svc_features.domain.asking import Unanswerable
from svc_features.jobs import run_module
from svc_features.read_door import limited, parse, told
from svc_features.settings import FeaturesSettings

JOB_TIMEOUT_S = 3_600.0
WAITING_MAX = 4
KEPT_MAX = 8  # ended replays whose answers can still be fetched
BODY_BYTES_MAX = 8 << 20  # a plan of some thousand features
NDJSON = "application/x-ndjson"
_HINT = 'send {"plan": {...}, "span_ms": 2592000000}: the plan as `headrace plan --json` prints it'
_JSON = "application/json"
_log = logger(__name__)


class Asked(BaseModel):
    """The body of a question."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    plan: dict[str, Any]
    span_ms: Annotated[int, Field(gt=0, le=10 * 366 * 86_400_000)]
    model: Annotated[str, Field(max_length=200)] = ""
    by: Annotated[list[str], Field(max_length=8)] = []


@dataclass(slots=True)
class _Order:
    folder: Path
    task: asyncio.Task[None]
    state: str = "waiting"


class Replays:
    """A part of the service."""

    name = "replays"

    def __init__(self, in_force: Mapping[str, Plan], settings: FeaturesSettings) -> None:
        self._in_force, self._settings = in_force, settings
        self._folder = settings.state_dir / "replays"
        self._orders: OrderedDict[str, _Order] = OrderedDict()
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        """What an earlier life was asked is asked again."""
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def wait(self) -> None:
        await asyncio.Event().wait()

    async def stop(self) -> None:
        for identity in list(self._orders):
            await self.forget(identity)

    # -- orders

    def order(self, body: object) -> str:
        """Take a question. Raises: Unanswerable."""
        asked, plan = self._checked(body)
        if sum(o.state in ("waiting", "running") for o in self._orders.values()) >= WAITING_MAX:
            raise Unanswerable(503, f"{WAITING_MAX} replays wait already", "ask again when one has ended")
        settings, identity = self._settings, uuid4().hex
        trusted = settings.trusted_keys
        if trusted is None:
            raise Fatal("HEADRACE_TRUSTED_KEYS is not set: models cannot be verified")
        folder = self._folder / identity
        folder.mkdir(parents=True)
        (folder / "plan.json").write_bytes(to_json(plan))
        job = {
            "lake": str(settings.lake.absolute()), "objects": str(settings.object_store.absolute()),
            "trusted_keys": str(trusted.absolute()), "span_ms": asked.span_ms, "model": asked.model, "by": asked.by,
            "threads": settings.job_threads, "memory_mb": settings.job_memory_mb,
        }  # fmt: skip
        (folder / "job.json").write_bytes(orjson.dumps(job))
        self._orders[identity] = _Order(folder, asyncio.create_task(self._run(identity), name=f"replay/{identity[:8]}"))
        return identity

    def _checked(self, body: object) -> tuple[Asked, Plan]:
        try:
            asked = Asked.model_validate(body)
            plan = from_json(orjson.dumps(asked.plan))
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            raise Unanswerable(422, f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}", _HINT) from None
        except (PlanFormatError, ValueError) as error:
            raise Unanswerable(422, f"not a plan: {error}", _HINT) from None
        if plan != sealed(plan):
            raise Unanswerable(422, "the plan's hashes do not match its content", _HINT)
        if plan.pipeline not in self._in_force:
            raise Unanswerable(404, f"no plan of {plan.pipeline} in force here", f"in force: {sorted(self._in_force)}")
        return asked, plan

    async def _run(self, identity: str) -> None:
        async with self._turn:
            order = self._orders[identity]
            order.state = "running"
            try:
                ended = await run_module(replay_job.__name__, [str(order.folder)], JOB_TIMEOUT_S)
                complaint = ended.complaint if ended.code else ""
            except Retryable as error:
                complaint = str(error)
            await asyncio.to_thread(_end, order.folder, complaint)
            order.state = "failed" if "error" in _read(order.folder / "result.json") else "done"
            _log.info("replay_ended", replay=identity[:8], state=order.state, complaint=complaint)
        ended_orders = [i for i, o in self._orders.items() if o.state in ("done", "failed")]
        for old in ended_orders[:-KEPT_MAX]:
            await asyncio.to_thread(shutil.rmtree, self._orders.pop(old).folder, ignore_errors=True)

    async def forget(self, identity: str) -> None:
        """Stop it if it runs, and drop what it has."""
        order = self._orders.pop(identity, None)
        if order is not None:
            order.task.cancel()
            await asyncio.gather(order.task, return_exceptions=True)
            await asyncio.to_thread(shutil.rmtree, order.folder, ignore_errors=True)

    def page(self, identity: str) -> dict[str, Any]:
        """Where a replay is; its result when it has one. Raises: Unanswerable."""
        order = self._found(identity)
        page: dict[str, Any] = {"id": identity, "state": order.state}
        if (order.folder / "progress.json").exists():
            page["progress"] = _read(order.folder / "progress.json")
        if order.state in ("done", "failed"):
            page["result"] = _read(order.folder / "result.json")
        return page

    def flips(self, identity: str) -> Path:
        """Every flip, one JSON object per line. Raises: Unanswerable."""
        order = self._found(identity)
        if order.state != "done":
            raise Unanswerable(409, f"the replay is {order.state}", f"GET /v1/replays/{identity} says how far it is")
        return order.folder / "flips.ndjson"

    def _found(self, identity: str) -> _Order:
        order = self._orders.get(identity)
        if order is None:
            raise Unanswerable(404, f"no replay {identity}", "the service was started again, or it was forgotten: ask again")
        return order

    # -- the outer edge

    def add_routes(self, http: FastAPI, identify: Callable[[Request], str]) -> None:
        """Mount the routes; requests hold what people were decided about, so every call needs a token."""

        @http.post("/v1/replays", response_class=Response, status_code=202)
        async def take(request: Request) -> Response:
            """Make past decisions again. Body: plan, span_ms (event time), model (a candidate), by (request fields)."""

            async def answer() -> Response:
                identify(request)
                body = parse(await limited(request, BODY_BYTES_MAX))
                return Response(orjson.dumps({"id": self.order(body)}), 202, media_type=_JSON)

            return await told(answer)

        @http.get("/v1/replays/{identity}", response_class=Response)
        async def one(identity: str, request: Request) -> Response:
            """How far it is; with its result when it has ended."""

            async def answer() -> Response:
                identify(request)
                return Response(orjson.dumps(self.page(identity)), media_type=_JSON)

            return await told(answer)

        @http.get("/v1/replays/{identity}/flips", response_class=Response)
        async def flips(identity: str, request: Request) -> Response:
            """Every flip in the order of t, as JSON lines."""

            async def answer() -> Response:
                identify(request)
                return FileResponse(self.flips(identity), media_type=NDJSON)

            return await told(answer)

        @http.delete("/v1/replays/{identity}", response_class=Response, status_code=204)
        async def drop(identity: str, request: Request) -> Response:
            """Stop and forget it."""

            async def answer() -> Response:
                identify(request)
                self._found(identity)
                await self.forget(identity)
                return Response(status_code=204)

            return await told(answer)


def _end(folder: Path, complaint: str) -> None:
    """Leave the answer, drop what it was made from."""
    if complaint:
        (folder / "result.json").write_bytes(orjson.dumps({"error": f"the replay failed: {complaint[-500:]}"}))
    for path in folder.iterdir():
        if path.name not in ("result.json", "flips.ndjson", "progress.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _read(path: Path) -> dict[str, Any]:
    return orjson.loads(path.read_bytes())
