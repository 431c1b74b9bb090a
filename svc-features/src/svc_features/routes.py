"""The outer edge of svc-features: how far the archive is, and parity on demand."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import orjson
from fastapi import FastAPI, Query, Response
from fastapi.responses import JSONResponse

from headrace.contracts.errors import Retryable
from headrace.plan.hashes import to_json
from headrace.plan.ir import Plan
from svc_features import parity
from svc_features.adapters import spark
from svc_features.archive import Reached
from svc_features.jobs import Ended, run_module
from svc_features.settings import Engine, FeaturesSettings

PARITY_TIMEOUT_S = 600.0


def add_routes(
    http: FastAPI, reached: Reached, plans: Mapping[str, Plan], settings: FeaturesSettings,
    proven: Callable[[], dict[str, Any]],
) -> None:  # fmt: skip
    """Mount the routes. proven: what continuous proof has shown, by pipeline."""
    judging = asyncio.Lock()

    @http.get("/v1/status")
    async def status() -> dict[str, object]:
        """Per topic: positions, rows since the start of this process, largest event time and append time."""
        return {
            "lake": str(settings.lake),
            "plans": {name: plan.hash for name, plan in plans.items()},
            "topics": {topic: facts.page() for topic, facts in sorted(reached.facts.items())},
        }

    @http.get("/parity")
    async def shown() -> dict[str, Any]:
        """Continuous proof: decisions recomputed as they were archived, what differs, lateness skew by feature."""
        return proven()

    @http.get("/v1/parity")
    async def recompute(
        pipeline: str,
        limit: Annotated[int | None, Query(ge=1)] = None,
        sample_bp: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
        engine: Engine | None = None,
    ) -> Response:
        """Recompute decisions from the lake in a process of its own; 409 while another run is under way.

        engine: HEADRACE_OFFLINE_ENGINE of this service unless given; 501 where it is spark and that is not installed.
        """
        plan, chosen = plans.get(pipeline), engine or settings.offline_engine
        if plan is None:
            return _problem(404, f"no plan of {pipeline} in force here", f"in force: {sorted(plans)}")
        if chosen == "spark" and (package := spark.lacking()) is not None:
            return _problem(501, f"parity on spark was asked for, but {package} is not installed here", spark.WAY_OUT)
        if judging.locked():
            return _problem(409, "parity is being judged already", "ask again when it is done")
        async with judging:
            try:
                ended = await _judge(plan, limit, sample_bp, chosen, settings)
            except Retryable as error:
                return _problem(503, str(error), "ask for a sample: sample_bp or limit")
        if ended.code not in (0, 1):
            return _problem(503, ended.complaint, "the archive is behind, or the lake is damaged: see /v1/status")
        return Response(ended.out, media_type="application/json")


async def _judge(plan: Plan, limit: int | None, sample_bp: int, engine: Engine, settings: FeaturesSettings) -> Ended:
    with tempfile.TemporaryDirectory(prefix="headrace-parity-") as name:
        path = Path(name) / "plan.json"
        path.write_bytes(to_json(plan))
        arguments = [
            "--lake", str(settings.lake.absolute()), "--plan", str(path), "--sample-bp", str(sample_bp),
            "--threads", str(settings.job_threads), "--memory-mb", str(settings.job_memory_mb), "--engine", engine,
            "--spark-master", settings.spark_master, "--spark-settings", orjson.dumps(settings.spark_settings).decode(),
        ]  # fmt: skip
        arguments += [] if limit is None else ["--limit", str(limit)]
        arguments += [] if settings.spark_scratch is None else ["--spark-scratch", str(settings.spark_scratch.absolute())]
        return await run_module(parity.__name__, arguments, PARITY_TIMEOUT_S)


def _problem(status: int, detail: str, hint: str) -> JSONResponse:
    return JSONResponse({"error": detail, "hint": hint}, status)
