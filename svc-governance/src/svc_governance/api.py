"""People's door: commands need a short-lived token signed with the person's own key, reading does not.

Naming a user proves nothing: without a token that verifies, every command is 401, and nothing is recorded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import HTMLResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from headrace.contracts.audit import export_line
from headrace.contracts.errors import Retryable
from headrace.contracts.signing import NotAuthenticated
from headrace.plan.hashes import PlanFormatError, from_json
from svc_governance import views
from svc_governance.console import page
from svc_governance.domain.candidates import approve, reject
from svc_governance.domain.facts import Decision
from svc_governance.domain.people import Caller, People
from svc_governance.domain.pipelines import admit, retire
from svc_governance.domain.rollout import kill
from svc_governance.domain.state import State
from svc_governance.domain.training import TrainingOrder, request_training
from svc_governance.writer import Writer

AUDIENCE = "svc-governance"
ANSWER_S_MAX = 20.0  # above a broker's failover; after it the caller is told to look
PLAN_BYTES_MAX = 4 << 20
REASON_CHARACTERS_MAX = 2000

Authenticate = Callable[[str], str]  # bearer token -> principal; raises NotAuthenticated
Json = dict[str, Any]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Reasoned(Strict):
    reason: str = Field("", max_length=REASON_CHARACTERS_MAX)


class TrainingBody(Strict):
    """The window is [from_ms, until_ms) of request time, ms UTC. The same request_id starts one run only."""

    pipeline: str
    model: str
    from_ms: int
    until_ms: int
    request_id: str = Field("", max_length=100)


class Door:
    """The routes over one writer."""

    def __init__(self, writer: Writer, authenticate: Authenticate, people: People, hold_ms: int) -> None:
        self._writer, self._authenticate, self._people, self._hold_ms = writer, authenticate, people, hold_ms

    async def principal(self, request: Request) -> str:
        """Raises: 401."""
        try:
            return self._authenticate(request.headers.get("authorization", ""))
        except NotAuthenticated:
            detail = "no valid token: sign one with your private key (the headrace command does), naming a user is not enough"
            raise HTTPException(401, detail, {"WWW-Authenticate": "Bearer"}) from None

    async def command(self, actor: str, decide: Callable[[State, Caller], Decision]) -> State:
        """Carry a command out and return the state after it. Raises: HTTPException with the refusal, 503."""

        def decided(state: State, now_ms: int) -> Decision:
            return decide(state, Caller(self._people, actor, now_ms))

        try:
            outcome = await asyncio.wait_for(asyncio.wrap_future(self._writer.submit(decided)), ANSWER_S_MAX)
        except (Retryable, TimeoutError) as error:
            raise HTTPException(503, str(error) or "no answer in time: look before trying again") from None
        if outcome.refusal is not None:
            raise HTTPException(outcome.refusal.status, outcome.refusal.detail)
        return outcome.state

    def snapshot(self) -> State:
        """Raises: 503 while the chain is being read."""
        if not self._writer.opened.is_set():
            raise HTTPException(503, "the audit chain is being read: try again")
        return self._writer.state

    def export(self) -> Iterator[str]:
        for entry in self._writer.entries():
            yield export_line(entry) + "\n"

    def head(self) -> Json:
        head = self._writer.head
        if head is None:
            raise HTTPException(404, "the audit chain is empty")
        return {
            "sequence": head.sequence,
            "hash": head.hash,
            "at_ms": head.at_ms,
            "key_id": head.key_id,
            "signature": head.signature.hex(),
        }

    def page(self) -> str:
        return page(self.snapshot(), self._writer.entries())

    @property
    def hold_ms(self) -> int:
        return self._hold_ms


def build_routes(door: Door) -> APIRouter:
    """Commands and views; mounted beside health and metrics."""
    router = APIRouter()
    _add_commands(router, door)
    _add_views(router, door)
    return router


def _add_commands(router: APIRouter, door: Door) -> None:
    person = Depends(door.principal)

    @router.post("/v1/pipelines")
    async def apply_plan(request: Request, actor: str = person) -> Json:
        body = await _limited(request, PLAN_BYTES_MAX)
        try:
            plan = from_json(body)
        except PlanFormatError as error:
            raise HTTPException(422, f"not a plan: {error}") from None
        state = await door.command(actor, lambda state, by: admit(state, by, plan))
        return views.pipeline_view(plan.pipeline, state.pipelines[plan.pipeline])

    @router.delete("/v1/pipelines/{pipeline}")
    async def retire_pipeline(pipeline: str, actor: str = person) -> Json:
        state = await door.command(actor, lambda state, by: retire(state, by, pipeline))
        return views.pipeline_view(pipeline, state.pipelines[pipeline])

    @router.post("/v1/training-requests")
    async def ask_for_training(body: TrainingBody, actor: str = person) -> Json:
        order = TrainingOrder(body.pipeline, body.model, body.from_ms, body.until_ms, body.request_id)
        state = await door.command(actor, lambda state, by: request_training(state, by, order))
        plan_hash = state.pipelines[body.pipeline].plan.hash
        return next(t for t in views.trainings_view(state) if t["trigger_id"] == order.trigger_id(plan_hash))

    @router.post("/v1/candidates/{candidate_id}/approve")
    async def approve_candidate(candidate_id: str, body: Reasoned, actor: str = person) -> Json:
        state = await door.command(actor, lambda state, by: approve(state, by, candidate_id, body.reason, door.hold_ms))
        return views.candidate_view(state.candidates[candidate_id])

    @router.post("/v1/candidates/{candidate_id}/reject")
    async def reject_candidate(candidate_id: str, body: Reasoned, actor: str = person) -> Json:
        state = await door.command(actor, lambda state, by: reject(state, by, candidate_id, body.reason))
        return views.candidate_view(state.candidates[candidate_id])

    @router.post("/v1/models/{pipeline}/{model}/kill")
    async def kill_model(pipeline: str, model: str, actor: str = person) -> Json:
        state = await door.command(actor, lambda state, by: kill(state, by, pipeline, model, door.hold_ms))
        return views.rollout_view(state.rollouts[pipeline, model])


def _add_views(router: APIRouter, door: Door) -> None:
    @router.get("/v1/pipelines")
    async def list_pipelines() -> list[Json]:
        return views.pipelines_view(door.snapshot())

    @router.get("/v1/pipelines/{pipeline}")
    async def show_pipeline(pipeline: str) -> Json:
        found = door.snapshot().pipelines.get(pipeline)
        if found is None:
            raise HTTPException(404, f"no pipeline {pipeline}")
        return views.pipeline_view(pipeline, found)

    @router.get("/v1/training-requests")
    async def list_trainings() -> list[Json]:
        return views.trainings_view(door.snapshot())

    @router.get("/v1/candidates")
    async def list_candidates() -> list[Json]:
        return views.candidates_view(door.snapshot())

    @router.get("/v1/rollouts")
    async def list_rollouts() -> list[Json]:
        return views.rollouts_view(door.snapshot())

    @router.get("/v1/findings")
    async def list_findings() -> list[Json]:
        return views.findings_view(door.snapshot())

    @router.get("/v1/audit/export")
    async def export_audit() -> StreamingResponse:
        door.snapshot()
        return StreamingResponse(door.export(), media_type="application/jsonl")

    @router.get("/v1/audit/head")
    async def show_head() -> Json:
        door.snapshot()
        return door.head()

    @router.get("/", response_class=HTMLResponse)
    async def console() -> str:
        return door.page()


async def _limited(request: Request, bytes_max: int) -> bytes:
    """The body, read no further than its bound. Raises: 413."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > bytes_max:
            raise HTTPException(413, f"body above {bytes_max} bytes")
    return bytes(body)
