"""The HTTP edge of a service: health, metrics, and what the service adds. Never between services."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headrace.chassis.errors import Fatal
from headrace.chassis.health import Health
from headrace.chassis.metrics import ChassisMetrics

STOP_GRACE_S = 5  # for requests under way
BACKLOG = 512
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def create_app(service: str, health: Health, metrics: ChassisMetrics) -> FastAPI:
    """An app with /health/live, /health/ready and /metrics; the service adds its routes to it."""
    app = FastAPI(title=service, docs_url=None, redoc_url=None)

    @app.get("/health/live", include_in_schema=False)
    async def live() -> JSONResponse:
        silent = health.silent()
        body = {"alive": not silent, "silent_s": {name: round(age, 1) for name, age in silent.items()}}
        return JSONResponse(body, status_code=503 if silent else 200)

    @app.get("/health/ready", include_in_schema=False)
    async def ready() -> JSONResponse:
        report = health.report()
        body = {"ready": report.ready, "state": report.state, "reasons": report.reasons, "parked": report.parked}
        return JSONResponse(body, status_code=200 if report.ready else 503)

    @app.get("/metrics", include_in_schema=False)
    async def page(request: Request) -> Response:
        body, content_type = metrics.render(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    app.add_middleware(_Measured, metrics=metrics)
    return app


class _Measured:
    """Rate, errors and duration of each route. A route is named by its template, so that no path is a label."""

    def __init__(self, app: ASGIApp, metrics: ChassisMetrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sent)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.http_requests.labels(method, route, f"{status // 100}xx").inc()
            self._metrics.http_seconds.labels(route).observe(time.perf_counter() - started)


class _Server(uvicorn.Server):
    """Signals belong to the service's main, not to the web server; and it says when it is up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """A part of the service: binds at start, answers until stopped. The port is known after start."""

    name = "http"

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        self._app = app
        self._host, self._port = host, port
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        return self._port

    async def start(self) -> None:
        """Raises Fatal if the port is taken."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self._host, self._port))
        except OSError as error:
            listener.close()
            raise Fatal(f"port {self._port} of {self._host} not to be had: {error.strerror}; set HEADRACE_HTTP_PORT") from error
        self._port = self._app.state.port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._app,
            log_config=None,
            access_log=False,
            lifespan="off",
            backlog=BACKLOG,
            timeout_graceful_shutdown=STOP_GRACE_S,
            server_header=False,
        )
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]), name="http")
        up = asyncio.create_task(self._server.up.wait())
        await asyncio.wait({up, self._task}, return_when=asyncio.FIRST_COMPLETED)
        up.cancel()

    async def wait(self) -> None:
        if self._task is not None:
            await asyncio.shield(self._task)

    async def stop(self) -> None:
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await self._task
