"""headrace apply, retire, pipelines: put a declaration in force and watch the services take it up."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.table import Table

from headrace.cli.identity import DEFAULT_PRINCIPAL, URL, KeyFile, Principal, Url, complaints, console, governance
from headrace.client.governance import GovernanceClient

POLL_S = 0.25

_SHOWN = {"APPLIED": "[green]applied[/green]", "PARKED": "[red]parked[/red]", "RETIRED": "[yellow]retired[/yellow]"}


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("apply")(apply)
    app.command("retire")(retire)
    app.command("pipelines")(pipelines)


def apply(
    path: Annotated[Path, typer.Argument(help="pipeline.py, or the folder that holds one.")],
    principal: Principal = DEFAULT_PRINCIPAL,
    key: KeyFile = None,
    url: Url = URL,
    wait_s: Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait for all services; 0: none.")] = 60,
) -> None:
    """Compile a declaration, have it admitted, and wait until every service has taken it up.

    Ends with 0 if all applied it, with 1 if it was refused, parked somewhere, or not answered in time.
    """
    from headrace.declare import DeclarationError, compile, load  # users' code runs only here
    from headrace.plan.hashes import to_json

    try:
        plan = compile(load(path))
    except DeclarationError as error:
        complaints.print(str(error), style="red", highlight=False)
        raise typer.Exit(1) from None
    with governance(url, principal, key) as client:
        view = client.apply(to_json(plan))
        admitted = view["plan_hash"][:8]
        console.print(f"{plan.pipeline} admitted: plan [bold]{admitted}[/bold], epoch {view['epoch']}, by {principal}")
        for line in retained(view):
            console.print(line, highlight=False)
        if wait_s > 0:
            _watch(client, plan.pipeline, wait_s)


def _watch(client: GovernanceClient, pipeline: str, wait_s: float) -> None:
    """Show answers as they come. Raises: typer.Exit(1) if a service parked the pipeline or none came in time."""
    deadline = time.monotonic() + wait_s
    view = client.pipeline(pipeline)
    with Live(answers(view), console=console, refresh_per_second=8) as live:
        while view["waiting"] and time.monotonic() < deadline:
            time.sleep(POLL_S)
            view = client.pipeline(pipeline)
            live.update(answers(view))
    if view["parked"]:
        complaints.print(f"{pipeline} is parked in {', '.join(view['parked'])}; other pipelines go on", style="red")
        raise typer.Exit(1)
    if view["waiting"]:
        complaints.print(
            f"no answer within {wait_s:g} s from {', '.join(view['waiting'])}: see `headrace pipelines`", style="red"
        )
        raise typer.Exit(1)


def retained(view: dict[str, Any]) -> list[str]:
    """What older versions go on for."""
    return [
        f"{', '.join(version['models'])} goes on with {', '.join(version['sets'])} of plan {version['plan_hash'][:8]}"
        for version in view.get("retained", ())
    ]


def answers(view: dict[str, Any]) -> Table:
    """One row per service and replica."""
    table = Table(title=f"{view['pipeline']} epoch {view['epoch']}", title_justify="left")
    for column in ("service", "replica", "answer", "detail"):
        table.add_column(column)
    for ack in view["acks"]:
        table.add_row(ack["service"], ack["instance"], _SHOWN.get(ack["status"], ack["status"]), ack["detail"])
    for service in view["waiting"]:
        table.add_row(service, "", "[dim]waiting[/dim]", "")
    return table


def retire(
    pipeline: Annotated[str, typer.Argument(help="Pipeline to take down.")],
    principal: Principal = DEFAULT_PRINCIPAL,
    key: KeyFile = None,
    url: Url = URL,
) -> None:
    """Take a pipeline down. Its record stays."""
    with governance(url, principal, key) as client:
        view = client.retire(pipeline)
        console.print(f"{pipeline} retired, epoch {view['epoch']}, by {principal}")


def pipelines(url: Url = URL) -> None:
    """Show the pipelines and what the services answered."""
    with governance(url) as client:
        found = client.pipelines()
        for view in found:
            console.print(
                f"{view['pipeline']}: {view['state']}, plan {view['plan_hash'][:8]}, applied by {view['admitted_by']}"
            )
            for line in retained(view):
                console.print(line, highlight=False)
            console.print(answers(view))
        if not found:
            console.print("no pipelines yet: headrace apply PATH")
