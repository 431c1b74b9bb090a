"""Run every query of every dashboard against a real Prometheus, say which have data, and draw them.

    python -m headrace_observe.check --prometheus http://127.0.0.1:9090 [--plots FOLDER] [--report FILE]

A query that is no PromQL, or a panel without data that awaits no event, ends it with 1.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from headrace_observe.boards import BOARDS
from headrace_observe.panels import Board, Panel, runnable

RANGE_S = 900.0
STEP_S = 5.0
SERIES_MAX = 8  # lines in one plot
COLOURS = 24  # pictures are kept in the repository: small


@dataclass(frozen=True, slots=True)
class Asked:
    """One query of one panel. series: (legend, times, values)."""

    board: str
    panel: Panel
    legend: str
    expr: str
    fault: str
    series: tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...]


class Prometheus:
    """Just enough of its HTTP API."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=30.0, trust_env=False)

    def range(self, expr: str, start_s: float, end_s: float, step_s: float) -> tuple[str, list[dict[str, Any]]]:
        """(fault, series); the fault is empty where the query is valid."""
        params = {"query": expr, "start": str(start_s), "end": str(end_s), "step": str(step_s)}
        answer = self._http.post("/api/v1/query_range", data=params)
        body = answer.json()
        return ("", body["data"]["result"]) if answer.status_code == 200 else (body.get("error", answer.text), [])


def legend_of(template: str, labels: dict[str, str]) -> str:
    """A legend with label values put in, as Grafana does."""
    for name, value in labels.items():
        template = template.replace("{{" + name + "}}", value)
    return template


def ask(prometheus: Prometheus, board: Board, end_s: float, range_s: float = RANGE_S) -> list[Asked]:
    """All queries of a dashboard over the last `range_s` seconds."""
    found = []
    for panel in board.panels:
        for legend, expr in panel.queries.items():
            asked = runnable(expr)
            fault, raw = prometheus.range(asked, end_s - range_s, end_s, STEP_S)
            series = []
            for one in raw:
                points = [(float(at), float(value)) for at, value in one["values"] if value != "NaN"]
                if points:
                    times, values = zip(*points, strict=True)
                    series.append((legend_of(legend, one["metric"]), times, values))
            found.append(Asked(board.uid, panel, legend, asked, fault, tuple(series)))
    return found


def troubles(asked: Sequence[Asked]) -> list[str]:
    """What must not be: no PromQL, or no data though no event is awaited."""
    wrong = [f"{a.board} / {a.panel.title}: {a.fault}" for a in asked if a.fault]
    empty = [a for a in asked if not a.fault and not a.series and not a.panel.awaits]
    return wrong + [f"{a.board} / {a.panel.title}: no data: {a.expr}" for a in empty]


def awaited(asked: Sequence[Asked]) -> list[str]:
    """Panels without data, and the event they await."""
    return [f"{a.board} / {a.panel.title}: awaits {a.panel.awaits}" for a in asked if not a.series and a.panel.awaits]


def draw(asked: Sequence[Asked], board: Board, file: Path) -> None:
    """One picture of a dashboard: a plot per panel, the same queries, the same legends."""
    import matplotlib
    from PIL import Image

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = board.panels
    rows = (len(panels) + 3) // 4
    figure, axes = pyplot.subplots(rows, 4, figsize=(18, 2.7 * rows), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for panel, axis in zip(panels, axes.flat, strict=False):
        series = [one for a in asked if a.panel is panel for one in a.series]
        series.sort(key=lambda one: max(one[2]) - min(one[2]), reverse=True)  # what moved most
        for legend, times, values in series[:SERIES_MAX]:
            axis.plot(times, values, linewidth=1, label=legend[:34])
        unit = f" [{panel.unit}]" if panel.unit else ""
        axis.set_title(panel.title + unit, fontsize=8)
        axis.tick_params(labelsize=6)
        axis.set_xticks([])
        if series:
            axis.legend(fontsize=5, loc="best", framealpha=0.4)
        else:
            axis.text(0.5, 0.5, f"no data: awaits {panel.awaits}", ha="center", fontsize=7, transform=axis.transAxes, wrap=True)
    figure.suptitle(f"{board.title}: {board.says}", fontsize=11)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    raw = io.BytesIO()
    figure.savefig(raw, dpi=65)
    pyplot.close(figure)
    Image.open(raw).convert("P", palette=Image.Palette.ADAPTIVE, colors=COLOURS).save(file, optimize=True)


def check(url: str, plots: Path | None = None, range_s: float = RANGE_S) -> dict[str, Any]:
    """Ask everything; the report's figures."""
    prometheus, end_s = Prometheus(url), time.time()
    found: list[Asked] = []
    for board in BOARDS:
        asked = ask(prometheus, board, end_s, range_s)
        found += asked
        if plots is not None:
            draw(asked, board, plots / f"{board.uid}.png")
    wrong = troubles(found)
    return {
        "dashboards": len(BOARDS), "panels": sum(len(b.panels) for b in BOARDS), "queries": len(found),
        "with_data": sum(bool(a.series) for a in found), "troubles": wrong, "awaited": awaited(found), "ok": not wrong,
    }  # fmt: skip


def main() -> int:
    """Ask, tell, end with 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--prometheus", required=True)
    parser.add_argument("--plots", type=Path)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--range", type=float, default=RANGE_S, dest="range_s", help="seconds back from now")
    given = parser.parse_args()
    found = check(given.prometheus, given.plots, given.range_s)
    text = json.dumps(found, indent=2)
    if given.report is not None:
        given.report.parent.mkdir(parents=True, exist_ok=True)
        given.report.write_text(text + "\n")
    print(text)
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
