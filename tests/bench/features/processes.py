"""The processes a streaming part is made of, and how the part talks to them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from bench.features.sender import Sending
from bench.features.stream_worker import Working

END_S = 60.0


class Process:
    """A child with JSON lines on stdin and stdout; its stderr goes to a log. Ends when stdin closes."""

    def __init__(self, module: str, arguments: list[str], log: Path) -> None:
        env = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")}
        env["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
        self._log, self._name = log, module
        with log.open("ab") as errors:
            self._child = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )

    @property
    def running(self) -> bool:
        return self._child.poll() is None

    @property
    def cpu_s(self) -> float:
        """User and system time so far; of a running child."""
        times = psutil.Process(self._child.pid).cpu_times()
        return times.user + times.system

    def send(self, line: Mapping[str, Any]) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(line).encode() + b"\n")
        self._child.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """The next line. Raises RuntimeError with the log's tail if there is none."""
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            self._child.wait(END_S)
            tail = self._log.read_text(errors="replace")[-3_000:]
            raise RuntimeError(f"{self._name} ended with {self._child.returncode}\n{tail}")
        return json.loads(line)

    def ask(self, line: Mapping[str, Any]) -> dict[str, Any]:
        self.send(line)
        return self.answer()

    def end(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        try:
            self._child.wait(END_S)
        except subprocess.TimeoutExpired:
            self._child.send_signal(signal.SIGKILL)
            self._child.wait()


@contextmanager
def process(module: str, arguments: list[str], log: Path) -> Iterator[Process]:
    """Ended with the block, whatever happens in it."""
    child = Process(module, arguments, log)
    try:
        yield child
    finally:
        child.end()


@contextmanager
def worker(working: Working, log: Path) -> Iterator[Process]:
    """A stream worker that owns its tasks."""
    with process("bench.features.stream_worker", [json.dumps(asdict(working))], log) as child:
        child.answer()
        yield child


def sender(sending: Sending, log: Path) -> Process:
    """Sends at once; answers with one line when all is acknowledged."""
    return Process("bench.features.sender", [json.dumps(asdict(sending))], log)


def sent(sending: Sending, log: Path) -> dict[str, Any]:
    """Send, and wait for the end of it."""
    child = sender(sending, log)
    try:
        return child.answer()
    finally:
        child.end()
