"""A contender's process, on a core of its own: lines on stdin, one JSON line as answer to each; what it costs, from /proc."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

ENGINE_CORE, BROKER_CORE = 1, 0
ANSWER_S = 300.0
END_S = 60.0


def pinned(command: Sequence[str], core: int = ENGINE_CORE) -> list[str]:
    """The command so that it and its children have one core."""
    return ["taskset", "-c", str(core), *command]


class Child:
    """Ends with the `with` block, whatever happens in it; its stderr goes to a log, and what it says if it does not answer."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        env: Mapping[str, str] | None = None,
        core: int = ENGINE_CORE,
        *,
        answers: bool = True,
    ) -> None:
        self._log, self._name = log, Path(command[0]).name
        with log.open("ab") as errors:
            said = subprocess.PIPE if answers else errors
            self._child = subprocess.Popen(
                pinned(command, core), env=env, stdin=subprocess.PIPE, stdout=said, stderr=errors, bufsize=0
            )
        self._rest = b""

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child.poll() is None

    def send(self, line: str) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(line.encode() + b"\n")

    def answer(self, timeout_s: float = ANSWER_S) -> dict[str, Any]:
        """The next JSON line; other lines are passed over. Raises RuntimeError with the log's tail if none comes."""
        assert self._child.stdout is not None
        until = time.monotonic() + timeout_s
        while True:
            line, found, self._rest = self._rest.partition(b"\n")
            if found:
                if line.startswith(b"{"):
                    return json.loads(line)
                continue
            self._rest = line
            ready, _, _ = select.select([self._child.stdout], [], [], max(0.0, until - time.monotonic()))
            more = os.read(self._child.stdout.fileno(), 65_536) if ready else b""
            if not more:
                raise self.failure("did not answer" if self.running and not ready else "ended")
            self._rest += more

    def ask(self, line: str) -> dict[str, Any]:
        self.send(line)
        return self.answer()

    def failure(self, what: str) -> RuntimeError:
        tail = self._log.read_text(errors="replace")[-3_000:]
        return RuntimeError(f"{self._name} {what} (code {self._child.poll()})\n{tail}")

    def cpu_s(self) -> float:
        """User and system time so far, children included."""
        return sum(t.user + t.system for t in (p.cpu_times() for p in self._family()))

    def peak_bytes(self) -> int:
        """The most memory it ever held, children added."""
        return sum(_peak_of(p.pid) for p in self._family())

    def resident_bytes(self) -> int:
        return sum(p.memory_info().rss for p in self._family())

    def terminate(self) -> None:
        """Ask it to stop in order; `end` waits."""
        self._child.terminate()

    def kill(self) -> None:
        self._child.send_signal(signal.SIGKILL)
        self._child.wait()

    def end(self) -> None:
        if self._child.stdin is not None and not self._child.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._child.stdin.close()
        try:
            self._child.wait(END_S)
        except subprocess.TimeoutExpired:
            self.kill()
        if self._child.stdout is not None:
            self._child.stdout.close()

    def _family(self) -> list[psutil.Process]:
        me = psutil.Process(self._child.pid)
        return [me, *me.children(recursive=True)]


def _peak_of(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
