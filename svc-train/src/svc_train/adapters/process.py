"""A training job as a process of its own: the service stays responsive, and a failed job takes nothing with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path

from headrace.contracts.errors import HeadraceError

STDERR_CHARS = 2_000


class JobFailed(HeadraceError):
    """The process ended without a result; the message says why."""


async def run_job(folder: Path, timeout_s: float) -> None:
    """Run `svc_train.job` on FOLDER to its end. A cancelled caller takes the process along, a dying one too (its stdin ends).

    Raises: JobFailed.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "svc_train.job", str(folder), env=job_environment(),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None, "a pipe was asked for"
    try:
        async with asyncio.timeout(timeout_s):
            told = await process.stderr.read()  # communicate() would close stdin, by which the job knows that we live
            await process.wait()
    except TimeoutError:
        raise JobFailed(f"training took longer than {timeout_s:g} s: see HEADRACE_TRAINING_TIMEOUT_S") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode != 0:
        text = told.decode(errors="replace").strip()[-STDERR_CHARS:]
        raise JobFailed(f"training process ended with {process.returncode}: {text}")


def job_environment() -> dict[str, str]:
    """This process's environment without settings and their secrets."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    # spinning threads cost a factor of seven on a shared machine
    return {**kept, "OMP_WAIT_POLICY": "PASSIVE"}
