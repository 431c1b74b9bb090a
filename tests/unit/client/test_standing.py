"""How the platform stands: what services, broker and Alertmanager say, put together; who is silent is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from headrace.cli.status import age, as_data, screen
from headrace.cli.terminal import printer
from headrace.client import standing as of
from headrace.client.lag import GroupLag
from headrace.client.standing import (
    SERVICES,
    Alert,
    Fresh,
    Parked,
    Places,
    Service,
    Standing,
    Training,
    ask_alerts,
    ask_service,
    freshness,
    parked_of,
    progress_ages,
    standing,
    trainings_of,
)

NOW_S = 1_000_000.0
METRICS = """
# TYPE ingest_last_accepted_timestamp_seconds gauge
ingest_last_accepted_timestamp_seconds{pipeline="flights",event="departures"} 999990.0
# TYPE features_archive_append_time_ms gauge
features_archive_append_time_ms{topic="flights.departures.v1"} 999995000.0
# TYPE view_progress_age_seconds gauge
view_progress_age_seconds{topic="flights.origin-load-state.11111111",partition="0"} 2.0
view_progress_age_seconds{topic="flights.origin-load-state.11111111",partition="1"} 9.5
"""


def answering(pages: dict[str, tuple[int, Any]]) -> httpx.MockTransport:
    def answer(request: httpx.Request) -> httpx.Response:
        status, body = pages.get(request.url.path, (404, {}))
        return httpx.Response(status, text=body) if isinstance(body, str) else httpx.Response(status, json=body)

    return httpx.MockTransport(answer)


def test_a_service_tells_why_it_is_not_ready_and_what_it_parked() -> None:
    health = {"ready": False, "state": "waiting", "reasons": {"control": "reading"}, "parked": {"faulty": "no such topic"}}
    pages = {"/health/ready": (503, health), "/v1/status": (200, {"views": {}}), "/metrics": (200, METRICS)}
    one = ask_service("svc-serve", "http://x", answering(pages))
    assert (one.ready, one.state, one.why, one.parked) == (
        False,
        "waiting",
        {"control": "reading"},
        {"faulty": "no such topic"},
    )
    assert one.page == {"views": {}}
    assert one.series("view_progress_age_seconds", "topic") == {("flights.origin-load-state.11111111",): 9.5}
    assert one.series("nothing", "topic") == {}


def test_a_service_without_a_status_page_is_no_less_ready() -> None:
    pages = {"/health/ready": (200, {"ready": True, "state": "ready", "reasons": {}, "parked": {}})}
    one = ask_service("svc-train", "http://x", answering(pages))
    assert (one.ready, one.page, one.metrics) == (True, {}, "")


@pytest.mark.parametrize("body", ["", "no json", "[1"])
def test_a_service_that_answers_nonsense_is_silent(body: str) -> None:
    one = ask_service("svc-serve", "http://x", answering({"/health/ready": (200, body)}))
    assert not one.ready
    assert "no answer at http://x" in one.why["silent"]


def test_alerts_come_pages_first_then_the_oldest_with_what_they_are_about() -> None:
    def fired(name: str, severity: str, at: str, silenced: bool = False) -> dict[str, Any]:
        return {
            "labels": {"alertname": name, "severity": severity, "platform": "headrace", "service": "svc-x"},
            "annotations": {"summary": "it is so", "runbook": f"infra/{name}.md"}, "startsAt": at,
            "status": {"silencedBy": ["me"] if silenced else [], "inhibitedBy": []},
        }  # fmt: skip

    body = [
        fired("Ticket", "ticket", "1970-01-12T13:00:00.000Z"), fired("New", "page", "1970-01-12T13:46:30.5Z"),
        fired("Old", "page", "1970-01-12T13:00:00Z", silenced=True),
    ]  # fmt: skip
    found = ask_alerts("http://a", NOW_S, answering({"/api/v2/alerts": (200, body)}))
    assert [alert.name for alert in found] == ["Old", "New", "Ticket"]
    assert found[1] == Alert("New", "page", 9.5, "service svc-x", "it is so", "infra/New.md")
    assert found[0].silenced


def test_freshness_is_told_per_event_from_three_services() -> None:
    views = {"views": {"flights": {"departures": 5, "weather": 7}}}
    services = [
        Service("svc-ingest", "", metrics=METRICS), Service("svc-features", "", metrics=METRICS),
        Service("svc-serve", "", metrics=METRICS, page=views),
    ]  # fmt: skip
    assert freshness(services, NOW_S) == [
        Fresh("flights", "departures", 10.0, 5, 5.0),
        Fresh("flights", "weather", None, 7, None),
    ]
    assert progress_ages(services) == {"flights.origin-load-state.11111111": 9.5}
    assert freshness([Service(name, "") for name in SERVICES], NOW_S) == []


def test_what_a_silent_service_answered_last_counts_and_what_a_speaking_one_says_wins() -> None:
    services = [Service("svc-stream", "", state="ready", parked={"a": "now"}), Service("svc-serve", "")]
    answered = [
        Parked("a", "svc-stream", "before"),
        Parked("b", "svc-stream", "mended since"),
        Parked("a", "svc-serve", "then"),
    ]
    assert parked_of(services, answered) == [Parked("a", "svc-stream", "now"), Parked("a", "svc-serve", "then")]


def test_the_alertmanager_is_the_one_named_else_the_observed_stacks_else_the_usual(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Places().alerts_url() == of.ALERTMANAGER
    of.OBSERVING.parent.mkdir(parents=True)
    of.OBSERVING.write_text(json.dumps({"alertmanager": "http://127.0.0.1:7"}))
    assert Places().alerts_url() == "http://127.0.0.1:7"
    assert Places(alertmanager="http://a:1/").alerts_url() == "http://a:1"
    of.OBSERVING.write_text("[")
    assert Places().alerts_url() == of.ALERTMANAGER


def drawn(found: Standing) -> str:
    console = printer()
    with console.capture() as capture:
        console.print(screen(found))
    return capture.get()


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.cli.terminal.PIPED_WIDTH", 240)


def test_nobody_at_all_is_a_screen_that_says_so() -> None:
    """Seven silent services, no broker, no Alertmanager, no svc-governance: each is named."""
    told = drawn(standing(Places(first_port=1, bootstrap="127.0.0.1:1", alertmanager="http://127.0.0.1:1"), NOW_S))
    assert told.count("no answer at") == 7
    for words in ("the broker does not answer", "no Alertmanager answers", "of those that answer"):
        assert words in told


def test_the_screen_holds_what_was_found() -> None:
    services = [Service(name, "", True, "ready") for name in SERVICES]
    lags = [GroupLag("svc-stream.flights", 1_234, 61.0, 2, "flights.departures.v1"), GroupLag("svc-monitor", 0, 0.0, 1, "t")]
    alerts = [Alert("LagGrowing", "page", 300.0, "group svc-stream", "more comes than goes", "infra/LagGrowing.md")]
    fresh = [Fresh("flights", "departures", 3.0, 1_370_000_000_000, None)]
    found = Standing(services, lags, [Parked("faulty", "svc-stream", "no [such] topic")], alerts, fresh, {"s": 4.0})
    told = drawn(found)
    for words in (
        "svc-stream.flights", "1,234", "61.0", "1 at the end", "faulty", "no [such] topic", "LagGrowing", "5 min",
        "infra/LagGrowing.md", "flights/departures", "3.0 s ago", "2013-05-31",
    ):  # fmt: skip
        assert words in told, told
    assert found.ready
    assert "metrics" not in as_data(found)["services"][0]


def a_run(asked_s: float, state: str | None, *, model: str = "m", in_flight: bool = False) -> dict[str, Any]:
    return {
        "pipeline": "p", "model": model, "run_state": state, "in_flight": in_flight, "requested_by": "ada",
        "requested_ms": int(asked_s * 1000), "detail": "no labelled request" if state == "FAILED" else "",
    }  # fmt: skip


def test_a_failed_training_is_told_until_a_newer_run_of_its_model_makes_it_good() -> None:
    failed = a_run(NOW_S - 60, "FAILED")
    assert trainings_of([failed], NOW_S) == [Training("p/m", "failed", "ada", 60.0, "no labelled request")]
    assert trainings_of([failed, a_run(NOW_S - 10, "DONE")], NOW_S) == []
    assert trainings_of([a_run(NOW_S - 90, "DONE"), failed], NOW_S) != []
    assert trainings_of([failed, a_run(NOW_S - 10, "DONE", model="other")], NOW_S) != []


def test_runs_under_way_are_told_also_before_svc_train_has_answered() -> None:
    found = trainings_of([a_run(NOW_S - 3, None, in_flight=True), a_run(NOW_S - 2, "RUNNING", in_flight=True)], NOW_S)
    assert [(run.state, run.asked_age_s) for run in found] == [("waiting", 3.0), ("running", 2.0)]
    told = drawn(Standing([Service(name, "", True, "ready") for name in SERVICES], trainings=found))
    assert "3.0 s ago" in told
    assert "running" in told


@pytest.mark.parametrize(("seconds", "told"), [(4.21, "4.2 s"), (720, "12 min"), (9_000, "2.5 h"), (200_000, "2.3 d")])
def test_ages_are_told_in_the_unit_people_use(seconds: float, told: str) -> None:
    assert age(seconds) == told
