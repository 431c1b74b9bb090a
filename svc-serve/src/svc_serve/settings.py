"""Settings of svc-serve, read once from the environment."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from headrace.chassis.settings import ServiceSettings


class ServeSettings(ServiceSettings):
    """What svc-serve adds to the common settings."""

    service: ClassVar[str] = "svc-serve"

    http_port: int = Field(default=18105, ge=0, le=65535, description="health, metrics and decision port; 0 takes a free one")
    event_batch_max: int = Field(
        default=64, ge=1, le=10_000, description="requests decided together: bounds the wait for the first of them"
    )
    rest_in_flight_max: int = Field(default=256, ge=1, description="more answer 429")
    answered_max: int = Field(default=50_000, ge=1, description="request ids remembered, read back from the passports at start")
    transaction_timeout_ms: int = Field(
        default=10_000, ge=1_000, description="a dead replica stalls readers of passports this long"
    )
