"""A child that tells what it does line by line, and at its end one JSON object."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def told(command: list[str], env: Mapping[str, str] | None, log: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Its lines are passed on, its stderr goes to the log; it does not outlive this call. Raises RuntimeError if it fails."""
    last = ""
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=errors, text=True) as child,
    ):
        assert child.stdout is not None
        try:
            for line in child.stdout:
                last = line
                if not line.startswith("{"):
                    say(line.rstrip())
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        raise RuntimeError(
            f"{' '.join(command[:4])} ended with {child.returncode}:\n{log.read_text(errors='replace')[-3_000:]}"
        )
    return json.loads(last)
