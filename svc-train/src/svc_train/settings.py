"""Settings of svc-train, read once from the environment."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from headrace.chassis.settings import ServiceSettings


class TrainSettings(ServiceSettings):
    """What svc-train adds to the common settings."""

    service: ClassVar[str] = "svc-train"

    http_port: int = Field(default=18104, ge=0, le=65535, description="health, metrics and status port; 0 takes a free one")
    tracking_url: str = Field(default="sqlite:///.headrace/mlflow.db", description="MLflow tracking store")
    training_threads: int = Field(default=2, ge=1, le=256, description="threads of one training process")
    training_timeout_s: float = Field(default=3600.0, gt=0, description="a training process that takes longer is ended")
    lease_s: float = Field(default=30.0, gt=0, description="a run whose worker is silent this long is taken over")
    dataset_timeout_s: float = Field(default=1800.0, gt=0, description="how long a run waits for its data set")
