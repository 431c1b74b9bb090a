"""The supervisor keeps its promises to real processes: restart, give up, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace_local import Ports, procs, state
from headrace_local.components import Spec
from headrace_local.errors import ComponentFailed, LauncherError
from support.toys import ToyStack, toy

ROOT = Path(__file__).resolve().parents[3]


def two(home: Path, ports: Ports) -> list[Spec]:
    return [toy(home, "kafka", ports.kafka, rank=2), toy(home, "svc-ingest", ports.svc_ingest, needs=["kafka"])]


def one(lines: str, **words: float) -> Callable[[Path, Ports], list[Spec]]:
    return lambda home, ports: [toy(home, "svc-ingest", ports.svc_ingest, lines, grace_s=words.get("grace_s", 5.0))]


def until(done: Callable[[], bool], timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "did not come about in time"
        time.sleep(0.02)


def test_components_start_after_what_they_need_and_stop_before_it(tmp_path: Path) -> None:
    with ToyStack(tmp_path, two) as stack:
        stack.start(("kafka", "svc-ingest"))
        said = stack.layout.log("supervisor").read_text().splitlines()
        assert [line.split()[1:3] for line in said] == [
            ["kafka", "starting"],
            ["kafka", "ready"],
            ["svc-ingest", "starting"],
            ["svc-ingest", "ready"],
        ]
        stack.stop()
        stopped = [line.split()[1] for line in stack.layout.log("supervisor").read_text().splitlines() if "stopped" in line]
        assert stopped == ["svc-ingest", "kafka"]


def test_starting_twice_leaves_the_running_processes_alone(tmp_path: Path) -> None:
    with ToyStack(tmp_path, two) as stack:
        stack.start(("kafka", "svc-ingest"))
        before = {name: part.pid for name, part in stack.components().items()}
        stack.start(("kafka", "svc-ingest"))
        assert {name: part.pid for name, part in stack.components().items()} == before
        with pytest.raises(LauncherError, match="a stack without postgres is running"):
            stack.start(("kafka", "postgres"))


def test_a_killed_component_is_back_within_two_seconds(tmp_path: Path) -> None:
    with ToyStack(tmp_path, two) as stack:
        stack.start(("kafka", "svc-ingest"))
        began = time.monotonic()
        old = stack.kill("svc-ingest")
        stack.wait_ready(10)
        assert time.monotonic() - began < 2.0
        assert stack.service("svc-ingest").pid != old
        assert stack.service("svc-ingest").restarts == 1


def test_a_component_that_never_gets_ready_is_given_up_with_its_last_words(tmp_path: Path) -> None:
    stack = ToyStack(tmp_path, one("sys.exit('no such setting: HEADRACE_TYPO')"))
    with pytest.raises(ComponentFailed, match=r"(?s)exit code 1, 5 times in a row.*no such setting: HEADRACE_TYPO"):
        stack.start(("svc-ingest",))
    assert not stack.is_running()


def test_a_given_up_component_starts_again_when_asked(tmp_path: Path) -> None:
    with ToyStack(tmp_path, one("if not os.path.exists('mended'): sys.exit(1)")) as stack:
        stack.start(("svc-ingest",), wait_s=0)
        until(lambda: stack.service("svc-ingest").phase == state.FAILED)
        (tmp_path / "mended").touch()
        stack.start(("svc-ingest",))
        assert stack.service("svc-ingest").phase == state.READY


def test_a_component_stays_down_when_stopped_and_comes_back_when_started(tmp_path: Path) -> None:
    with ToyStack(tmp_path, two) as stack:
        stack.start(("kafka", "svc-ingest"))
        stack.stop_component("svc-ingest")
        gone = stack.service("svc-ingest")
        assert not procs.is_alive(gone.pid, gone.born)
        stack.start_component("svc-ingest")
        stack.wait_ready(10)


def test_a_process_deaf_to_its_stop_signal_is_killed_after_its_grace(tmp_path: Path) -> None:
    with ToyStack(tmp_path, one("signal.signal(signal.SIGTERM, signal.SIG_IGN)", grace_s=0.5)) as stack:
        stack.start(("svc-ingest",))
        deaf = stack.service("svc-ingest")
        stack.stop()
        assert not procs.is_alive(deaf.pid, deaf.born)


def test_a_paused_process_is_ended_too(tmp_path: Path) -> None:
    with ToyStack(tmp_path, one("")) as stack:
        stack.start(("svc-ingest",))
        paused = stack.service("svc-ingest")
        stack.kill("svc-ingest", signal.SIGSTOP)
        stack.stop()
        assert not procs.is_alive(paused.pid, paused.born)


def test_children_of_a_component_end_with_it(tmp_path: Path) -> None:
    lines = "open('grandchild', 'w').write(str(subprocess.Popen(['sleep', '600']).pid))"
    with ToyStack(tmp_path, one(lines)) as stack:
        stack.start(("svc-ingest",))
        pid = int((tmp_path / "grandchild").read_text())
        born = procs.identity(pid)
        assert born
        stack.kill("svc-ingest")
        until(lambda: not procs.is_alive(pid, born))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux only")
def test_killing_the_supervisor_ends_every_component(tmp_path: Path) -> None:
    with ToyStack(tmp_path, two) as stack:
        stack.start(("kafka", "svc-ingest"))
        now = stack.state()
        assert now
        os.kill(now.pid, signal.SIGKILL)
        for part in now.components.values():
            until(lambda part=part: not procs.is_alive(part.pid, part.born))
        stack.stop()
        stack.start(("kafka", "svc-ingest"))
        assert stack.service("kafka").phase == state.READY


def test_a_stranger_with_a_recorded_process_id_is_left_alone(tmp_path: Path) -> None:
    stack = ToyStack(tmp_path, two)
    stack.layout.make()
    with subprocess.Popen(["sleep", "60"]) as stranger:
        recorded = state.ComponentState("kafka", state.READY, pid=stranger.pid, born="another-birth")
        state.write(stack.layout.run / "state.json", state.StackState(1, "gone", {"kafka": recorded}))
        stack.stop()
        assert stranger.poll() is None
        stranger.kill()


OWNER = """
import sys, time
from pathlib import Path
from test_supervisor import two
from support.toys import ToyStack
stack = ToyStack(Path(sys.argv[1]), two)
stack.start(("kafka", "svc-ingest"))
{then}
"""


def _owner(home: Path, then: str) -> subprocess.Popen[str]:
    folders = [ROOT / "infra" / "local", ROOT / "tests", Path(__file__).parent]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}
    code = OWNER.format(then=then)
    return subprocess.Popen([sys.executable, "-c", code, str(home)], env=env, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_the_stack_ends_with_the_process_that_started_it(tmp_path: Path, signum: signal.Signals) -> None:
    with _owner(tmp_path, "print('up', flush=True); time.sleep(600)") as owner:
        assert owner.stdout
        assert owner.stdout.readline() == "up\n"
        stack = ToyStack(tmp_path, two)
        parts = stack.components()
        owner.send_signal(signum)
        owner.wait(20)
    until(lambda: not stack.is_running())
    assert not any(procs.is_alive(part.pid, part.born) for part in parts.values())


def test_a_detached_stack_outlives_the_process_that_started_it(tmp_path: Path) -> None:
    with _owner(tmp_path, "stack.detach()") as owner:
        assert owner.wait(20) == 0
    with ToyStack(tmp_path, two) as stack:
        until(lambda: bool((now := stack.state()) and now.detached))
        assert stack.is_running()


@pytest.mark.parametrize("after_s", [0.05, 0.3, 0.6])
def test_an_interrupt_at_any_moment_of_the_start_leaves_nothing(tmp_path: Path, after_s: float) -> None:
    with _owner(tmp_path, "time.sleep(600)") as owner:
        time.sleep(after_s)
        owner.send_signal(signal.SIGINT)
        owner.wait(20)
    stack = ToyStack(tmp_path, two)
    until(lambda: not stack.is_running())
    assert not any(procs.is_alive(part.pid, part.born) for part in stack.components().values())


def test_a_stranger_on_the_port_is_noticed_even_if_it_answers(tmp_path: Path) -> None:
    ports = Ports.free()
    impostor = toy(tmp_path, "svc-ingest", ports.svc_ingest)
    with subprocess.Popen(impostor.argv) as stranger:
        until(lambda: procs.listeners(stranger.pid) != {})
        stack = ToyStack(tmp_path, one("time.sleep(600)"), ports)
        with pytest.raises(ComponentFailed, match=rf"port {ports.svc_ingest} answers, but .*pid {stranger.pid}"):
            stack.start(("svc-ingest",))
        assert stranger.poll() is None
        stranger.kill()


def test_a_listener_open_to_the_network_is_refused(tmp_path: Path) -> None:
    lines = "other = socket.create_server(('0.0.0.0', 0))"
    stack = ToyStack(tmp_path, one(lines))
    with pytest.raises(ComponentFailed, match=r"listens beyond this machine: 0\.0\.0\.0:"):
        stack.start(("svc-ingest",))
