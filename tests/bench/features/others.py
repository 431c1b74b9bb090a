"""What we stand beside: Feast in an environment of its own, and Redis as Debian ships it, without installing it."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

LOCK = Path(__file__).parents[3] / "infra" / "requirements" / "bench.lock"
INSTALL_S = 600
PACKAGES = ("redis-server", "redis-tools", "libjemalloc2", "liblzf1", "liblua5.1-0", "lua-bitop", "lua-cjson")


def feast_python(folder: Path) -> Path:
    """The Python that has Feast; made once. Raises subprocess.CalledProcessError."""
    python = folder / "bin" / "python"
    stamp, digest = folder / ".complete", hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != digest:
        uv = [sys.executable, "-m", "uv"] if _has_uv() else [shutil.which("uv") or "uv"]
        subprocess.run([*uv, "venv", "-q", "--clear", "--python", sys.executable, str(folder)], check=True, timeout=INSTALL_S)
        subprocess.run(
            [*uv, "pip", "install", "-q", "--python", str(python), "--require-hashes", "-r", str(LOCK)],
            check=True,
            timeout=INSTALL_S,
        )
        stamp.write_text(digest)
    return python


def feast_version() -> str:
    """As the lock has it."""
    return next(line.split()[0] for line in LOCK.read_text().splitlines() if line.startswith("feast"))


def _has_uv() -> bool:
    return subprocess.run([sys.executable, "-m", "uv", "--version"], capture_output=True, check=False).returncode == 0


class Redis:
    """A server without persistence on a free port, from PATH or unpacked from the distribution's packages.

    `port` is 0 and `why` says so where there is none to be had.
    """

    def __init__(self, folder: Path) -> None:
        self.port, self.why, self.origin = 0, "", ""
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = folder

    def __enter__(self) -> Redis:
        found = shutil.which("redis-server")
        self.origin = "PATH" if found else "packages of the distribution, unpacked"
        env = dict(os.environ)
        if found is None:
            found, env["LD_LIBRARY_PATH"] = self._unpacked()
        if not found:
            return self
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [found, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, cwd=self._folder)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    self.port = port
                    return self
            time.sleep(0.05)
        self.why = "redis-server did not answer"
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)

    def _unpacked(self) -> tuple[str, str]:
        """Path of the binary and of its libraries; empty where apt gives nothing."""
        root = self._folder / "redis"
        binary = root / "usr" / "bin" / "redis-server"
        if not binary.exists():
            debs = self._folder / "debs"
            debs.mkdir(parents=True, exist_ok=True)
            try:
                subprocess.run(["apt-get", "download", "-q", *PACKAGES], cwd=debs, check=True, capture_output=True, timeout=120)
                for deb in debs.glob("*.deb"):
                    subprocess.run(["dpkg", "-x", str(deb), str(root)], check=True, capture_output=True, timeout=60)
            except (OSError, subprocess.SubprocessError) as error:
                self.why = f"no redis-server on PATH, and apt gives none: {error}"
                return "", ""
        libraries = [str(p) for p in (root / "usr" / "lib").glob("*-linux-gnu")]
        return str(binary), ":".join(libraries)
