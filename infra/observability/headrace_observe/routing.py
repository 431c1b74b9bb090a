"""The committed Alertmanager routes with other addresses and keys, and what stands at those addresses in tests and drills.

The stand-ins speak the HTTP APIs that Alertmanager calls: PagerDuty Events v2 (`POST /v2/enqueue`, 202, `dedup_key`),
Opsgenie and Jira Service Management (`POST /v2/alerts`, `POST /v2/alerts/{alias}/close`, `GenieKey`), a plain webhook.
They refuse what the real ones refuse: a missing key, an action or an alias they do not know.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from headrace_observe.local import ALERTMANAGER, Yaml

PAGERDUTY_KEY, OPSGENIE_KEY = "0123456789abcdef0123456789abcdef", "11111111-2222-3333-4444-555555555555"
ACTIONS = ("trigger", "acknowledge", "resolve")
PAGERDUTY_SEVERITIES = ("critical", "error", "warning", "info")


@dataclass(slots=True)
class Pager:
    """What one door has been told: open incidents by key, and everything in order as (key, "open" or "closed", text)."""

    open: dict[str, str] = field(default_factory=dict)
    told: list[tuple[str, str, str]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def opened(self, key: str, text: str) -> None:
        self.open[key] = text
        self.told.append((key, "open", text))

    def closed(self, key: str, text: str) -> None:
        self.open.pop(key, None)
        self.told.append((key, "closed", text))


class StandIns:
    """The three doors on one local port. Start with `with`."""

    def __init__(self) -> None:
        self.pagerduty, self.opsgenie, self.webhook = Pager(), Pager(), Pager()
        self.lock = threading.Lock()
        stands = self

        class Door(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers.get("content-length", "0"))) or b"{}")
                with stands.lock:
                    status, answer = stands.take(urlsplit(self.path).path, dict(self.headers.items()), body)
                said = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
        self._thread = threading.Thread(target=self._server.serve_forever, name="stand-ins", daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> StandIns:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def take(self, path: str, headers: dict[str, str], body: Yaml) -> tuple[int, Yaml]:
        """One call; (status, answer)."""
        if path == "/v2/enqueue":
            return self._pagerduty(body)
        if path.startswith("/v2/alerts"):
            return self._opsgenie(path, headers, body)
        if path == "/alerts":
            return self._webhook(body)
        return 404, {"message": f"no such door {path}"}

    def _pagerduty(self, body: Yaml) -> tuple[int, Yaml]:
        payload = body.get("payload", {})
        errors = [
            text
            for wrong, text in (
                (body.get("routing_key") != PAGERDUTY_KEY, "routing_key is not of an integration"),
                (body.get("event_action") not in ACTIONS, "event_action is not known"),
                (not 0 < len(body.get("dedup_key", "")) <= 255, "dedup_key is missing or too long"),
                (body.get("event_action") == "trigger" and not payload.get("summary"), "summary is missing"),
                (body.get("event_action") == "trigger" and not payload.get("source"), "source is missing"),
                (
                    body.get("event_action") == "trigger" and payload.get("severity") not in PAGERDUTY_SEVERITIES,
                    "severity is not known",
                ),
            )
            if wrong
        ]
        if errors:
            self.pagerduty.refused += errors
            return 400, {"status": "invalid event", "message": "Event object is invalid", "errors": errors}
        key = body["dedup_key"]
        if body["event_action"] == "trigger":
            self.pagerduty.opened(key, payload["summary"])
        elif body["event_action"] == "resolve":
            self.pagerduty.closed(key, payload.get("summary", ""))
        return 202, {"status": "success", "message": "Event processed", "dedup_key": key}

    def _opsgenie(self, path: str, headers: dict[str, str], body: Yaml) -> tuple[int, Yaml]:
        if headers.get("Authorization") != f"GenieKey {OPSGENIE_KEY}":
            self.opsgenie.refused.append("key")
            return 401, {"message": "Could not authenticate"}
        if path == "/v2/alerts":
            if not body.get("message") or not body.get("alias"):
                self.opsgenie.refused.append("message or alias")
                return 422, {"message": "Request body is not processable"}
            self.opsgenie.opened(body["alias"], body["message"])
        elif path.endswith("/close"):
            self.opsgenie.closed(unquote(path.split("/")[3]), "")
        return 202, {"result": "Request will be processed", "took": 0.0, "requestId": "local"}

    def _webhook(self, body: Yaml) -> tuple[int, Yaml]:
        key = body["groupKey"]
        text = ",".join(sorted({alert["labels"]["alertname"] for alert in body["alerts"]}))
        (self.webhook.opened if body["status"] == "firing" else self.webhook.closed)(key, text)
        return 200, {}


def local_routes(stands: StandIns, secrets: Path, hurry: bool = True) -> Yaml:
    """The committed routes, pointed at the stand-ins. secrets: a folder to write the keys to, as files.

    Args:
        hurry: wait a second instead of ten and sixty before telling; nothing else differs.
    """
    secrets.mkdir(parents=True, exist_ok=True)
    (secrets / "pagerduty").write_text(PAGERDUTY_KEY)
    (secrets / "opsgenie").write_text(OPSGENIE_KEY)
    config = yaml.safe_load(ALERTMANAGER.read_text())
    config["global"] |= {
        "pagerduty_url": f"{stands.url}/v2/enqueue", "opsgenie_api_url": f"{stands.url}/", "resolve_timeout": "5s",
    }  # fmt: skip
    if hurry:
        config["route"] |= {"group_wait": "1s", "group_interval": "1s"}
    for receiver in config["receivers"]:
        for pager in receiver.get("pagerduty_configs", []):
            pager["routing_key_file"] = str(secrets / "pagerduty")
        for genie in receiver.get("opsgenie_configs", []):
            genie["api_key_file"] = str(secrets / "opsgenie")
        for hook in receiver.get("webhook_configs", []):
            hook["url"] = f"{stands.url}/alerts"
    return config
