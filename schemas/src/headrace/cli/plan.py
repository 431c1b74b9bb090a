"""`headrace plan`: what a declaration becomes, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from headrace.declare import DeclarationError, compile, load
from headrace.plan import report
from headrace.plan.hashes import PlanFormatError, from_json, hash8, to_json
from headrace.plan.ir import Plan


def compiled(path: Path) -> Plan:
    """The plan of a declaration; ends the command with every mistake at its line when it does not compile."""
    try:
        return compile(load(path))
    except DeclarationError as error:
        console = Console(stderr=True, highlight=False)
        for complaint in error.complaints:
            console.print(f"[bold]{complaint.where}[/]: [red]{_plain(complaint.detail)}[/]", soft_wrap=True)
            if complaint.hint:
                console.print(f"    {_plain(complaint.hint)}", soft_wrap=True)
        console.print(f"{len(error.complaints)} mistake(s): nothing was changed")
        raise typer.Exit(2) from None


def plan(
    path: Annotated[Path, typer.Argument(help="pipeline.py, or the folder that holds one")],
    against: Annotated[Path | None, typer.Option(help="a plan as JSON, or another declaration, to compare with")] = None,
    json: Annotated[bool, typer.Option("--json", help="print the plan as canonical JSON")] = False,
    plain: Annotated[bool, typer.Option(help="print the report as plain text")] = False,
) -> None:
    """Show what a declaration becomes: topology, topics, state per key, reads per request, and what a change costs."""
    new = compiled(path)
    live = None if against is None else _other(against)
    if json:
        typer.echo(to_json(new).decode())
    elif plain:
        typer.echo(report.text(new, live), nl=False)
    else:
        render(Console(), new, live)


def render(console: Console, plan: Plan, live: Plan | None) -> None:
    """The report as tables."""
    console.print(f"pipeline [bold]{plan.pipeline}[/], plan {hash8(plan.hash)}, owner {plan.owner}")
    console.print(_table("topology", ("from", "to", "what"), [(e.source, e.target, e.what) for e in report.topology(plan)]))
    rows = [(name, str(partitions or ""), what) for name, partitions, what in report.topics(plan)]
    console.print(_table("topics", ("topic", "partitions", "carries"), rows))
    rows = [
        (c.name, hash8(c.hash), ", ".join(c.entity), c.placement, *map("{:,}".format, c.numbers))
        for c in (report.set_cost(plan, item) for item in plan.feature_sets)
    ]
    heads = ("set", "hash", "entity", "placement", "features", "tiles/key", "bytes/key", "reads/request")
    console.print(_table("feature sets", heads, rows))
    rows = [(m.name, hash8(m.hash), f"{len(m.inputs)}", f"{m.deadline_ms} ms", f"{m.sample_bp / 100:g} %") for m in plan.models]
    console.print(_table("models", ("model", "hash", "inputs", "deadline", "requests decided"), rows))
    for line in report.warnings(plan):
        console.print(f"[yellow]warning[/] {_plain(line)}")
    rows = [(f"{c.kind} {c.name}", c.verb, ", ".join(c.what), c.effect) for c in report.changes(plan, live)]
    title = "changes" if live is None else f"changes against {hash8(live.hash)}"
    console.print(_table(title, ("node", "", "differs in", "effect"), rows) if rows else f"{title}: none")


def _table(title: str, heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    table = Table(title=title, title_justify="left", show_edge=False, header_style="dim")
    for head in heads:
        table.add_column(head, overflow="fold", justify="right" if "/" in head or head == "partitions" else "left")
    for row in rows:
        table.add_row(*map(_plain, row))
    return table


def _plain(text: str) -> str:
    return text.replace("[", r"\[")


def _other(path: Path) -> Plan:
    if path.suffix != ".json":
        return compiled(path)
    try:
        return from_json(path.read_bytes())
    except (OSError, PlanFormatError) as error:
        typer.echo(f"{path}: {error}", err=True)
        raise typer.Exit(2) from None
