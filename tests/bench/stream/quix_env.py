"""Quix Streams in an environment of its own: never in that of the services."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).parents[3] / "infra" / "requirements" / "bench-stream.lock"
INSTALL_S = 600


def python(folder: Path) -> Path:
    """The Python that has Quix; made once per lock. Raises subprocess.CalledProcessError."""
    found = folder / "bin" / "python"
    stamp, digest = folder / ".complete", hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != digest:
        uv = _uv()
        subprocess.run([*uv, "venv", "-q", "--clear", "--python", sys.executable, str(folder)], check=True, timeout=INSTALL_S)
        subprocess.run(
            [*uv, "pip", "install", "-q", "--python", str(found), "--require-hashes", "-r", str(LOCK)],
            check=True,
            timeout=INSTALL_S,
        )
        stamp.write_text(digest)
    return found


def version() -> str:
    """As the lock has it."""
    return next(line.split()[0] for line in LOCK.read_text().splitlines() if line.startswith("quixstreams"))


def _uv() -> list[str]:
    """That of the environment, else the machine's."""
    own = subprocess.run([sys.executable, "-m", "uv", "--version"], capture_output=True, check=False).returncode == 0
    return [sys.executable, "-m", "uv"] if own else [shutil.which("uv") or "uv"]
