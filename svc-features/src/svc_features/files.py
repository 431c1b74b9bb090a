"""Files a job leaves for its next life: whole or not there, also through kill -9 and a loss of power."""

from __future__ import annotations

import time
from pathlib import Path

import orjson

from headrace.chassis import files
from headrace.contracts.errors import Retryable

TELL_S = 0.2


def write_whole(path: Path, data: bytes) -> None:
    """As the chassis does. Raises: Retryable if the disk does not take it."""
    try:
        files.write_whole(path, data)
    except OSError as error:
        raise Retryable(f"cannot write {path}: {error}") from error


class Teller:
    """Writes a job's progress.json, a few times a second at most."""

    def __init__(self, folder: Path) -> None:
        self._file, self._due = folder / "progress.json", 0.0

    def __call__(self, phase: str, done: int, total: int) -> None:
        if time.monotonic() >= self._due or done == total:
            write_whole(self._file, orjson.dumps({"phase": phase, "done": done, "total": total}))
            self._due = time.monotonic() + TELL_S
