"""Readiness told by a command: it is asked once somebody listens, and its exit code is the answer."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import pytest

from headrace_local.probes import is_ready


def command(code: str, **env: str) -> str:
    return json.dumps({"argv": [sys.executable, "-I", "-S", "-c", code], "env": env})


@pytest.mark.parametrize(("code", "ready"), [("raise SystemExit(0)", True), ("raise SystemExit(1)", False), ("1/0", False)])
def test_the_exit_code_says_whether_it_is_ready(code: str, ready: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert is_ready("command", server.getsockname()[1], command(code)) is ready


def test_a_command_is_not_run_while_nobody_listens(tmp_path: Path) -> None:
    mark = str(tmp_path / "ran")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert not is_ready("command", port, command(f"open({mark!r}, 'w')"))
    assert not Path(mark).exists()


def test_a_command_gets_its_own_settings_and_none_of_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_KAFKA_PROTOCOL", "plaintext")
    code = "import os; raise SystemExit([k for k in os.environ if k.startswith('HEADRACE_')] != ['HEADRACE_OWN'])"
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert is_ready("command", server.getsockname()[1], command(code, HEADRACE_OWN="1"))
