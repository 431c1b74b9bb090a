"""What svc-ingest is told, on top of what every service is told."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from headrace.chassis.settings import ServiceSettings


class Settings(ServiceSettings):
    service: ClassVar[str] = "svc-ingest"

    http_port: int = Field(18101, ge=0, le=65535, description="port producers send to; 0 takes a free one")
    drop_dir: Path = Field(Path(".headrace/drop"), description="folder of folders: <pipeline>/<source>/*.csv are picked up")
    drop_poll_s: float = Field(0.5, gt=0, description="how often that folder is looked at, s")
    body_bytes_max: int = Field(8 << 20, ge=1024, le=8 << 20, description="largest body of one batch, unpacked, bytes")
    body_rows_max: int = Field(20_000, ge=1, description="most rows of one batch")
    in_flight_batches_max: int = Field(64, ge=1, description="batches admitted and not answered, before 429")
    in_flight_bytes_max: int = Field(64 << 20, ge=8 << 20, description="bytes of those batches, before 429")
    id_hold_s: int = Field(86_400, ge=60, description="how long a sender may take to repeat a batch, s; ids are kept so long")
    topics_wait_s: float = Field(30.0, ge=0, description="how long an admitted pipeline's topics may take to appear, s")
