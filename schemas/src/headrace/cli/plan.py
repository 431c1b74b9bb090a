"""`headrace plan`: what a declaration becomes, what a change means and costs, before anything runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from headrace.cli import replay
from headrace.cli.identity import URL, Url, complaints, governance
from headrace.cli.places import FOUND, option
from headrace.cli.terminal import printer
from headrace.client.local_stack import FEATURES_URL
from headrace.declare import DeclarationError, compile, load
from headrace.declare.durations import duration_ms
from headrace.plan import difference, lineage, report
from headrace.plan.costs import set_cost
from headrace.plan.hashes import PlanFormatError, from_json, hash8, to_json
from headrace.plan.ir import Plan
from headrace.plan.retained import declared

N = TypeVar("N", int, float)
_UNITS = {"": 1, "k": 1_000, "M": 1_000_000, "B": 1_000_000_000}
_DURATION = re.compile(r"(?:\d+(?:ms|s|m|h|d|w))+")
_SHARE = re.compile(r"([\w.,-]+)=([\d_]+(?:\.\d+)?)([kMB]?)")


class Drawing(StrEnum):
    """How lineage is drawn for other programs."""

    dot = "dot"
    mermaid = "mermaid"


def compiled(path: Path) -> Plan:
    """The plan of a declaration; ends the command with every mistake at its line when it does not compile."""
    try:
        return compile(load(path))
    except DeclarationError as error:
        console = printer(stderr=True, highlight=False)
        for complaint in error.complaints:
            console.print(f"[bold]{complaint.where}[/]: [red]{_plain(complaint.detail)}[/]", soft_wrap=True)
            if complaint.hint:
                console.print(f"    {_plain(complaint.hint)}", soft_wrap=True)
        console.print(f"{len(error.complaints)} mistake(s): nothing was changed")
        raise typer.Exit(2) from None


def plan(
    path: Annotated[Path, typer.Argument(help="pipeline.py, the folder that holds one, or a plan as JSON")],
    against: Annotated[
        str | None,
        typer.Option(help="a plan as JSON or another declaration to compare with; or a span such as 30d: decisions made again"),
    ] = None,
    live: Annotated[bool, typer.Option("--live", help="compare with the plan in force")] = False,
    url: Url = URL,
    json: Annotated[bool, typer.Option("--json", help="print the plan (or its lineage) as JSON")] = False,
    plain: Annotated[bool, typer.Option(help="print the report as plain text")] = False,
    columns: Annotated[bool, typer.Option("--lineage", help="from the model's inputs back to fields and sources")] = False,
    drawn: Annotated[Drawing | None, typer.Option("--as", help="lineage as text for Graphviz or Mermaid")] = None,
    keys: Annotated[list[str] | None, typer.Option(help="entities of a set, or of an entity field: card=60M")] = None,
    rate: Annotated[list[str] | None, typer.Option(help="events of one key a day: payments=3")] = None,
    history: Annotated[list[str] | None, typer.Option(help="rows of an event in the log: payments=2B")] = None,
    freshness: Annotated[str, typer.Option(help="how soon an event must be readable, in place of what sets declare")] = "",
    model: Annotated[str, typer.Option(help="with a span: a candidate that answers, by run id or digest")] = "",
    by: Annotated[list[str] | None, typer.Option(help="with a span: a request field to count flips by")] = None,
    fail_on: Annotated[list[str] | None, typer.Option(help="with a span: end with 1 if it holds, such as flips>1%")] = None,
    flips: Annotated[Path | None, typer.Option(help="with a span: write every flip to this file, as JSON lines")] = None,
    most: Annotated[int, typer.Option(min=0, help="with a span: flips shown, or listed in the JSON")] = 20,
    lake: Annotated[Path | None, typer.Option(help="with a span: replay here, from this lake, with the stack down")] = None,
    features_url: Annotated[str, option(FEATURES_URL, "--features-url", help="with a span: svc-features")] = FOUND,
) -> None:
    """Show what a declaration becomes: topology, topics, state per key, reads per request, and what a change costs.

    With a span, such as --against 30d: the decisions of the last 30 days of event time are made again under the
    declaration, or by --model, and those that flip are listed with gains and cost. Ends with 1 if a --fail-on condition
    holds (flips, not_replayed, corrected, broken, false_alarms, misses, accuracy, precision, recall, auc, bytes, reads),
    with 2 if there is no answer.
    """
    new = _other(path)
    span_ms = None if against is None else _span(against)
    if span_ms is not None:
        conditions, asked = replay.parsed(fail_on or ()), replay.question_of(new, span_ms, model, by or ())
        replay.replay(
            asked, lake=lake, features_url=features_url, conditions=conditions, as_json=json, most=most, save=flips,
            console=printer(),
        )  # fmt: skip
        return
    if model or by or fail_on or flips or lake:
        raise typer.BadParameter("--model, --by, --fail-on, --flips and --lake need a span: --against 30d")
    if columns or drawn is not None:
        _lineage(new, drawn, json)
        return
    if json:
        typer.echo(to_json(new).decode())
        return
    soon_ms = _duration(freshness) if freshness else None
    known = report.Load(_shares(keys, int), _shares(rate, float), _shares(history, int), soon_ms)
    _known_names(new, known)
    before = _in_force(new, url) if live else None if against is None else _other(Path(against))
    if plain:
        typer.echo(report.text(new, before, known), nl=False)
    else:
        render(printer(), new, before, known)
    if refused := report.refusals(new, known):
        for problem in refused:
            complaints.print(str(problem), style="red", highlight=False, soft_wrap=True, markup=False)
        raise typer.Exit(2)


def _lineage(new: Plan, drawn: Drawing | None, json: bool) -> None:
    graph = lineage.lineage(new)
    forms: dict[Drawing | None, Callable[[lineage.Lineage], str]] = {
        None: lineage.as_text,
        Drawing.dot: lineage.as_dot,
        Drawing.mermaid: lineage.as_mermaid,
    }
    typer.echo(lineage.as_json(graph) + "\n" if json else forms[drawn](graph), nl=False)


def render(console: Console, plan: Plan, live: Plan | None, load: report.Load) -> None:
    """The report as tables."""
    console.print(f"pipeline [bold]{plan.pipeline}[/], plan {hash8(plan.hash)}, owner {plan.owner}")
    console.print(_table("topology", ("from", "to", "what"), [(e.source, e.target, e.what) for e in report.topology(plan)]))
    rows = [(name, str(partitions or ""), what) for name, partitions, what in difference.topics(plan)]
    console.print(_table("topics", ("topic", "partitions", "carries"), rows))
    if plan.streams:
        console.print("[italic]streams[/]")
        for line in (*report.tree_lines(plan), "", *report.stream_lines(plan, load)):
            console.print(f"  {_plain(line)}", highlight=False, soft_wrap=True)
    costs = [set_cost(plan, item) for item in plan.feature_sets]
    rows = [(c.name, hash8(c.hash), ", ".join(c.entity), c.placement, *(f"{number:,}" for number in c.numbers)) for c in costs]
    heads = ("set", "hash", "entity", "placement", "features", "tiles/key", "bytes/key", "reads/request")
    console.print(_table("feature sets (bounds)", heads, rows))
    for title, lines in (
        ("size", report.size_lines(plan, load)),
        ("how it runs", report.mode_lines(plan, load.freshness_of(plan))),
        ("backfill", report.backfill_lines(plan, live, load)),
        ("models", report.model_lines(plan)),
    ):
        if lines:
            console.print(f"[italic]{title}[/]")
            for line in lines:
                console.print(f"  {_plain(line)}", highlight=False)
    for line in report.warnings(plan):
        console.print(f"[yellow]warning[/] {_plain(line)}")
    rows = [(f"{c.kind} {c.name}", c.verb, ", ".join(c.what), c.effect) for c in difference.changes(plan, live)]
    title = report.AGAINST_NOTHING if live is None else f"changes against {hash8(live.hash)}"
    console.print(_table(title, ("node", "", "differs in", "effect"), rows) if rows else f"{title}: none")
    for line in report.impact_lines(plan, live) if live is not None and rows else ():
        console.print(f"  {_plain(line)}", highlight=False)


def _table(title: str, heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    table = Table(title=title, title_justify="left", show_edge=False, header_style="dim")
    for head in heads:
        table.add_column(head, overflow="fold", justify="right" if "/" in head or head == "partitions" else "left")
    for row in rows:
        table.add_row(*map(_plain, row))
    return table


def _plain(text: str) -> str:
    return text.replace("[", r"\[")


def _shares(given: list[str] | None, number: type[N]) -> dict[str, N]:
    """NAME=NUMBER pairs, with k, M and B for thousands, millions and billions."""
    found: dict[str, N] = {}
    for text in given or ():
        match = _SHARE.fullmatch(text)
        if match is None:
            raise typer.BadParameter(f"{text!r} is not NAME=NUMBER, such as card=60M")
        found[match[1]] = number(float(match[2]) * _UNITS[match[3]])
    return found


def _known_names(plan: Plan, known: report.Load) -> None:
    """Raises: typer.BadParameter for a name the plan does not have."""
    sets = {name for s in plan.feature_sets for name in (s.name, ",".join(s.entity))}
    sets |= {name for s in plan.streams for name in (s.name, ",".join(s.inputs[0].key)) if name}
    events = {event.name for event in plan.events}
    rates = events | {f"{s.name}.{read.event}" for s in plan.streams for read in s.inputs}
    for given, names in ((known.keys, sets), (known.events_a_day, rates), (known.history, events)):
        for name in given:
            if name not in names:
                raise typer.BadParameter(f"{name!r} is none of {', '.join(sorted(names))}")


def _duration(text: str) -> int:
    try:
        return duration_ms(text)
    except DeclarationError as error:
        raise typer.BadParameter(error.complaints[0].detail) from None


def _span(text: str) -> int | None:
    """Milliseconds of a span of days; None for a path. A file of that name is named ./30d."""
    return duration_ms(text) if _DURATION.fullmatch(text) else None


def _in_force(new: Plan, url: str) -> Plan | None:
    with governance(url) as client:
        found = client.plan(new.pipeline)
    if found is None:
        complaints.print(f"no plan of {new.pipeline} is in force: everything is new", highlight=False)
    return None if found is None else declared(from_json(found))


def _other(path: Path) -> Plan:
    if path.suffix != ".json":
        return compiled(path)
    try:
        return from_json(path.read_bytes())
    except (OSError, PlanFormatError) as error:
        typer.echo(f"{path}: {error}", err=True)
        raise typer.Exit(2) from None
