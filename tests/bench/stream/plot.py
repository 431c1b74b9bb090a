"""The report as a picture: records a second of each workload by contender, and latencies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_COLOURS = {
    "headrace": "#1f77b4", "Kafka Streams warm": "#d62728", "Kafka Streams cold": "#ff9896", "Quix": "#9467bd",
    "bare loop": "#888888",
}  # fmt: skip
_INFIX = {
    "headrace": "", "Kafka Streams warm": "kafka_streams_warm_", "Kafka Streams cold": "kafka_streams_cold_", "Quix": "quix_",
}  # fmt: skip
_WORKLOADS = {"w1": "W1 tumbling", "w2": "W2 hopping", "w3": "W3 join", "w4": "W4 sessions"}


def plot(figures: Mapping[str, Any], path: Path) -> None:
    """Write a PNG of two panels; what was not measured has no bar."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 5), gridspec_kw={"width_ratios": [3, 2]}, layout="constrained")
    _rates(left, figures)
    _latencies(right, figures)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _rates(axes: Any, figures: Mapping[str, Any]) -> None:
    bars: list[tuple[str, str, float]] = []
    for name, words in _WORKLOADS.items():
        for side, infix in _INFIX.items():
            if value := figures.get(f"{name}_{infix}rec_s"):
                bars.append((words, side, value))
    if value := figures.get("control_bare_rec_s"):
        bars.append(("consume only", "bare loop", value))
    bars.reverse()
    axes.barh(range(len(bars)), [b[2] for b in bars], color=[_COLOURS[b[1]] for b in bars])
    axes.set_yticks(range(len(bars)), [f"{words}, {side}" for words, side, _ in bars])
    for at, (_, _, value) in enumerate(bars):
        axes.text(value, at, f" {value:,.0f}", va="center", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(left=1_000, right=max([b[2] for b in bars], default=1_000) * 4)
    axes.set_xlabel("records/s, one core, median run")
    axes.grid(axis="x", alpha=0.3)


def _latencies(axes: Any, figures: Mapping[str, Any]) -> None:
    rows: list[tuple[str, float, float]] = []
    for commit_ms in (20, 100):
        for side, infix in {"headrace": "", "Kafka Streams": "kafka_streams_", "Quix": "quix_"}.items():
            low, high = (figures.get(f"latency_{infix}{commit_ms}_{share}_ms") for share in ("p50", "p99"))
            if low and high:
                rows.append((f"{side}, {commit_ms} ms", low, high))
    for at, (_, low, high) in enumerate(rows):
        axes.plot([low, high], [at, at], color="#888888", zorder=1)
        axes.scatter([low], [at], color="#1f77b4", zorder=2, label="p50" if at == 0 else None)
        axes.scatter([high], [at], color="#d62728", zorder=2, label="p99" if at == 0 else None)
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.set_xlabel("produce to committed read, ms")
    axes.grid(axis="x", alpha=0.3)
    axes.set_visible(bool(rows))
    if rows:
        axes.legend()
