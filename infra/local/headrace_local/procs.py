"""Processes by identity, so that a recycled process id is never taken for ours."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import psutil

SHIM = Path(__file__).with_name("shim.py")


def identity(pid: int) -> str | None:
    """What tells this process from a later one with the same id; None when it is gone (a zombie is gone)."""
    if sys.platform == "linux":
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        # The command in parentheses may hold spaces; state is the first field after it, start time (ticks) the twentieth.
        rest = stat.rpartition(")")[2].split()
        return None if rest[0] in "ZX" else f"{_boot_id()}:{rest[19]}"
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.Error:
        return None


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "-"


def is_alive(pid: int, born: str) -> bool:
    """Whether the very process recorded as (pid, born) still runs."""
    return identity(pid) == born


def send(pid: int, born: str, signum: int) -> bool:
    """Signal a recorded process, never a stranger with its id. False when it is gone."""
    if not is_alive(pid, born):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)
        return True
    return False


def wait_gone(pid: int, born: str, timeout_s: float) -> bool:
    """Wait until a recorded process has ended. False when it has not within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while is_alive(pid, born):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.03)
    return True


def kill_group(group: int) -> None:
    """End what is left of a process group we created and whose leader has ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def shielded(command: list[str], user: int | None = None) -> list[str]:
    """The command line that runs `command` so that it dies with the calling process."""
    return [sys.executable, "-I", "-S", str(SHIM), str(os.getpid()), "-" if user is None else str(user), *command]


def listeners(pid: int) -> dict[int, set[str]]:
    """Listening TCP ports of a process and its descendants: port -> local addresses."""
    found: dict[int, set[str]] = {}
    try:
        leader = psutil.Process(pid)
        family = [leader, *leader.children(recursive=True)]
    except psutil.Error:
        return found
    for process in family:
        with contextlib.suppress(psutil.Error):
            for connection in process.net_connections(kind="tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr:
                    ip, port = connection.laddr
                    found.setdefault(port, set()).add(ip)
    return found


def holder(port: int) -> str:
    """Who listens on a port, as `name (pid 12, user x)`; says so when the system does not tell."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr[1] == port and connection.pid:
                process = psutil.Process(connection.pid)
                return f"{process.name()} (pid {process.pid}, user {process.username()})"
    except psutil.Error:
        pass
    return "a process this user may not see"


def memory_mb(pid: int) -> float:
    """Resident memory of a process and its descendants, in MB; 0 when it is gone."""
    total = 0
    try:
        leader = psutil.Process(pid)
        for process in [leader, *leader.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
    except psutil.Error:
        return 0.0
    return total / 1e6
