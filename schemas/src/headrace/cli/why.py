"""headrace why: everything about one decision."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from headrace.chassis.bus_confluent import ConfluentBus
from headrace.cli.identity import URL, Url, complaints, console
from headrace.cli.status import clock
from headrace.client.governance import GovernanceClient, Refused, Unreachable
from headrace.client.passports import Found, from_lake, from_topic, lake_rows, request_of
from headrace.contracts.codec import Codec, ConfluentRegistry
from headrace.contracts.errors import HeadraceError
from headrace.plan.ir import Model, Plan

STATUSES = ("fresh", "stale", "missing", "ahead", "expired")
LAKE = Path(".headrace/lake")
BOOTSTRAP, REGISTRY = "127.0.0.1:19092", "http://127.0.0.1:18081/apis/ccompat/v7"
ZIPKIN = "http://127.0.0.1:19411"


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("why")(why)


def why(
    request_id: Annotated[
        str, typer.Argument(metavar="ID", help="Request id of the decision, such as 2013-06-20.UA.1545.EWR.")
    ],
    pipeline: Annotated[str, typer.Option(help="The pipeline that decided.")] = "flights",
    lake: Annotated[Path, typer.Option(help="The archive; looked in first.")] = LAKE,
    bootstrap: Annotated[
        str, typer.Option(envvar="HEADRACE_BOOTSTRAP", help="Kafka brokers, where the archive has nothing.")
    ] = BOOTSTRAP,
    registry: Annotated[str, typer.Option(envvar="HEADRACE_REGISTRY_URL", help="Schema registry.")] = REGISTRY,
    zipkin: Annotated[str, typer.Option(envvar="HEADRACE_ZIPKIN_URL", help="Trace store, for the link.")] = ZIPKIN,
    url: Url = URL,
) -> None:
    """Show one decision: request, features with their status, contributions, what really happened, and who approved.

    The passport is looked for in the archive, then in its topic; names of features and approvals come from svc-governance.
    Ends with 1 if there is no such decision.
    """
    try:
        found = from_lake(lake, pipeline, request_id) or from_topic(
            ConfluentBus(bootstrap), Codec(ConfluentRegistry(registry)), pipeline, request_id
        )
    except HeadraceError as error:
        complaints.print(
            f"{error}; no archive at {lake} either" if not lake.exists() else str(error), style="red", highlight=False
        )
        raise typer.Exit(1) from None
    if found is None:
        complaints.print(f"no decision {request_id} of {pipeline}: was it asked for?", style="red", highlight=False)
        raise typer.Exit(1)
    plan, approvals = _governance(url, pipeline, found.passport)
    show(found, plan, zipkin)
    _outcome(lake, plan, found.passport)
    for line in approvals:
        console.print(line, highlight=False)


def show(found: Found, plan: Plan | None, zipkin: str) -> None:
    """The passport as tables."""
    passport = found.passport
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
    console.print(features(passport, plan))
    if passport["contributions"]:
        console.print(contributions(passport))
    if passport["trace_id"]:
        console.print(f"trace {zipkin}/zipkin/traces/{passport['trace_id']}", highlight=False)


def features(passport: Mapping[str, Any], plan: Plan | None) -> Table:
    """One row per feature: set, entity, name, value, status. Names come from the plan, else numbers."""
    table = Table("set", "entity", "feature", "value", "status", box=None, title="features read", title_justify="left")
    for read in passport["sets"]:
        names = _names(plan, read["set"], len(read["values"]))
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


def _names(plan: Plan | None, set_name: str, count: int) -> list[str]:
    found = next((s for s in plan.feature_sets if s.name == set_name), None) if plan else None
    return [feature.name for feature in found.features] if found else [f"#{at}" for at in range(count)]


def _governance(url: str, pipeline: str, passport: Mapping[str, Any]) -> tuple[Plan | None, list[str]]:
    """The plan in force if the decision was made under it, and who approved its model; nothing if nobody answers."""
    from headrace.contracts.audit import read_export
    from headrace.plan.hashes import from_json
    from headrace.plan.retained import declared

    plan: Plan | None = None
    lines: list[str] = []
    try:
        with GovernanceClient(url) as client:
            entries = read_export(client.export())
            candidates = client.candidates()
    except (Refused, Unreachable, HeadraceError) as error:
        return None, [f"approvals and names of features: {error}"]
    import orjson

    for entry in entries:
        body = orjson.loads(entry.body)
        if entry.action != "pipeline.admitted" or body.get("pipeline") != pipeline:
            continue
        admitted = from_json(body["plan"].encode())
        made = next((v for v in (declared(admitted), *admitted.retained) if v.hash == passport["plan_hash"]), None)
        if made is not None and plan is None:
            plan = made
            lines.append(f"plan {passport['plan_hash'][:8]} admitted by {entry.actor} (audit entry {entry.sequence})")
    for view in candidates:
        if passport["model_digest"] and view["model_digest"] == passport["model_digest"]:
            lines.append(
                f"model {passport['model_digest'][:8]}: asked for by {view['requested_by']}, approved by {view['decided_by']}, "
                f"trained on {clock(view['from_ms'])} to {clock(view['until_ms'])}"
            )
    return plan, lines


def _outcome(lake: Path, plan: Plan | None, passport: Mapping[str, Any]) -> None:
    """What really happened, from the archive of the label's event."""
    model = _model(plan, str(passport["model"]))
    if plan is None or model is None:
        return
    event = next(e for e in plan.events if e.name == model.label.event)
    key = request_of(dict(passport)).get(model.label.join)
    rows = lake_rows(lake, event.topic, model.label.join, str(key)) if lake.exists() else []
    if not rows:
        console.print(f"no outcome yet: no {event.record} of {key} in {lake}", highlight=False)
        return
    told = ", ".join(f"{f.name} {clock(rows[0][f.name]) if f.type == 'timestamp' else rows[0][f.name]}" for f in event.fields)
    console.print(f"what happened: {event.record}: {escape(told)}", highlight=False)


def _model(plan: Plan | None, name: str) -> Model | None:
    return next((m for m in plan.models if m.name == name), None) if plan else None
