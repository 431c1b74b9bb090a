"""A stack of toy components: the real supervisor and real processes, without broker and Java."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from headrace_local import Ports, Stack
from headrace_local.components import Spec

# Answers every request with 200 on the port given as its first argument; obeys the extra lines before it serves.
SERVER = """
import http.server, os, signal, socket, subprocess, sys, time
class Ok(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *args): pass
{lines}
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Ok).serve_forever()
"""


def toy(
    home: Path, name: str, port: int, lines: str = "", *, needs: list[str] | None = None, grace_s: float = 5.0, rank: int = 0
) -> Spec:
    """A component that is ready as soon as it serves; `lines` of Python run before."""
    return Spec(
        name=name,
        argv=[sys.executable, "-I", "-S", "-c", SERVER.format(lines=lines), str(port)],
        env=dict(os.environ),
        cwd=str(home),
        log=str(home / "logs" / f"{name}.log"),
        ports=[port],
        probe=("http", port, "/"),
        needs=needs or [],
        grace_s=grace_s,
        rank=rank,
    )


class ToyStack(Stack):
    """The stack object over toys. Names must be those of real components, since only those can be started."""

    def __init__(self, home: Path, make: Callable[[Path, Ports], list[Spec]], ports: Ports | None = None) -> None:
        super().__init__(home=home, ports=ports or Ports.free())
        self._make = make

    def _prepare(self, names: tuple[str, ...]) -> list[Spec]:
        return [spec for spec in self._make(self.layout.home, self.settings.ports) if spec.name in names]
