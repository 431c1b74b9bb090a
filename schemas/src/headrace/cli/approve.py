"""headrace train, trainings, candidates, approve, reject, rollouts, kill: from a training request to traffic and back."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from headrace.cli.identity import DEFAULT_PRINCIPAL, URL, KeyFile, Principal, Url, complaints, console, governance, model_name
from headrace.cli.places import FOUND, MonitorUrl
from headrace.cli.status import clock
from headrace.client.canary import Unknown, canary
from headrace.client.governance import GovernanceClient

Candidate = Annotated[str, typer.Argument(help="Candidate id or an unambiguous beginning of it.")]
Target = Annotated[str, typer.Argument(help="PIPELINE/MODEL.")]
FAILED = "FAILED"
Reason = Annotated[str, typer.Option("--reason", help="Kept in the audit.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for command in (train, trainings, candidates, approve, reject, rollouts, kill):
        app.command(command.__name__)(command)


def train(
    target: Target,
    since: Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="Window start, UTC.")],
    until: Annotated[datetime, typer.Option("--until", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="Its end, UTC.")],
    principal: Principal = DEFAULT_PRINCIPAL,
    key: KeyFile = None,
    url: Url = URL,
) -> None:
    """Ask for one training run. Whoever asks may not approve what comes of it."""
    pipeline, model = model_name(target)
    with governance(url, principal, key) as client:
        view = client.train(pipeline, model, _ms(since), _ms(until), uuid.uuid4().hex)
        console.print(f"training of {target} asked for by {principal}: {view['trigger_id']}")
        console.print("what becomes of it: headrace trainings; its model, once there is one: headrace candidates")


def trainings(url: Url = URL) -> None:
    """List the training runs that were asked for, newest first, and what became of them. Ends with 1 if the newest failed."""
    table = Table("asked for", "model", "by", "of days", "state", "why")
    with governance(url) as client:
        found = sorted(client.trainings(), key=lambda view: view["requested_ms"], reverse=True)
    for view in found:
        days = f"{_day(view['from_ms'])} to {_day(view['until_ms'])}"
        failed = view["run_state"] == FAILED
        state = f"[red]{FAILED.lower()}[/red]" if failed else (view["run_state"] or "waiting").lower()
        model = f"{view['pipeline']}/{view['model']}"
        table.add_row(clock(view["requested_ms"]), model, view["requested_by"], days, state, escape(view["detail"]))
    console.print(table if found else "no training was asked for: headrace train PIPELINE/MODEL --from DAY --until DAY")
    if found and found[0]["run_state"] == FAILED:
        raise typer.Exit(1)


def candidates(url: Url = URL) -> None:
    """List candidates with what the gate said."""
    table = Table("candidate", "model", "state", "proposed by", "decided by", "auc", "gate")
    with governance(url) as client:
        for view in client.candidates():
            failed = [f"{term['name']}: {term['detail']}" for term in view["gate"] if not term["passed"]]
            auc = view["metrics"].get("auc")
            table.add_row(
                view["candidate_id"][:12],
                f"{view['pipeline']}/{view['model']}",
                view["state"],
                view["requested_by"],
                view["decided_by"] or "-",
                f"{auc:.3f}" if isinstance(auc, (int, float)) else "-",
                "[red]" + "; ".join(failed) + "[/red]" if failed else "[green]passed[/green]",
            )
    console.print(table)


def approve(
    candidate: Candidate, principal: Principal = "grace", key: KeyFile = None, reason: Reason = "", url: Url = URL
) -> None:
    """Approve a candidate: its rollout starts. The proposer may not."""
    with governance(url, principal, key) as client:
        view = client.approve(_whole(client, candidate), reason)
        console.print(f"{view['candidate_id'][:12]} approved by {principal}: {view['state']}")


def reject(
    candidate: Candidate, principal: Principal = "grace", key: KeyFile = None, reason: Reason = "", url: Url = URL
) -> None:
    """Turn a candidate down."""
    with governance(url, principal, key) as client:
        view = client.reject(_whole(client, candidate), reason)
        console.print(f"{view['candidate_id'][:12]} rejected by {principal}")


def rollouts(url: Url = URL, monitor: MonitorUrl = FOUND) -> None:
    """Show which arms answer, with which weights, and what a canary waits for."""
    table = Table("model", "state", "epoch", "arms", "replicas", "reason", "evidence")
    with governance(url) as client:
        for view in client.rollouts():
            table.add_row(
                f"{view['pipeline']}/{view['model']}",
                f"{view['state']} {view['step']} %",
                str(view["epoch"]),
                ", ".join(_arm(arm) for arm in view["arms"]),
                ", ".join(f"{ack['instance']} {ack['status'].lower()}" for ack in view["acks"]) or "-",
                view["reason"],
                _evidence(view, monitor),
            )
    console.print(table)


def _evidence(view: dict[str, Any], monitor: str) -> str:
    """What svc-monitor has to judge a canary's step by: its verdict comes once enough outcomes are there."""
    if view["state"] != "CANARY":
        return "-"
    try:
        found = canary(monitor, view["pipeline"], view["model"])
    except Unknown as error:
        return f"[yellow]not known: {escape(str(error))}[/yellow]"
    if found.epoch != view["epoch"]:
        return "svc-monitor has not heard of this step yet"
    return f"{found.labelled} of {found.dwell} decisions have an outcome, {found.waiting} wait for theirs"


def kill(target: Target, principal: Principal = "ops", key: KeyFile = None, url: Url = URL) -> None:
    """The kill switch: rules answer for this model, at once."""
    pipeline, model = model_name(target)
    with governance(url, principal, key) as client:
        view = client.kill(pipeline, model)
        console.print(f"{target} {view['state']}, epoch {view['epoch']}: {', '.join(_arm(arm) for arm in view['arms'])}")


def _arm(arm: dict[str, Any]) -> str:
    return f"{arm['name']} {arm['weight'] / 100:g} %"


def _day(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d")


def _ms(moment: datetime) -> int:
    return int(moment.replace(tzinfo=UTC).timestamp() * 1000)


def _whole(client: GovernanceClient, beginning: str) -> str:
    """The one candidate id that begins so; the text itself if none does, so that the service says what is wrong."""
    found = [view["candidate_id"] for view in client.candidates() if view["candidate_id"].startswith(beginning)]
    if len(found) > 1 and beginning not in found:
        complaints.print(f"{beginning} begins {len(found)} candidates: {', '.join(found)}", style="red")
        raise typer.Exit(1)
    return found[0] if len(found) == 1 else beginning
