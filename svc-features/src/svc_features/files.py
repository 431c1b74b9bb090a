"""Files a job leaves for its next life: whole or not there, also through kill -9 and a loss of power."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from headrace.contracts.errors import Retryable


def write_whole(path: Path, data: bytes) -> None:
    """Temporary file, fsync, rename, fsync of the folder. Raises: Retryable if the disk does not take it."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise Retryable(f"cannot write {path}: {error}") from error
