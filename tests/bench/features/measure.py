"""Timing one call at a time, and saying it: percentiles of each of five runs, the median run of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median

RUNS = 5


def latencies(call: Callable[[int], object], first: int, count: int) -> list[float]:
    """Milliseconds of each of `count` calls, one after another; the call's argument goes on from `first`."""
    out: list[float] = []
    for number in range(first, first + count):
        started = time.perf_counter_ns()
        call(number)
        out.append((time.perf_counter_ns() - started) / 1e6)
    return out


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def figures(
    name: str, call: Callable[[int], object], reads: int, say: Callable[[str], object] = lambda _: None, *, warm_up: int = 20
) -> dict[str, float]:
    """`<name>_p50_ms`, `_p99_ms` and `_reads`: medians over five runs of reads / 5 calls each. say: hears the outcome."""
    for number in range(warm_up):
        call(-1 - number)
    each = max(1, reads // RUNS)
    runs = [latencies(call, run * each, each) for run in range(RUNS)]
    p50, p99 = (median(percentile(run, share) for run in runs) for share in (0.50, 0.99))
    worst = max(percentile(run, 0.99) for run in runs)
    say(f"{name}: {each * RUNS:,} calls, p50 {p50:.3f} ms, p99 {p99:.3f} ms, the worst of the runs {worst:.3f} ms")
    return {f"{name}_p50_ms": p50, f"{name}_p99_ms": p99, f"{name}_reads": float(each * RUNS)}


def median_rate(run: Callable[[], int], runs: int = RUNS) -> float:
    """Rows a second: `run` returns the rows it made; the median run."""
    rates: list[float] = []
    for _ in range(runs):
        started = time.perf_counter()
        rows = run()
        rates.append(rows / (time.perf_counter() - started))
    return median(rates)
