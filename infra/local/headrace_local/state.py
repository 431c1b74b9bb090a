"""What the supervisor knows, written down for everyone else.

run/lock         held by the living supervisor; the kernel lets go of it when it dies
run/spec.json    what it was asked to run
run/state.json   what runs now, replaced whole at each change
run/control      a pipe that takes commands, one JSON line each
run/addresses.json  where clients find the running stack; there from its start to its stop

life of a component:

    waiting --needs ready--> starting --probe ok, owns its ports--> ready
       ^                        |                                    |
       |                     exits                                 exits
       +------ backoff <--------+------------------------------------+
                  |                            any --asked or exit 0--> stopped
                  +--too many quick failures--> failed
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

WAITING, STARTING, READY, BACKOFF, FAILED, STOPPED = "waiting", "starting", "ready", "backoff", "failed", "stopped"


@dataclass(slots=True)
class ComponentState:
    """One component now. `pid` and `born` name its process and stay after it has ended, so that leftovers can be found."""

    name: str
    phase: str = WAITING
    pid: int = 0
    born: str = ""
    port: int = 0
    restarts: int = 0
    since: float = 0.0
    reason: str = ""


@dataclass(slots=True)
class StackState:
    """The whole stack now."""

    pid: int
    born: str
    components: dict[str, ComponentState] = field(default_factory=dict)
    stopping: bool = False
    detached: bool = False


def write(path: Path, state: StackState) -> None:
    """Replace the state file whole, so that a reader never sees half of it."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(state), indent=1))
    partial.replace(path)


def read(path: Path) -> StackState | None:
    """The last written state; None when there is none or it is damaged."""
    try:
        raw: dict[str, Any] = json.loads(path.read_text())
        parts = {name: ComponentState(**part) for name, part in raw.pop("components").items()}
        return StackState(components=parts, **raw)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_locked(path: Path) -> bool:
    """Whether someone holds the lock file."""
    try:
        with path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return True
        if error.errno == errno.ENOENT:
            return False
        raise
    return False


@contextlib.contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[bool]:
    """Hold the lock file. When another process has it, wait for it, or yield False at once."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            yield False
            return
        yield True


def command(control: Path, **words: Any) -> bool:
    """Hand one command to the supervisor. False when nobody listens."""
    try:
        pipe = os.open(control, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        os.write(pipe, json.dumps(words).encode() + b"\n")  # shorter than PIPE_BUF: never interleaved
    finally:
        os.close(pipe)
    return True
