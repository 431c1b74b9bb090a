"""What a drill holds: the played stack, somebody who keeps asking, the lake's files, runbooks and their commands."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from headrace_observe.local import FOLDER, Watchtower
from headrace_observe.routing import StandIns

from drill.play import Played
from headrace.declare import compile, load
from headrace.plan.hashes import to_json

RUNBOOKS = FOLDER / "runbooks"
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
ASK_EVERY_S = 0.1
COMMAND_S = 240.0
OF_A_FLIGHT = ("carrier", "tail", "origin", "dest")


class Asker(threading.Thread):
    """Asks for decisions over REST all the time, at an event time that can be set, of an aircraft that has just departed then:
    what is known of it is fresh. Each answer's status is counted.

    departed: (from ms, until ms) -> departures of that time in the year, oldest first.
    """

    def __init__(self, url: str, departed: Callable[[int, int], Sequence[Mapping[str, Any]]]) -> None:
        super().__init__(name="asker", daemon=True)
        self._departed = departed
        self._t_ms, self.paused, self.stop = 0, threading.Event(), threading.Event()
        self.answers: dict[int, int] = {}
        self._http = httpx.Client(base_url=url, timeout=10.0, trust_env=False)
        self._row: dict[str, Any] = {}

    def like(self, row: dict[str, Any]) -> None:
        """Ask as this row, with ids, times and an aircraft of its own."""
        self._row = row

    @property
    def t_ms(self) -> int:
        return self._t_ms

    @t_ms.setter
    def t_ms(self, t_ms: int) -> None:
        self._t_ms = t_ms
        there = [row for row in self._departed(t_ms - HOUR_MS, t_ms) if row["tail"] is not None]
        if there and self._row:
            self._row = self._row | {name: there[-1][name] for name in OF_A_FLIGHT}

    def run(self) -> None:
        number = 0
        while not self.stop.wait(ASK_EVERY_S):
            if self.paused.is_set() or not self._row:
                continue
            number += 1
            own = {"flight_id": f"drill-{os.getpid()}-{number}", "requested_at": self._t_ms, "ask": True}
            body = self._row | own
            try:
                status = self._http.post("/v1/flights/late_arrival/decisions", content=orjson.dumps(body)).status_code
            except httpx.HTTPError:
                status = 0
            self.answers[status] = self.answers.get(status, 0) + 1


@dataclass
class Rig:
    """Everything a fault may touch. at_ms: event time reached; grows as events are sent."""

    played: Played
    tower: Watchtower
    stands: StandIns
    asker: Asker
    at_ms: int = 0
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def stack(self) -> Any:
        return self.played.stack

    # -- events

    def send(self, stream: str, hours: float, from_ms: int | None = None) -> int:
        """Send what the year holds of a stream from the time reached on; returns how many rows."""
        low = self.at_ms if from_ms is None else from_ms
        lines = self.played.story.year.lines(stream, low, low + int(hours * HOUR_MS))
        self.post(stream, lines)
        return len(lines)

    def post(self, stream: str, lines: list[bytes]) -> int:
        """One batch to svc-ingest, as it is; returns the status."""
        return self.played.post(stream, lines)

    def catch_up(self, timeout_s: float = 60.0) -> None:
        """Wait until the views stand still or have all that was sent; who asks then asks about the time they have reached."""
        before, deadline = -1, time.monotonic() + timeout_s
        while before != (now := self.played.reached_ms()) and now < self.at_ms and time.monotonic() < deadline:
            before = now
            time.sleep(5)
        self.asker.t_ms = now

    # -- processes

    @contextmanager
    def frozen(self, service: str) -> Iterator[int]:
        """SIGSTOP until the block is left, or until a runbook lets it go on."""
        pid = self.stack.service(service).pid
        os.kill(pid, signal.SIGSTOP)
        try:
            yield pid
        finally:
            with suppress(ProcessLookupError):  # it was ended meanwhile
                os.kill(pid, signal.SIGCONT)

    # -- the lake

    def tamper(self, topic: str, column: str, value: int, since_s: float) -> list[tuple[Path, bytes]]:
        """Overwrite a column in the files written since; returns (file, bytes before) of all that was changed."""
        folder = self.stack.layout.lake / topic
        before: list[tuple[Path, bytes]] = []
        for file in sorted(folder.glob("*.parquet")):
            if file.stat().st_mtime < since_s:
                continue
            table = pq.read_table(file)
            at = table.column_names.index(column)
            before.append((file, file.read_bytes()))
            size = file.stat().st_size
            changed = table.set_column(at, table.schema.field(at), pa.array([value] * len(table), table.schema.field(at).type))
            pq.write_table(changed, file, compression="snappy")
            before += _resized(folder / "_delta_log", file, size)
        return before

    # -- runbooks

    def follow(self, alert: str) -> list[str]:
        """Run the repair commands of a runbook; returns them. Raises: RuntimeError if one fails."""
        commands = repair_commands((RUNBOOKS / f"{alert}.md").read_text())
        for command in commands:
            done = subprocess.run(
                ["bash", "-c", here(command)], check=False, capture_output=True, text=True, timeout=COMMAND_S,
                cwd=self.stack.layout.root, env=dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p)),
            )  # fmt: skip
            if done.returncode:
                raise RuntimeError(f"{command}: {done.returncode}\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
        return commands


def repair_commands(text: str) -> list[str]:
    """The lines of the fenced blocks that say how to repair."""
    blocks = re.findall(r"^```sh repair\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def here(command: str) -> str:
    """A runbook's command as the drill runs it: what is not installed runs from the sources. It finds the stack itself."""
    words = shlex.split(command)
    python = shlex.quote(sys.executable)
    if words[0] == ".venv/bin/headrace":
        return " ".join([python, "-m", "headrace.cli.main", *map(shlex.quote, words[1:])])
    if words[0] == ".venv/bin/python":
        return " ".join([python, *map(shlex.quote, words[1:])])
    if words[:2] == ["make", "up"]:
        return f"make -o env PY={python} up"
    return command


def _resized(log: Path, file: Path, old_size: int) -> list[tuple[Path, bytes]]:
    """Make Delta's log tell the file's new size; returns (log file, bytes before)."""
    for entry in log.glob("*.json"):
        text = entry.read_text()
        if file.name in text:
            lines = []
            for line in text.splitlines():
                action = json.loads(line)
                if action.get("add", {}).get("path") == file.name and action["add"]["size"] == old_size:
                    action["add"]["size"] = file.stat().st_size
                lines.append(json.dumps(action))
            raw = text.encode()
            entry.write_text("\n".join(lines) + "\n")
            return [(entry, raw)]
    return []


def until(what: str, holds: Any, timeout_s: float, every_s: float = 0.3) -> float:
    """Wait for a condition; returns the seconds it took. Raises: TimeoutError."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > timeout_s:
            raise TimeoutError(f"{what}: not within {timeout_s:g} s")
        time.sleep(every_s)
    return time.monotonic() - began


def stir(rig: Rig, times: int) -> None:
    """Admit a pipeline and retire it, again and again, without waiting for anybody's answer: the audit chain grows by each."""
    plan = to_json(compile(load(rig.stack.layout.root / "schemas" / "pipelines" / "faulty")))
    with rig.played.story.as_person("ada") as client:
        for _ in range(times):
            client.apply(plan)
            client.retire("faulty")


def half_a_day(rig: Rig) -> None:
    """Twelve hours of all streams; event time goes on by as much."""
    high_ms = rig.at_ms + 12 * HOUR_MS
    rig.played.story.doors.drop(rig.played.story.year.streams["weather"].csv(rig.at_ms, high_ms))
    for stream in ("departures", "arrivals", "scheduled"):
        rig.send(stream, 12)
    rig.at_ms = high_ms


@contextmanager
def held(pid: int, stopped_s: float, let_go_s: float) -> Iterator[None]:
    """Stop a process and let it go on, again and again while the block lasts."""
    stop = threading.Event()

    def pulse() -> None:
        with suppress(ProcessLookupError):  # it was ended meanwhile
            while not stop.is_set():
                os.kill(pid, signal.SIGSTOP)
                time.sleep(stopped_s)
                os.kill(pid, signal.SIGCONT)
                stop.wait(let_go_s)

    with beside(pulse, stop):
        yield


@contextmanager
def going(rig: Rig, act: Callable[[Rig], None], every_s: float = 1.0) -> Iterator[None]:
    """Act again and again while the block lasts."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            act(rig)
            stop.wait(every_s)

    with beside(run, stop):
        yield


@contextmanager
def beside(run: Callable[[], None], stop: threading.Event) -> Iterator[None]:
    """Run beside the block; `stop` is set when it is left."""
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(90)
