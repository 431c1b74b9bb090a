"""Python in processes of its own: heavy work leaves neither its memory nor its time in the service."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from headrace.contracts.errors import Retryable

TAIL_CHARACTERS = 2_000


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job ended: exit code, stdout, the end of stderr."""

    code: int
    out: bytes
    complaint: str


async def run_module(module: str, arguments: Sequence[str], timeout_s: float) -> Ended:
    """Run `python -m module` to its end; cancelled or out of time, it is killed.

    Raises: Retryable if it was killed by a signal or took too long.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},  # the code this process runs
    )  # fmt: skip
    try:
        async with asyncio.timeout(timeout_s):
            out, complaint = await process.communicate()
    except TimeoutError as error:
        raise Retryable(f"{module} took more than {timeout_s:.0f} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    code = process.returncode or 0
    tail = complaint.decode(errors="replace")[-TAIL_CHARACTERS:].strip()
    if code < 0:
        raise Retryable(f"{module} was killed by signal {-code}: {tail}")
    return Ended(code, out, tail)
