"""How the platform stands at one moment: services, lag, parked pipelines, alerts, freshness. Asked, never guessed.

Who does not answer is told as such: every part carries either what was found or a complaint.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx
from confluent_kafka import KafkaException
from prometheus_client.parser import text_string_to_metric_families

from headrace.client.governance import GovernanceClient, Refused, Unreachable
from headrace.client.lag import GroupLag, Looker, by_group
from headrace.client.local_stack import BOOTSTRAP, FIRST_PORT, HOST, SERVICES, address, home, variable

TIMEOUT_S = 5.0
ALERTMANAGER = "http://127.0.0.1:9093"
OBSERVING = Path(".headrace/observe/addresses.json")  # written by `make observe`, whose ports are free ones
SILENT = "silent"  # the state of a service that does not answer
OURS = "svc-"  # consumer groups of the platform begin so; others are not its lag

Json = dict[str, Any]
Series = dict[tuple[str, ...], float]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Places:
    """Where to ask. host and first_port left out: where `local_stack` finds each service. alertmanager empty: where
    `make observe` put it, else its usual port.

    access: what a Kafka client needs beside the address, where the broker asks who it is.
    """

    host: str = ""
    first_port: int | None = None
    bootstrap: str = field(default_factory=lambda: address(BOOTSTRAP))
    alertmanager: str = ""
    access: Mapping[str, Any] = field(default_factory=dict)

    def url(self, service: str) -> str:
        if not self.host and self.first_port is None:
            return address(variable(service))
        return f"http://{self.host or HOST}:{(self.first_port or FIRST_PORT) + SERVICES.index(service)}"

    def alerts_url(self) -> str:
        if self.alertmanager:
            return self.alertmanager.rstrip("/")
        try:
            return str(json.loads((home().parent / OBSERVING).read_text())["alertmanager"])
        except (OSError, ValueError, KeyError, TypeError):
            return ALERTMANAGER


@dataclass(frozen=True, slots=True)
class Service:
    """One replica as it answers. page: its /v1/status; metrics: its /metrics as text; both empty where it has none."""

    name: str
    url: str
    ready: bool = False
    state: str = SILENT
    why: Mapping[str, str] = field(default_factory=dict)
    parked: Mapping[str, str] = field(default_factory=dict)
    page: Json = field(default_factory=dict)
    metrics: str = ""

    def series(self, name: str, *labels: str) -> Series:
        """Values of one metric by these labels; of several series with the same ones the largest."""
        found: Series = {}
        for family in text_string_to_metric_families(self.metrics):
            for sample in family.samples:
                if sample.name == name:
                    key = tuple(sample.labels.get(label, "") for label in labels)
                    found[key] = max(sample.value, found.get(key, sample.value))
        return found


@dataclass(frozen=True, slots=True)
class Parked:
    """A pipeline that one service cannot go on with."""

    pipeline: str
    service: str
    why: str


@dataclass(frozen=True, slots=True)
class Alert:
    """One firing alert. about: its labels but name, severity and platform. silenced: nobody is told of it."""

    name: str
    severity: str
    since_s: float
    about: str
    summary: str
    runbook: str
    silenced: bool = False


@dataclass(frozen=True, slots=True)
class Fresh:
    """How far one event type has come. Ages in seconds of the wall clock, None where nobody says; event times in ms UTC."""

    pipeline: str
    event: str
    accepted_age_s: float | None = None  # since svc-ingest took the last row; a foreign producer's rows do not pass it
    served_ms: int | None = None  # newest event time in the views decisions are made from
    archived_age_s: float | None = None  # append age of the newest archived record


@dataclass(frozen=True, slots=True)
class Training:
    """A run that is under way, or the newest of a model that failed. asked_age_s: since it was asked for."""

    model: str
    state: str
    asked_by: str
    asked_age_s: float
    why: str


@dataclass(frozen=True, slots=True)
class Standing:
    """One moment. complaints: by part (lag, alerts, parked, training), why it could not be asked."""

    services: Sequence[Service]
    lags: Sequence[GroupLag] = ()
    parked: Sequence[Parked] = ()
    alerts: Sequence[Alert] = ()
    fresh: Sequence[Fresh] = ()
    progress_age_s: Mapping[str, float] = field(default_factory=dict)  # by state topic, of the views of svc-serve
    complaints: Mapping[str, str] = field(default_factory=dict)
    trainings: Sequence[Training] = ()

    def service(self, name: str) -> Service:
        return next(one for one in self.services if one.name == name)

    @property
    def ready(self) -> bool:
        return all(one.ready for one in self.services)


def standing(places: Places, now_s: float) -> Standing:
    """Ask everybody at once. now_s: Unix time, for ages."""
    complaints: dict[str, str] = {}
    with ThreadPoolExecutor(len(SERVICES) + 4) as pool:
        asked = [pool.submit(ask_service, name, places.url(name)) for name in SERVICES]
        lag = pool.submit(_or_complaint, "lag", complaints, lambda: ask_lags(places.bootstrap, places.access))
        fired = pool.submit(_or_complaint, "alerts", complaints, lambda: ask_alerts(places.alerts_url(), now_s))
        admitted = pool.submit(_or_complaint, "parked", complaints, lambda: ask_parked(places.url("svc-governance")))
        runs = pool.submit(_or_complaint, "training", complaints, lambda: ask_trainings(places.url("svc-governance"), now_s))
        services = [one.result() for one in asked]
        lags, alerts, told, trained = lag.result(), fired.result(), admitted.result(), runs.result()
    return Standing(
        services, lags, parked_of(services, told), alerts, freshness(services, now_s), progress_ages(services), complaints,
        trained,
    )  # fmt: skip


def _or_complaint(part: str, complaints: dict[str, str], ask: Callable[[], list[T]]) -> list[T]:
    try:
        return ask()
    except (KafkaException, httpx.HTTPError, Refused, Unreachable, ValueError, KeyError, TypeError) as error:
        complaints[part] = str(error)
        return []


def ask_service(name: str, url: str, transport: httpx.BaseTransport | None = None) -> Service:
    """Health, status and metrics of one service. One that does not answer is a service that is not ready."""
    with httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False, transport=transport) as client:
        try:
            health = client.get("/health/ready").json()
            page, metrics = client.get("/v1/status"), client.get("/metrics")
        except (httpx.HTTPError, ValueError) as error:
            return Service(name, url, why={SILENT: f"no answer at {url}: {error}"})
    return Service(
        name, url, bool(health.get("ready")), str(health.get("state", "")), dict(health.get("reasons", {})),
        dict(health.get("parked", {})), page.json() if page.status_code == 200 else {},
        metrics.text if metrics.status_code == 200 else "",
    )  # fmt: skip


def ask_lags(bootstrap: str, access: Mapping[str, Any] | None = None) -> list[GroupLag]:
    """Lag of the platform's own groups. Raises: KafkaException."""
    looker = Looker(bootstrap, TIMEOUT_S, access)
    try:
        return [line for line in by_group(looker.look().lags) if line.group.startswith(OURS)]
    finally:
        looker.close()


def ask_alerts(url: str, now_s: float, transport: httpx.BaseTransport | None = None) -> list[Alert]:
    """Active alerts of an Alertmanager, pages first, then the oldest. Raises: httpx.HTTPError, ValueError."""
    with httpx.Client(timeout=TIMEOUT_S, trust_env=False, transport=transport) as client:
        answer = client.get(f"{url}/api/v2/alerts", params={"active": "true"}).raise_for_status()
    found = [_alert(body, now_s) for body in answer.json()]
    return sorted(found, key=lambda alert: (alert.severity != "page", -alert.since_s, alert.name))


def _alert(body: Json, now_s: float) -> Alert:
    labels, says = body.get("labels", {}), body.get("annotations", {})
    began = datetime.fromisoformat(body["startsAt"].replace("Z", "+00:00")).timestamp()
    about = {k: v for k, v in labels.items() if k not in ("alertname", "severity", "platform", "job", "instance")}
    status = body.get("status", {})
    return Alert(
        labels.get("alertname", "?"), labels.get("severity", ""), max(0.0, now_s - began),
        ", ".join(f"{k} {v}" for k, v in sorted(about.items())), says.get("summary", ""), says.get("runbook", ""),
        bool(status.get("silencedBy") or status.get("inhibitedBy")),
    )  # fmt: skip


def ask_parked(url: str) -> list[Parked]:
    """What svc-governance was answered: also of services that are away now. Raises: Refused, Unreachable."""
    with GovernanceClient(url) as client:
        views = [view for view in client.pipelines() if view["state"] == "ADMITTED"]
    return [
        Parked(view["pipeline"], ack["service"], ack["detail"])
        for view in views
        for ack in view["acks"]
        if ack["status"] == "PARKED"
    ]


def ask_trainings(url: str, now_s: float) -> list[Training]:
    """Training runs worth a look. Raises: Refused, Unreachable."""
    with GovernanceClient(url) as client:
        return trainings_of(client.trainings(), now_s)


def trainings_of(views: Sequence[Json], now_s: float) -> list[Training]:
    """What is under way, and of each model the newest run if that one failed: an older failure was made good."""
    newest: dict[str, Json] = {}
    for view in sorted(views, key=lambda view: view["requested_ms"]):
        newest[f"{view['pipeline']}/{view['model']}"] = view
    worth = [view for view in views if view["in_flight"] or (view["run_state"] == "FAILED" and view in newest.values())]
    return [
        Training(
            f"{view['pipeline']}/{view['model']}", (view["run_state"] or "waiting").lower(), view["requested_by"],
            max(0.0, now_s - view["requested_ms"] / 1000), view["detail"],
        )
        for view in worth
    ]  # fmt: skip


def parked_of(services: Sequence[Service], answered: Sequence[Parked]) -> list[Parked]:
    """What the services say of themselves; of those that are silent, what they answered last."""
    found = [Parked(pipeline, one.name, why) for one in services for pipeline, why in one.parked.items()]
    heard = {one.name for one in services if one.state != SILENT}
    return found + [item for item in answered if item.service not in heard]


def freshness(services: Sequence[Service], now_s: float) -> list[Fresh]:
    """Per event type, from the pages of svc-ingest, svc-serve and svc-features."""
    by_name = {one.name: one for one in services}

    def of(service: str, metric: str, *labels: str) -> Series:
        return by_name[service].series(metric, *labels) if service in by_name else {}

    accepted = of("svc-ingest", "ingest_last_accepted_timestamp_seconds", "pipeline", "event")
    archived = of("svc-features", "features_archive_append_time_ms", "topic")
    views: Mapping[str, Mapping[str, int]] = by_name["svc-serve"].page.get("views", {}) if "svc-serve" in by_name else {}
    served = {(pipeline, event): at for pipeline, events in views.items() for event, at in events.items()}
    lines: list[Fresh] = []
    for pipeline, event in sorted({(key[0], key[1]) for key in accepted} | set(served)):
        at_s, kept_ms = accepted.get((pipeline, event)), archived.get((f"{pipeline}.{event}.v1",))
        lines.append(
            Fresh(
                pipeline,
                event,
                max(0.0, now_s - at_s) if at_s else None,
                served.get((pipeline, event)),
                max(0.0, now_s - kept_ms / 1000) if kept_ms else None,
            )
        )
    return lines


def progress_ages(services: Sequence[Service]) -> dict[str, float]:
    """Age in seconds of what svc-serve's views applied last, by state topic: the partition furthest behind."""
    return {
        topic: age
        for one in services
        if one.name == "svc-serve"
        for (topic,), age in one.series("view_progress_age_seconds", "topic").items()
    }
