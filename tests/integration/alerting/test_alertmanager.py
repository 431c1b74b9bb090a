"""The committed routes in a real Alertmanager, told to stand-ins that speak the pagers' HTTP APIs."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import yaml
from headrace_observe.local import HOST, free_ports
from headrace_observe.routing import StandIns, local_routes

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus-alertmanager") is None, reason="not installed: apt-get install prometheus-alertmanager"
)
PAGE = {"alertname": "ServiceDown", "service": "svc-serve", "severity": "page"}
TICKET = {"alertname": "LateRising", "pipeline": "flights", "severity": "ticket"}


class Manager:
    """A running Alertmanager."""

    def __init__(self, url: str) -> None:
        self._url = url

    def tell(self, labels: dict[str, str], *, over: bool = False) -> None:
        """As Prometheus does: firing again and again until it is over."""
        now = datetime.now(UTC)
        alert = {
            "labels": labels,
            "annotations": {"summary": "it happened", "runbook": "infra/observability/runbooks/ServiceDown.md"},
            "startsAt": (now - timedelta(minutes=1)).isoformat(),
            "endsAt": (now - timedelta(seconds=1) if over else now + timedelta(minutes=5)).isoformat(),
        }
        httpx.post(f"{self._url}/api/v2/alerts", json=[alert], timeout=10, trust_env=False).raise_for_status()


@pytest.fixture
def stands() -> Iterator[StandIns]:
    with StandIns() as found:
        yield found


@pytest.fixture
def manager(stands: StandIns, tmp_path: Path) -> Iterator[Manager]:
    (port,) = free_ports(1)
    config = tmp_path / "alertmanager.yml"
    config.write_text(yaml.safe_dump(local_routes(stands, tmp_path / "secrets")))
    command = [
        *("prometheus-alertmanager", f"--config.file={config}", f"--storage.path={tmp_path / 'data'}"),
        *(f"--web.listen-address={HOST}:{port}", "--cluster.listen-address="),
    ]
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
    try:
        _until(lambda: _answers(f"http://{HOST}:{port}/-/ready"))
        yield Manager(f"http://{HOST}:{port}")
    finally:
        running.terminate()
        running.wait(10)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _until(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.1)


def test_a_page_reaches_all_three_doors_once_and_is_closed_by_the_same_key(manager: Manager, stands: StandIns) -> None:
    """Told ten times, it is one incident everywhere; when it is over, each door hears that of the incident it knows."""
    for _ in range(10):
        manager.tell(PAGE)
    doors = (stands.pagerduty, stands.opsgenie, stands.webhook)
    _until(lambda: all(door.open for door in doors))
    assert all(len(door.told) == 1 for door in doors), [door.told for door in doors]
    opened = [door.told[0][0] for door in doors]
    assert "ServiceDown" in stands.pagerduty.told[0][2]
    manager.tell(PAGE, over=True)
    _until(lambda: not any(door.open for door in doors))
    assert [door.told[-1][:2] for door in doors] == [(key, "closed") for key in opened]
    assert not any(door.refused for door in doors)


def test_a_ticket_wakes_nobody(manager: Manager, stands: StandIns) -> None:
    manager.tell(TICKET)
    _until(lambda: bool(stands.webhook.open))
    assert not stands.pagerduty.told
    assert not stands.opsgenie.told


def test_two_services_that_are_down_are_two_incidents(manager: Manager, stands: StandIns) -> None:
    manager.tell(PAGE)
    manager.tell({**PAGE, "service": "svc-stream"})
    _until(lambda: len(stands.pagerduty.open) == 2)
    assert len(stands.opsgenie.open) == 2


def test_what_a_service_that_is_down_explains_is_not_told(manager: Manager, stands: StandIns) -> None:
    """The same alert of another service is told: so the silence is the inhibition's."""
    manager.tell(PAGE)
    _until(lambda: bool(stands.webhook.open))
    manager.tell({**PAGE, "alertname": "LoopStalled"})
    manager.tell({**PAGE, "alertname": "LoopStalled", "service": "svc-train"})
    _until(lambda: any(text == "LoopStalled" for _, _, text in stands.webhook.told))
    assert [key for key, _, text in stands.webhook.told if text == "LoopStalled" and "svc-serve" in key] == []
