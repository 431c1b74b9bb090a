"""The report as a picture: 50th and 99th percentile of each way to read, on a logarithmic axis."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.features.judged import TARGETS_MS


def plot(report: Mapping[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    names = [key.removesuffix("_p99_ms") for key in report if key.endswith("_p99_ms")]
    figure, axes = pyplot.subplots(figsize=(9, 0.36 * len(names) + 1.4))
    for at, name in enumerate(reversed(names)):
        low, high = report[f"{name}_p50_ms"], report[f"{name}_p99_ms"]
        axes.plot([low, high], [at, at], color="#888888", zorder=1)
        axes.scatter([low], [at], color="#1f77b4", zorder=2, label="p50" if at == 0 else None)
        axes.scatter([high], [at], color="#d62728", zorder=2, label="p99" if at == 0 else None)
        target = TARGETS_MS.get(f"{name}_p99_ms")
        if target is not None:
            label = "target" if name == "inproc_200x1" else None
            axes.scatter([target], [at], marker="|", s=200, color="black", label=label)
    axes.set_yticks(range(len(names)), list(reversed(names)))
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
