"""What every service's page says of the process, of its HTTP edge, and with which words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from headrace.chassis.bus import TopicPartition
from headrace.chassis.clock import ManualClock
from headrace.chassis.health import Health, Heartbeat
from headrace.chassis.http import create_app
from headrace.chassis.metrics import ChassisMetrics
from headrace.chassis.observed import ProcessFacts
from headrace.chassis.state import MemoryStore, RocksStore, open_stores
from headrace.chassis.view import StateView
from headrace.contracts.records import Progress
from headrace_local.authority import AUTHORITY_DAYS, CERTIFICATE_DAYS, Authority

AT = datetime(2026, 1, 1, tzinfo=UTC)
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def metrics(health: Health, tmp_path: Path) -> ChassisMetrics:
    found = ChassisMetrics()
    found.registry.register(ProcessFacts(health, tmp_path, ManualClock(), {}))
    return found


@pytest.fixture
def client(health: Health, metrics: ChassisMetrics) -> httpx.AsyncClient:
    app = create_app("svc-test", health, metrics)
    _routes(app)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


def _routes(app: FastAPI) -> None:
    @app.get("/v1/things/{name}")
    async def thing(name: str) -> str:
        if name == "broken":
            raise RuntimeError("a bug")
        return name


def _value(metrics: ChassisMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_health_is_told_as_it_is_when_it_is_asked(health: Health, metrics: ChassisMetrics) -> None:
    clock = ManualClock()
    health.watch(Heartbeat("loop", clock))
    assert _value(metrics, "service_ready") == 0
    health.ready("start")
    health.park("faulty", "two fields from one column")
    assert _value(metrics, "service_ready") == 1
    assert _value(metrics, "service_parked", pipeline="faulty") == 1
    assert _value(metrics, "service_loop_silent_seconds", loop="loop") == 0
    clock.advance(7_000)
    assert _value(metrics, "service_loop_silent_seconds", loop="loop") == 7
    health.unpark("faulty")
    assert _value(metrics, "service_parked", pipeline="faulty") is None


def test_open_stores_are_measured_and_closed_ones_are_gone(metrics: ChassisMetrics, tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "a-set-0")
    store.write({b"k": b"v" * 1_000, b"l": b"w"})
    assert (_value(metrics, "state_store_bytes", store="a-set-0") or 0) > 0
    assert _value(metrics, "state_store_keys", store="a-set-0") == 2
    store.close()
    assert store not in open_stores()
    assert _value(metrics, "state_store_bytes", store="a-set-0") is None


def test_a_store_being_closed_is_not_measured(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "s")
    store.close()
    assert store.measure() is None


def test_a_view_tells_where_it_stands(metrics: ChassisMetrics) -> None:
    view = StateView(TopicPartition("observed-state", 3), MemoryStore(), lambda _: Progress.__new__(Progress))
    view.position = 41
    assert _value(metrics, "view_next_offset", topic="observed-state", partition="3") == 41
    assert _value(metrics, "view_live", topic="observed-state", partition="3") == 0
    view.live = True
    assert _value(metrics, "view_live", topic="observed-state", partition="3") == 1


def test_the_disk_under_the_state_is_told_also_before_its_folder_is_made(health: Health, tmp_path: Path) -> None:
    metrics = ChassisMetrics()
    metrics.registry.register(ProcessFacts(health, tmp_path / "not" / "there", ManualClock(), {}))
    free, size = _value(metrics, "state_disk_free_bytes"), _value(metrics, "state_disk_size_bytes")
    assert free is not None
    assert size is not None
    assert 0 <= free <= size


async def test_routes_are_counted_by_their_templates(client: httpx.AsyncClient, metrics: ChassisMetrics) -> None:
    """No path, and no unknown one, becomes a label."""
    for path in ("/v1/things/a", "/v1/things/b", "/v1/things/broken", "/v1/nothing/like/it"):
        await client.get(path)
    await client.request("PROPFIND", "/v1/things/a")

    def count(method: str, route: str, status: str) -> float | None:
        return _value(metrics, "http_requests_total", method=method, route=route, status=status)

    assert count("GET", "/v1/things/{name}", "2xx") == 2
    assert count("GET", "/v1/things/{name}", "5xx") == 1
    assert count("GET", "unmatched", "4xx") == 1
    assert _value(metrics, "http_request_seconds_count", route="/v1/things/{name}") in (3, 4)
    told = {s.labels["method"] for f in metrics.registry.collect() for s in f.samples if "method" in s.labels}
    assert told <= {"GET", "other"}


async def test_exemplars_are_for_those_who_take_openmetrics(client: httpx.AsyncClient, metrics: ChassisMetrics) -> None:
    metrics.commit_seconds.labels("g").observe(0.3, {"trace_id": "abc"})
    plain = await client.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain")
    assert "trace_id" not in plain.text
    rich = await client.get("/metrics", headers={"accept": f"{OPENMETRICS},text/plain;q=0.5"})
    assert rich.headers["content-type"].startswith("application/openmetrics-text")
    assert '# {trace_id="abc"} 0.3' in rich.text
    assert rich.text.endswith("# EOF\n")
    assert "_created" not in rich.text


def test_a_certificate_s_days_are_counted_down_from_what_this_life_began_with(health: Health, tmp_path: Path) -> None:
    """Of a chain the first to end decides, of authorities the last; a file renewed meanwhile counts from the next life on."""
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    for authority, made in ((old, AT), (new, AT + timedelta(days=10))):
        authority.ensure(made)
    chain, both = tmp_path / "chain.pem", tmp_path / "both.pem"
    chain.write_bytes(new.certificate("svc-serve").read_bytes() + old.certificate("svc-serve").read_bytes())
    both.write_bytes(old.believed.read_bytes() + new.believed.read_bytes())
    clock, metrics = ManualClock(int(AT.timestamp() * 1000)), ChassisMetrics()
    files = {"kafka": chain, "kafka-ca": both, "registry-ca": tmp_path / "not there"}
    metrics.registry.register(ProcessFacts(health, tmp_path, clock, files))
    assert _value(metrics, "certificate_left_days", certificate="kafka") == CERTIFICATE_DAYS
    assert _value(metrics, "certificate_left_days", certificate="kafka-ca") == AUTHORITY_DAYS + 10
    assert _value(metrics, "certificate_left_days", certificate="registry-ca") is None
    chain.write_bytes(new.certificate("svc-serve").read_bytes())
    clock.advance((CERTIFICATE_DAYS + 1) * 86_400_000)
    assert _value(metrics, "certificate_left_days", certificate="kafka") == -1


def test_a_file_that_holds_no_certificate_is_not_told(health: Health, tmp_path: Path) -> None:
    broken, metrics = tmp_path / "broken.pem", ChassisMetrics()
    broken.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    metrics.registry.register(ProcessFacts(health, tmp_path, ManualClock(), {"kafka": broken}))
    assert _value(metrics, "certificate_left_days", certificate="kafka") is None
