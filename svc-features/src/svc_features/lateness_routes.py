"""Lateness skew for people: a report over what the archive holds, on demand."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import orjson
from fastapi import FastAPI, Query, Response
from fastapi.responses import JSONResponse

from headrace.contracts.errors import Retryable
from headrace.plan.hashes import to_json
from headrace.plan.ir import Plan
from svc_features import lateness
from svc_features.jobs import Ended, run_module
from svc_features.settings import FeaturesSettings

TIMEOUT_S = 600.0


def add_lateness_route(http: FastAPI, plans: Mapping[str, Plan], settings: FeaturesSettings) -> None:
    """Mount GET /v1/lateness."""
    reporting = asyncio.Lock()

    @http.get("/v1/lateness")
    async def report(pipeline: str, model: str, reads_max: Annotated[int, Query(ge=1, le=1_000_000)] = 100_000) -> Response:
        """Per feature: how often and how far served values differ from what was available at t; 409 while another runs."""
        plan = plans.get(pipeline)
        if plan is None or all(m.name != model for m in plan.models):
            return _problem(404, f"no model {pipeline}/{model} in force here")
        if reporting.locked():
            return _problem(409, "a report is being made already: ask again when it is done")
        async with reporting:
            try:
                ended = await _report(plan, model, reads_max, settings)
            except Retryable as error:
                return _problem(503, str(error))
        return Response(ended.out, media_type="application/json") if ended.code == 0 else _problem(503, ended.complaint)


async def _report(plan: Plan, model: str, reads_max: int, settings: FeaturesSettings) -> Ended:
    with tempfile.TemporaryDirectory(prefix="headrace-lateness-") as name:
        folder = Path(name)
        (folder / "plan.json").write_bytes(to_json(plan))
        job = {
            "lake": str(settings.lake.absolute()), "model": model, "reads_max": reads_max,
            "threads": settings.job_threads, "memory_mb": settings.job_memory_mb,
        }  # fmt: skip
        (folder / "job.json").write_bytes(orjson.dumps(job))
        return await run_module(lateness.__name__, [name], TIMEOUT_S)


def _problem(status: int, detail: str) -> JSONResponse:
    return JSONResponse({"error": detail, "hint": "see /v1/status"}, status)
