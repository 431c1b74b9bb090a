"""headrace status: is every service up, how far is everything, which arms answer."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import httpx
import typer
from rich.table import Table

from headrace.cli.terminal import printer

SERVICES = ("svc-ingest", "svc-stream", "svc-features", "svc-train", "svc-serve", "svc-monitor", "svc-governance")
FIRST_PORT = 18101  # of svc-ingest; the others follow in this order
TIMEOUT_S = 5.0

console = printer()


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("status")(status)


def status(
    host: Annotated[str, typer.Option(help="Where the services listen.")] = "127.0.0.1",
    first_port: Annotated[int, typer.Option(help="Port of svc-ingest; the other services follow one by one.")] = FIRST_PORT,
) -> None:
    """Show whether the seven services are ready, what they decided, and how far event time has come in them.

    Ends with 1 if a service is not ready.
    """
    pages = {name: _ask(f"http://{host}:{first_port + at}") for at, name in enumerate(SERVICES)}
    table = Table("service", "state", "why", box=None)
    for name, (ready, why, _) in pages.items():
        table.add_row(name, "[green]ready[/]" if ready else "[red]not ready[/]", why)
    console.print(table)
    for part in (_served(pages["svc-serve"][2]), _taken(pages["svc-ingest"][2])):
        if part is not None:
            console.print(part)
    if not all(ready for ready, _, _ in pages.values()):
        raise typer.Exit(1)


def _ask(url: str) -> tuple[bool, str, dict[str, Any]]:
    """(ready, why not or what is parked, status page)."""
    with httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False) as client:
        try:
            health = client.get("/health/ready").json()
            page = client.get("/v1/status")
        except (httpx.HTTPError, ValueError) as error:
            return False, f"no answer at {url}: {error}", {}
    reasons = {**health.get("reasons", {}), **{f"{name} parked": text for name, text in health.get("parked", {}).items()}}
    body = page.json() if page.status_code == 200 else {}
    return bool(health.get("ready")), "; ".join(f"{who}: {text}" for who, text in reasons.items()), body


def _served(page: dict[str, Any]) -> Table | None:
    if not page.get("models"):
        return None
    table = Table("model", "epoch", "arms", "decisions by source", "features seen up to", box=None)
    decisions = ", ".join(f"{source} {count}" for source, count in sorted(page["decisions"].items())) or "none yet"
    for name, model in page["models"].items():
        arms = ", ".join(f"{arm['name']} {arm['weight'] / 100:g} %" for arm in model["arms"])
        seen = page["views"].get(name.partition("/")[0], {})
        reached = ", ".join(f"{event} {clock(at)}" for event, at in sorted(seen.items())) or "nothing yet"
        table.add_row(name, str(model["epoch"]), arms or "rules", decisions, reached)
    return table


def _taken(page: dict[str, Any]) -> Table | None:
    if not page.get("sources"):
        return None
    table = Table("source", "accepted", "duplicates", "rejected", box=None)
    for name, tally in page["sources"].items():
        rejected = ", ".join(f"{reason} {count}" for reason, count in tally["rejected"].items())
        table.add_row(name, f"{tally['accepted']:,}", f"{tally['duplicates']:,}", rejected or "0")
    return table


def clock(ms: int) -> str:
    """ms UTC as people read it."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
