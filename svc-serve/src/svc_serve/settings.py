"""Settings of svc-serve, read once from the environment."""

from __future__ import annotations

from headrace.chassis.settings import ServiceSettings


class ServeSettings(ServiceSettings):
    """What svc-serve adds to the common settings."""

    http_port: int = 18105
    event_batch_max: int = 64  # requests decided in one transaction: bounds the time to the first passport of a batch
    rest_in_flight_max: int = 256  # more answer 429
    answered_max: int = 200_000  # request ids remembered, read back from the passports at start
    transaction_timeout_ms: int = 10_000
