"""What the report says of figures: floors, wins, and runs whose answers were not right."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.stream import judged
from bench.stream.compare import Compared
from bench.stream.ground import Outcome
from bench.stream.parts import summary
from bench.stream.plot import plot
from bench.stream.watch import Run

FIGURES = {
    "w1_rec_s": 500_000.0, "w1_kafka_streams_warm_rec_s": 310_000.0, "w1_kafka_streams_cold_rec_s": 120_000.0,
    "w1_quix_rec_s": 20_000.0, "w1_faults": 0, "w2_kafka_streams_warm_faults": 2, "control_bare_rec_s": 2_000_000.0,
    "latency_100_p50_ms": 60.0, "latency_100_p99_ms": 110.0, "latency_kafka_streams_100_p50_ms": 70.0,
    "latency_kafka_streams_100_p99_ms": 140.0, "eos_cost_share": 0.02, "idle_transactions_10s": 0.0, "idle_cpu_share": 0.02,
}  # fmt: skip


def _check(name: str, **changed: float) -> bool:
    (found,) = (c for c in judged.checks(FIGURES | changed, quick=False) if c.name.startswith(name))
    return found.ok


def test_a_floor_asks_for_a_rate_and_for_times_the_peers() -> None:
    assert _check("w1 at its floor")
    assert not _check("w1 at its floor", w1_rec_s=399_999.0)
    assert not _check("w1 at its floor", w1_kafka_streams_warm_rec_s=400_001.0)
    assert _check("w1 at its floor", w1_kafka_streams_warm_rec_s=400_000.0)


def test_an_aim_is_told_but_not_asked_for() -> None:
    told = {c.name: c.detail for c in judged.checks(FIGURES | {"w1_rec_s": 800_000.0}, quick=False)}
    assert told["w1 at its floor of 400,000"].endswith("aim reached")


def test_runs_with_faults_fail_in_the_quick_form_too() -> None:
    found = {c.name: c.ok for c in judged.checks(FIGURES, quick=True)}
    assert found == {"w1: answers": True, "w2_kafka_streams_warm: answers": False}


def test_latency_exactly_once_and_idleness_are_judged() -> None:
    assert _check("p99 at 100 ms")
    assert not _check("p99 at 100 ms", latency_100_p99_ms=140.1)
    assert _check("exactly-once")
    assert not _check("exactly-once", eos_cost_share=0.11)
    assert not _check("idle")
    assert _check("idle", idle_cpu_share=0.009)


def test_wins_are_told_whoever_wins() -> None:
    told = [m.told() for m in judged.matches(FIGURES | {"w1_kafka_streams_warm_rec_s": 1_000_000.0})]
    assert told[0].startswith("W1 tumbling windows, records/s: Kafka Streams warm 1e+06; headrace 5e+05 (2.0x)")
    assert any(
        t.startswith("produce to committed read at 100 ms commits, p99 ms: headrace 110; Kafka Streams 140") for t in told
    )


def test_a_summary_takes_medians_and_counts_runs_that_are_not_right() -> None:
    def outcome(wall_s: float, *, complete: bool = True, missing: int = 0) -> Outcome:
        run = Run(1_000, wall_s, cpu_s=0.002, peak_bytes=int(wall_s * 1e6), resident_bytes=1, complete=complete, last_half_s=1)
        return Outcome("headrace", run, Compared(10, 10 - missing, missing, 0, 0, 0))

    found = summary("w1_", [outcome(1.0), outcome(4.0, missing=1), outcome(2.0, complete=False)], 1_004)
    assert found["w1_rec_s"] == 500.0
    assert found["w1_cpu_us"] == pytest.approx(2.0)
    assert found["w1_peak_mb"] == 4.0
    assert (found["w1_faults"], found["w1_runs"], found["w1_records"]) == (2, [1_000, 250, 500], 1_004)


def test_a_picture_is_drawn_of_whatever_was_measured(tmp_path: Path) -> None:
    for name, figures in (("all.png", FIGURES), ("none.png", {})):
        plot(figures, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
