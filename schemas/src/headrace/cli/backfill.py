"""`headrace backfill`: the state of a new feature set from the archive, before the set is applied.

svc-features computes it and announces the base; a worker of the set that starts afterwards begins there instead of at the
beginning of the log. Interrupting the command does not interrupt the work: ask again to watch on.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from headrace.cli.places import FOUND, FeaturesUrl
from headrace.cli.plan import compiled
from headrace.cli.terminal import printer
from headrace.plan.hashes import to_json

POLL_S = 0.25
TIMEOUT_S = 30.0
PHASES = ("gather", "fold", "merge")

console = printer()
complaints = printer(stderr=True, highlight=False)


def register(root: typer.Typer) -> None:
    """Add the command."""
    root.command("backfill")(backfill)


def backfill(
    path: Annotated[Path, typer.Argument(help="pipeline.py, or the folder that holds one")],
    feature_set: Annotated[str, typer.Argument(metavar="SET", help="feature set to compute, by its name in the plan")],
    url: FeaturesUrl = FOUND,
    wait: Annotated[bool, typer.Option(help="watch it to its end")] = True,
) -> None:
    """Compute the state of a feature set from the archive, up to what is archived now. Then `headrace apply`.

    Ends with 0 if the base is announced, with 1 if it was refused or failed.
    """
    plan = compiled(path)
    try:
        with httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False) as client:
            body = {"plan": json.loads(to_json(plan)), "feature_set": feature_set}
            reply = client.post("/v1/backfills", json=body)
            if reply.status_code != httpx.codes.ACCEPTED:
                complaints.print(_why(reply), style="red")
                raise typer.Exit(1)
            identity = reply.json()["id"]
            if not wait:
                console.print(f"ordered: {identity}")
                return
            page = _watched(client, identity)
    except httpx.HTTPError as error:
        complaints.print(f"svc-features at {url}: {error}", style="red")
        raise typer.Exit(1) from None
    if page["state"] == "failed":
        complaints.print(page["error"], style="red")
        raise typer.Exit(1)
    floor = "" if page["floor_ms"] is None else f"; the archive lacks a beginning: nothing before {page['floor_ms']} ms"
    console.print(
        f"{page['set']} {page['set_hash'][:8]}: {page['blocks']:,} blocks from {page['records']:,} records, "
        f"base [bold]{page['digest'][:8]}[/]{floor}"
    )


def _watched(client: httpx.Client, identity: str) -> dict[str, Any]:
    """A bar per phase, until the order has ended."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}
        while True:
            reply = client.get(f"/v1/backfills/{identity}")
            reply.raise_for_status()
            page = reply.json()
            ended = page["state"] in ("done", "failed")
            if "progress" in page:
                _show(bars, tasks, page["progress"], ended)
            if ended:
                return page
            time.sleep(POLL_S)


def _show(bars: Progress, tasks: dict[str, TaskID], progress: dict[str, Any], ended: bool) -> None:
    reached = PHASES.index(progress["phase"])
    for phase in PHASES[: reached + 1]:
        if phase not in tasks:
            tasks[phase] = bars.add_task(phase, total=None)
        task = tasks[phase]
        if phase != progress["phase"] or ended:
            total = bars.tasks[task].total or progress["total"]
            bars.update(task, total=total, completed=total)
        else:
            bars.update(task, total=progress["total"], completed=progress["done"])


def _why(reply: httpx.Response) -> str:
    try:
        return str(reply.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"svc-features answered {reply.status_code}"
