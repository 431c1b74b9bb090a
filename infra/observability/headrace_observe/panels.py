"""What the dashboards show, as data: the one place where a panel's queries, its words and its runbook stand together.

Grafana's JSON is generated from here (`grafana/generate.py`), every query is run against a real Prometheus from here
(`make check-dashboards`), and the plots in the docs are drawn from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

RATE = "$__rate_interval"
PIPELINE = 'pipeline=~"$pipeline"'
REST = 'service="svc-serve", route="/v1/{pipeline}/{model}/decisions"'


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Attributes:
        queries: PromQL by legend; `{{label}}` in a legend is a label's value.
        unit: Grafana's name of the unit, "" for plain numbers.
        runbook: alert whose runbook says what to do when this looks wrong.
        service: whose traces the panel leads to.
        kind: timeseries or stat.
        exemplars: whether its series carry trace ids.
        awaits: the event without which it has no data, "" where data must be there.
    """

    title: str
    says: str
    queries: Mapping[str, str]
    runbook: str
    service: str
    unit: str = ""
    kind: str = "timeseries"
    exemplars: bool = False
    awaits: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard."""

    uid: str
    title: str
    says: str
    rows: tuple[Row, ...]

    @property
    def panels(self) -> tuple[Panel, ...]:
        return tuple(panel for row in self.rows for panel in row.panels)


def rate(metric: str, by: str, more: str = "", chosen: str = PIPELINE) -> str:
    """Sum of rates per second by labels, of the pipelines chosen; more: further matchers."""
    where = ", ".join(part for part in (more, chosen) if part)
    return f"sum by ({by}) (rate({metric}{{{where}}}[{RATE}]))"


def quantile(q: float, metric: str, by: str = "", where: str = PIPELINE) -> str:
    """Quantile of a histogram, by labels beside its buckets."""
    groups = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({groups}) (rate({metric}_bucket{{{where}}}[{RATE}])))"


def total(metric: str, by: str) -> str:
    """Sum of a metric by labels, of the pipelines chosen."""
    return f"sum by ({by}) ({metric}{{{PIPELINE}}})"


def plain(metric: str) -> str:
    """A metric as it is, of the pipelines chosen."""
    return f"{metric}{{{PIPELINE}}}"


def runnable(expr: str, window: str = "1m") -> str:
    """A query as Prometheus takes it: Grafana's variables put in."""
    return expr.replace("$__rate_interval", window).replace("$pipeline", ".*")
