"""headrace why: everything about one decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table

from headrace.cli.identity import URL, Url, complaints, console
from headrace.cli.places import FOUND, LAKE, Bootstrap, Lake, RegistryUrl, ZipkinUrl
from headrace.cli.status import clock
from headrace.client.explain import Explained, explain, find_among, pipelines_known
from headrace.client.passports import newest, request_of
from headrace.client.way import Hop, Untold, fetch, of_passport, of_trace, slowest
from headrace.contracts.errors import HeadraceError

NEWEST = 20  # listed of each pipeline
STATUSES = ("fresh", "stale", "missing", "ahead", "expired")


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("why")(why)


def why(
    request_id: Annotated[
        str,
        typer.Argument(
            metavar="[ID]",
            help="Request id of the decision, such as 2013-06-20.UA.1545.EWR; left out, the newest decisions are listed.",
        ),
    ] = "",
    pipeline: Annotated[str, typer.Option(help="The pipeline that decided; left out, the one that holds the id.")] = "",
    lake: Lake = LAKE,
    bootstrap: Bootstrap = FOUND,
    registry: RegistryUrl = FOUND,
    zipkin: ZipkinUrl = FOUND,
    url: Url = URL,
) -> None:
    """Show one decision: request, features with their status, contributions, its way with what each hop took and the slowest
    one named, its trace, what really happened, and who approved.

    The passport is looked for in the archive, then in its topic; names of features and approvals come from svc-governance.
    Without an ID the newest archived decisions are listed. Ends with 1 if there is no such decision.
    """
    names = [pipeline] if pipeline else pipelines_known(url, lake)
    if not names:
        complaints.print(
            f"no pipeline is known: svc-governance at {url} tells of none, and {lake} holds no decisions; "
            "see `make status`, or say --pipeline",
            style="red", highlight=False,
        )  # fmt: skip
        raise typer.Exit(1)
    if not request_id:
        recent(names, lake)
        return
    try:
        found = find_among(lake, bootstrap, registry, names, request_id)
    except HeadraceError as error:
        complaints.print(
            f"{error}; no archive at {lake} either" if not lake.exists() else str(error), style="red", highlight=False
        )
        raise typer.Exit(1) from None
    if found is None:
        complaints.print(f"no decision {request_id} of {', '.join(names)}: was it asked for?", style="red", highlight=False)
        raise typer.Exit(1)
    about = explain(found, lake, url)
    show(about)
    way(about, zipkin)
    outcome(about, lake)
    approvals(about)


def recent(pipelines: Sequence[str], lake: Path) -> None:
    """The newest decisions of these pipelines, to pick one from. took: request received to decided."""
    heads = (Column("ID", no_wrap=True), "model", "said", "by", "arm", "for event time", Column("took ms", justify="right"))
    table = Table(*heads, box=None)
    for pipeline in pipelines:
        for row in newest(lake, pipeline, NEWEST):
            said, took_ms = "yes" if row["decision"] else "no", row["decided_ms"] - row["received_ms"]
            by = str(row["decision_source"]).lower()
            cells = (f"{pipeline}/{row['model']}", said, by, row["arm"], clock(row["t_ms"]), f"{took_ms:,}")
            table.add_row(escape(row["request_id"]), *cells)
    console.print(table if table.row_count else f"no decision of {', '.join(pipelines)} is archived in {lake}", highlight=False)


def show(about: Explained) -> None:
    """The passport as tables."""
    found, passport = about.found, about.found.passport
    score = "" if passport["score"] is None else f", score {passport['score']:.3f}"
    reason = f" ({passport['source_reason']})" if passport["source_reason"] else ""
    console.print(
        f"[bold]{escape(passport['request_id'])}[/]  {passport['pipeline']}/{passport['model']} said "
        f"[bold]{'yes' if passport['decision'] else 'no'}[/]{score}, by {str(passport['decision_source']).lower()}{reason}, "
        f"arm {passport['arm']}, epoch {passport['epoch']}",
        highlight=False,
    )
    request = ", ".join(f"{name} {value}" for name, value in request_of(passport).items())
    console.print(
        f"asked for event time {clock(passport['t_ms'])} over {str(passport['door']).lower()}: {escape(request)}",
        highlight=False,
    )
    took = (
        ""
        if passport["request_append_ms"] is None
        else f", {found.append_ms - passport['request_append_ms']} ms after the request"
    )
    console.print(f"passport durable{took}; plan {passport['plan_hash'][:8]}; {found.where}", highlight=False)
    console.print(features(about))
    if passport["contributions"]:
        console.print(contributions(passport))


def way(about: Explained, zipkin: str) -> None:
    """How the decision came about, hop by hop; by its trace where it was sampled, else by its passport's own times."""
    passport = about.found.passport
    hops = of_passport(passport, about.found.append_ms)
    told, complaint = "its passport", ""
    if passport["trace_id"]:
        try:
            traced = of_trace(fetch(zipkin, passport["trace_id"]), passport["request_id"])
            hops, told = sorted([*traced, *_durable(hops, traced)], key=lambda hop: hop.after), "its trace"
        except Untold as untold:
            complaint = str(untold)
    table = Table("at ms", "took ms", "hop", box=None, title=f"its way, by {told}", title_justify="left")
    longest = slowest(hops)
    for hop in hops:
        words = f"{escape(hop.what)} [dim](after the decision)[/]" if hop.after else escape(hop.what)
        table.add_row(f"{hop.at_ms:.1f}", f"[bold]{hop.took_ms:.1f}[/]" if hop is longest else f"{hop.took_ms:.1f}", words)
    console.print(table)
    if longest is not None:
        console.print(f"slowest hop: [bold]{escape(longest.what)}[/], {longest.took_ms:.1f} ms", highlight=False)
    if passport["trace_id"]:
        console.print(f"trace {zipkin}/zipkin/traces/{passport['trace_id']}", highlight=False, soft_wrap=True)
    else:
        console.print("no trace: its request was not sampled", highlight=False)
    if complaint:
        console.print(complaint, style="yellow", highlight=False)


def _durable(told: Sequence[Hop], traced: Sequence[Hop]) -> list[Hop]:
    """What no span covers: from the decision to the durable passport. It follows the last hop of the decision."""
    end = max((hop.at_ms + hop.took_ms for hop in traced if not hop.after), default=0.0)
    return [replace(told[-1], at_ms=end)]


def features(about: Explained) -> Table:
    """One row per feature: set, entity, name, value, status. Names come from the plan, else numbers."""
    table = Table("set", "entity", "feature", "value", "status", box=None, title="features read", title_justify="left")
    for read in about.found.passport["sets"]:
        names = about.names(read["set"], len(read["values"]))
        for at, (name, value, status) in enumerate(zip(names, read["values"], read["statuses"], strict=True)):
            first = (read["set"], (read["entity"] or "none").replace("\x1f", " ")) if at == 0 else ("", "")
            table.add_row(*first, name, "-" if value is None else f"{value:.4g}", STATUSES[status])
    return table


def contributions(passport: Mapping[str, Any]) -> Table:
    """Shares in the raw score, which they sum to."""
    table = Table(
        "input", "log-odds", box=None, title=f"contributions ({passport['contribution_method']})", title_justify="left"
    )
    for share in passport["contributions"]:
        table.add_row(share["input"], f"{share['value']:+.3f}")
    if passport["raw_score"] is not None:
        table.add_row("sum", f"{passport['raw_score']:+.3f}")
    return table


def approvals(about: Explained) -> None:
    """Who admitted the plan, who asked for the model and who approved it."""
    for act in about.approvals:
        when = "" if act.at_ms is None else f" on {clock(act.at_ms)}"
        entry = "" if act.audit_entry is None else f" (audit entry {act.audit_entry})"
        who = f"by {act.decided_by}" if act.asked_by == act.decided_by else f"asked for by {act.asked_by}"
        if act.asked_by != act.decided_by:
            who += f", decided by {act.decided_by or 'nobody yet'}"
        reason = f": {escape(act.reason)}" if act.reason else ""
        console.print(f"{act.what} {who}{when}{entry}{reason}", highlight=False)
    for complaint in about.complaints:
        console.print(complaint, highlight=False)


def outcome(about: Explained, lake: Path) -> None:
    """What really happened, from the archive of the label's event."""
    event, model = about.outcome_event, about.model
    if event is None or model is None:
        return
    if about.outcome is None:
        key = about.request.get(model.label.join)
        console.print(f"no outcome yet: no {event.record} of {key} in {lake}", highlight=False)
        return
    row = about.outcome
    told = ", ".join(
        f"{f.name} {clock(row[f.name]) if f.type == 'timestamp' and row[f.name] is not None else row[f.name]}"
        for f in event.fields
    )
    verdict = "yes" if about.label else "no"
    console.print(f"what happened: {event.record}: {escape(told)}; {model.label.where}: [bold]{verdict}[/]", highlight=False)
