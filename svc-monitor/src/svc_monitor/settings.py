"""Settings of svc-monitor, read once from the environment."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from headrace.chassis.settings import ServiceSettings


class MonitorSettings(ServiceSettings):
    """What svc-monitor adds to the common settings."""

    service: ClassVar[str] = "svc-monitor"

    http_port: int = Field(
        default=18106, ge=0, le=65535, description="health, metrics and performance port; 0 takes a free one"
    )
    served_rows_max: int = Field(default=500_000, ge=1, description="served input rows kept per model for a new drift watch")
