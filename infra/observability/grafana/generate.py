"""Writes the dashboards' JSON from `headrace_observe.panels`, with Grafana's own SDK.

    make dashboards          in an environment of its own, see infra/requirements/observability.in

Each panel links to its runbook (`/public/runbooks/<Alert>.md`: the folder of runbooks is mounted into Grafana's public
folder) and to the traces of its service in Tempo; where series carry exemplars, their points lead to single traces.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from urllib.parse import quote

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef, VariableRefresh

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from headrace_observe.boards import BOARDS  # noqa: E402 - the folder of this clone, not an installed one
from headrace_observe.panels import Board, Panel  # noqa: E402

OUT = HERE / "dashboards"
METRICS = DataSourceRef(type_val="prometheus", uid="prometheus")
TRACES = "tempo"
WIDTH, HEIGHT = 6, 7  # four panels a row of 24


def runbook_url(panel: Panel) -> str:
    """Where Grafana serves the runbook."""
    return f"/public/runbooks/{panel.runbook}.md"


def traces_url(panel: Panel) -> str:
    """Explore, in the time range shown: traces of the panel's service."""
    query = {"refId": "A", "queryType": "traceql", "query": f'{{resource.service.name="{panel.service}"}}'}
    shown = {"datasource": TRACES, "queries": [query], "range": {"from": "${__from}", "to": "${__to}"}}
    return f"/explore?left={quote(json.dumps(shown, separators=(',', ':')), safe='${}_')}"


def _links(panel: Panel) -> list[dashboard.DashboardLink]:
    return [
        dashboard.DashboardLink(f"runbook: {panel.runbook}").url(runbook_url(panel)).target_blank(True),
        dashboard.DashboardLink(f"traces of {panel.service}").url(traces_url(panel)).target_blank(True),
    ]


def panel_of(panel: Panel, number: int) -> timeseries.Panel | stat.Panel:
    """One panel as the SDK builds it."""
    built = timeseries.Panel() if panel.kind == "timeseries" else stat.Panel()
    built = built.title(panel.title).description(panel.says).datasource(METRICS).links(_links(panel))
    built = built.id(number).span(WIDTH).height(HEIGHT)
    if panel.unit:
        built = built.unit(panel.unit)
    for at, (legend, expr) in enumerate(panel.queries.items()):
        query = prometheus.Dataquery().expr(expr).legend_format(legend).exemplar(panel.exemplars).datasource(METRICS)
        built = built.with_target(query.ref_id(chr(ord("A") + at)))
    return built


def board_of(board: Board) -> dashboard.Dashboard:
    """One dashboard."""
    pipelines = (
        dashboard.QueryVariable("pipeline").label("pipeline").datasource(METRICS)
        .query("label_values(governance_pipeline_epoch, pipeline)").refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True).include_all(True).all_value(".*")
    )  # fmt: skip
    built = dashboard.Dashboard(board.title).uid(board.uid).description(board.says).tags(["headrace"]).readonly()
    built = built.time("now-1h", "now").refresh("10s").timezone("utc").tooltip(DashboardCursorSync.CROSSHAIR)
    built = built.with_variable(pipelines)
    number = 0
    for row in board.rows:
        number += 1
        built = built.with_row(dashboard.Row(row.title).id(number))
        for panel in row.panels:
            number += 1
            built = built.with_panel(panel_of(panel, number))
    return built


def render() -> dict[str, str]:
    """JSON by file name."""
    return {
        f"{board.uid}.json": JSONEncoder(sort_keys=True, indent=1).encode(board_of(board).build()) + "\n" for board in BOARDS
    }


def main() -> int:
    """Write, or with --check say which files are not what would be written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    made = render()
    there = {file.name: file.read_text() for file in OUT.glob("*.json")}
    if given.check:
        stale = sorted(name for name in made.keys() | there.keys() if made.get(name) != there.get(name))
        print("\n".join(stale) or f"{len(made)} dashboards are up to date")
        return 1 if stale else 0
    for name in there.keys() - made.keys():
        (OUT / name).unlink()
    for name, text in made.items():
        (OUT / name).write_text(text)
    print(f"{len(made)} dashboards in {OUT}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
