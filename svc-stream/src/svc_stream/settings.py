"""Settings of svc-stream, read once from the environment."""

from __future__ import annotations

from headrace.chassis.settings import ServiceSettings


class StreamSettings(ServiceSettings):
    """What svc-stream adds to the common settings."""

    commit_interval_ms: int = 25  # bounds freshness: two commits lie between an event and its feature
    batch_rows_max: int = 32_000  # rows gathered for one transaction
    cached_blocks_max: int = 200_000  # decoded blocks kept per state partition between commits
    transaction_timeout_ms: int = 10_000  # a dead worker stalls readers this long
    http_port: int = 18102
