"""Files a job leaves for its next life: whole or not there, also through kill -9 and a loss of power."""

from __future__ import annotations

from pathlib import Path

from headrace.chassis import files
from headrace.contracts.errors import Retryable


def write_whole(path: Path, data: bytes) -> None:
    """As the chassis does. Raises: Retryable if the disk does not take it."""
    try:
        files.write_whole(path, data)
    except OSError as error:
        raise Retryable(f"cannot write {path}: {error}") from error
