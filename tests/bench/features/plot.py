"""The report as a picture: 50th and 99th percentile of each way to read, and what each way does in a second."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.features.judged import TARGETS_MS

_P99 = "_p99_ms"


def plot(report: Mapping[str, Any], path: Path) -> None:
    """Write a PNG; two panels on logarithmic axes, the names of the report beside them."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    waits = [key.removesuffix(_P99) for key in report if key.endswith(_P99)]
    rates = [key for key in report if key.endswith(("_rows_s", "_events_s"))]
    heights = [max(1, len(waits)), max(1, len(rates))]
    figure, (upper, lower) = pyplot.subplots(
        2, 1, figsize=(9, 0.32 * sum(heights) + 2.4), gridspec_kw={"height_ratios": heights}, constrained_layout=True
    )
    _waits(upper, report, waits)
    lower.barh(range(len(rates)), [report[name] for name in reversed(rates)], color="#1f77b4", height=0.6)
    lower.set_yticks(range(len(rates)), list(reversed(rates)))
    lower.set_xlabel("a second")
    lower.set_xlim(left=1)
    for axes in (upper, lower):
        axes.set_xscale("log")
        axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _waits(axes: Any, report: Mapping[str, Any], names: list[str]) -> None:
    for at, name in enumerate(reversed(names)):
        low, high = report[f"{name}_p50_ms"], report[name + _P99]
        axes.plot([low, high], [at, at], color="#888888", zorder=1)
        axes.scatter([low], [at], color="#1f77b4", zorder=2, label="p50" if at == 0 else None)
        axes.scatter([high], [at], color="#d62728", zorder=2, label="p99" if at == 0 else None)
        if name + _P99 in TARGETS_MS:
            axes.scatter([TARGETS_MS[name + _P99]], [at], marker="|", s=200, color="black", label=None)
    axes.set_yticks(range(len(names)), list(reversed(names)))
    axes.set_xlabel("milliseconds; | is the target")
    if names:
        axes.legend(loc="upper right")
