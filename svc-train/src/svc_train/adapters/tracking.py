"""The MLflow record of a run: enough to repeat it from the record alone.

A new SQLite store runs some fifty migrations, seconds of work, so the service has it made while it waits for its first
request. Whoever opens the store holds a lock beside it: two that create it at once would break each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import platform
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import distributions
from pathlib import Path

from headrace.chassis.logs import logger
from svc_train.adapters.process import job_environment

SQLITE = "sqlite:///"
TOLD_PACKAGES = frozenset({"xgboost-cpu", "numpy", "onnxmltools", "onnxruntime", "polars", "scipy"})
_log = logger(__name__)


def record(
    url: str, experiment: str, name: str, parameters: Mapping[str, str], metrics: Mapping[str, float], tags: Mapping[str, str]
) -> str:
    """Write one finished run; returns its id. NaN metrics are left out."""
    mlflow = _opened(url)
    mlflow.set_experiment(experiment)
    packages = {f"package.{name}": version for name, version in environment().items() if name in TOLD_PACKAGES}
    with mlflow.start_run(run_name=name) as run:
        mlflow.log_params(dict(parameters))
        mlflow.log_metrics({k: v for k, v in metrics.items() if v == v})  # noqa: PLR0124 - NaN differs from itself
        mlflow.set_tags({**tags, **packages, "python": platform.python_version()})
        if url.startswith("http"):  # a server takes files; beside a database they would lie on this machine only
            mlflow.log_dict(environment(), "environment.json")
    return str(run.info.run_id)


def environment() -> dict[str, str]:
    """Installed distributions and their versions."""
    return {d.metadata["Name"].lower(): d.version for d in distributions() if d.metadata["Name"]}


async def prepare(url: str) -> None:
    """Make a SQLite store in a process of its own, so that the first job finds it ready. Failing is logged, not raised."""
    if not url.startswith(SQLITE) or await asyncio.to_thread(Path(url.removeprefix(SQLITE)).exists):
        return
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "svc_train.adapters.tracking", url, env=job_environment(),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        _, told = await process.communicate()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        _log.warning("tracking_not_prepared", error=told.decode(errors="replace")[-500:])  # the job will try, and say


def _opened(url: str):
    """MLflow on an up-to-date store."""
    import mlflow  # seconds to import: only processes of their own pay
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    mlflow.set_tracking_uri(url)
    with _locked(url):
        MlflowClient().get_experiment("0")  # creates and migrates what is not there
    return mlflow


@contextlib.contextmanager
def _locked(url: str) -> Iterator[None]:
    if not url.startswith(SQLITE):
        yield
        return
    path = Path(url.removeprefix(SQLITE) + ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    _opened(sys.argv[1])
