"""The cell that stands in for a container: what a command in it sees, may write, and is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from headrace_images.assemble import base_python
from headrace_images.cells import CELL, LIST_WRITABLE

CLONE_NEWNS = 0x00020000


def _may_mount() -> bool:
    """Asked in a process of its own: a namespace once left cannot be entered again."""
    code = f"import ctypes, sys; sys.exit(0 if ctypes.CDLL(None).unshare({CLONE_NEWNS}) == 0 else 1)"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0 or not _may_mount(), reason="needs root and mount namespaces"
)


def _run(tmp_path: Path, arguments: list[str], program: str | None = None) -> subprocess.CompletedProcess[str]:
    state, code = tmp_path / "state", tmp_path / "code"
    for folder in (state, code, tmp_path / "root"):
        folder.mkdir()
    os.chown(state, 10001, 10001)
    (code / "kept.txt").write_text("as it was")
    prefix = str(base_python().parents[1])
    binds = [[str(code), "/opt", False], [str(state), "/var/lib/x", True]]
    if prefix != "/usr":
        binds.append([prefix, prefix, False])
    spec: dict[str, Any] = {"root": str(tmp_path / "root"), "binds": binds, "user": 10001, "group": 10001, "cwd": "/var/lib/x"}
    spec |= {"env": {"PATH": f"{prefix}/bin:/usr/bin:/bin"}, "command": [program or base_python().name, *arguments]}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    return subprocess.run(
        [sys.executable, "-I", "-S", CELL, tmp_path / "spec.json"], capture_output=True, text=True, check=False, timeout=60
    )


def test_only_the_state_folder_can_be_written(tmp_path: Path) -> None:
    done = _run(tmp_path, ["-c", LIST_WRITABLE])
    assert done.stdout.split() == ["/var/lib/x"], done.stderr


def test_the_command_is_another_user_without_any_capability(tmp_path: Path) -> None:
    code = "import os; print(os.getuid(), os.getgid(), os.getgroups()); print(open('/proc/self/status').read())"
    done = _run(tmp_path, ["-c", code])
    first, *rest = done.stdout.splitlines()
    assert first == "10001 10001 []", done.stderr
    status = dict(line.split(":\t", 1) for line in rest if ":\t" in line)
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"


def test_nothing_of_the_machine_is_seen_but_what_stands_for_the_base_image(tmp_path: Path) -> None:
    done = _run(
        tmp_path, ["-c", "import os; print(*sorted(os.listdir('/'))); print(os.path.exists('/home'), os.listdir('/var'))"]
    )
    names = set(done.stdout.splitlines()[0].split())
    system = {"usr", "etc", "bin", "sbin", "lib", "lib32", "lib64", "dev", "proc", "sys", "opt", "var", base_python().parts[1]}
    assert names <= system, done.stderr
    assert done.stdout.splitlines()[1] == "False ['lib']"


def test_what_was_copied_cannot_be_changed_and_the_machines_copy_stays(tmp_path: Path) -> None:
    done = _run(tmp_path, ["-c", "open('/opt/kept.txt', 'w').write('changed')"])
    assert done.returncode == 1
    assert "OSError" in done.stderr or "PermissionError" in done.stderr
    assert (tmp_path / "code" / "kept.txt").read_text() == "as it was"


def test_the_exit_code_is_the_commands_own(tmp_path: Path) -> None:
    assert _run(tmp_path, ["-c", "raise SystemExit(42)"]).returncode == 42


def test_a_program_that_is_not_there_is_told(tmp_path: Path) -> None:
    done = _run(tmp_path, [], program="no-such-program")
    assert done.returncode == 127
    assert "no-such-program" in done.stderr
