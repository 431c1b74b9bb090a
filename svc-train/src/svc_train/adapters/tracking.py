"""The MLflow record of a run: enough to repeat it from the record alone."""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping
from importlib.metadata import distributions


def record(
    url: str, experiment: str, name: str, parameters: Mapping[str, str], metrics: Mapping[str, float], tags: Mapping[str, str]
) -> str:
    """Write one finished run; returns its id. NaN metrics are left out."""
    import mlflow  # seconds to import: only the training process pays

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    mlflow.set_tracking_uri(url)
    mlflow.set_experiment(experiment)
    with mlflow.start_run(run_name=name) as run:
        mlflow.log_params(dict(parameters))
        mlflow.log_metrics({k: v for k, v in metrics.items() if v == v})  # noqa: PLR0124 - NaN differs from itself
        mlflow.set_tags({**tags, "python": platform.python_version()})
        mlflow.log_dict(environment(), "environment.json") if url.startswith("http") else mlflow.set_tags(
            {f"package.{name}": version for name, version in environment().items() if name in _TOLD}
        )
    return str(run.info.run_id)


_TOLD = frozenset({"xgboost-cpu", "numpy", "onnxmltools", "onnxruntime", "polars", "scipy"})


def environment() -> dict[str, str]:
    """Installed distributions and their versions."""
    return {d.metadata["Name"].lower(): d.version for d in distributions() if d.metadata["Name"]}
