"""A service starts in order, tells how it is, stops in reverse, and exits with the right code."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Sequence

import httpx
import pytest

from headrace.chassis.app import Chassis, Part, run_service, serve
from headrace.chassis.bus_memory import MemoryBus
from headrace.chassis.clock import ManualClock, SystemClock
from headrace.chassis.errors import Fatal
from headrace.chassis.health import Health, Heartbeat, State
from headrace.chassis.http import create_app
from headrace.chassis.metrics import ChassisMetrics
from headrace.chassis.settings import ServiceSettings
from headrace.chassis.tracing import Tracing
from headrace.chassis.worker import LoopThread


class Fake:
    """A part that notes what is done to it."""

    def __init__(self, name: str, diary: list[str], fails: str = "") -> None:
        self.name = name
        self._diary = diary
        self._fails = fails

    async def _do(self, what: str) -> None:
        self._diary.append(f"{what} {self.name}")
        if self._fails == what:
            raise Fatal(f"{self.name} does not {what}")

    async def start(self) -> None:
        await self._do("start")

    async def wait(self) -> None:
        await (self._do("wait") if self._fails == "wait" else asyncio.Event().wait())

    async def stop(self) -> None:
        await self._do("stop")


def chassis() -> Chassis[ServiceSettings]:
    health, metrics = Health(), ChassisMetrics()
    settings = ServiceSettings(http_port=0)
    app = create_app("svc-test", health, metrics)
    return Chassis(settings, SystemClock(), MemoryBus(), health, metrics, Tracing("svc-test", "0", None), app)


def live(made: Chassis[ServiceSettings], parts: Sequence[Part], during: Callable[[str], object] | None = None) -> int:
    """Run the service until during has returned (called with its address once it is up), or until it ends by itself."""

    async def scenario() -> int:
        stop, addresses = asyncio.Event(), asyncio.Queue[str]()

        class Probe(Fake):
            async def start(self) -> None:
                await addresses.put(f"http://127.0.0.1:{server_port(made)}")

        running = asyncio.create_task(serve(made, lambda _: [*parts, Probe("probe", [])], stop=stop))
        if during is not None:
            address = await addresses.get()
            while made.health.report().state is State.STARTING and not running.done():  # noqa: ASYNC110
                await asyncio.sleep(0)
            await asyncio.to_thread(during, address)
            stop.set()
        return await running

    return asyncio.run(scenario())


def server_port(made: Chassis[ServiceSettings]) -> int:
    return made.http.state.port


def test_parts_start_in_order_and_stop_in_reverse() -> None:
    """What others lean on starts first and stops last."""
    diary: list[str] = []
    parts = [Fake("bus", diary), Fake("loop", diary)]
    assert live(chassis(), parts, lambda _: None) == 0
    assert diary == ["start bus", "start loop", "stop loop", "stop bus"]


@pytest.mark.parametrize(("fails", "code"), [("start", 1), ("wait", 1), ("stop", 1)])
def test_a_failing_part_ends_the_service_in_order_with_a_code(fails: str, code: int) -> None:
    """Also the part whose start failed is stopped; the others end in order."""
    diary: list[str] = []
    parts = [Fake("bus", diary), Fake("loop", diary, fails)]
    during = (lambda _: None) if fails == "stop" else None
    assert live(chassis(), parts, during) == code
    assert diary[-2:] == ["stop loop", "stop bus"]


def test_health_and_metrics_answer_over_http() -> None:
    """Ready only when nobody waits; a parked pipeline is shown and leaves the service ready; a silent loop is not alive."""
    made, seen = chassis(), {}
    clock = ManualClock()

    def ask(address: str) -> None:
        with httpx.Client(base_url=address, trust_env=False) as client:
            seen["ready"] = client.get("/health/ready")
            made.health.wait_for("control", "reading governance.pipelines.v1")
            seen["waiting"] = client.get("/health/ready")
            made.health.ready("control")
            made.health.park("flights", "expression fails")
            seen["parked"] = client.get("/health/ready")
            made.health.watch(Heartbeat("loop", clock, limit_s=60))
            seen["live"] = client.get("/health/live")
            clock.advance(61_000)
            seen["silent"] = client.get("/health/live")
            seen["metrics"] = client.get("/metrics")

    assert live(made, [], ask) == 0
    assert {name: r.status_code for name, r in seen.items()} == {
        "ready": 200, "waiting": 503, "parked": 200, "live": 200, "silent": 503, "metrics": 200,
    }  # fmt: skip
    assert seen["waiting"].json()["reasons"] == {"control": "reading governance.pipelines.v1"}
    assert seen["waiting"].json()["state"] == "waiting"
    assert seen["parked"].json()["parked"] == {"flights": "expression fails"}
    assert seen["silent"].json()["silent_s"] == {"loop": 61.0}
    assert "event_loop_lag_seconds_bucket" in seen["metrics"].text


def test_a_taken_port_is_refused_with_the_setting_to_change() -> None:
    """Not a stack trace."""
    made = chassis()
    seen: list[str] = []

    def second(address: str) -> None:
        other = chassis()
        taken = ServiceSettings(http_port=int(address.rsplit(":", 1)[1]))
        other = Chassis(taken, other.clock, other.bus, other.health, other.metrics, other.tracing, other.http)
        seen.append(str(live_in_thread(other)))
        seen.append(other.health.report().reasons["failure"])

    assert live(made, [], second) == 0
    assert seen[0] == "1"
    assert "HEADRACE_HTTP_PORT" in seen[1]


def live_in_thread(made: Chassis[ServiceSettings]) -> int:
    return asyncio.run(serve(made, lambda _: [], stop=asyncio.Event()))


def test_refused_settings_exit_with_two_and_say_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is started."""
    monkeypatch.setenv("HEADRACE_NO_SUCH_THING", "1")
    assert run_service(ServiceSettings, lambda _: []) == 2
    assert "HEADRACE_NO_SUCH_THING" in capsys.readouterr().err


class Steps:
    """A loop that counts, and fails where told."""

    name = "loop"

    def __init__(self, fails_at: int = -1) -> None:
        self.heartbeat = Heartbeat("loop")
        self.threads: set[int] = set()
        self.went_round = threading.Event()
        self.closed = False
        self._fails_at = fails_at
        self._count = 0

    def step(self) -> int:
        self.threads.add(threading.get_ident())
        if self._count == self._fails_at:
            raise Fatal("bug")
        self._count += 1
        if self._count == 3:
            self.went_round.set()
        return 0

    def close(self) -> None:
        self.closed = True
        self.threads.add(threading.get_ident())


def test_a_loop_runs_in_one_thread_of_its_own_and_is_closed_there() -> None:
    """Kafka clients belong to one thread."""
    loop, made = Steps(), chassis()
    part = LoopThread("loop", lambda: loop, made.health)
    assert live(made, [part], lambda _: loop.went_round.wait(10)) == 0
    assert loop.closed
    assert len(loop.threads) == 1
    assert threading.get_ident() not in loop.threads


def test_a_loop_that_fails_ends_the_service(capsys: pytest.CaptureFixture[str]) -> None:
    """Infrastructure failures end the process, closed in order."""
    loop, made = Steps(fails_at=2), chassis()
    assert live(made, [LoopThread("loop", lambda: loop, made.health)]) == 1
    assert loop.closed
    assert made.health.report().reasons["failure"] == "bug"


def test_a_loop_that_cannot_be_built_fails_the_start() -> None:
    """A wrong setting shows at start, not as a silent thread."""

    def build() -> Steps:
        raise Fatal("no such topic")

    made = chassis()
    assert live(made, [LoopThread("loop", build, made.health)]) == 1
    assert made.health.report().reasons["failure"] == "no such topic"


def test_logs_are_json_with_the_trace_they_belong_to(capsys: pytest.CaptureFixture[str]) -> None:
    """Ours and those of libraries, on one line each."""
    import logging

    import structlog
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from headrace.chassis.logs import configure_logs, logger

    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    try:
        configure_logs("svc-test", "7", "info")
        with Tracing("svc-test", "7", InMemorySpanExporter()).root_span("POST /events", sampled=True):
            logger("headrace.test").info("batch_taken", rows=3)
        logging.getLogger("kafka.client").warning("broker %s away", "b1", extra={"error_name": "_TRANSPORT"})
        logger("headrace.test").debug("record_taken")
        ours, theirs = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    finally:
        root.handlers[:], root.level = before
        structlog.reset_defaults()
    assert (ours["event"], ours["rows"], ours["level"], ours["service"], ours["instance"]) == (
        "batch_taken",
        3,
        "info",
        "svc-test",
        "7",
    )
    assert len(ours["trace_id"]) == 32
    assert len(ours["span_id"]) == 16
    assert (theirs["event"], theirs["error_name"], theirs["level"]) == ("broker b1 away", "_TRANSPORT", "warning")
    assert "trace_id" not in theirs
