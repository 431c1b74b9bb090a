"""Keeps the processes of one stack running; ends all of them when it ends.

Runs as `python -m headrace_local.supervisor RUN_FOLDER OWNER_PID OWNER_BORN` in a session of its own, so that Ctrl-C at a
terminal reaches whoever started it and not the children. It stops everything in order

- on SIGTERM or SIGINT (a second one kills at once),
- when its owner (the process that started it) is gone, unless it was told to `detach`.

If it dies itself, kill -9 included, the kernel ends the children (shim.py). It knows nothing of Kafka or Python services:
all that is in the specs.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from headrace_local import probes, procs
from headrace_local.components import Spec
from headrace_local.settings import can_bind
from headrace_local.state import (
    BACKOFF,
    FAILED,
    READY,
    STARTING,
    STOPPED,
    WAITING,
    ComponentState,
    StackState,
    locked,
    write,
)

TICK_S = 0.1
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.2, 10.0
QUICK_FAILURES_MAX = 5  # deaths in a row without having been ready
RESTARTS_MAX, RESTARTS_WINDOW_S = 20, 60.0  # deaths after having been ready
READY_TIMEOUT_S = 90.0
OWNER_CHECK_S = 0.5
LOOPBACK = ("127.", "::1", "::ffff:127.")
LOG_BYTES_MAX = 64 * 2**20


class Child:
    """One component: its spec, its process, and what its past says about trying again."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.state = ComponentState(spec.name, port=spec.ports[0])
        self.process: subprocess.Popen[bytes] | None = None
        self.probe: Future[str] | None = None
        self.wanted = True
        self.quick_failures = 0
        self.deaths: list[float] = []
        self.started = 0.0
        self.next_start = 0.0
        self.kill_at = float("inf")  # when a process asked to stop is killed

    def become(self, phase: str, reason: str = "") -> None:
        self.state.phase, self.state.reason, self.state.since = phase, reason, time.time()
        print(f"{time.strftime('%H:%M:%S')} {self.spec.name} {phase} {reason}".rstrip(), flush=True)

    def start(self) -> None:
        """Start the process. Called from the main thread only: the children's lives hang on the thread that made them."""
        rotate(Path(self.spec.log))
        with Path(self.spec.log).open("ab") as log:
            self.process = subprocess.Popen(
                procs.shielded(self.spec.argv, self.spec.user),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.spec.env,
                cwd=self.spec.cwd,
                start_new_session=True,
            )
        self.started, self.kill_at = time.monotonic(), float("inf")
        self.state.pid = self.process.pid
        self.state.born = procs.identity(self.process.pid) or ""
        self.probe = None
        self.become(STARTING)

    def signal(self, signum: int) -> None:
        """Signal the leader; it stops its own children in order. SIGKILL goes to the whole group."""
        if self.process is None:
            return
        if signum == signal.SIGKILL:
            procs.kill_group(self.process.pid)
        else:
            self.process.send_signal(signum)

    def ask_to_stop(self) -> None:
        """Ask the process to end in order; after its grace it is killed."""
        self.wanted = False
        self.kill_at = time.monotonic() + self.spec.grace_s
        self.signal(signal.SIGCONT)  # a paused process does not hear the next one
        self.signal(signal.Signals[self.spec.stop_signal])

    def ended(self) -> int | None:
        """The exit code if the process has just ended; what it left of its group is ended too."""
        if self.process is None:
            return None
        code = self.process.poll()
        if code is not None:
            procs.kill_group(self.process.pid)
            self.process = None
            self.probe = None
        return code

    def failed_to_stay(self, code: int) -> None:
        """Decide after an exit nobody asked for: try again later, or give up."""
        now = time.monotonic()
        cause = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        if self.state.phase == READY:
            self.quick_failures = 0
            self.deaths = [at for at in self.deaths if now - at < RESTARTS_WINDOW_S] + [now]
        else:
            self.quick_failures += 1
        if self.quick_failures >= QUICK_FAILURES_MAX:
            self.become(FAILED, f"{cause}, {self.quick_failures} times in a row before it was ready")
        elif len(self.deaths) > RESTARTS_MAX:
            self.become(FAILED, f"{cause}, {len(self.deaths)} times within {RESTARTS_WINDOW_S:g} s")
        else:
            delay = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** max(0, self.quick_failures - 1))
            self.next_start = now + delay
            self.state.restarts += 1
            self.become(BACKOFF, f"{cause}, again in {delay:.1f} s")


def rotate(log: Path) -> None:
    """Keep one older log. By copy and truncate, since the writer keeps its handle (opened for append)."""
    if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
        log.with_suffix(".log.1").write_bytes(log.read_bytes())
        os.truncate(log, 0)


class Supervisor:
    """The loop: reap, obey, start, probe, write down."""

    def __init__(self, run: Path, specs: list[Spec], owner: tuple[int, str]) -> None:
        self.run_folder = run
        self.children = {spec.name: Child(spec) for spec in specs}
        self.owner = owner
        self.state = StackState(os.getpid(), procs.identity(os.getpid()) or "")
        self.state.components = {name: child.state for name, child in self.children.items()}
        self.stop_asked = 0
        self.written = ""
        self.pool = ThreadPoolExecutor(len(specs))
        self.control = self._open_control()
        self.wake, wake_write = os.pipe()
        os.set_blocking(self.wake, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._on_stop)

    def _on_stop(self, *_: object) -> None:
        self.stop_asked += 1

    def _open_control(self) -> int:
        path = self.run_folder / "control"
        path.unlink(missing_ok=True)
        os.mkfifo(path, 0o600)
        return os.open(path, os.O_RDWR | os.O_NONBLOCK)  # read-write: never at end of file between two writers

    def run(self) -> None:
        """Supervise until told to stop; whatever ends the loop, the children are ended in order."""
        try:
            self._supervise()
        finally:
            self.stop_all()

    def _supervise(self) -> None:
        owner_checked = log_checked = time.monotonic()
        while not self.stop_asked:
            self._pause()
            self._obey()
            for child in self.children.values():
                self._advance(child)
            now = time.monotonic()
            if not self.state.detached and now - owner_checked > OWNER_CHECK_S:
                owner_checked = now
                if not procs.is_alive(*self.owner):
                    print("the owner is gone: stopping", flush=True)
                    break
            if now - log_checked > 30:
                log_checked = now
                for child in self.children.values():
                    rotate(Path(child.spec.log))
            self._write_down()

    def _pause(self) -> None:
        select.select([self.wake, self.control], [], [], TICK_S)
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake, 4096)

    def _obey(self) -> None:
        """Commands: detach; stop, start or restart one component."""
        try:
            lines = os.read(self.control, 65536).decode().splitlines()
        except BlockingIOError:
            return
        for line in lines:
            words = json.loads(line)
            child = self.children.get(words.get("name", ""))
            if words["do"] == "detach":
                self.state.detached = True
            elif child is not None and words["do"] == "stop":
                child.ask_to_stop()
                if child.process is None:
                    child.become(STOPPED, "asked")
            elif child is not None and words["do"] == "start":
                child.wanted = True
                child.quick_failures, child.deaths = 0, []
                if child.process is None:
                    child.become(WAITING)

    def _advance(self, child: Child) -> None:
        code = child.ended()
        if code is not None:
            if child.state.phase == FAILED:
                pass  # it was killed because it failed; the reason stays
            elif not child.wanted or code == 0:
                child.become(STOPPED, "asked" if not child.wanted else "ended by itself")
            else:
                child.failed_to_stay(code)
        now = time.monotonic()
        if not child.wanted and now > child.kill_at:
            child.signal(signal.SIGKILL)
        needs_ready = all(self.children[need].state.phase == READY for need in child.spec.needs)
        due = child.state.phase == WAITING or (child.state.phase == BACKOFF and now >= child.next_start)
        if child.wanted and due and needs_ready:
            child.start()
        elif child.wanted and child.state.phase == STARTING:
            self._probe(child)

    def _probe(self, child: Child) -> None:
        if child.probe is None:
            child.probe = self.pool.submit(readiness, child.spec, child.state.pid)
        elif child.probe.done():
            verdict, child.probe = child.probe.result(), None
            if verdict == "":
                child.become(READY)
                child.quick_failures = 0
            elif verdict != "not yet":
                child.wanted = False
                child.signal(signal.SIGKILL)
                child.become(FAILED, verdict)
            elif time.monotonic() - child.started > READY_TIMEOUT_S:
                child.signal(signal.SIGKILL)  # counts as a quick failure when it is reaped

    def _write_down(self) -> None:
        now = repr(self.state)
        if now != self.written:
            write(self.run_folder / "state.json", self.state)
            self.written = now

    def stop_all(self) -> None:
        """Stop rank by rank, services first: signal, wait for the grace, then kill."""
        self.state.stopping = True
        self._write_down()
        asked = self.stop_asked
        for rank in sorted({child.spec.rank for child in self.children.values()}):
            layer = [child for child in self.children.values() if child.spec.rank == rank]
            for child in layer:
                child.ask_to_stop()
            while any(child.process for child in layer):
                self._pause()
                for child in layer:
                    if child.ended() is not None:
                        child.become(STOPPED, "asked")
                    elif self.stop_asked > asked or time.monotonic() > child.kill_at:
                        child.signal(signal.SIGKILL)
                self._write_down()
        for child in self.children.values():
            if child.state.phase not in (STOPPED, FAILED):
                child.become(STOPPED, "asked")
        self._write_down()
        self.pool.shutdown(wait=False, cancel_futures=True)


def readiness(spec: Spec, pid: int) -> str:
    """`""` when ready, `"not yet"`, or what is wrong for good: a stranger on its port, a listener open to the network."""
    time.sleep(0.05)  # runs in a thread of its own: bounds the rate of questions
    if not probes.is_ready(*spec.probe):
        return "not yet"
    own = procs.listeners(pid)
    for port in spec.ports:
        if port not in own and can_bind(port):
            return "not yet"
        if port not in own:
            own = procs.listeners(pid)  # it may have begun to listen since: doors of one process open one after the other
        if port not in own:
            return f"port {port} answers, but {procs.holder(port)} holds it, not our pid {pid}"
    exposed = sorted(f"{ip}:{port}" for port, ips in own.items() for ip in ips if not ip.startswith(LOOPBACK))
    return f"listens beyond this machine: {', '.join(exposed)}" if exposed else ""


def main() -> None:
    run, owner_pid, owner_born = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    with locked(run / "lock") as mine:
        if not mine:
            sys.exit("another supervisor holds this stack")
        specs = Spec.read(run / "spec.json")
        Supervisor(run, specs, (owner_pid, owner_born)).run()


if __name__ == "__main__":
    main()
