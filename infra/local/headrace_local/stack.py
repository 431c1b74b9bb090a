"""The local stack as an object: for `make up`, the demo and the tests alike.

    with Stack(root, home=tmp_path, ports=Ports.free(), ephemeral=True) as stack:
        stack.start(INFRASTRUCTURE)
        producer = Producer({"bootstrap.servers": stack.bootstrap})

Leaving the block, or the death of this process in any way, ends every process of the stack.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType

from headrace_local import dist, postgres, prepare, procs, state
from headrace_local.authority import Authority
from headrace_local.components import Spec, client_env, service_env, specs
from headrace_local.errors import ComponentFailed, LauncherError
from headrace_local.settings import COMPONENTS, HOST, SERVICES, Layout, LocalSettings, Ports, load_settings
from headrace_local.state import ComponentState, StackState

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
POLL_S = 0.05
LOG_TAIL_LINES = 25

Say = Callable[[str], None]
Watch = Callable[[dict[str, ComponentState]], None]


def clone_root() -> Path:
    """The clone this package lies in."""
    return Path(__file__).resolve().parents[3]


class Stack:
    """One local stack.

    Args:
        root: the clone; services run from its sources. Default: the clone of this package.
        home: folder of everything the stack writes. Default `<root>/.headrace`.
        ports: overrides those of `<home>/local.toml`.
        env: additional environment per component name, e.g. {"svc-ingest": {"HEADRACE_LOG_LEVEL": "DEBUG"}}.
        secure: TLS, rights and passwords; None: as `<home>/local.toml` says.
        ephemeral: remove `home` when the context manager is left (tests).
        say: receives progress of fetch and set-up, one line each.
    """

    def __init__(
        self,
        *,
        root: Path | None = None,
        home: Path | None = None,
        ports: Ports | None = None,
        env: dict[str, dict[str, str]] | None = None,
        secure: bool | None = None,
        ephemeral: bool = False,
        say: Say = lambda _: None,
    ) -> None:
        self.layout = Layout.of(root or clone_root(), home)
        settings = load_settings(self.layout.home / "local.toml")
        self.settings: LocalSettings = replace(
            settings, ports=ports or settings.ports, secure=settings.secure if secure is None else secure
        )
        self._env = env or {}
        self._ephemeral = ephemeral
        self._say = say
        self._supervisor: subprocess.Popen[bytes] | None = None

    # Addresses

    @property
    def bootstrap(self) -> str:
        return f"{HOST}:{self.settings.ports.kafka}"

    @property
    def registry_url(self) -> str:
        return self.client_env()["HEADRACE_REGISTRY_URL"]

    @property
    def zipkin_url(self) -> str:
        return f"http://{HOST}:{self.settings.ports.zipkin}"

    @property
    def postgres_dsn(self) -> str:
        return self.client_env()["HEADRACE_POSTGRES_DSN"]

    def url(self, service: str) -> str:
        """Base address of a service's HTTP door."""
        return f"http://{HOST}:{self.settings.ports.of(service)}"

    def client_env(self, principal: str = "operator") -> dict[str, str]:
        """HEADRACE_* that point the command line or a test at this stack, as one principal where it is secure."""
        return client_env(self.layout, self.settings, principal=principal)

    def service_env(self, service: str) -> dict[str, str]:
        """HEADRACE_* as the launcher gives them to a service: to run one by hand, or in process in a test."""
        return service_env(self.layout, self.settings, service) | self._env.get(service, {})

    # Life

    def start(
        self, components: Iterable[str] = COMPONENTS, wait_s: float = START_TIMEOUT_S, watch: Watch | None = None
    ) -> None:
        """Fetch, check, set up, start and wait until every component is ready. Idempotent.

        Args:
            components: a subset of COMPONENTS; a stack that already runs must consist of the same ones.
            wait_s: 0 returns without waiting.
            watch: called with the components' state after each poll while waiting.
        Raises: LauncherError when something is in the way, ComponentFailed with the log's tail; in both cases nothing of what
            this call started is left running.
        """
        wanted = set(components)
        names = tuple(name for name in COMPONENTS if name in wanted)
        if wanted - set(names) or not names:
            raise LauncherError(
                f"no such component: {', '.join(sorted(wanted - set(names))) or '-'}", f"known: {', '.join(COMPONENTS)}"
            )
        self.layout.home.mkdir(parents=True, exist_ok=True)
        self.layout.make()
        with state.locked(self.layout.run / "start.lock") as mine:
            if not mine:
                raise LauncherError(
                    f"another start of this stack is under way ({self.layout.home})", "wait for it, or `make down`"
                )
            if self.is_running():
                self._join(names)
                if wait_s:
                    self.wait_ready(wait_s, watch)
                return
            try:
                self._start_new(names)
                if wait_s:
                    self.wait_ready(wait_s, watch)
            except BaseException:
                self.stop()
                raise

    def _start_new(self, names: tuple[str, ...]) -> None:
        end_leftovers(self.layout)
        self._launch(self._prepare(names))

    def _prepare(self, names: tuple[str, ...]) -> list[Spec]:
        """Check and set up what the components need. Overridden by tests of the supervisor."""
        prepare.check_ports(self.layout, self.settings, names)
        prepare.check_disk(self.layout, self.settings)
        if any(name in ("kafka", "registry", "zipkin") for name in names):
            dist.fetch(self.layout, self._say)
        ident = prepare.check_data(self.layout, secure=self.settings.secure)
        self._say("setting up")
        prepare.set_up(self.layout, self.settings, names, ident)
        prepare.write_operator_env(self.layout, self.client_env())
        prepare.write_addresses(self.layout, self.settings, self.client_env())
        return specs(self.layout, self.settings, names, self._env)

    def _launch(self, found: list[Spec]) -> None:
        self._write_spec(found)
        me = os.getpid()
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        env["PYTHONPATH"] = str(Path(__file__).parents[1])
        with self.layout.log("supervisor").open("ab") as log:
            self._supervisor = subprocess.Popen(
                [sys.executable, "-m", "headrace_local.supervisor", str(self.layout.run), str(me), procs.identity(me) or ""],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=env,
                cwd=self.layout.home,
            )
        self._await_supervisor()

    def _write_spec(self, found: list[Spec]) -> None:
        path = self.layout.run / "spec.json"
        path.write_text(json.dumps([asdict(spec) for spec in found], indent=1))
        path.chmod(0o600)

    def _await_supervisor(self) -> None:
        assert self._supervisor is not None
        deadline = time.monotonic() + 20
        while (now := self.state()) is None or now.pid != self._supervisor.pid:
            if self._supervisor.poll() is not None or time.monotonic() > deadline:
                raise LauncherError("the supervisor did not start\n" + self.log_tail("supervisor"), "read the lines above")
            time.sleep(POLL_S)

    def _join(self, names: tuple[str, ...]) -> None:
        """A running stack is left as it is; what was stopped or given up in it is tried again."""
        now = self.state()
        if now is None or now.stopping:
            raise LauncherError("the stack is just stopping", "wait a moment and start again")
        missing = [name for name in names if name not in now.components]
        if missing:
            raise LauncherError(f"a stack without {', '.join(missing)} is running", "`make down`, then start again")
        moved = [name for name in names if now.components[name].port != self.settings.ports.of(name)]
        if moved:
            raise LauncherError(
                f"the running stack has other ports ({moved[0]}: {now.components[moved[0]].port})", "`make down` first"
            )
        for name in names:
            if now.components[name].phase in (state.STOPPED, state.FAILED):
                self.start_component(name)

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S, watch: Watch | None = None) -> None:
        """Block until every component is ready. Raises ComponentFailed with the tail of the log of one that was given up."""
        deadline = time.monotonic() + timeout_s
        while True:
            components = self.components()
            if watch is not None:
                watch(components)
            for name, part in components.items():
                if part.phase == state.FAILED:
                    raise ComponentFailed(
                        f"{name} was given up: {part.reason}\n{self.log_tail(name)}",
                        f"mend it, then start again; whole log: {self.layout.log(name)}",
                    )
            if components and all(part.phase == state.READY for part in components.values()):
                return
            if not self.is_running():
                raise LauncherError("the stack is not running\n" + self.log_tail("supervisor"), "make up")
            if time.monotonic() > deadline:
                slow = [name for name, part in components.items() if part.phase != state.READY]
                raise ComponentFailed(
                    f"not ready after {timeout_s:g} s: {', '.join(slow)}\n{self.log_tail(slow[0])}",
                    f"logs are in {self.layout.logs}",
                )
            time.sleep(POLL_S)

    def stop(self) -> None:
        """Stop everything, services first, and wait for the end. Idempotent; also ends leftovers of a supervisor that died."""
        now = self.state()
        if now is not None and self.is_running():
            procs.send(now.pid, now.born, signal.SIGTERM)
            if not procs.wait_gone(now.pid, now.born, STOP_TIMEOUT_S):
                procs.send(now.pid, now.born, signal.SIGKILL)
        if self._supervisor is not None:
            if now is None or now.pid != self._supervisor.pid:
                self._supervisor.terminate()  # it had not come to write its state
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._supervisor.wait(STOP_TIMEOUT_S)
            self._supervisor = None
        end_leftovers(self.layout)
        self.layout.addresses.unlink(missing_ok=True)

    def detach(self) -> None:
        """Let the stack live on after this process (`make up`)."""
        if not state.command(self.layout.run / "control", do="detach"):
            raise LauncherError("the supervisor is gone", "make up")

    def wipe(self) -> None:
        """Remove events, archive, state, database, objects, logs. Keys, reports, settings and fetched files stay."""
        if self.is_running():
            raise LauncherError("the stack is running", "`make down` first")
        postgres.wipe(self.layout)
        layout = self.layout
        for folder in (layout.data, layout.state, layout.objects, layout.lake, layout.drop, layout.logs, layout.run):
            shutil.rmtree(folder, ignore_errors=True)

    def __enter__(self) -> Stack:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        if self._ephemeral:
            self.wipe()
            shutil.rmtree(self.layout.home, ignore_errors=True)

    # Looking and meddling

    def is_running(self) -> bool:
        """Whether a supervisor holds this stack."""
        return state.is_locked(self.layout.run / "lock")

    def is_starting(self) -> bool:
        """Whether some process is inside `start` now."""
        return state.is_locked(self.layout.run / "start.lock")

    def state(self) -> StackState | None:
        return state.read(self.layout.run / "state.json")

    def components(self) -> dict[str, ComponentState]:
        """State per component, in start order; empty when nothing was started."""
        now = self.state()
        return now.components if now else {}

    def service(self, name: str) -> ComponentState:
        """State of one component. Raises LauncherError when it is not part of the running stack."""
        part = self.components().get(name)
        if part is None:
            raise LauncherError(f"{name} is not part of the running stack", "see `make status`")
        return part

    def kill(self, name: str, signum: int = signal.SIGKILL) -> int:
        """Signal the process of one component and return its pid. The supervisor restarts what dies with non-zero.

        After SIGKILL it returns once the death was noticed, so that `wait_ready` means the next life.
        """
        part = self.service(name)
        if not procs.send(part.pid, part.born, signum):
            raise LauncherError(f"{name} is not running ({part.phase})", "see `make status`")
        if signum == signal.SIGKILL:
            self._await(
                lambda: self.service(name).born != part.born or self.service(name).phase in (state.BACKOFF, state.FAILED)
            )
        return part.pid

    def stop_component(self, name: str) -> None:
        """Stop one component in order and leave it down."""
        self._command("stop", name)
        self._await(lambda: self.service(name).phase == state.STOPPED)

    def start_component(self, name: str) -> None:
        """Start a stopped or given-up component again; `wait_ready` tells when it is back."""
        self._command("start", name)
        self._await(lambda: self.service(name).phase not in (state.STOPPED, state.FAILED))

    def rotate(self, name: str, timeout_s: float = START_TIMEOUT_S) -> None:
        """Give one service of a secure stack a new key and certificate and begin its next life; the others go on.

        A running client keeps the certificate it began with: Kafka's clients read the files once.
        """
        if not self.settings.secure or name not in SERVICES:
            raise LauncherError(f"{name} has no certificate here", f"of a secure stack, one of {', '.join(SERVICES)}")
        Authority(self.layout.tls).issue(name)
        self.stop_component(name)
        self.start_component(name)
        self.wait_ready(timeout_s)

    def _command(self, do: str, name: str) -> None:
        self.service(name)
        if not state.command(self.layout.run / "control", do=do, name=name):
            raise LauncherError("the supervisor is gone", "make up")

    def _await(self, done: Callable[[], bool], timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > deadline or not self.is_running():
                raise LauncherError("the supervisor did not follow", f"read {self.layout.log('supervisor')}")
            time.sleep(0.02)

    def memory_mb(self) -> dict[str, float]:
        """Resident memory per running component, in MB, children included."""
        return {
            name: procs.memory_mb(part.pid) for name, part in self.components().items() if procs.is_alive(part.pid, part.born)
        }

    def log_tail(self, name: str, lines: int = LOG_TAIL_LINES) -> str:
        """The last lines of a component's log."""
        try:
            text = self.layout.log(name).read_text(errors="replace")
        except FileNotFoundError:
            return f"({name} wrote no log)"
        return "\n".join(f"  {name} | {line}" for line in text.splitlines()[-lines:])


def end_leftovers(layout: Layout) -> None:
    """End recorded processes whose supervisor is gone. Only by (pid, birth): a stranger with an old id is left alone."""
    now = state.read(layout.run / "state.json")
    if now is None or procs.is_alive(now.pid, now.born):
        return
    for part in now.components.values():
        if procs.is_alive(part.pid, part.born):
            procs.kill_group(part.pid)
            procs.wait_gone(part.pid, part.born, 10.0)
