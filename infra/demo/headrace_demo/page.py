"""The closing report as one HTML file: no network, no scripts; plots are inline SVG."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.axes import Axes

from headrace_demo.findings import Findings

SEPARATOR = "\x1f"  # of composite entities
SPANS_MAX = 32
STATUSES = ("fresh", "stale", "missing", "ahead", "expired")
COLOURS = {"model": "#1f6f8b", "rules": "#d98e04", "default": "#9a9a9a", "previous": "#7a5195"}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #222 }
h1, h2 { font-weight: 600 }
h2 { margin-top: 2.2rem }
table { border-collapse: collapse }
td, th { padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top }
.ok { color: #19722b }
.no { color: #b3261e }
svg { max-width: 100%; height: auto }
code { background: #f3f3f3; padding: .1rem .3rem }
"""


def write(found: Findings, report: dict[str, Any], zipkin: str, path: Path) -> Path:
    """Write the page."""
    parts = [
        f"<h1>Headrace {escape(report['verb'])}</h1>",
        f"<p>{report['wall_s']:.0f} s, seed {report['seed']}, commit <code>{escape(report['commit'][:12])}</code>, "
        f"{report['machine']['cpus']} CPUs</p>",
        _checks(report),
        "<h2>Figures</h2>",
        _figures(report["figures"]),
    ]
    for title, draw in PLOTS:
        parts += [f"<h2>{escape(title)}</h2>", _svg(_of(draw, found))]
    parts += ["<h2>One flight, followed</h2>", _flight(found.followed, zipkin)]
    body = "\n".join(parts)
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Headrace {escape(report["verb"])}</title>'
        f"<style>{_STYLE}</style><body>{body}</body></html>",
        encoding="utf-8",
    )
    return path


def _of(draw: Callable[[Axes, Findings], None], found: Findings) -> Callable[[Axes], None]:
    return lambda ax: draw(ax, found)


def _checks(report: dict[str, Any]) -> str:
    marks = {True: '<td class="ok">\u2713</td>', False: '<td class="no">\u2717</td>'}
    rows = "".join(
        f"<tr>{marks[c['ok']]}<td>{escape(c['name'])}</td><td>{escape(c['detail'])}</td></tr>" for c in report["checks"]
    )
    return f"<table>{rows}</table>"


def _figures(figures: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{escape(name.replace('_', ' '))}</th><td>{escape(_told(value))}</td></tr>" for name, value in figures.items()
    )
    return f"<table>{rows}</table>"


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_told(inner)}" for name, inner in value.items()) or "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _svg(draw: Callable[[Axes], None], height: float = 2.8) -> str:
    figure, axes = plt.subplots(figsize=(8.5, height))
    draw(axes)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    plt.close(figure)
    text = out.getvalue()
    return text[text.index("<svg") :]


def _times(values_ms: Sequence[int]) -> np.ndarray:
    """ms UTC as matplotlib draws them."""
    return np.array(values_ms, dtype="datetime64[ms]")


def _auc(ax: Axes, found: Findings) -> None:
    months = [(m, m.model, m.rule) for m in found.months if m.model is not None and m.rule is not None]
    at = np.arange(len(months))
    ax.bar(at - 0.2, [model for _, model, _ in months], 0.38, label="model", color=COLOURS["model"])
    ax.bar(at + 0.2, [rule for _, _, rule in months], 0.38, label="rule", color=COLOURS["rules"])
    ax.set_xticks(at, [f"{m.month}\n{m.labelled:,} labelled" for m, _, _ in months])
    ax.set_ylim(0.5, 0.85)
    ax.legend(frameon=False)


def _sources(ax: Axes, found: Findings) -> None:
    decisions = found.decisions
    by_day = decisions.with_columns(day=pl.col("t_ms") // 86_400_000).group_by("day", "decision_source").len().sort("day")
    for (source,), part in sorted(by_day.group_by(["decision_source"]), key=lambda item: str(item[0][0])):
        part = part.sort("day")
        days = _times([day * 86_400_000 for day in part["day"]])
        ax.plot(days, part["len"].to_list(), label=str(source), color=COLOURS.get(str(source), "#444444"), linewidth=1.3)
    ax.set_ylabel("decisions")
    if decisions.height:
        ax.legend(frameon=False)


def _canary(ax: Axes, found: Findings) -> None:
    weights = found.weights
    if weights:
        ax.step(
            _times([at for at, _, _ in weights]),
            [weight for _, weight, _ in weights],
            where="post",
            color=COLOURS["model"],
            marker="o",
        )
    ax.set_ylim(0, 105)
    ax.set_ylabel("per cent")


def _latency(ax: Axes, found: Findings) -> None:
    values = found.latency_ms
    if values:
        ax.hist(np.clip(values, 1, None), bins=np.geomspace(1, max(10.0, *values), 50).tolist(), color=COLOURS["model"])
    ax.set_xscale("log")
    ax.set_xlabel("ms")


def _drift(ax: Axes, found: Findings) -> None:
    looks = found.looks
    if looks:
        ax.plot(
            _times([look["end_ms"] for look in looks]),
            [look["worst_psi"] for look in looks],
            marker="o",
            color=COLOURS["model"],
        )
    ax.axhline(0.2, color="#b3261e", linewidth=0.8, linestyle="--")
    ax.set_ylabel("PSI")


PLOTS: tuple[tuple[str, Callable[[Axes, Findings], None]], ...] = (
    ("AUC by month, model against rule", _auc),
    ("Decisions by source, per day of event time", _sources),
    ("Canary: share of the challenger", _canary),
    ("From append of the request to its passport", _latency),
    ("Drift: largest PSI of the watched inputs, by look", _drift),
)


def _flight(followed: dict[str, Any], zipkin: str) -> str:
    if not followed:
        return "<p>no traced flight was decided and arrived</p>"
    passport, arrival = followed["passport"], followed["arrival"]
    spans = followed["spans"][:SPANS_MAX]
    score = "" if passport["score"] is None else f", score {passport['score']:.3f}"
    said = f"{'late' if passport['decision'] else 'punctual'}{score}"
    who = f"decided by {escape(str(passport['decision_source']).lower())}, arm {escape(passport['arm'])}"
    link = f'<a href="{zipkin}/zipkin/traces/{followed["trace_id"]}"><code>{followed["trace_id"]}</code></a>'
    parts = [
        f"<p><b>{escape(followed['flight'])}</b>: {said}, {who}. It arrived {arrival['arr_delay']} minutes after schedule.</p>",
        f"<p>Trace {link} (while the stack runs)</p>",
        _features(passport, followed["plan"]),
        _contributions(passport),
        _svg(lambda ax: _spans(ax, spans), max(2.8, 0.24 * len(spans))),
    ]
    return "\n".join(parts)


def _features(passport: dict[str, Any], plan: Any) -> str:
    rows = []
    for read in passport["sets"]:
        names = [feature.name for feature in next(s for s in plan.feature_sets if s.name == read["set"]).features]
        for name, value, status in zip(names, read["values"], read["statuses"], strict=True):
            shown = "-" if value is None else f"{value:.4g}"
            entity = escape((read["entity"] or "").replace(SEPARATOR, " "))
            rows.append(
                f"<tr><td>{read['set']}</td><td>{entity}</td><td>{name}</td><td>{shown}</td><td>{STATUSES[status]}</td></tr>"
            )
    return (
        "<table><tr><th>set</th><th>entity</th><th>feature</th><th>value</th><th>status</th></tr>" + "".join(rows) + "</table>"
    )


def _contributions(passport: dict[str, Any]) -> str:
    if not passport["contributions"]:
        return ""
    rows = "".join(f"<tr><td>{escape(c['input'])}</td><td>{c['value']:+.3f}</td></tr>" for c in passport["contributions"])
    return (
        f"<h3>Contributions to the log-odds</h3><table>{rows}<tr><th>sum</th><th>{passport['raw_score']:+.3f}</th></tr></table>"
    )


def _spans(ax: Axes, spans: list[dict[str, Any]]) -> None:
    if not spans:
        return
    start = spans[0]["timestamp"]
    for row, span in enumerate(spans):
        ax.barh(row, max(span.get("duration", 1), 200) / 1000, left=(span["timestamp"] - start) / 1000, color=COLOURS["model"])
    names = [f"{span.get('localEndpoint', {}).get('serviceName', '')}: {span.get('name', '')}"[:60] for span in spans]
    ax.set_yticks(range(len(spans)), names, fontsize=6)
    ax.invert_yaxis()
    ax.set_xlabel("ms since the flight's first event was taken in")
