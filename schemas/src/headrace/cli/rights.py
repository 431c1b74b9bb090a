"""`headrace rights`: who may do what at the broker, made from the topic files and a declaration; shown, or given."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from headrace.chassis.access import AccessSettings
from headrace.chassis.grants_confluent import ConfluentGrants, kafka_commands
from headrace.cli.places import FOUND, Bootstrap
from headrace.cli.terminal import printer
from headrace.contracts.errors import HeadraceError
from headrace.contracts.grants import Grant, platform_grants
from headrace.declare import compile, load
from headrace.plan.grants import plan_grants

app = typer.Typer(help="Rights at the broker, from the topic files.", no_args_is_help=True)
console = printer()
complaints = printer(stderr=True)

Folder = Annotated[Path | None, typer.Argument(help="A declaration's folder; none: what holds before any plan.")]


def register(root: typer.Typer) -> None:
    """Add the commands of this file."""
    root.add_typer(app, name="rights")


@app.command("list")
def list_rights(
    folder: Folder = None,
    principal: Annotated[str, typer.Option(help="Only of this one, such as svc-stream.")] = "",
    commands: Annotated[bool, typer.Option("--commands", help="As calls of Kafka's own kafka-acls.")] = False,
) -> None:
    """Show the rights. Needs no broker."""
    grants = [grant for grant in _wanted(folder) if principal in ("", grant.principal)]
    if commands:
        for line in kafka_commands(grants):
            typer.echo(line)
        return
    table = Table("principal", "may", "on", "name")
    for grant in grants:
        name = grant.name + ("*" if grant.prefixed else "")
        table.add_row(grant.principal, grant.operation, grant.resource, name)
    console.print(table)


@app.command()
def give(folder: Folder = None, bootstrap: Bootstrap = FOUND) -> None:
    """Give the rights, as whom HEADRACE_KAFKA_* say: one who may. svc-governance does it by itself where it is told to."""
    try:
        grants = _wanted(folder)
        ConfluentGrants(bootstrap, AccessSettings().kafka()).give(grants)
    except HeadraceError as error:
        complaints.print(str(error), style="red", highlight=False)
        raise typer.Exit(1) from None
    console.print(f"{len(grants)} rights are in force")


def _wanted(folder: Path | None) -> list[Grant]:
    return platform_grants() if folder is None else plan_grants(compile(load(folder)))
