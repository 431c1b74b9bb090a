"""How much of everything. A slow peer gets fewer records and three runs, and the report says how many."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Size:
    """Records of each workload by contender; 0 leaves one out."""

    w1: int
    w2: int
    w3: int
    w4: int
    w1_kafka_streams: int
    w2_kafka_streams: int
    w3_kafka_streams: int
    w4_kafka_streams: int
    w1_quix: int
    w2_quix: int
    guarantees: int  # records of each run of exactly-once beside at-least-once
    restore_keys: int
    latency_s: float
    idle_s: float
    runs: int
    slow_runs: int


FULL = Size(
    w1=9_000_000, w2=9_000_000, w3=2_000_000, w4=3_000_000,
    w1_kafka_streams=9_000_000, w2_kafka_streams=1_000_000, w3_kafka_streams=1_000_000, w4_kafka_streams=600_000,
    w1_quix=250_000, w2_quix=50_000, guarantees=3_000_000, restore_keys=1_000_000, latency_s=10.0, idle_s=30.0,
    runs=5, slow_runs=3,
)  # fmt: skip
QUICK = Size(
    w1=200_000, w2=100_000, w3=60_000, w4=100_000,
    w1_kafka_streams=200_000, w2_kafka_streams=100_000, w3_kafka_streams=60_000, w4_kafka_streams=100_000,
    w1_quix=30_000, w2_quix=10_000, guarantees=200_000, restore_keys=50_000, latency_s=4.0, idle_s=10.0,
    runs=1, slow_runs=1,
)  # fmt: skip
