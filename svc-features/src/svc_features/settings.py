"""Settings of svc-features, read once from the environment."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, TypeAlias

from pydantic import Field

from headrace.chassis.settings import ServiceSettings

Engine: TypeAlias = Literal["duckdb", "spark"]


class FeaturesSettings(ServiceSettings):
    """What svc-features adds to the common settings."""

    service: ClassVar[str] = "svc-features"

    http_port: int = Field(default=18103, ge=0, le=65535, description="health, metrics and status port; 0 takes a free one")
    lake: Path = Field(
        default=Path(".headrace/lake"), description="folder of the Delta tables, one per topic; this service writes it"
    )
    archive_interval_ms: int = Field(
        default=1_500, ge=10, le=60_000, description="bounds how long a record waits to be archived"
    )
    archive_rows_max: int = Field(default=50_000, ge=1, description="records gathered for one round of commits; bounds memory")
    archive_files_max: int = Field(default=96, ge=2, description="small files of a table before they are written together")
    dataset_wait_s: int = Field(
        default=300, ge=1, le=540, description="how long a data set waits for the archive to reach its cut"
    )
    job_threads: int = Field(default=2, ge=1, description="threads of a data set or parity job")
    job_memory_mb: int = Field(default=2_000, ge=200, description="memory DuckDB may take in a job before it spills to disk")
    read_keys_max: int = Field(default=1_000, ge=1, le=100_000, description="keys of one read over HTTP")
    read_body_bytes_max: int = Field(default=1 << 20, ge=1_024, description="bytes of one read's body")
    proof_sample_bp: int = Field(
        default=100, ge=0, le=10_000, description="share of decisions recomputed as they are archived, in 1/10000; 0 none"
    )
    proof_interval_s: float = Field(default=120.0, ge=0.1, le=86_400, description="rest between two rounds of that")
    proof_passports_max: int = Field(default=1_000, ge=1, description="decisions recomputed in one round")
    proof_rows_max: int = Field(
        default=2_000_000, ge=1_000, description="judged events kept beside the lake; older ones are let go above that"
    )
    offline_engine: Engine = Field(
        default="duckdb",
        description="builds data sets, judges parity on demand; both to the same bits, spark over as many machines as it has",
    )
    spark_master: str = Field(default="local[2]", description="where Spark runs: local[N] or spark://host:port")
    spark_scratch: Path | None = Field(
        default=None, description="folder for rows between stages, seen alike by driver and executors; none: beside the job"
    )
    spark_settings: dict[str, str] = Field(
        default_factory=dict, description='of the cluster, as JSON: {"spark.executor.cores": "4"}'
    )
