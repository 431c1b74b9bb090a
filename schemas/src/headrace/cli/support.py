"""headrace support: one file for whoever helps from afar."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.kafka import access, told
from headrace.cli.places import FOUND, Bootstrap
from headrace.cli.status import Alertmanager, FirstPort, Host
from headrace.cli.terminal import printer
from headrace.client import local_stack
from headrace.client.bundle import gather
from headrace.client.standing import Places

console = printer()
complaints = printer(stderr=True)


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("support")(support)


def support(
    into: Annotated[Path, typer.Option("--into", help="Folder the file is written to.")] = Path(),
    home: Annotated[Path, typer.Option(help="Folder of the local stack: its logs and settings.")] = local_stack.HOME,
    host: Host = FOUND,
    first_port: FirstPort = None,
    bootstrap: Bootstrap = FOUND,
    alertmanager: Alertmanager = "",
) -> None:
    """Write a support bundle: versions, settings with secrets blanked, statuses, topics check, lag, alerts, metrics, log tails.

    One .tar.gz, readable by its owner alone. What does not answer is named inside. Read it before you send it.
    Ends with 1 if it could not be written, or no service answered: it then holds what lies in the stack's folder.
    """
    now_s = time.time()
    name = f"headrace-support-{datetime.fromtimestamp(now_s, UTC):%Y%m%d-%H%M%S}"
    target = into / f"{name}.tar.gz"
    with told():
        places = Places(host, first_port, bootstrap, alertmanager, access())
    bundle = gather(places, local_stack.home() if home == local_stack.HOME else home, os.environ, now_s)
    try:
        into.mkdir(parents=True, exist_ok=True)
        bundle.pack(target, name, now_s)
    except OSError as error:
        complaints.print(f"cannot write {target}: {error.strerror}", style="red", highlight=False)
        raise typer.Exit(1) from None
    for complaint in bundle.complaints:
        console.print(f"not to be had: {complaint}", markup=False, highlight=False)
    console.print(f"{target}: {len(bundle.files)} files, {target.stat().st_size / 1024:.0f} KiB", highlight=False)
    if not bundle.answered:
        complaints.print(
            f"no service answered, svc-ingest not at {places.url('svc-ingest')}: is the stack up? see `make status`",
            style="red", highlight=False, soft_wrap=True,
        )  # fmt: skip
        raise typer.Exit(1)
