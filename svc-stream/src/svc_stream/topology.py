"""What runs here and how it fares: sources, operators and results of every stream, as JSON and as a page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi.responses import HTMLResponse

from headrace.plan.stream_costs import keyed_already, stateless
from svc_stream.streams.asking import Busy
from svc_stream.streams.worker import StreamWorker

ANSWER_S = 5.0

Workers = Callable[[], Mapping[tuple[str, str], StreamWorker]]


def operator_text(worker: StreamWorker) -> str:
    """In a few words what it does."""
    stream = worker.stream
    if stream.window is not None:
        window = stream.window
        spans = {"size": window.size_ms, "hop": window.hop_ms, "gap": window.gap_ms}
        said = " ".join(f"{name} {ms / 1000:g}s" for name, ms in spans.items() if ms)
        return f"{window.kind} {said}{window.rows or ''}, on {window.emit}".replace("  ", " ")
    if stream.join is not None:
        return f"{stream.join.kind.replace('_', '-')} join, {stream.join.how}"
    return f"distinct within {stream.distinct.horizon_ms / 1000:g}s" if stream.distinct else "filter and map"


def topology(workers: Mapping[tuple[str, str], StreamWorker], now_s: float) -> list[dict[str, Any]]:
    """One entry per stream: plain facts, read without stopping the worker."""
    return [_entry(pipeline, worker, now_s) for (pipeline, _), worker in sorted(workers.items())]


def _entry(pipeline: str, worker: StreamWorker, now_s: float) -> dict[str, Any]:
    stream, metrics, events = worker.stream, worker.metrics, {e.name: e for e in worker.plan.events}
    rate, results = metrics.rates(now_s)
    known = [w for w in list(metrics.watermarks.values()) if w is not None]
    return {
        "pipeline": pipeline,
        "stream": stream.name,
        "hash": stream.hash[:8],
        "sources": [{"topic": events[part.event].topic, "key": list(part.key), "where": part.where} for part in stream.inputs],
        "way": "mapped" if stateless(stream) else "keyed already" if keyed_already(worker.plan, stream) else "rekeyed",
        "operator": operator_text(worker),
        "store": stream.store,
        "output": events[stream.output].topic,
        "records_per_s": round(rate, 1),
        "results_per_s": round(results, 1),
        "round_ms": round(metrics.round_s * 1000, 1),
        "watermark_ms": min(known, default=None),
        "restoring": dict(metrics.restoring),
        **metrics.page(),
    }


def add_routes(http: FastAPI, workers: Workers, now_s: Callable[[], float]) -> None:
    """`/topology` for people, `/v1/topology` for programs, `/v1/state/...` for a key."""

    @http.get("/v1/topology")
    async def facts() -> list[dict[str, Any]]:
        return topology(workers(), now_s())

    @http.get("/topology", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> str:
        return files("svc_stream").joinpath("topology.html").read_text()

    @http.get("/v1/state/{pipeline}/{stream}/{table}")
    async def state(pipeline: str, stream: str, table: str, key: str = "") -> dict[str, Any]:
        """Entries of one key as of the last commit; `key` as the stream writes it, parts joined by U+001F."""
        found = [w for (p, _), w in workers().items() if p == pipeline and w.stream.name == stream]
        if not found:
            raise HTTPException(404, f"no stream {stream} of {pipeline} here")
        try:
            asked = found[0].questions.ask(table, key)
            return await asyncio.wait_for(asyncio.wrap_future(asked), ANSWER_S)
        except Busy as error:
            raise HTTPException(429, str(error)) from None
        except KeyError as error:
            raise HTTPException(404, str(error.args[0])) from None
        except TimeoutError:
            raise HTTPException(503, f"the worker of {stream} did not answer in {ANSWER_S:g} s: is it restoring?") from None
