"""Options all governance commands share: where the service is, and who asks, proved with a private key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.places import FOUND, GovernanceUrl
from headrace.cli.terminal import printer
from headrace.client.governance import GovernanceClient, Refused, Unreachable
from headrace.client.local_stack import HOME, home
from headrace.contracts.errors import HeadraceError
from headrace.contracts.signing import load_private

console = printer()
complaints = printer(stderr=True)

KEYS = HOME / "keys"

Url = GovernanceUrl
Principal = Annotated[str, typer.Option("--as", help="Principal to act as; its private key proves it.")]
KeyFile = Annotated[
    Path | None, typer.Option("--key", help="Private key, PEM. Default: .headrace/keys/private/<principal>.pem")
]
DEFAULT_PRINCIPAL = "ada"
URL = FOUND


@contextmanager
def governance(url: str, principal: str = "", key: Path | None = None) -> Iterator[GovernanceClient]:
    """A client, authenticated if a principal is given; what it refuses ends the command with a message and exit code 1."""
    try:
        private = load_private(key or home() / "keys" / "private" / f"{principal}.pem") if principal else None
        with GovernanceClient(url, principal, private) as client:
            yield client
    except Refused as refusal:
        complaints.print(f"[red]refused[/red] ({refusal.status}): {refusal.detail}", highlight=False)
        raise typer.Exit(1) from None
    except (Unreachable, HeadraceError) as error:
        complaints.print(str(error), highlight=False, style="red")
        raise typer.Exit(1) from None


def model_name(text: str) -> tuple[str, str]:
    """PIPELINE/MODEL. Raises: typer.BadParameter."""
    pipeline, separator, model = text.partition("/")
    if not (pipeline and separator and model) or "/" in model:
        raise typer.BadParameter(f"{text!r} is not PIPELINE/MODEL, such as flights/late_arrival")
    return pipeline, model
