"""Settings of svc-stream, read once from the environment."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from headrace.chassis.settings import ServiceSettings


class StreamSettings(ServiceSettings):
    """What svc-stream adds to the common settings."""

    service: ClassVar[str] = "svc-stream"

    http_port: int = Field(default=18102, ge=0, le=65535, description="health, metrics and status port; 0 takes a free one")
    commit_interval_ms: int = Field(
        default=25,
        ge=1,
        le=60_000,
        description="bounds freshness: a commit lies between event and feature, two where the entity lives elsewhere",
    )
    owned_commit_interval_ms: int = Field(
        default=200,
        ge=1,
        le=5_000,
        description="of owned sets, whose answers go before it; below transaction_timeout_ms",
    )
    stream_commit_interval_ms: int = Field(
        default=100, ge=1, le=5_000, description="of streams: results are readable after it; below transaction_timeout_ms"
    )
    stream_batch_rows_max: int = Field(default=65_536, ge=1, description="records gathered for one transaction of a stream")
    stream_cache_bytes: int = Field(
        default=64 << 20, ge=0, description="entries kept in memory per task of a stream whose store is rocksdb"
    )
    stream_guarantee: Literal["exactly_once", "at_least_once"] = Field(
        default="exactly_once", description="at_least_once saves the transactions; after a failure results may come twice"
    )
    idle_partition_ms: int = Field(
        default=30_000, ge=1, description="a source partition quiet for so long holds its topic's event time back no more"
    )
    idle_wait_ms: int = Field(default=100, ge=0, le=5_000, description="how soon a stop is noticed while nothing comes")
    batch_rows_max: int = Field(default=32_000, ge=1, description="records gathered for one transaction")
    cached_blocks_max: int = Field(default=200_000, ge=0, description="decoded blocks kept per state partition between commits")
    transaction_timeout_ms: int = Field(
        default=10_000, ge=1_000, description="a dead worker stalls readers behind it this long"
    )
