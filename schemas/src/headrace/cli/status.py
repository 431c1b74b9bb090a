"""headrace status: one screen for the operator. Services, lag, what is parked, what is firing, how fresh everything is."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
import typer
from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from headrace.cli.kafka import access, told
from headrace.cli.places import FOUND, Bootstrap
from headrace.cli.terminal import printer
from headrace.client.local_stack import FIRST_PORT, HOST
from headrace.client.standing import Places, Service, Standing, standing

EVERY_S = 2.0
LAGS_SHOWN = 12  # groups furthest behind; the others are counted
BEHIND_S = 10.0  # a group this far behind is told in red

console = printer()

Host = Annotated[
    str, typer.Option(help="Where the services listen.", show_default=f"as HEADRACE_*_URL or the local stack say, else {HOST}")
]
FirstPort = Annotated[
    int | None,
    typer.Option(
        help="Port of svc-ingest; the other services follow one by one.",
        show_default=f"as HEADRACE_*_URL or the local stack say, else {FIRST_PORT}",
    ),
]
Alertmanager = Annotated[
    str,
    typer.Option(
        envvar="HEADRACE_ALERTMANAGER_URL",
        help="Alertmanager; left out, the one `make observe` started, else port 9093 of this machine.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("status")(status)


def status(
    host: Host = FOUND,
    first_port: FirstPort = None,
    bootstrap: Bootstrap = FOUND,
    alertmanager: Alertmanager = "",
    watch: Annotated[bool, typer.Option("--watch", help="Look again every two seconds until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON, for a script.")] = False,
) -> None:
    """Show on one screen how the platform stands: services and why they are not ready, consumer lag in records and seconds,
    parked pipelines and why, firing alerts with their runbooks, how fresh each event is, training runs under way or failed,
    decisions and sources.

    What cannot be asked (no broker, no Alertmanager) is told. Ends with 1 if a service is not ready.
    """
    with told():
        places = Places(host, first_port, bootstrap, alertmanager, access())
    if watch:
        _watch(places)
        return
    found = standing(places, time.time())
    if as_json:
        typer.echo(orjson.dumps(as_data(found), option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode())
    else:
        console.print(screen(found))
    if not found.ready:
        raise typer.Exit(1)


def _watch(places: Places) -> None:
    """The same screen again and again; the time stands above it, so that a hung look is seen."""
    with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
        try:
            while True:
                at_s = time.time()
                at = f"{datetime.fromtimestamp(at_s, UTC):%H:%M:%S} UTC"
                live.update(Group(at, screen(standing(places, at_s))), refresh=True)
                time.sleep(EVERY_S)
        except KeyboardInterrupt:
            return


def as_data(found: Standing) -> dict[str, Any]:
    """Everything as plain data, but for the metrics pages."""
    data = asdict(found)
    for one in data["services"]:
        del one["metrics"]
    return data


def screen(found: Standing) -> Group:
    """The whole screen; parts with nothing in them are one line or nothing."""
    parts: list[Any] = [_services(found), _parked(found), _alerts(found), _lags(found), _fresh(found), _trained(found)]
    parts += [_served(found.service("svc-serve")), _taken(found.service("svc-ingest"))]
    return Group(*(part for part in parts if part is not None))


def _services(found: Standing) -> Table:
    table = Table("service", "state", "why", box=None)
    for one in found.services:
        why = "; ".join(f"{who}: {text}" for who, text in one.why.items())
        table.add_row(one.name, "[green]ready[/]" if one.ready else f"[red]{escape(one.state or 'not ready')}[/]", escape(why))
    return table


def _parked(found: Standing) -> Table | str:
    if not found.parked:
        missing = found.complaints.get("parked")
        silent = f" of those that answer ([yellow]{escape(missing)}[/])" if missing else ""
        return f"[bold]parked[/]  none{silent}"
    table = Table("parked", "by", "why", box=None)
    for item in found.parked:
        table.add_row(f"[red]{escape(item.pipeline)}[/]", item.service, escape(item.why))
    return table


def _alerts(found: Standing) -> Table | str:
    if "alerts" in found.complaints:
        return f"[bold]alerts[/]  [yellow]not known: no Alertmanager answers[/] ({escape(found.complaints['alerts'])})"
    if not found.alerts:
        return "[bold]alerts[/]  none firing"
    table = Table("alert", "severity", "since", "about", "what", box=None)
    table.add_column("runbook", no_wrap=True, overflow="ignore")  # a path to be copied: the other columns give way
    for alert in found.alerts:
        color = "red" if alert.severity == "page" else "yellow"
        said = f"{alert.summary} (silenced)" if alert.silenced else alert.summary
        table.add_row(
            f"[{color}]{escape(alert.name)}[/]",
            alert.severity,
            age(alert.since_s),
            escape(alert.about),
            escape(said),
            alert.runbook,
        )
    return table


def _lags(found: Standing) -> Table | str:
    if "lag" in found.complaints:
        return f"[bold]lag[/]  [yellow]not known: the broker does not answer[/] ({escape(found.complaints['lag'])})"
    behind = [line for line in found.lags if line.records]
    level = len(found.lags) - len(behind)
    if not behind:
        return f"[bold]lag[/]  none: {level} groups are at the end of their topics"
    table = Table("group behind", "records", "seconds", "partitions", "most in", box=None)
    for line in behind[:LAGS_SHOWN]:
        color = "red" if line.seconds >= BEHIND_S else "default"
        table.add_row(
            line.group, f"{line.records:,}", f"[{color}]{line.seconds:.1f}[/]", str(line.partitions), escape(line.topic)
        )
    more = len(behind) - LAGS_SHOWN
    table.add_row(f"{f'{more} more behind; ' if more > 0 else ''}{level} at the end", "", "", "", "")
    return table


def _fresh(found: Standing) -> Table | None:
    if not found.fresh:
        return None
    table = Table("event", "last taken", "in views up to", "newest in archive", box=None)
    for line in found.fresh:
        table.add_row(
            f"{line.pipeline}/{line.event}",
            "-" if line.accepted_age_s is None else f"{age(line.accepted_age_s)} ago",
            "-" if line.served_ms is None else clock(line.served_ms),
            "-" if line.archived_age_s is None else f"{age(line.archived_age_s)} ago",
        )
    if found.progress_age_s:
        topic = max(found.progress_age_s, key=lambda name: found.progress_age_s[name])
        table.add_row(f"[dim]oldest view: {topic}, {age(found.progress_age_s[topic])} since its progress[/]")
    return table


def _trained(found: Standing) -> Table | None:
    """Runs under way or failed; nothing where all is well."""
    if not found.trainings:
        return None
    table = Table("training", "state", "asked for", "by", "why", box=None)
    for run in found.trainings:
        color = "red" if run.state == "failed" else "default"
        table.add_row(
            run.model, f"[{color}]{escape(run.state)}[/]", f"{age(run.asked_age_s)} ago", run.asked_by, escape(run.why)
        )
    return table


def _served(one: Service) -> Table | None:
    page = one.page
    if not page.get("models"):
        return None
    table = Table("model", "epoch", "arms", "decisions by source", box=None)
    decisions = ", ".join(f"{source} {count}" for source, count in sorted(page["decisions"].items())) or "none yet"
    for name, model in page["models"].items():
        arms = ", ".join(f"{arm['name']} {arm['weight'] / 100:g} %" for arm in model["arms"])
        table.add_row(name, str(model["epoch"]), arms or "rules", decisions)
    return table


def _taken(one: Service) -> Table | None:
    if not one.page.get("sources"):
        return None
    table = Table("source", "accepted", "duplicates", "rejected", box=None)
    for name, tally in one.page["sources"].items():
        rejected = ", ".join(f"{reason} {count}" for reason, count in tally["rejected"].items())
        table.add_row(name, f"{tally['accepted']:,}", f"{tally['duplicates']:,}", rejected or "0")
    return table


def age(seconds: float) -> str:
    """A length of time as people read it: 4.2 s, 12 min, 3.5 h, 2.0 d."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7_200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} d"


def clock(ms: int) -> str:
    """ms UTC as people read it."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
