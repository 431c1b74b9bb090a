"""Prometheus and Alertmanager over a local stack, from the same files the containers mount.

    make observe               over the stack of `make up`; Ctrl-C ends it

The machine's own `prometheus` and `prometheus-alertmanager` run (Debian and Ubuntu have packages of these names); only
addresses are changed in the files, by `localised`. The rules may come in the drill's variant, see `shortened`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import yaml

from headrace_local import SERVICES, Stack
from headrace_local.settings import HOST

FOLDER = Path(__file__).resolve().parents[1]
PROMETHEUS = FOLDER / "prometheus" / "prometheus.yml"
RULES = FOLDER / "prometheus" / "rules"
ALERTMANAGER = FOLDER / "alertmanager" / "alertmanager.yml"
ADDRESSES = "addresses.json"
NEEDED = ("prometheus", "prometheus-alertmanager", "promtool", "amtool")
START_S = 30.0
STOP_S = 10.0

Yaml = dict[str, Any]


class NotInstalled(RuntimeError):
    """A program of NEEDED is not on this machine."""


def check_installed() -> None:
    """Raises: NotInstalled with the way out."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        raise NotInstalled(f"{', '.join(missing)} not found: apt-get install prometheus prometheus-alertmanager")


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now."""
    held = [socket.socket() for _ in range(count)]
    try:
        for one in held:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


def seconds_of(duration: str) -> float:
    """`1h30m` -> 5400. Raises: ValueError."""
    parts = re.findall(r"(\d+)(ms|[smhdw])", duration)
    if not parts or "".join(n + u for n, u in parts) != duration:
        raise ValueError(f"no duration: {duration!r}")
    unit = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
    return sum(int(n) * unit[u] for n, u in parts)


def shortened(rules: Yaml, factor: float, least_s: int = 4) -> Yaml:
    """A rule file with every `for`, range, horizon of a prediction and evaluation interval divided, for impatient drills.

    Thresholds stay. Ranges stay above four scrapes of a second each, or rates would have nothing to subtract.
    """

    def short(duration: str) -> str:
        return f"{max(least_s, round(seconds_of(duration) / factor))}s"

    groups = []
    for group in rules["groups"]:
        changed = []
        for rule in group["rules"]:
            expr = re.sub(r"\[(\w+)\]", lambda m: f"[{short(m[1])}]", rule["expr"])
            expr = re.sub(r"\boffset (\w+)", lambda m: f"offset {short(m[1])}", expr)
            expr = re.sub(r"(\bpredict_linear\([^()]*), (\d+)\)", lambda m: f"{m[1]}, {round(int(m[2]) / factor)})", expr)
            changed.append({**rule, "expr": expr, **({"for": short(rule["for"])} if "for" in rule else {})})
        groups.append({**group, "interval": "1s", "rules": changed})
    return {"groups": groups}


def localised(config: Yaml, targets: Mapping[str, Mapping[str, str]], alertmanager: str, rules: str, every: str) -> Yaml:
    """The containers' prometheus.yml with other addresses. targets: by job, by label `service`, host:port."""
    jobs = []
    for job in config["scrape_configs"]:
        known = targets[job["job_name"]]
        static = [{"targets": [at], "labels": {"service": service}} for service, at in known.items()]
        jobs.append({**job, "static_configs": static})
    return {
        **config,
        "global": {**config["global"], "scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "rule_files": [f"{rules}/*.yml"],
        "scrape_configs": jobs,
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
    }


@dataclass(frozen=True, slots=True)
class Look:
    """How to look: scrape interval, the drill's division of durations, and where alerts go."""

    every: str = "5s"
    factor: float = 1.0
    alertmanager: Yaml | None = None  # instead of the committed file


class Watchtower:
    """Broker metrics, Prometheus and Alertmanager over a running stack; ended when the block is left."""

    def __init__(self, stack: Stack, folder: Path, look: Look | None = None) -> None:
        self._stack, self._folder, self._look = stack, folder, look or Look()
        self._running: list[subprocess.Popen[bytes]] = []
        self.broker_port, self.prometheus_port, self.alertmanager_port = free_ports(3)

    @property
    def prometheus(self) -> str:
        return f"http://{HOST}:{self.prometheus_port}"

    @property
    def alertmanager(self) -> str:
        return f"http://{HOST}:{self.alertmanager_port}"

    def __enter__(self) -> Watchtower:
        """Raises: NotInstalled, TimeoutError."""
        check_installed()
        shutil.rmtree(self._folder, ignore_errors=True)
        (self._folder / "rules").mkdir(parents=True)
        try:
            self._write()
            self._start()
        except BaseException:
            self.close()
            raise
        # for `headrace status`, which is told of no ports
        at = {"prometheus": self.prometheus, "alertmanager": self.alertmanager}
        (self._folder / ADDRESSES).write_text(json.dumps(at))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _write(self) -> None:
        look, targets = self._look, self._targets()
        for file in sorted(RULES.glob("*.yml")):
            rules = yaml.safe_load(file.read_text())
            text = yaml.safe_dump(rules if look.factor == 1 else shortened(rules, look.factor), sort_keys=False)
            (self._folder / "rules" / file.name).write_text(text)
        config = yaml.safe_load(PROMETHEUS.read_text())
        at = f"{HOST}:{self.alertmanager_port}"
        found = localised(config, targets, at, str(self._folder / "rules"), look.every)
        (self._folder / "prometheus.yml").write_text(yaml.safe_dump(found, sort_keys=False))
        routes = look.alertmanager or yaml.safe_load(ALERTMANAGER.read_text())
        (self._folder / "alertmanager.yml").write_text(yaml.safe_dump(routes, sort_keys=False))

    def _targets(self) -> dict[str, dict[str, str]]:
        services = {name: f"{HOST}:{self._stack.settings.ports.of(name)}" for name in SERVICES}
        return {
            "headrace": services,
            "broker": {"kafka": f"{HOST}:{self.broker_port}"},
            "prometheus": {"prometheus": f"{HOST}:{self.prometheus_port}"},
            "alertmanager": {"alertmanager": f"{HOST}:{self.alertmanager_port}"},
        }

    def _start(self) -> None:
        folder = self._folder
        broker = ("--bootstrap", self._stack.bootstrap, "--port", str(self.broker_port), "--every", str(self._looks_s()))
        self._run("broker", sys.executable, "-m", "headrace_observe.broker", *broker)
        self._run(
            *("alertmanager", "prometheus-alertmanager", f"--config.file={folder}/alertmanager.yml"),
            *(f"--storage.path={folder}/alertmanager", f"--web.listen-address={HOST}:{self.alertmanager_port}"),
            "--cluster.listen-address=",
        )
        self._run(
            *("prometheus", "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb"),
            *(f"--web.listen-address={HOST}:{self.prometheus_port}", "--enable-feature=exemplar-storage"),
            "--web.enable-lifecycle",
        )
        for url in (f"{self.alertmanager}/-/ready", f"{self.prometheus}/-/ready"):
            _await_ready(url, self._running)

    def _looks_s(self) -> float:
        return max(1.0, seconds_of(self._look.every))

    def _run(self, name: str, *command: str) -> None:
        env = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
        with (self._folder / f"{name}.log").open("ab") as log:
            self._running.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env, cwd=self._folder))

    def close(self) -> None:
        """End what was started."""
        (self._folder / ADDRESSES).unlink(missing_ok=True)
        for one in reversed(self._running):
            if one.poll() is None:
                one.send_signal(signal.SIGTERM)
        for one in self._running:
            try:
                one.wait(STOP_S)
            except subprocess.TimeoutExpired:
                one.kill()
        self._running = []

    # -- asking

    def query(self, expr: str) -> list[Yaml]:
        """Instant query. Raises: httpx.HTTPStatusError for what is no PromQL."""
        return self._get("/api/v1/query", query=expr)["result"]

    def query_range(self, expr: str, start_s: float, end_s: float, step_s: float) -> list[Yaml]:
        """Range query; times in Unix seconds."""
        return self._get("/api/v1/query_range", query=expr, start=start_s, end=end_s, step=step_s)["result"]

    def firing(self) -> list[Yaml]:
        """Alerts the real Alertmanager holds active."""
        answer = httpx.get(f"{self.alertmanager}/api/v2/alerts", params={"active": "true"}, timeout=10, trust_env=False)
        return answer.raise_for_status().json()

    def _get(self, path: str, **params: Any) -> Any:
        answer = httpx.get(self.prometheus + path, params=params, timeout=30, trust_env=False)
        if answer.status_code == 400:
            raise ValueError(f"{params.get('query')}: {answer.json()['error']}")
        return answer.raise_for_status().json()["data"]


def _await_ready(url: str, running: Iterable[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            if httpx.get(url, timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        dead = [one for one in running if one.poll() is not None]
        if dead or time.monotonic() > deadline:
            raise TimeoutError(f"{url} is not ready; ended: {[one.args for one in dead]}")
        time.sleep(0.1)


def main() -> int:
    """Look at the running stack until interrupted."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what was started is ended
    stack = Stack()
    if not stack.is_running():
        print("the stack is not running: `make up` first")
        return 1
    try:
        with Watchtower(stack, stack.layout.home / "observe") as tower:
            print(f"prometheus   {tower.prometheus}\nalertmanager {tower.alertmanager}\nCtrl-C ends both", flush=True)
            signal.pause()
    except NotInstalled as error:
        print(error)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
